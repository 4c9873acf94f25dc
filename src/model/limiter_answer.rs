//! What a limiter answers, and the codes that it says no with.
//!
//! The codes are a space of the limiter's own: 400202 is a missing namespace here and a missing instance on the control
//! plane. So they are a type of their own, and never the server code of an error.

use std::fmt;

use crate::model::limiter::{QuotaCounter, QuotaLeft, QuotaTarget};

/// One message of a limiter. Its times are milliseconds on the limiter's clock, and 0 where it names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LimiterAnswer {
    /// What became of targets that were to be joined; perhaps of others than those that were asked for.
    Joined {
        /// Under which to report; 0 where nothing was joined.
        client_key: u32,
        timestamp: i64,
        /// A counter of each duration that was asked for. Durations that occur twice share one.
        results: Vec<(QuotaTarget, Result<Vec<QuotaCounter>, LimiterRefusal>)>,
    },
    /// What is left of counters that were reported, or that others have used up.
    Left { timestamp: i64, lefts: Vec<QuotaLeft> },
    /// The message as a whole was refused. A stream that had a wrong counter key ends after it.
    Refused {
        refusal: LimiterRefusal,
        timestamp: i64,
        /// A report's counters are counted one by one up to the one that is refused: what is left of those before it.
        lefts: Vec<QuotaLeft>,
    },
    /// A message of a kind that this client does not know, to be ignored.
    Other,
}

/// That a limiter said no, and to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimiterRefusal {
    pub(crate) command: LimiterCommand,
    pub(crate) code: LimiterCode,
}

/// What a limiter is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimiterCommand {
    Join,
    Report,
}

/// A code as a limiter sent it; newer limiters may send others than these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LimiterCode(u32);

// === impl LimiterCode ===

impl LimiterCode {
    pub(crate) const SUCCESS: Self = Self(200_000);
    /// Success too; no limiter is known to send it.
    pub(crate) const CONTINUE: Self = Self(200_100);
    pub(crate) const UNREADABLE: Self = Self(400_001);
    pub(crate) const NO_SERVICE: Self = Self(400_201);
    pub(crate) const NO_NAMESPACE: Self = Self(400_202);
    pub(crate) const NO_CLIENT_ID: Self = Self(400_203);
    pub(crate) const NO_TOTALS: Self = Self(400_204);
    pub(crate) const NO_DURATION: Self = Self(400_205);
    pub(crate) const TOO_MANY_SLICES: Self = Self(400_206);
    pub(crate) const UNKNOWN_MODE: Self = Self(400_207);
    pub(crate) const NO_LABELS: Self = Self(400_208);
    pub(crate) const EMPTY_BATCH: Self = Self(400_209);
    pub(crate) const EMPTY_REPORT: Self = Self(400_211);
    pub(crate) const NO_TIME: Self = Self(400_212);
    pub(crate) const NO_CLIENT_KEY: Self = Self(400_213);
    pub(crate) const FOREIGN_COUNTER: Self = Self(400_214);
    pub(crate) const TOO_MANY_COUNTERS: Self = Self(401_101);
    pub(crate) const TOO_MANY_CLIENTS: Self = Self(401_102);
    pub(crate) const OTHER_CLIENT: Self = Self(401_103);
    pub(crate) const COUNTER_GONE: Self = Self(404_001);
    pub(crate) const CLIENT_GONE: Self = Self(404_002);

    /// Wraps a code as it came from the wire.
    pub(crate) const fn new(code: u32) -> Self {
        Self(code)
    }

    /// The number.
    #[cfg(test)]
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    pub(crate) const fn is_success(self) -> bool {
        matches!(self, Self::SUCCESS | Self::CONTINUE)
    }

    /// What the code says.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::SUCCESS => "done",
            Self::CONTINUE => "done so far",
            Self::UNREADABLE => "the message cannot be read",
            Self::NO_SERVICE => "the target names no service",
            Self::NO_NAMESPACE => "the target names no namespace",
            Self::NO_CLIENT_ID => "the client names no id",
            Self::NO_TOTALS => "the target has no amount",
            Self::NO_DURATION => "an amount has no duration",
            Self::TOO_MANY_SLICES => "a window has too many slices",
            Self::UNKNOWN_MODE => "the limiter does not know the mode",
            Self::NO_LABELS => "the target has no labels",
            Self::EMPTY_BATCH => "the batch is empty",
            Self::EMPTY_REPORT => "the report has no counter",
            Self::NO_TIME => "the report has no time",
            Self::NO_CLIENT_KEY => "the report has no client key",
            Self::FOREIGN_COUNTER => "the counter is none of this limiter's",
            Self::TOO_MANY_COUNTERS => "the limiter has no room for another counter",
            Self::TOO_MANY_CLIENTS => "the limiter has no room for another client",
            Self::OTHER_CLIENT => "the stream belongs to another client",
            Self::COUNTER_GONE => "the limiter has dropped the counter",
            Self::CLIENT_GONE => "the limiter has dropped the client",
            Self(0) => "the answer has no code",
            Self(_) => "a code that this client does not know",
        }
    }
}

impl fmt::Display for LimiterCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.text(), self.0)
    }
}

// === impl LimiterCommand, LimiterRefusal ===

impl LimiterCommand {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "joining a quota",
            Self::Report => "reporting to a quota",
        }
    }
}

impl fmt::Display for LimiterRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the limiter refused: {}", self.command.as_str(), self.code)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_words_of_its_own_and_two_are_success() {
        let codes = [
            200_000, 200_100, 400_001, 400_201, 400_202, 400_203, 400_204, 400_205, 400_206, 400_207, 400_208, 400_209,
            400_211, 400_212, 400_213, 400_214, 401_101, 401_102, 401_103, 404_001, 404_002, 0, 500_000,
        ]
        .map(LimiterCode::new);
        let texts: BTreeSet<_> = codes.iter().map(|code| code.text()).collect();
        assert_eq!(texts.len(), codes.len());
        let successes: Vec<_> = codes.into_iter().filter(|code| code.is_success()).map(LimiterCode::get).collect();
        assert_eq!(successes, [200_000, 200_100]);
    }

    #[test]
    fn a_refusal_says_what_was_refused_and_why() {
        let refusal = LimiterRefusal { command: LimiterCommand::Report, code: LimiterCode::COUNTER_GONE };
        assert_eq!(
            refusal.to_string(),
            "reporting to a quota: the limiter refused: the limiter has dropped the counter (code 404001)"
        );
    }
}
