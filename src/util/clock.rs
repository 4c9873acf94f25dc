//! Wall time as a reading anchored to tokio's monotonic clock.
//!
//! The wall clock is read once. From there it advances with [`Instant`], so a paused clock rules it in tests, and a step
//! of the machine's clock cannot make an age negative or a cache file come from the future.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A wall clock that never jumps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock {
    wall: SystemTime,
    anchor: Instant,
}

impl WallClock {
    /// Anchors the machine's wall clock to now.
    pub(crate) fn start() -> Self {
        Self::anchored(SystemTime::now(), Instant::now())
    }

    pub(crate) const fn anchored(wall: SystemTime, anchor: Instant) -> Self {
        Self { wall, anchor }
    }

    /// The wall time of `moment`.
    pub(crate) fn system_time(&self, moment: Instant) -> SystemTime {
        let before = self.anchor.saturating_duration_since(moment);
        (self.wall - before) + moment.saturating_duration_since(self.anchor)
    }

    /// Milliseconds since the Unix epoch at `now`.
    pub(crate) fn unix_millis(&self, now: Instant) -> u64 {
        let wall = self.wall + now.saturating_duration_since(self.anchor);
        u64::try_from(wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long before `now` the moment was; zero for a moment of the future.
    pub(crate) fn age(&self, unix_millis: u64, now: Instant) -> Duration {
        Duration::from_millis(self.unix_millis(now).saturating_sub(unix_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_time_follows_the_paused_clock_and_no_age_is_negative() {
        let clock = WallClock::anchored(UNIX_EPOCH + Duration::from_secs(100), Instant::now());
        let written = clock.unix_millis(Instant::now());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(written, 100_000);
        assert_eq!(clock.age(written, Instant::now()), Duration::from_secs(7));
        assert_eq!(clock.age(999_000, Instant::now()), Duration::ZERO);
    }
}
