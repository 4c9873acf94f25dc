//! What the black-box tests share.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

pub mod console;
pub mod limits;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Asks until the answer is yes. Panics, with `what` was waited for, after `within`.
#[track_caller]
pub fn eventually<F>(what: &str, within: Duration, mut ask: impl FnMut() -> F) -> impl Future<Output = ()>
where
    F: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + within;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !ask().await {
            assert!(Instant::now() < deadline, "{caller}: not within {within:?}: {what}");
            ticks.tick().await;
        }
    }
}

/// Holds `always` to be true for a while.
#[track_caller]
pub fn throughout<F>(what: &str, period: Duration, mut always: impl FnMut() -> F) -> impl Future<Output = ()>
where
    F: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + period;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while Instant::now() < end {
            assert!(always().await, "{caller}: not throughout {period:?}: {what}");
            ticks.tick().await;
        }
    }
}
