//! Looking through all instances: what policies that follow the load have in common.

use crate::util::draw::level;

/// How many steps a way by rank has: it takes one place on the stack for each.
const RANKS: usize = 8;

/// Draws one of `shares` in proportion, `fallback` if they are all 0. The shares are gone through twice; what they change
/// in between (load does) moves the choice a little and never out of range.
pub(super) fn draw<I>(entropy: u64, shares: impl Fn() -> I, fallback: usize) -> usize
where
    I: Iterator<Item = (usize, u64)>,
{
    let mut level = level(entropy, shares().map(|(_, share)| share).sum());
    let mut last = fallback;
    for (index, share) in shares().filter(|(_, share)| *share > 0) {
        if level < share {
            return index;
        }
        level -= share;
        last = index;
    }
    last
}

/// Who has the rank `rank`, counted from 1, among `keys` in ascending order; `None` if there are fewer, or beyond 8.
pub(super) fn ranked<K: Ord + Copy>(keys: impl Iterator<Item = (K, usize)>, rank: usize) -> Option<usize> {
    let mut first: [Option<(K, usize)>; RANKS] = [None; RANKS];
    let first = first.get_mut(..rank)?;
    for key in keys {
        let mut carried = Some(key);
        // Each place keeps the smaller one and hands on the other.
        for held in first.iter_mut() {
            if held.is_none() || carried.is_some_and(|carried| *held > Some(carried)) {
                std::mem::swap(held, &mut carried);
            }
            if carried.is_none() {
                break;
            }
        }
    }
    first.last().copied().flatten().map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_are_those_of_a_sorted_list(keys in proptest::collection::vec(0u8..20, 0..40), rank in 0usize..12) {
            let mut sorted: Vec<_> = keys.iter().copied().zip(0..).collect();
            sorted.sort_unstable();
            let expected = (1..=RANKS).contains(&rank).then(|| sorted.get(rank - 1)).flatten().map(|(_, index)| *index);
            prop_assert_eq!(ranked(keys.iter().copied().zip(0..), rank), expected);
        }

        #[test]
        fn draws_take_who_has_a_share(shares in proptest::collection::vec(0u64..4, 1..20), entropy: u64) {
            let drawn = draw(entropy, || (0..).zip(shares.iter().copied()), 0);
            prop_assert!(shares[drawn] > 0 || (drawn == 0 && shares.iter().all(|share| *share == 0)));
        }
    }

    #[test]
    fn draws_are_in_proportion() {
        let shares = [1, 0, 2, 1];
        let drawn = |entropy| draw(entropy, || (0..).zip(shares), 9);
        let quarter = 1 << 62;
        assert_eq!([0, quarter, 2 * quarter, 3 * quarter].map(drawn), [0, 2, 2, 3]);
        assert_eq!([quarter - 1, u64::MAX].map(drawn), [0, 3]);
    }

    #[test]
    fn shares_that_vanish_in_between_leave_the_choice_in_range() {
        let asked = std::cell::Cell::new(0);
        let shares = || {
            asked.set(asked.get() + 1);
            (0..).zip(if asked.get() == 1 { [5, 5] } else { [1, 1] })
        };
        assert_eq!(draw(u64::MAX, shares, 0), 1);
    }
}
