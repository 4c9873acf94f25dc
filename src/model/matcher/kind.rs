//! How values are compared, where a rule's value comes from, and what may be wrong with it.

use std::fmt;

use crate::model::path_template::MAX_SEGMENTS;

/// How a rule's value is compared with a request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MatchKind {
    Exact,
    Regex,
    NotEquals,
    In,
    NotIn,
    Range,
}

/// What the text of a rule's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ValueSource {
    /// The value itself.
    Text,
    /// The name of a label of the request.
    Parameter,
    /// The name of a variable: of the request, of the configuration, of the environment.
    Variable,
}

/// What is wrong with a rule's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidMatcher {
    /// The regular expression does not compile, or is too big.
    #[error("REGEX `{pattern}` is no regular expression that can be compiled: {problem}")]
    Regex {
        /// The beginning of it.
        pattern: String,
        problem: String,
    },
    /// No number is in it. Such a condition is false, and no reason to skip its rule.
    #[error("RANGE `{value}` is true for nothing: two whole numbers within 64 bits are right, as in `1~10`")]
    Range {
        /// The beginning of it.
        value: String,
    },
    /// A path template is too long.
    #[error("the path `{template}` has {segments} segments: with a `{{name}}` up to {MAX_SEGMENTS} are right")]
    Segments {
        /// The beginning of it.
        template: String,
        segments: usize,
    },
}

impl MatchKind {
    /// The name that rules use.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "EXACT",
            Self::Regex => "REGEX",
            Self::NotEquals => "NOT_EQUALS",
            Self::In => "IN",
            Self::NotIn => "NOT_IN",
            Self::Range => "RANGE",
        }
    }
}

impl fmt::Display for MatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As much of a rule's value as an error shows.
pub(super) fn excerpt(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}
