//! Limits: what lets a call pass, makes it wait, or refuses it.
//!
//! Everything here is pure: `now` is a number of microseconds that is passed in, waiting is a value, and nothing knows
//! rules' texts, tasks or the network.

pub(crate) mod gauge;
#[cfg(test)]
mod golden_test;
pub(crate) mod labels;
pub(crate) mod limiter;
pub(crate) mod pace;
pub(crate) mod plan;
pub(crate) mod remote;
pub(crate) mod shares;
pub(crate) mod window;

use std::time::Duration;

/// A length of time in microseconds, as all clocks here count.
pub(crate) fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}
