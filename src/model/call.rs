//! How a call ended, as breakers, statistics and retries see it.

/// How a call to an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It succeeded, with the protocol's own code (HTTP 200, gRPC 0, …).
    Success(i32),
    /// It was answered with a failure, with the protocol's own code.
    Failure(i32),
    /// No answer within the caller's deadline.
    Timeout,
    /// No answer at all: refused, reset, unreachable.
    NoAnswer,
    /// The callee rejected it by authorisation or an open breaker: says nothing about its health.
    Rejected,
    /// The callee limited it: says nothing about its health.
    FlowControl,
    /// The caller gave up: no verdict.
    Cancelled,
}

/// Tells an error's [`Outcome`], and whether another instance may be tried.
///
/// ```
/// use polarismesh::{Classify, Outcome};
///
/// #[derive(Debug)]
/// struct Unavailable;
///
/// impl Classify for Unavailable {
///     fn outcome(&self) -> Outcome {
///         Outcome::NoAnswer
///     }
///
///     fn is_retryable(&self) -> bool {
///         true
///     }
/// }
/// ```
pub trait Classify {
    /// How the call ended.
    fn outcome(&self) -> Outcome;

    /// Whether the same call may be made to another instance. Only say so of calls that are safe to repeat.
    fn is_retryable(&self) -> bool {
        false
    }
}

impl Outcome {
    /// The outcome of an HTTP status: 429 is flow control, 401 and 403 are rejections, other 5xx are failures, 408 and
    /// 504 time-outs; everything else is a success of the callee, a client's mistake (4xx) included.
    #[must_use]
    pub const fn http(status: u16) -> Self {
        match status {
            429 => Self::FlowControl,
            401 | 403 => Self::Rejected,
            408 | 504 => Self::Timeout,
            500.. => Self::Failure(status as i32),
            _ => Self::Success(status as i32),
        }
    }

    /// The outcome of a gRPC code: 1 is a cancellation, 4 a time-out, 8 flow control, 7 and 16 rejections, 14 no answer;
    /// 2, 12, 13 and 15 are failures of the callee, the rest (a caller's mistake) its successes.
    #[must_use]
    pub const fn grpc(code: i32) -> Self {
        match code {
            1 => Self::Cancelled,
            4 => Self::Timeout,
            7 | 16 => Self::Rejected,
            8 => Self::FlowControl,
            14 => Self::NoAnswer,
            2 | 12 | 13 | 15 => Self::Failure(code),
            _ => Self::Success(code),
        }
    }

    /// Whether it speaks for the callee's health (`Some(true)`), against it (`Some(false)`), or says nothing of it.
    #[must_use]
    pub const fn verdict(self) -> Option<bool> {
        match self {
            Self::Success(_) => Some(true),
            Self::Failure(_) | Self::Timeout | Self::NoAnswer => Some(false),
            Self::Rejected | Self::FlowControl | Self::Cancelled => None,
        }
    }
}

impl<E: Classify + ?Sized> Classify for &E {
    fn outcome(&self) -> Outcome {
        (**self).outcome()
    }

    fn is_retryable(&self) -> bool {
        (**self).is_retryable()
    }
}

impl<E: Classify + ?Sized> Classify for Box<E> {
    fn outcome(&self) -> Outcome {
        (**self).outcome()
    }

    fn is_retryable(&self) -> bool {
        (**self).is_retryable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_mistake_does_not_speak_against_the_callee() {
        for (outcome, verdict) in [
            (Outcome::http(200), Some(true)),
            (Outcome::http(404), Some(true)),
            (Outcome::http(503), Some(false)),
            (Outcome::http(504), Some(false)),
            (Outcome::http(429), None),
            (Outcome::grpc(0), Some(true)),
            (Outcome::grpc(3), Some(true)),
            (Outcome::grpc(13), Some(false)),
            (Outcome::grpc(14), Some(false)),
            (Outcome::grpc(8), None),
            (Outcome::grpc(1), None),
        ] {
            assert_eq!(outcome.verdict(), verdict, "{outcome:?}");
        }
    }
}
