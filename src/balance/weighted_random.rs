//! Weighted random by Vose's alias table, exact in integers.
//!
//! When: always, unless something speaks for another policy. It keeps nothing between calls, so threads and clients do
//! not disturb each other, and every instance gets exactly its share. A choice costs two multiplications and one line
//! of memory, however many instances there are; a table takes eight bytes an instance.
//! Source: M. D. Vose, "A linear algorithm for generating random numbers with a given distribution", 1991.
//!
//! The table has one column for each instance, and every column has room for the sum of all weights. An instance of
//! weight `w` among `n` brings `n × w` to the table, so the columns are filled exactly: each holds its own instance up to
//! a threshold, and one other, its alias, above. A choice is one column and one level in it, both out of one draw of 64
//! bits. Threshold and alias share a word, 40 and 24 bits, so that a choice reads one line of memory.

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::util::draw::{below, level};

const ALIAS_BITS: u32 = 24;
const ALIAS_MASK: u64 = (1 << ALIAS_BITS) - 1;
/// Thresholds go up to the sum of weights, which must fit above the alias.
const MAX_TOTAL: u64 = (1 << (64 - ALIAS_BITS)) - 1;

/// The balancer `weightedRandom`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightedRandom;

/// One alias table.
#[derive(Debug)]
pub(super) struct Table {
    columns: Box<[u64]>,
    /// The room of a column.
    total: u64,
}

impl LoadBalancer for WeightedRandom {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(Table::new(&weights(subset))?))
    }
}

impl Selector for Table {
    #[inline]
    fn select(&self, _: &Subset, criteria: &Criteria<'_>) -> usize {
        self.draw(criteria.entropy())
    }
}

impl Table {
    pub(super) fn new(weights: &[u32]) -> Result<Self> {
        let mut weights: Vec<u64> = weights.iter().copied().map(u64::from).collect();
        if weights.len() as u64 > ALIAS_MASK {
            let context = format!("weightedRandom takes at most {ALIAS_MASK} instances, not {}", weights.len());
            return Err(Error::new(ErrorKind::Plugin, context));
        }
        let total = fit(&mut weights);
        Ok(Self { columns: fill(&weights, total), total })
    }

    #[inline]
    pub(super) fn draw(&self, entropy: u64) -> usize {
        let (column, rest) = below(entropy, self.columns.len());
        let word = self.columns.get(column).copied().unwrap_or_default();
        if level(rest, self.total) < word >> ALIAS_BITS { column } else { index(word & ALIAS_MASK) }
    }
}

/// Brings the sum of weights into the range of the table and returns it. Weights as servers send them (0 to 65,535) are
/// left as they are.
fn fit(weights: &mut [u64]) -> u64 {
    let mut total: u64 = weights.iter().sum();
    while total > MAX_TOTAL {
        // Halved, but never to nothing: what had a share keeps one.
        weights.iter_mut().filter(|weight| **weight > 1).for_each(|weight| *weight /= 2);
        total = weights.iter().sum();
    }
    total
}

/// Fills the columns: whoever has less than a column gives the rest of it to one that has more.
fn fill(weights: &[u64], total: u64) -> Box<[u64]> {
    let count = weights.len() as u64;
    // What each instance still has to place; below 2^24 × 2^32.
    let mut mass: Vec<u64> = weights.iter().map(|weight| weight * count).collect();
    let (mut small, mut large): (Vec<u64>, Vec<u64>) = (0..count).partition(|i| mass.get(index(*i)) < Some(&total));
    // Whoever is left when one side runs out fills its column exactly.
    let mut columns: Box<[u64]> = (0..count).map(|i| total << ALIAS_BITS | i).collect();
    while let (Some(needy), Some(rich)) = (small.pop(), large.last().copied()) {
        let Some(own) = mass.get(index(needy)).copied() else { continue };
        if let Some(column) = columns.get_mut(index(needy)) {
            *column = own << ALIAS_BITS | rich;
        }
        if let Some(left) = mass.get_mut(index(rich)) {
            *left -= total - own;
            if *left < total {
                large.pop();
                small.push(rich);
            }
        }
    }
    columns
}

#[inline]
fn index(i: u64) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "masked to 24 bits, or counted up to them")]
    let index = i as usize;
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::balancer;
    use crate::model::subset::fixture::weighted;
    use proptest::prelude::*;

    fn table(weights: &[u32]) -> Table {
        Table::new(weights).unwrap()
    }

    /// How much of the table each instance holds: `n × weight` where it is exact.
    fn shares(table: &Table) -> Vec<u64> {
        let mut shares = vec![0; table.columns.len()];
        for (column, word) in table.columns.iter().enumerate() {
            let threshold = word >> ALIAS_BITS;
            shares[column] += threshold;
            shares[index(word & ALIAS_MASK)] += table.total - threshold;
        }
        shares
    }

    /// The same sequence in every run.
    fn draws(count: usize) -> impl Iterator<Item = u64> {
        let mut state = 0x5EED_u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        })
        .take(count)
    }

    proptest! {
        #[test]
        fn every_instance_holds_exactly_its_share_of_the_table(
            weights in proptest::collection::vec(prop_oneof![0u32..4, 0u32..=65_535, Just(65_535)], 1..300)
        ) {
            let weights = balancer::weights(&weighted(&weights));
            let count = weights.len() as u64;
            let expected: Vec<u64> = weights.iter().map(|w| u64::from(*w) * count).collect();
            prop_assert_eq!(shares(&table(&weights)), expected);
        }

        #[test]
        fn every_draw_is_in_range_and_never_of_weight_zero(
            weights in proptest::collection::vec(0u32..3, 1..50), entropy: u64
        ) {
            let weights = balancer::weights(&weighted(&weights));
            let chosen = table(&weights).draw(entropy);
            prop_assert!(chosen < weights.len() && weights[chosen] > 0);
        }
    }

    #[test]
    fn a_hundred_thousand_instances_of_any_weight_have_exact_shares() {
        let weights: Vec<u32> = draws(100_000).map(|d| u32::try_from(d % 65_536).unwrap()).collect();
        let expected: Vec<u64> = weights.iter().map(|w| u64::from(*w) * 100_000).collect();
        assert_eq!(shares(&table(&weights)), expected);
        let heaviest = table(&vec![65_535; 100_000]);
        assert!(shares(&heaviest).iter().all(|share| *share == 65_535 * 100_000));
    }

    #[test]
    fn weights_beyond_the_range_keep_their_proportions_and_their_share() {
        let mut weights = vec![u32::MAX; 1000];
        weights[0] = 1;
        weights[1] = u32::MAX / 2;
        let table = table(&weights);
        let shares = shares(&table);
        assert!(shares[0] > 0 && shares[999] / shares[1] == 2, "{:?}", &shares[..3]);
    }

    #[test]
    fn two_of_weight_one_are_both_picked() {
        let table = table(&[1, 1]);
        assert_eq!([table.draw(0), table.draw(u64::MAX)], [0, 1]);
    }

    #[test]
    fn two_hundred_thousand_picks_fit_the_weights() {
        const PICKS: u32 = 200_000;
        let weights = [1, 1, 10, 50, 100, 100, 200, 500, 1000, 3000];
        let subset = weighted(&weights);
        let selector = WeightedRandom.prepare(&subset).unwrap();
        let mut seen = [0u32; 10];
        draws(PICKS as usize).for_each(|entropy| seen[selector.select(&subset, &Criteria::new(entropy))] += 1);
        let total: u32 = weights.iter().sum();
        let chi: f64 = (weights.iter().zip(seen))
            .map(|(weight, seen)| {
                let expected = f64::from(PICKS) * f64::from(*weight) / f64::from(total);
                (f64::from(seen) - expected).powi(2) / expected
            })
            .sum();
        // The 99.9 % quantile of chi-square with 9 degrees of freedom.
        assert!(chi < 27.88, "chi-square {chi}: {seen:?}");
    }
}
