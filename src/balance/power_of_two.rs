//! The better of two that chance drew.
//!
//! When: where load should be followed, and that is nearly always; it is the one policy here that does so at no cost to
//! speak of, whatever the number of instances. It sees both how fast an instance answers and how many of this client's
//! calls it has under way, so it turns away from an instance that stalls before its first slow answer is in. Chance keeps
//! many clients from all finding the same instance best. A choice costs one or two draws and two cells of load.
//! Source: M. Mitzenmacher, "The power of two choices in randomized load balancing", 1996, with the cost that linkerd and
//! Finagle compare: (calls under way + 1) × time of an answer. Neither official SDK has it.
//!
//! Where weights are equal, any two different instances are drawn. Where they are not, each of the two is drawn by
//! weight, and they may be the same one: a share of weight `w` gets at most about three times that, however fast it is,
//! so that a weight which was lowered to take load off an instance does so. Before the first answer of either, calls
//! under way decide alone. They also do in one choice of 64, so that an instance which was slow once is measured again.

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::weighted_random::Table;
use crate::error::Result;
use crate::model::health::Load;
use crate::model::subset::Subset;
use crate::util::murmur3::mix64;

/// One choice in so many does not look at times.
const REMEASURE: u64 = 64;

/// The balancer `powerOfTwo`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PowerOfTwo;

enum Draw {
    /// All weights are equal.
    Even,
    Weighted(Table),
}

impl LoadBalancer for PowerOfTwo {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        let weights = weights(subset);
        let even = weights.windows(2).all(|pair| matches!(pair, [one, other] if one == other));
        Ok(Box::new(if even { Draw::Even } else { Draw::Weighted(Table::new(&weights)?) }))
    }
}

impl Draw {
    /// Two places, the same one twice if chance or the weights have it so.
    #[inline]
    fn two(&self, subset: &Subset, criteria: &Criteria<'_>) -> (usize, usize) {
        let Self::Weighted(table) = self else { return criteria.two_of(subset.len()) };
        let first = table.draw(criteria.entropy());
        let more = |round: u64| table.draw(mix64(criteria.entropy().wrapping_add(round)));
        let second = more(1);
        (first, if second == first { more(2) } else { second })
    }

    /// The two that are drawn, the better one first.
    #[inline]
    fn compare(&self, subset: &Subset, criteria: &Criteria<'_>) -> (usize, usize) {
        let (first, second) = self.two(subset, criteria);
        let (Some(one), Some(other)) = (subset.load(first), subset.load(second)) else { return (first, second) };
        let by_calls_alone = mix64(criteria.entropy()) < u64::MAX / REMEASURE;
        if costs_less(other, one, by_calls_alone) { (second, first) } else { (first, second) }
    }
}

impl Selector for Draw {
    #[inline]
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
        self.compare(subset, criteria).0
    }

    /// One step, to the other of the two.
    fn walk(&self, subset: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        let (better, other) = self.compare(subset, criteria);
        (step == 1 && other != better).then_some(other)
    }
}

#[inline]
fn costs_less(one: Load, other: Load, by_calls_alone: bool) -> bool {
    if by_calls_alone || one.micros == 0 || other.micros == 0 {
        return one.in_flight < other.in_flight;
    }
    // Calls are below 2^31 and microseconds below 2^32.
    let cost = |load: Load| (u64::from(load.in_flight) + 1) * u64::from(load.micros);
    cost(one) < cost(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::call::Outcome;
    use crate::model::health::Slot;
    use crate::model::subset::fixture::loaded;
    use std::time::Duration;

    const ROUNDS: u32 = 20_000;

    fn answers_in(slot: &Slot, millis: u64) {
        slot.record(Outcome::Success(0), Duration::from_millis(millis));
    }

    /// How often each place is chosen while its load stays as it is.
    fn counts(subset: &Subset) -> Vec<u32> {
        let selector = PowerOfTwo.prepare(subset).unwrap();
        let mut counts = vec![0; subset.len().get()];
        for round in 0..ROUNDS {
            counts[selector.select(subset, &Criteria::new(mix64(round.into())))] += 1;
        }
        counts
    }

    #[test]
    fn the_less_loaded_of_equals_is_preferred() {
        let subset = loaded(&[100; 4], |index, slot| (0..index).for_each(|_| slot.enter()));
        let counts = counts(&subset);
        // Among 12 ordered pairs the least loaded wins 6, the next 4, then 2, then none.
        for (index, share) in [6, 4, 2, 0].into_iter().enumerate() {
            let expected = ROUNDS * share / 12;
            assert!(counts[index].abs_diff(expected) < 400, "{counts:?}");
        }
    }

    #[test]
    fn of_two_the_cheaper_one_is_taken_and_the_dearer_one_measured_again_at_times() {
        let subset = loaded(&[1, 1], |index, slot| {
            answers_in(slot, [40, 10][index]);
            (0..[0, 2][index]).for_each(|_| slot.enter());
        });
        // 3 calls × 10 ms cost less than 1 × 40 ms, but where times are not looked at.
        let counts = counts(&subset);
        assert!(counts[0].abs_diff(ROUNDS / 64) < 100, "{counts:?}");
    }

    #[test]
    fn an_instance_that_has_not_answered_is_judged_by_its_calls() {
        let subset = loaded(&[1, 1], |index, slot| {
            if index == 0 {
                answers_in(slot, 1);
                slot.enter();
            }
        });
        assert_eq!(counts(&subset), [0, ROUNDS]);
    }

    #[test]
    fn idle_instances_share_calls_by_weight() {
        let counts = counts(&loaded(&[1, 2, 5, 0], |_, _| {}));
        for (index, weight) in [1, 2, 5, 0].into_iter().enumerate() {
            assert!(counts[index].abs_diff(ROUNDS * weight / 8) < 400, "{counts:?}");
        }
    }

    #[test]
    fn a_light_instance_gets_a_few_times_its_share_at_most_however_fast_it_is() {
        let subset = loaded(&[99, 1], |index, slot| answers_in(slot, [1000, 1][index]));
        let light = counts(&subset)[1];
        assert!((ROUNDS / 100..=ROUNDS / 100 * 32 / 10).contains(&light), "{light}");
    }

    #[test]
    fn the_way_has_one_step_to_the_other_one() {
        let subset = loaded(&[1, 1], |index, slot| (0..index).for_each(|_| slot.enter()));
        let selector = PowerOfTwo.prepare(&subset).unwrap();
        let criteria = Criteria::new(5);
        assert_eq!((selector.select(&subset, &criteria), selector.walk(&subset, &criteria, 1)), (0, Some(1)));
        assert_eq!(selector.walk(&subset, &criteria, 2), None);
        let alone = loaded(&[7], |_, _| {});
        assert_eq!(PowerOfTwo.prepare(&alone).unwrap().walk(&alone, &criteria, 1), None);
    }
}
