//! A stream in the worker's hands, and how one ends.

use std::sync::Arc;

use tokio::time::Instant;

use super::schedule::{StreamEnd, Verdict};
use super::session::Session;
use crate::error::Error;
use crate::model::server::ServerAddr;

/// How a stream ended.
pub(super) enum End {
    /// All handles are gone.
    Closed,
    /// We left it; the next one may follow at once.
    Left,
    /// It failed; the next one has to wait.
    Failed { unauthorized: bool },
}

/// A stream in use.
pub(super) struct Stream {
    pub(super) session: Session,
    pub(super) server: ServerAddr,
    pub(super) name: Arc<str>,
    /// See [`crate::transport::endpoint::Servers::epoch`].
    pub(super) epoch: u64,
    /// No more questions: it ends when all are answered.
    pub(super) leaving: bool,
    /// Whether the server has given a useful answer.
    pub(super) proven: bool,
    /// Answers in a row that speak of trouble.
    pub(super) faults: u32,
    pub(super) used: Instant,
}

/// Why a stream is given up.
pub(super) struct Broken {
    pub(super) error: Error,
    pub(super) end: StreamEnd,
}

/// What an error that the server answered means for the rhythm of its key.
pub(super) fn verdict(error: &Error) -> Verdict {
    match error.server_code() {
        Some(code) if code.is_throttled() => Verdict::Throttled,
        Some(_) if error.is_retryable() => Verdict::Fault,
        _ => Verdict::Refused,
    }
}
