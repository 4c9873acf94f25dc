//! Consistent hashing by a look-up table, after Google's load balancer.
//!
//! When: for keys that should keep their instance, with even shares and the fastest look-up. A change of the list moves
//! a few more keys than a ring would. Shares follow weights to about one part of the table, so it should have a hundred
//! times as many places as there are instances; the heaviest are served first, and the lightest get no place once a
//! table is too small for all. A choice costs one hash of the key, a division and one line of memory; a table takes four
//! bytes a place, 256 KiB by default, for each set of instances that routing leaves.
//! Source: D. Eisenbud et al., "Maglev: a fast and reliable software network load balancer", 2016, with weights as Envoy
//! adds them and hashes as polaris-go takes them, so that a mixed fleet with the same `tableSize` agrees.
//!
//! Each instance prefers the places of the table in an order of its own: from the murmur3 of its id (seed 0) on, by steps
//! of the murmur3 with seed 1. In turns they take the first place of their order that is free: the heaviest at every
//! turn, one of half its weight at every other, until the table is full.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::options;
use crate::config::PluginOptions;
use crate::error::Result;
use crate::model::subset::Subset;
use crate::util::murmur3;

const DEFAULT_SIZE: u32 = 65_537;
/// A prime number, and 20 MB: the bound that Envoy has.
const LARGEST_SIZE: u32 = 5_000_011;
const FREE: u32 = u32::MAX;

/// The balancer `maglev`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maglev {
    size: u32,
}

/// The place in the subset of whoever has each place of the table.
struct Table(Box<[u32]>);

/// An instance while the table is filled.
struct Filler {
    index: u32,
    /// The next place of its order, and the way to the one after it.
    at: u32,
    skip: u32,
    /// A share of the sum of weights, and how much of it has been used.
    share: f64,
    used: f64,
}

impl Maglev {
    /// Reads `tableSize`: a prime number, 65537 by default, up to 5000011.
    ///
    /// # Errors
    /// `InvalidConfig` for an option that cannot be used.
    pub(crate) fn from_options(options: &PluginOptions) -> Result<Self> {
        const KEY: &str = "tableSize";
        options::check_hash_function(options)?;
        let size = options::count(options, KEY, 2..=LARGEST_SIZE)?.unwrap_or(DEFAULT_SIZE);
        if !is_prime(size) {
            let next = (size..=LARGEST_SIZE).find(|size| is_prime(*size)).unwrap_or(LARGEST_SIZE);
            return Err(options.invalid(KEY, format!("expected a prime number; the next one is {next}")));
        }
        Ok(Self { size })
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self { size: DEFAULT_SIZE }
    }
}

impl LoadBalancer for Maglev {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(fill(subset, self.size)))
    }
}

impl Table {
    /// The number of the place of a key.
    #[inline]
    fn place(&self, criteria: &Criteria<'_>) -> usize {
        let place = criteria.hash().checked_rem(self.0.len() as u64).unwrap_or(0);
        #[allow(clippy::cast_possible_truncation, reason = "less than the length of the table")]
        let place = place as usize;
        place
    }

    #[inline]
    fn owner(&self, place: usize) -> usize {
        self.0.get(place).map_or(0, |index| *index as usize)
    }
}

impl Selector for Table {
    #[inline]
    fn select(&self, _: &Subset, criteria: &Criteria<'_>) -> usize {
        self.owner(self.place(criteria))
    }

    fn walk(&self, _: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        let ahead = self.0.len().checked_sub(step).filter(|ahead| *ahead > 0)?;
        let from = self.place(criteria);
        Some(self.owner(if from < ahead { from + step } else { from - ahead }))
    }
}

/// Fills a table of `size` places, which is prime.
fn fill(subset: &Subset, size: u32) -> Table {
    let mut fillers = fillers(subset, size);
    let largest = fillers.iter().map(|filler| filler.share).fold(0.0, f64::max);
    // Whose turn is when; who has the same turn goes by place in the subset.
    let mut turns: BinaryHeap<_> = (0..fillers.len()).map(|place| Reverse((1, place))).collect();
    let mut table = vec![FREE; size as usize].into_boxed_slice();
    let mut left = table.len();
    while left > 0 {
        let Some(mut next) = turns.peek_mut() else { break };
        let Reverse((turn, place)) = *next;
        let Some(filler) = fillers.get_mut(place) else { break };
        filler.used += largest;
        *next = Reverse((filler.turn_after(turn), place));
        // An order visits every place once, because its steps and a prime size have no common divisor.
        while table.get(filler.at as usize).is_some_and(|owner| *owner != FREE) {
            filler.advance(size);
        }
        if let Some(free) = table.get_mut(filler.at as usize) {
            *free = filler.index;
        }
        filler.advance(size);
        left -= 1;
    }
    Table(table)
}

fn fillers(subset: &Subset, size: u32) -> Vec<Filler> {
    let weights = weights(subset);
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    #[allow(clippy::cast_precision_loss, reason = "polaris-go computes so")]
    let total = total as f64;
    let modulo = |hash: u64, bound: u32| {
        let rest = hash.checked_rem(bound.into()).unwrap_or(0);
        u32::try_from(rest).unwrap_or(0)
    };
    let serving = (0..).zip(weights).zip(subset.iter()).filter(|((_, weight), _)| *weight > 0);
    serving
        .map(|((index, weight), instance)| {
            let id = instance.id().as_str().as_bytes();
            let at = modulo(murmur3::x64(id, 0), size);
            let skip = modulo(murmur3::x64(id, 1), size - 1) + 1;
            Filler { index, at, skip, share: f64::from(weight) / total, used: 0.0 }
        })
        .collect()
}

impl Filler {
    /// The first turn after `turn` at which its share has grown to what it has used.
    ///
    /// Envoy asks everybody at every turn, with the same products; this jumps to where they would say yes.
    fn turn_after(&self, turn: u32) -> u32 {
        let due = |turn: u32| f64::from(turn) * self.share >= self.used;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and `as` saturates")]
        let guess = (self.used / self.share) as u32;
        // The guess may be off by a rounding error.
        let mut next = guess.saturating_sub(1).max(turn.saturating_add(1));
        while !due(next) && next < u32::MAX {
            next += 1;
        }
        next
    }

    fn advance(&mut self, size: u32) {
        self.at += self.skip;
        if self.at >= size {
            self.at -= size;
        }
    }
}

fn is_prime(number: u32) -> bool {
    number > 1 && (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subset::fixture::weighted;
    use proptest::prelude::*;

    /// The algorithm as Envoy has it: everybody is asked at every turn.
    fn turn_by_turn(subset: &Subset, size: u32) -> Vec<u32> {
        let mut fillers = fillers(subset, size);
        let largest = fillers.iter().map(|filler| filler.share).fold(0.0, f64::max);
        let mut table = vec![FREE; size as usize];
        let mut left = size;
        for turn in 1u32.. {
            for filler in &mut fillers {
                if left == 0 {
                    return table;
                }
                if f64::from(turn) * filler.share < filler.used {
                    continue;
                }
                filler.used += largest;
                while table[filler.at as usize] != FREE {
                    filler.advance(size);
                }
                table[filler.at as usize] = filler.index;
                filler.advance(size);
                left -= 1;
            }
        }
        table
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn jumping_over_turns_fills_the_same_table(
            weights in proptest::collection::vec(prop_oneof![0u32..4, 1u32..300, Just(65_535)], 1..40)
        ) {
            let subset = weighted(&weights);
            prop_assert_eq!(fill(&subset, 1009).0.to_vec(), turn_by_turn(&subset, 1009));
        }
    }

    #[test]
    fn one_heavy_instance_takes_what_ten_thousand_light_ones_leave() {
        let weights: Vec<u32> = (0..10_000).map(|n| if n == 0 { 65_535 } else { 1 }).collect();
        let table = fill(&weighted(&weights), DEFAULT_SIZE);
        let heavy = table.0.iter().filter(|index| **index == 0).count();
        // Everybody has a place at the first turn, and the light ones are not due again before it is full.
        assert_eq!((heavy, table.0.len()), (65_537 - 9_999, 65_537));
    }
}
