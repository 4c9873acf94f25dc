//! Consistent hashing on a ring: a key keeps its instance while others come and go.
//!
//! When: for caches and sessions, where a call should go where the last one with its key went. Only the keys of an
//! instance that leaves move, and its next ones clockwise ([`Selector::walk`]) are where to find replicas. Shares are
//! uneven (with 10 points an instance by about a third) and follow weights in steps of one point: more points are more
//! even. A choice costs one hash of the key and two or three lines of memory; the ring takes 20 bytes a point.
//! Source: D. Karger et al., "Consistent hashing and random trees", 1997, with points as polaris-go sets them, so that a
//! mixed fleet agrees. That needs the same `vnodeCount` everywhere: 10 in the code of polaris-go, 500 in the
//! configuration that is delivered with it.
//!
//! The points of an instance hash `<id><n>` for `n` from 0 to its share of `vnodeCount`, which is that count for the
//! heaviest and less for others, rounded down: an instance of less than `1 / vnodeCount` of the heaviest weight has no
//! point and no calls. Where two points fall on one place (ids that extend each other: `a` + `10`, `a1` + `0`), the later
//! one is hashed again, from the eight bytes of the place.

use std::collections::HashSet;
use std::fmt::Write;

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::options;
use crate::balance::points::{self, Point, Points};
use crate::config::PluginOptions;
use crate::error::Result;
use crate::model::subset::Subset;
use crate::util::hash::NameHash;
use crate::util::murmur3;

const DEFAULT_VNODES: u32 = 10;
const MOST_VNODES: u32 = 1_000_000;
/// How often a point is moved on from places that are taken before it is left out.
const REHASHES: u32 = 5;

/// The balancer `ringHash`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingHash {
    vnodes: u32,
}

struct Ring(Points);

impl RingHash {
    /// Reads `vnodeCount`: how many points the heaviest instance has, 10 by default, up to a million.
    ///
    /// # Errors
    /// `InvalidConfig` for an option that cannot be used.
    pub(crate) fn from_options(options: &PluginOptions) -> Result<Self> {
        options::check_hash_function(options)?;
        let vnodes = options::count(options, "vnodeCount", 1..=MOST_VNODES)?;
        Ok(Self { vnodes: vnodes.unwrap_or(DEFAULT_VNODES) })
    }

    /// How many points each weight has.
    fn counts(self, weights: &[u32]) -> Vec<u32> {
        let heaviest = f64::from(weights.iter().copied().max().unwrap_or(1).max(1));
        // The rounding errors of these two operations are a part of what polaris-go answers.
        let share = |weight: u32| f64::from(weight) / heaviest * f64::from(self.vnodes);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the count of points")]
        let points = |share: f64| share.floor() as u32;
        weights.iter().map(|weight| points(share(*weight))).collect()
    }

    fn points(counts: &[u32], subset: &Subset) -> Vec<Point> {
        let mut taken: HashSet<u64, NameHash> = HashSet::default();
        let mut key = String::new();
        let mut points = Vec::new();
        for ((index, count), instance) in (0..).zip(counts).zip(subset.iter()) {
            key.clear();
            key.push_str(instance.id().as_str());
            let id = key.len();
            for number in 0..*count {
                key.truncate(id);
                // Writing to a `String` cannot fail.
                let _ = write!(key, "{number}");
                let free = free_place(murmur3::x64(key.as_bytes(), 0), &mut taken);
                points.extend(free.map(|at| Point { at, index }));
            }
        }
        points.sort_unstable();
        points
    }
}

impl LoadBalancer for RingHash {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        let counts = self.counts(&weights(subset));
        let total = counts.iter().copied().map(u64::from).sum();
        points::check_count("ringHash", total, "lower consumer.loadbalancer.plugin.ringHash.vnodeCount")?;
        Ok(Box::new(Ring(Points::new(Self::points(&counts, subset)))))
    }
}

impl Selector for Ring {
    #[inline]
    fn select(&self, _: &Subset, criteria: &Criteria<'_>) -> usize {
        self.0.owner(criteria.hash())
    }

    fn walk(&self, _: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        self.0.after(criteria.hash(), step)
    }
}

/// Takes `at`, or the first place after it in the sequence of hashes that is free; `None` if none is found.
fn free_place(mut at: u64, taken: &mut HashSet<u64, NameHash>) -> Option<u64> {
    for _ in 0..REHASHES {
        if taken.insert(at) {
            return Some(at);
        }
        at = murmur3::x64(&at.to_le_bytes(), 0);
    }
    taken.insert(at).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{InstanceParts, SnapshotBuilder};
    use crate::model::key::{Revision, ServiceKey};
    use crate::model::subset::fixture::{base, weighted};

    #[test]
    fn points_follow_weights_rounded_down_as_floats_have_it() {
        let counts = |vnodes, weights: &[u32]| RingHash { vnodes }.counts(weights);
        assert_eq!(counts(10, &[10, 20, 70]), [1, 2, 10]);
        assert_eq!(counts(10, &[1, 50, 1000]), [0, 0, 10]);
        // 29 / 100 × 100 is a little less than 29.
        assert_eq!(counts(100, &[29, 100]), [28, 100]);
    }

    #[test]
    fn points_on_one_place_are_hashed_again() {
        let mut builder = SnapshotBuilder::new(ServiceKey::new("default", "a"));
        for id in ["a", "a1"] {
            builder.push(InstanceParts { id, host: "h", port: 1, weight: 1, ..InstanceParts::default() }, []).unwrap();
        }
        let instances = std::sync::Arc::new(builder.finish(Revision::new("r"), [], None));
        let subset = Subset::whole(&base(&instances)).unwrap();
        // `a` + `10` to `19` are `a1` + `0` to `9`.
        let points = RingHash::points(&[20, 20], &subset);
        assert_eq!(points.len(), 40);
        let place = murmur3::x64(b"a10", 0);
        assert!(points.contains(&Point { at: place, index: 0 }));
        assert!(points.contains(&Point { at: murmur3::x64(&place.to_le_bytes(), 0), index: 1 }));
    }

    #[test]
    fn a_point_that_finds_no_free_place_is_left_out() {
        let mut taken = HashSet::default();
        let places: Vec<_> = (0..8).map(|_| free_place(7, &mut taken)).collect();
        assert!(places[..6].iter().all(Option::is_some) && places[6..].iter().all(Option::is_none), "{places:?}");
    }

    #[test]
    fn a_ring_is_looked_up_like_a_sorted_list() {
        let subset = weighted(&[100, 7, 60, 33, 0, 81]);
        let ring = RingHash { vnodes: 137 };
        let points = RingHash::points(&ring.counts(&weights(&subset)), &subset);
        let selector = ring.prepare(&subset).unwrap();
        let edges = points.iter().flat_map(|point| [point.at - 1, point.at, point.at + 1]);
        for value in edges.chain([0, u64::MAX]) {
            let next = points.iter().find(|point| point.at >= value).unwrap_or(&points[0]);
            let criteria = Criteria::new(0).with_hash_value(value);
            assert_eq!(selector.select(&subset, &criteria), next.index as usize, "{value}");
        }
    }
}
