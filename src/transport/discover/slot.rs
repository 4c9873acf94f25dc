//! One wanted key of the schedule, and its rhythm. Pure.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::model::key::ServiceEventKey;
use crate::util::backoff::Backoff;

/// The shortest period of a key that is polled more often.
const FAST_FLOOR: Duration = Duration::from_millis(250);

/// A wanted key.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: ServiceEventKey,
    pub(super) place: Place,
    /// Whether any answer told what the resource is.
    pub(super) known: bool,
    pub(super) fast_until: Option<Instant>,
    /// With the base that it was made with: another kind of trouble starts over.
    pub(super) backoff: Option<(Duration, Backoff)>,
    /// How often in a row the stream died over this key.
    pub(super) strikes: u32,
}

/// Where it is; in one place at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Cold,
    Polled(Instant),
    Asked,
    Parked,
}

impl Slot {
    /// One that was never asked for.
    pub(super) fn new(key: ServiceEventKey) -> Self {
        Self { key, place: Place::Cold, known: false, fast_until: None, backoff: None, strikes: 0 }
    }

    /// The time to the next question after trouble; a row of the same trouble makes it longer.
    pub(super) fn back_off(&mut self, base: Duration, cap_secs: u64, rng: &mut impl Rng) -> Duration {
        let new = || (base, Backoff::new(base, Duration::from_secs(cap_secs)));
        let backoff = self.backoff.get_or_insert_with(new);
        if backoff.0 != base {
            *backoff = new();
        }
        backoff.1.next_delay(rng)
    }
}

/// The time to the next poll. Jittered, and after the first answer spread over the whole period: keys that were wanted
/// together do not stay together.
pub(super) fn period(refresh: Duration, fast: bool, first: bool, rng: &mut impl Rng) -> Duration {
    if fast {
        return refresh.min((refresh / 4).max(FAST_FLOOR)).mul_f64(rng.random_range(0.9..1.1));
    }
    refresh.mul_f64(if first { rng.random_range(0.5..1.0) } else { rng.random_range(0.9..1.1) })
}
