//! Exponential back-off with full jitter.
//!
//! The delay before try *n* is drawn evenly from zero to `min(cap, base * 2^n)`, so that clients which lost one server
//! together do not come back together (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015). A floor keeps a
//! draw near zero from being a tight loop. The state is a counter; when it is reset is up to the caller, and the right
//! moment is a valid message, not an opened connection: a server that accepts and closes would be hammered.

use std::time::Duration;

use rand::{Rng, RngExt};

/// A schedule of delays.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

/// Why a schedule cannot exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a back-off needs 0 < base <= cap, not base {base:?} and cap {cap:?}")]
pub(crate) struct InvalidBackoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Delays that double from `base` up to `cap`.
    pub(crate) fn try_new(base: Duration, cap: Duration) -> Result<Self, InvalidBackoff> {
        if base.is_zero() || cap < base {
            return Err(InvalidBackoff { base, cap });
        }
        Ok(Self { base, cap, tries: 0 })
    }

    /// The same with the nearest values that can exist: for values that were validated elsewhere.
    pub(crate) fn clamped(base: Duration, cap: Duration) -> Self {
        let base = base.max(Duration::from_millis(1));
        Self { base, cap: cap.max(base), tries: 0 }
    }

    /// The next delay: at least a quarter of the base, at most the ceiling of this try.
    pub(crate) fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.base.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.cap);
        self.tries = (self.tries + 1).min(31);
        let floor = self.base / 4;
        floor + (ceiling - floor).mul_f64(rng.random::<f64>())
    }

    /// Starts over, after something worked.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    /// Goes to the cap at once: for refusals that repeating does not mend.
    pub(crate) fn saturate(&mut self) {
        self.tries = 31;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    proptest! {
        #[test]
        fn every_delay_lies_between_the_floor_and_the_ceiling_of_its_try(
            base in 1u64..1000, factor in 1u64..1000, seed: u64, tries in 1usize..60,
        ) {
            let (base, cap) = (Duration::from_millis(base), Duration::from_millis(base * factor));
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut backoff = Backoff::try_new(base, cap).unwrap();
            for n in 0..tries {
                let delay = backoff.next_delay(&mut rng);
                let ceiling = base.saturating_mul(1 << n.min(20)).min(cap);
                prop_assert!(delay >= base / 4 && (delay <= ceiling || n > 20 && delay <= cap), "{n}: {delay:?}");
            }
            backoff.reset();
            prop_assert!(backoff.next_delay(&mut rng) <= base);
        }
    }

    #[test]
    fn the_delays_of_many_clients_spread_over_the_whole_range() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut buckets = [0; 10];
        for _ in 0..10_000 {
            let mut backoff = Backoff::try_new(Duration::from_secs(1), Duration::from_secs(60)).unwrap();
            backoff.saturate();
            let delay = backoff.next_delay(&mut rng).as_secs_f64();
            buckets[((delay / 6.0) as usize).min(9)] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }

    #[test]
    fn a_schedule_that_cannot_exist_is_refused() {
        assert!(Backoff::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Backoff::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
