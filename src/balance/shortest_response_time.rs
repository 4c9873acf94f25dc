//! The faster an instance answered this client of late, the more calls it gets.
//!
//! When: for instances of unequal machines behind an even load. It draws in proportion to speed, so that slow ones are
//! measured again; unlike `powerOfTwo` it does not see calls under way. A choice looks at all instances, so it costs more
//! the more there are: some nanoseconds for each.
//! Source: the policy of the same name of polaris-java, with its shares: 100 s divided by the time of an answer. An
//! instance that has not answered yet, or within 10 µs, counts as a thousand times faster than one that takes 10 ms, so
//! a new one gets nearly all calls until its first answer comes. Weights do not count, but that 0 takes no calls.
//!
//! polaris-java averages the answers of a window (`slidePeriod`); here it is [`Load::latency`](crate::Load::latency),
//! which forgets by answers and not by time. So that an instance that once took more than 100 s is not lost for ever, as
//! it would be without a window that ends, it keeps the smallest share there is.

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::scan;
use crate::error::Result;
use crate::model::subset::Subset;

/// What answers take a share of: 100 s, in microseconds.
const PATIENCE: u32 = 100_000_000;
/// The share of an instance that has not answered yet.
const LARGEST: u32 = 10_000_000;

/// The balancer `shortestResponseTime`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortestResponseTime;

struct Shortest {
    weights: Box<[u32]>,
}

impl LoadBalancer for ShortestResponseTime {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(Shortest { weights: weights(subset).into() }))
    }
}

impl Shortest {
    /// Microseconds (0 is unknown) and places of all that may be called.
    fn candidates<'a>(&'a self, subset: &'a Subset) -> impl Iterator<Item = (u32, usize)> {
        let serving = (0..).zip(&self.weights).filter(|(_, weight)| **weight > 0);
        serving.filter_map(|(index, _)| Some((subset.load(index)?.micros, index)))
    }
}

impl Selector for Shortest {
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
        let shares = || self.candidates(subset).map(|(micros, index)| (index, share(micros).into()));
        scan::draw(criteria.entropy(), shares, 0)
    }

    /// Goes on with the shortest times of the others, for eight steps: drawn again, the fastest would only come again.
    fn walk(&self, subset: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        let chosen = self.select(subset, criteria);
        let others = self.candidates(subset).filter(|(_, index)| *index != chosen);
        scan::ranked(others.map(|(micros, index)| ((micros, index < chosen), index)), step)
    }
}

fn share(micros: u32) -> u32 {
    PATIENCE.checked_div(micros).unwrap_or(LARGEST).clamp(1, LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::call::Outcome;
    use crate::model::subset::fixture::loaded;
    use std::time::Duration;

    #[test]
    fn shares_are_those_of_polaris_java_and_never_nothing() {
        let of_millis = |millis: u32| share(millis * 1000);
        assert_eq!([1, 10, 40, 99_999].map(of_millis), [100_000, 10_000, 2_500, 1]);
        assert_eq!([of_millis(0), share(1), of_millis(200_000)], [LARGEST, LARGEST, 1]);
    }

    #[test]
    fn the_way_goes_on_from_the_fastest_of_the_others() {
        let millis = [30, 10, 20];
        let subset = loaded(&[1, 1, 1], |index, slot| {
            slot.record(Outcome::Success(0), Duration::from_millis(millis[index]));
        });
        let selector = ShortestResponseTime.prepare(&subset).unwrap();
        let criteria = Criteria::new(0);
        assert_eq!(selector.select(&subset, &criteria), 0, "chance has it so");
        let steps: Vec<_> = (1..=3).map(|step| selector.walk(&subset, &criteria, step)).collect();
        assert_eq!(steps, [Some(1), Some(2), None]);
    }
}
