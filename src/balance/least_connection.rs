//! Whoever has the fewest calls of this client under way.
//!
//! When: for calls whose lengths differ much (streams, exports), from one or a few clients; many clients that look at
//! their own calls only all find the same instance idle: take `powerOfTwo` then. A choice looks at all instances, so it
//! costs more the more there are: some nanoseconds for each.
//! Source: the policy of the same name of polaris-java. Equals are drawn by weight; else weights do not count, but that
//! 0 takes no calls. A call counts from its pick to its end, if the caller tells the end
//! ([`start_call`](crate::ServiceHandle::start_call) does).

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::scan;
use crate::error::Result;
use crate::model::subset::Subset;

/// The balancer `leastConnection`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeastConnection;

struct Least {
    weights: Box<[u32]>,
}

impl LoadBalancer for LeastConnection {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(Least { weights: weights(subset).into() }))
    }
}

impl Least {
    /// Calls under way, place and weight of all that may be called.
    fn candidates<'a>(&'a self, subset: &'a Subset) -> impl Iterator<Item = (u32, usize, u32)> {
        let serving = (0..).zip(&self.weights).filter(|(_, weight)| **weight > 0);
        serving.filter_map(|(index, weight)| Some((subset.load(index)?.in_flight, index, *weight)))
    }
}

impl Selector for Least {
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
        let fewest = self.candidates(subset).min_by_key(|(in_flight, ..)| *in_flight);
        let Some((fewest, first, _)) = fewest else { return 0 };
        let equals = || {
            let equals = self.candidates(subset).filter(|(in_flight, ..)| *in_flight == fewest);
            equals.map(|(_, index, weight)| (index, u64::from(weight)))
        };
        scan::draw(criteria.entropy(), equals, first)
    }

    /// Goes on with the next fewest calls, for eight steps.
    fn walk(&self, subset: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        let chosen = self.select(subset, criteria);
        let others = self.candidates(subset).filter(|(_, index, _)| *index != chosen);
        // Equals go on round from the chosen one, so that not everybody comes to the first of the list.
        let keys = others.map(|(in_flight, index, _)| ((in_flight, index < chosen), index));
        scan::ranked(keys, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subset::fixture::loaded;

    fn with_calls(calls: &[u32]) -> Subset {
        loaded(&vec![100; calls.len()], |index, slot| (0..calls[index]).for_each(|_| slot.enter()))
    }

    #[test]
    fn the_way_goes_on_by_calls_under_way_and_round_the_list() {
        let subset = with_calls(&[3, 1, 0, 1, 2]);
        let selector = LeastConnection.prepare(&subset).unwrap();
        let criteria = Criteria::new(u64::MAX);
        assert_eq!(selector.select(&subset, &criteria), 2);
        let steps: Vec<_> = (1..=5).map(|step| selector.walk(&subset, &criteria, step)).collect();
        assert_eq!(steps, [Some(3), Some(1), Some(4), Some(0), None]);
        assert_eq!(selector.walk(&subset, &criteria, 9), None, "asked anew beyond its reach");
    }

    #[test]
    fn equals_are_drawn_by_weight() {
        const DRAWS: u64 = 4000;
        let subset = loaded(&[1, 3, 9], |index, slot| (0..index / 2).for_each(|_| slot.enter()));
        let selector = LeastConnection.prepare(&subset).unwrap();
        let draw = |round: u64| selector.select(&subset, &Criteria::new(round * (u64::MAX / DRAWS)));
        let mut seen = [0u64; 3];
        (0..DRAWS).for_each(|round| seen[draw(round)] += 1);
        assert!(seen[0].abs_diff(DRAWS / 4) <= 2 && seen[2] == 0, "{seen:?}");
    }
}
