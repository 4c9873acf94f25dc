//! Places on a line, found by value: what rings and the plain hash look a key up in.
//!
//! A value belongs to the first point at or above it; beyond the last one the line begins anew, as on a ring. Points are
//! found by a bucket of their leading bits instead of a search over all of them. There is about one bucket for each
//! point, so that a bucket holds one or two of them and a look-up takes the same time for ten points as for a million;
//! a crowded bucket is searched by halves.

use crate::error::{Error, ErrorKind, Result};

/// How many points one selector may have: each takes about 20 bytes.
const MOST: u64 = 10_000_000;

/// One point, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) at: u64,
    /// The place of its instance in the subset.
    pub(super) index: u32,
}

/// Points in ascending order, with their buckets.
#[derive(Debug)]
pub(super) struct Points {
    line: Box<[Point]>,
    /// For each bucket the first point that is not below it, and at the end the number of points.
    buckets: Box<[u32]>,
    /// What is left of a value after this shift is the number of its bucket.
    shift: u32,
}

impl Points {
    /// Takes points that are sorted by `at`.
    pub(super) fn new(points: Vec<Point>) -> Self {
        let count = points.len().next_power_of_two().max(2);
        let highest = points.last().map_or(0, |point| point.at);
        let shift = (u64::BITS - highest.leading_zeros()).saturating_sub(count.trailing_zeros());
        let mut buckets = Vec::with_capacity(count + 1);
        let mut first = 0;
        for bucket in 0..=count as u64 {
            while points.get(first).is_some_and(|point| point.at >> shift < bucket) {
                first += 1;
            }
            buckets.push(u32::try_from(first).unwrap_or(u32::MAX));
        }
        Self { line: points.into(), buckets: buckets.into(), shift }
    }

    /// Whose `value` is; the first place of the subset if there are no points at all.
    #[inline]
    pub(super) fn owner(&self, value: u64) -> usize {
        self.line.get(self.locate(value)).map_or(0, |point| point.index as usize)
    }

    /// Whose the point is that lies `step` points after that of `value`; `None` once all round.
    pub(super) fn after(&self, value: u64, step: usize) -> Option<usize> {
        let ahead = self.line.len().checked_sub(step).filter(|ahead| *ahead > 0)?;
        let from = self.locate(value);
        // Where the way to the end of the line is shorter than the step, it goes on from the beginning.
        let at = if from < ahead { from + step } else { from - ahead };
        self.line.get(at).map(|point| point.index as usize)
    }

    #[inline]
    fn locate(&self, value: u64) -> usize {
        if self.line.last().is_none_or(|last| value > last.at) {
            return 0;
        }
        #[allow(clippy::cast_possible_truncation, reason = "no more than there are buckets, for values on the line")]
        let bucket = (value >> self.shift) as usize;
        let bound = |bucket: usize| self.buckets.get(bucket).map_or(0, |first| *first as usize);
        let (from, to) = (bound(bucket), bound(bucket + 1));
        // If all of the bucket are below the value, it is the next bucket's first point that is at or above.
        self.line.get(from..to).map_or(from, |inside| from + inside.partition_point(|point| point.at < value))
    }
}

/// Refuses what would fill the memory.
pub(super) fn check_count(policy: &str, count: u64, advice: &str) -> Result<()> {
    if count <= MOST {
        return Ok(());
    }
    let context = format!("{policy} would take {count} points for these instances, of {MOST} at most: {advice}");
    Err(Error::new(ErrorKind::Plugin, context))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Points at these values, owned in this order.
    fn points(mut values: Vec<u64>) -> Points {
        values.sort_unstable();
        Points::new((0..).zip(values).map(|(index, at)| Point { at, index }).collect())
    }

    /// Lines of all lengths, crowded ones among them.
    fn lines() -> impl Strategy<Value = Vec<u64>> {
        prop_oneof![
            proptest::collection::vec(any::<u64>(), 1..200),
            proptest::collection::vec(0u64..500, 1..200),
            (any::<u64>(), proptest::collection::vec(0u64..9, 1..200)).prop_map(|(far, near)| near
                .into_iter()
                .map(|value| far - far.min(value))
                .chain([far])
                .collect()),
        ]
    }

    proptest! {
        #[test]
        fn a_value_belongs_to_the_first_point_at_or_above_it(mut line in lines(), value: u64, nudge in 0u64..3) {
            let points = points(line.clone());
            line.sort_unstable();
            let near = line.iter().map(|at| at.saturating_add(nudge).saturating_sub(1)).chain([value, 0, u64::MAX]);
            for value in near.collect::<Vec<_>>() {
                let owner = line.iter().position(|at| *at >= value).unwrap_or(0);
                prop_assert_eq!(points.owner(value), owner);
                for step in [0, 1, line.len() - 1] {
                    let after = (step < line.len()).then_some((owner + step) % line.len());
                    prop_assert_eq!(points.after(value, step), after);
                }
                prop_assert_eq!(points.after(value, line.len()), None);
            }
        }
    }

    #[test]
    fn a_line_without_points_has_no_way() {
        let none = points(Vec::new());
        assert_eq!((none.owner(7), none.after(7, 0), none.after(7, 1)), (0, None, None));
    }

    #[test]
    fn buckets_hold_few_points_however_they_lie() {
        let spread = points((0..100_000u64).map(crate::util::murmur3::mix64).collect());
        let fullest = spread.buckets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(fullest <= 16, "{fullest}");
        assert!(spread.buckets.len() <= 2 * spread.line.len());
    }
}
