//! What a balancer is: a half that prepares and a half that selects.

use std::fmt::Debug;
use std::num::NonZeroUsize;

use crate::error::Result;
use crate::model::subset::Subset;
use crate::util::draw::below;
use crate::util::murmur3;

/// A policy of balancing: which of the instances that routing left takes a call.
///
/// It has two halves, so that a call pays for nothing but its own choice. What a choice needs (a table, a ring) is built
/// by [`prepare`](Self::prepare) when data changes; the [`Selector`] that comes of it answers for each call. The built-in
/// policies are named in the section `consumer.loadbalancer` of the configuration.
///
/// ```
/// use polarismesh::{Criteria, LoadBalancer, Result, Selector, Subset};
///
/// /// Takes the one with fewer calls under way, of two that chance drew.
/// #[derive(Debug)]
/// struct LessBusy;
///
/// impl LoadBalancer for LessBusy {
///     fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
///         Ok(Box::new(LessBusy))
///     }
/// }
///
/// impl Selector for LessBusy {
///     fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
///         let (a, b) = criteria.two_of(subset.len());
///         let busy = |index| subset.load(index).map(|load| load.in_flight());
///         if busy(b) < busy(a) { b } else { a }
///     }
/// }
/// ```
pub trait LoadBalancer: Debug + Send + Sync + 'static {
    /// Prepares choices among `subset`. Called when data changes or a policy is first used, never for each call; it may
    /// take its time, but must not block.
    ///
    /// Instances of weight 0 may be in `subset`. They are not to be chosen, unless no instance has a weight.
    ///
    /// # Errors
    /// What every pick among this subset is refused with.
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>>;
}

/// Choices among one subset, prepared by a [`LoadBalancer`].
pub trait Selector: Send + Sync + 'static {
    /// The place of the chosen instance in `subset`, which is the one that [`LoadBalancer::prepare`] saw.
    ///
    /// It must neither block nor allocate, and is called by many threads at once. When the choice must not be taken (the
    /// caller excluded it, or its circuit breaker is open), it is asked again for the same call with fresh entropy,
    /// unless [`walk`](Self::walk) knows better. A place beyond the end refuses the pick with
    /// [`ErrorKind::Plugin`](crate::ErrorKind::Plugin).
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize;

    /// The place `step` steps after what [`select`](Self::select) answers for the same criteria, in the selector's own
    /// order; the first step is 1.
    ///
    /// For policies whose second choice means something: the next ones on a ring are the replicas of a key. One
    /// instance may come several times, and the caller skips it then. `None` says that the way is at its end or, as
    /// here by default, that there is no order: `select` is asked again with fresh entropy instead.
    fn walk(&self, subset: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        let _ = (subset, criteria, step);
        None
    }
}

/// What a choice may depend on, besides the instances and their load: chance, and the key that the call is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Criteria<'a> {
    entropy: u64,
    key: Option<&'a [u8]>,
    value: u64,
}

impl<'a> Criteria<'a> {
    pub(crate) const fn new(entropy: u64) -> Self {
        Self { entropy, key: None, value: 0 }
    }

    /// Binds the choice to a key; an empty one binds it to nothing.
    pub(crate) const fn with_hash_key(self, key: &'a [u8]) -> Self {
        Self { key: if key.is_empty() { None } else { Some(key) }, ..self }
    }

    /// Binds the choice to a value that the caller has hashed; a key goes before it, as in polaris-go.
    pub(crate) const fn with_hash_value(self, value: u64) -> Self {
        Self { value, ..self }
    }

    /// 64 random bits, drawn for this choice.
    #[must_use]
    pub const fn entropy(&self) -> u64 {
        self.entropy
    }

    /// The key that the call is bound to; `None` if it has none, or an empty one.
    #[must_use]
    pub const fn hash_key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// Where the call belongs on a ring or in a table: the murmur3 of its key (the first 64 bits of the x64 form, seed
    /// 0, as polaris-go computes it), or the value that was given instead of a key, or 0.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.key.map_or(self.value, |key| murmur3::x64(key, 0))
    }

    /// Two different places below `n`, each pair as likely as any other; the same one twice if there is but one.
    #[must_use]
    pub fn two_of(&self, n: NonZeroUsize) -> (usize, usize) {
        let (first, rest) = below(self.entropy, n.get());
        let Some(others) = NonZeroUsize::new(n.get() - 1) else { return (first, first) };
        let (second, _) = below(rest, others.get());
        // The second is drawn among the others, so it skips the first.
        (first, if second < first { second } else { second + 1 })
    }
}

/// The weights of all places. Who leaves instances of weight 0 in wants them picked if there is nobody else: where no
/// instance has a weight, each has 1.
pub(super) fn weights(subset: &Subset) -> Vec<u32> {
    let mut weights: Vec<u32> = (0..subset.len().get()).map(|index| subset.weight(index)).collect();
    if weights.iter().all(|weight| *weight == 0) {
        weights.fill(1);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subset::fixture::weighted;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_of_many_are_different_and_in_range(entropy: u64, n in 2usize..1000) {
            let (a, b) = Criteria::new(entropy).two_of(NonZeroUsize::new(n).unwrap());
            prop_assert!(a != b && a < n && b < n);
        }
    }

    #[test]
    fn a_key_goes_before_a_value_and_an_empty_key_is_none() {
        let none = Criteria::new(7);
        assert_eq!((none.hash(), none.hash_key(), none.entropy()), (0, None, 7));
        let value = none.with_hash_value(5).with_hash_key(b"");
        assert_eq!((value.hash(), value.hash_key()), (5, None));
        let both = value.with_hash_key(b"a");
        assert_eq!((both.hash(), both.hash_key()), (0x8555_5565_F659_7889, Some(b"a".as_slice())));
    }

    #[test]
    fn weights_are_even_where_nobody_has_one() {
        assert_eq!((weights(&weighted(&[0, 3, 0])), weights(&weighted(&[0, 0]))), (vec![0, 3, 0], vec![1, 1]));
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
