//! Weighted round robin that spreads an instance's turns over the cycle.
//!
//! When: for few clients with few calls, where chance would be uneven for long; of weights 5, 1, 1 the first is not
//! called five times in a row but between the others. Each selector has one position, which all threads move: a choice
//! costs an atomic addition (dear on many cores), a division and one line of memory. The cycle takes four bytes a turn.
//! Every change of the data begins a cycle anew, with the heaviest instance.
//! Source: the smooth weighted round robin of nginx (Maxim Dounin, 2012): at each turn everybody gains its weight in
//! credit, the one with the most credit (the first of equals) is called, and pays the sum of all weights. polaris-java
//! does the same, call by call; here the turns are computed ahead, and each instance has exactly its weight of them.
//!
//! The cycle has as many turns as the sum of weights after division by their greatest common divisor. Where that is more
//! than 65,536, weights are scaled down to what fits, rounded, and at least 1: light instances get more than their share
//! then. With more instances than that, each has one turn.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::error::Result;
use crate::model::subset::Subset;

/// How many turns a cycle may have.
const LONGEST: u64 = 65_536;

/// The balancer `weightedRoundRobin`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightedRoundRobin;

struct Cycle {
    /// Places in the subset; at least one.
    turns: Box<[u32]>,
    next: AtomicU32,
}

/// Instances of equal weight: their credits differ only by how often they were called, so they are called in order.
struct Peers {
    weight: i64,
    /// Ascending.
    places: Vec<u32>,
    /// Who is next in line among `places`, its own place, and its credit. It may be below 0.
    at: usize,
    first: u32,
    credit: i64,
}

impl LoadBalancer for WeightedRoundRobin {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        let turns = cycle(&reduce(&weights(subset)));
        Ok(Box::new(Cycle { turns, next: AtomicU32::new(0) }))
    }
}

impl Selector for Cycle {
    #[inline]
    fn select(&self, _: &Subset, _: &Criteria<'_>) -> usize {
        // A cycle breaks off when the counter overflows: once in four thousand million calls.
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = next.checked_rem(u32::try_from(self.turns.len()).unwrap_or(u32::MAX)).unwrap_or(0);
        self.turns.get(turn as usize).map_or(0, |place| *place as usize)
    }
}

/// Brings weights, of which one is above 0, down to a sum that a cycle can have.
fn reduce(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let most = LONGEST.max(weights.iter().filter(|weight| **weight > 0).count() as u64);
    if weights.iter().sum::<u64>() <= most {
        return weights;
    }
    // Scales are fractions of 2^32, so that a product with a weight fits into 64 bits.
    let scaled = |weight: u64, scale: u64| ((weight * scale + (1 << 31)) >> 32).max(weight.min(1));
    let fits = |scale: u64| weights.iter().map(|weight| scaled(*weight, scale)).sum::<u64>() <= most;
    // The largest scale that fits; 0 does, as each weight is 1 then.
    let (mut fitting, mut too_large) = (0, 1 << 32);
    while too_large - fitting > 1 {
        let between = u64::midpoint(fitting, too_large);
        *(if fits(between) { &mut fitting } else { &mut too_large }) = between;
    }
    weights.iter().map(|weight| scaled(*weight, fitting)).collect()
}

/// One whole cycle. Only the first in line of each weight is looked at, so a turn costs as much as there are different
/// weights: below 363, for their sum is bounded.
fn cycle(weights: &[u64]) -> Box<[u32]> {
    let total: u64 = weights.iter().sum();
    let mut line: Vec<(u64, u32)> = weights.iter().copied().zip(0..).filter(|(weight, _)| *weight > 0).collect();
    line.sort_unstable();
    let mut peers: Vec<Peers> = line.chunk_by(|one, other| one.0 == other.0).filter_map(Peers::new).collect();
    let turn = |_| {
        let mut richest: Option<&mut Peers> = None;
        for peers in &mut peers {
            peers.credit += peers.weight;
            if richest.as_ref().is_none_or(|richest| peers.is_richer(richest)) {
                richest = Some(peers);
            }
        }
        richest.map(|peers| peers.call(total.cast_signed()))
    };
    (0..total).filter_map(turn).collect()
}

impl Peers {
    fn new(alike: &[(u64, u32)]) -> Option<Self> {
        let (weight, first) = alike.first().copied()?;
        let places = alike.iter().map(|(_, place)| *place).collect();
        Some(Self { weight: weight.cast_signed(), places, at: 0, first, credit: 0 })
    }

    /// By credit, and of equals the first place.
    fn is_richer(&self, other: &Self) -> bool {
        self.credit > other.credit || (self.credit == other.credit && self.first < other.first)
    }

    fn call(&mut self, total: i64) -> u32 {
        let called = self.first;
        self.at += 1;
        if self.at == self.places.len() {
            // All have been called as often again, and so has the next in line.
            self.at = 0;
            self.credit -= total;
        }
        self.first = self.places.get(self.at).copied().unwrap_or(called);
        called
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::balancer;
    use crate::model::subset::fixture::weighted;
    use proptest::prelude::*;

    fn picks(weights: &[u32], count: usize) -> Vec<usize> {
        let subset = weighted(weights);
        let selector = WeightedRoundRobin.prepare(&subset).unwrap();
        (0..count).map(|_| selector.select(&subset, &Criteria::new(0))).collect()
    }

    /// The algorithm as it is told: credit by credit.
    fn smooth(weights: &[u64], count: usize) -> Vec<u32> {
        let total: u64 = weights.iter().sum();
        let mut credits = vec![0i64; weights.len()];
        let turn = |_| {
            credits.iter_mut().zip(weights).for_each(|(credit, weight)| *credit += weight.cast_signed());
            let most = *credits.iter().max().unwrap();
            let called = credits.iter().position(|credit| *credit == most).unwrap();
            credits[called] -= total.cast_signed();
            u32::try_from(called).unwrap()
        };
        (0..count).map(turn).collect()
    }

    proptest! {
        #[test]
        fn one_cycle_gives_each_its_weight_and_the_next_is_the_same(
            weights in proptest::collection::vec(prop_oneof![0u32..4, 0u32..60], 1..40)
        ) {
            let reduced = reduce(&balancer::weights(&weighted(&weights)));
            let length = usize::try_from(reduced.iter().sum::<u64>()).unwrap();
            let picks = picks(&weights, 2 * length);
            let mut counts = vec![0u64; weights.len()];
            picks[..length].iter().for_each(|place| counts[*place] += 1);
            prop_assert_eq!(&counts, &reduced);
            prop_assert_eq!(&picks[..length], &picks[length..]);
        }

        #[test]
        fn turns_computed_ahead_are_those_of_the_algorithm(
            weights in proptest::collection::vec(prop_oneof![0u64..4, 0u64..200, Just(7)], 1..30)
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let cycle = cycle(&weights);
            prop_assert_eq!(cycle.to_vec(), smooth(&weights, cycle.len()));
        }

        #[test]
        fn reduced_weights_fit_and_keep_their_proportions(
            weights in proptest::collection::vec(prop_oneof![0u32..4, 0u32..=65_535, any::<u32>()], 1..200)
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let reduced = reduce(&weights);
            let (before, after): (u64, u64) = (weights.iter().map(|w| u64::from(*w)).sum(), reduced.iter().sum());
            prop_assert!(after <= LONGEST);
            for (weight, reduced) in weights.iter().zip(&reduced) {
                prop_assert_eq!(*weight == 0, *reduced == 0);
                #[allow(clippy::cast_precision_loss, reason = "within a step of rounding")]
                let exact = f64::from(*weight) * after as f64 / before as f64;
                #[allow(clippy::cast_precision_loss, reason = "within a step of rounding")]
                let off = (*reduced as f64 - exact).abs();
                // What the lightest were raised to 1 by is missing elsewhere.
                prop_assert!(off <= 1.0 + exact * 0.01, "{weight} became {reduced}, exact {exact}");
            }
        }
    }

    #[test]
    fn an_instance_of_weight_zero_has_no_turn_unless_nobody_has_a_weight() {
        assert_eq!(picks(&[0, 2, 0, 1], 6), [1, 3, 1, 1, 3, 1]);
        assert_eq!(picks(&[0, 0, 0], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_hundred_thousand_instances_have_one_turn_each() {
        let weights: Vec<u32> = (1..=100_000).collect();
        let mut turns = cycle(&reduce(&weights)).to_vec();
        turns.sort_unstable();
        assert_eq!(turns, (0..100_000).collect::<Vec<_>>());
    }

    #[test]
    fn threads_share_one_position() {
        let subset = weighted(&[3, 2, 1]);
        let selector = WeightedRoundRobin.prepare(&subset).unwrap();
        let work = || (0..3000).map(|_| selector.select(&subset, &Criteria::new(0))).collect::<Vec<_>>();
        let picks: Vec<usize> = std::thread::scope(|threads| {
            let other = threads.spawn(work);
            [work(), other.join().unwrap()].concat()
        });
        let count = |place: usize| picks.iter().filter(|pick| **pick == place).count();
        assert_eq!([count(0), count(1), count(2)], [3000, 2000, 1000]);
    }
}
