//! Points in time that no duration can push over the edge.

use std::time::Duration;

use tokio::time::Instant;

/// As good as never, and far from what clocks can hold.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `now` and `wait` later; about thirty years later where that is less. Durations come from users, who write
/// `Duration::MAX` for "never", and adding that to an instant panics.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait.min(FAR)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_end_is_a_far_one() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        assert_eq!(after(now, Duration::MAX), now + FAR);
    }
}
