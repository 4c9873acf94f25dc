//! The limiter of a control plane: counts what many clients use of one global rate limit.
//!
//! Problem: a client that shares a quota meets a limiter that counts on its own clock, loses reports that come late,
//! forgets counters, pushes unasked, and answers with codes of its own. Choice: the counting is a pure state machine,
//! which gets the time passed in, behind the stream that a real limiter serves; every node has one, as if it ran beside
//! it. Invariant: what arrives at one moment is counted in one order, and nothing but the clock and the messages decides
//! what is answered.

mod call;
mod check;
mod clients;
mod control;
mod counter;
mod service;
mod state;
mod window;

use std::time::Duration;

use tokio::time::Instant;

pub(super) use service::{Limiter, Session};

use crate::model::key::ServiceKey;

/// By how much the clock of a limiter is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skew {
    /// It shows a later time.
    Ahead(Duration),
    /// It shows an earlier time.
    Behind(Duration),
}

/// One counter of a limiter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitCounter {
    /// The service whose calls are counted.
    pub service: ServiceKey,
    /// The labels of the calls, as the clients write them.
    pub labels: String,
    /// The length of a window.
    pub duration: Duration,
    /// The key under which clients report.
    pub key: u32,
    /// How much a window has for all clients together.
    pub max: i64,
    /// How much of it is left; negative where more was used.
    pub left: i64,
    /// How many clients are counted, those that left a moment ago included.
    pub clients: usize,
    /// What was used in the current window.
    pub used: u64,
    /// What was used in all windows since the counter was made.
    pub total_used: u64,
    /// What was reported for a window that was not the current one, and therefore not counted.
    pub total_ignored: u64,
    /// How many calls the clients said they had refused.
    pub total_limited: u64,
}

/// What a client reports of one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitUse {
    /// The key of the counter.
    pub key: u32,
    /// How much it used since its last report.
    pub used: u32,
    /// How many calls it refused since.
    pub limited: u32,
}

/// A moment, on the clock that never jumps and on the limiter's own.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    /// Milliseconds since the Unix epoch.
    wall: i64,
}
