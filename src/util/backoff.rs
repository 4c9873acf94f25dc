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

impl Backoff {
    /// Delays that double from `base` up to `cap`; of values that make no schedule, the nearest that do.
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        // A year is as good as for ever, and far from what a duration can hold: draws are floating-point numbers.
        let longest = Duration::from_secs(365 * 24 * 3600);
        let base = base.clamp(Duration::from_millis(1), longest);
        Self { base, cap: cap.clamp(base, longest), tries: 0 }
    }

    /// The next delay: at least a quarter of the base, at most the ceiling of this try.
    pub(crate) fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.base.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.cap);
        self.tries = (self.tries + 1).min(31);
        let floor = self.base / 4;
        floor + ceiling.saturating_sub(floor).mul_f64(rng.random::<f64>())
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
            let mut backoff = Backoff::new(base, cap);
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
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
            backoff.saturate();
            let delay = backoff.next_delay(&mut rng).as_secs_f64();
            let bucket = (0..9).take_while(|n| delay >= 6.0 * f64::from(n + 1)).count();
            buckets[bucket] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }

    #[test]
    fn values_that_make_no_schedule_are_mended() {
        let mut rng = SmallRng::seed_from_u64(7);
        assert!(!Backoff::new(Duration::ZERO, Duration::ZERO).next_delay(&mut rng).is_zero());
        let capped = Backoff::new(Duration::from_secs(2), Duration::from_secs(1)).next_delay(&mut rng);
        assert!(capped <= Duration::from_secs(2));
    }
}
