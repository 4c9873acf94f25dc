//! What a balancer is: a half that prepares and a half that selects.

use std::fmt::Debug;
use std::num::NonZeroUsize;

use crate::error::Result;
use crate::model::subset::Subset;

/// A policy of balancing.
pub(crate) trait LoadBalancer: Debug + Send + Sync + 'static {
    /// Prepares choices among `subset`. Called when data changes, never for a call.
    ///
    /// # Errors
    /// What every pick among this subset is refused with.
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>>;
}

/// Choices among one subset, prepared. It must neither block nor allocate.
pub(crate) trait Selector: Send + Sync + 'static {
    /// The index of the chosen instance in `subset`, which is the one it was prepared for.
    ///
    /// It may be asked again for the same call, with fresh entropy, when the choice is one that must not be taken.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "it grows with what balancers come to look at")]
    fn select(&self, subset: &Subset, criteria: &Criteria) -> usize;
}

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Criteria {
    entropy: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "it grows with what balancers come to look at")]
impl Criteria {
    pub(crate) const fn new(entropy: u64) -> Self {
        Self { entropy }
    }

    /// 64 random bits, drawn for this choice.
    pub(crate) const fn entropy(&self) -> u64 {
        self.entropy
    }

    /// Two different indexes below `n`, each pair as likely as any other; the same one twice if there is but one.
    pub(crate) fn two_of(&self, n: NonZeroUsize) -> (usize, usize) {
        let (first, rest) = below(self.entropy, n.get());
        let Some(others) = NonZeroUsize::new(n.get() - 1) else { return (first, first) };
        let (second, _) = below(rest, others.get());
        // The second is drawn among the others, so it skips the first.
        (first, if second < first { second } else { second + 1 })
    }
}

/// A number below `n` out of 64 random bits, and the bits that are left of them.
#[inline]
pub(crate) fn below(entropy: u64, n: usize) -> (usize, u64) {
    let product = u128::from(entropy) * (n as u128);
    #[allow(clippy::cast_possible_truncation, reason = "the high half is below `n`, the low half is what is left")]
    let halves = ((product >> 64) as usize, product as u64);
    halves
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_of_many_are_different_and_in_range(entropy: u64, n in 2usize..1000) {
            let (a, b) = Criteria::new(entropy).two_of(NonZeroUsize::new(n).unwrap());
            prop_assert!(a != b && a < n && b < n);
        }
    }

    #[test]
    fn two_of_one_is_that_one_twice() {
        assert_eq!(Criteria::new(u64::MAX).two_of(NonZeroUsize::MIN), (0, 0));
    }

    #[test]
    fn every_pair_is_as_likely_as_any_other() {
        const N: usize = 5;
        const ROUNDS: u64 = 20_000;
        let mut seen = [[0u64; N]; N];
        for round in 0..ROUNDS {
            // An even walk over all values: exact, where random ones would only be likely.
            let (a, b) = Criteria::new(round * (u64::MAX / ROUNDS)).two_of(NonZeroUsize::new(N).unwrap());
            seen[a][b] += 1;
        }
        for (a, row) in seen.iter().enumerate() {
            for (b, count) in row.iter().enumerate() {
                let expected = if a == b { 0 } else { ROUNDS / 20 };
                assert!(count.abs_diff(expected) <= 2, "({a}, {b}) came {count} times of {expected}");
            }
        }
    }
}
