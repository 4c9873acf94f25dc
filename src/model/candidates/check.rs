//! A condition on one label, in the form that is asked fastest.

use std::fmt;
use std::sync::Arc;

use crate::model::label::{LabelKind, Labels};
use crate::model::matcher::{Condition, MatchKind, Matcher, ValueSource};
use crate::model::variables::Variables;
use crate::util::text::same;

/// A condition on one label.
#[derive(Debug)]
pub(crate) enum Check {
    /// It is this text: most conditions are, and this is the fastest that they can be asked.
    Is(Arc<str>, Matcher),
    /// It is this path, with or without a `/` behind it.
    IsPath(Arc<str>, Matcher),
    Text(Matcher),
    /// The label is there, whatever it says.
    Present,
    /// It says what a variable does: one that the request brings, else the one of this client.
    Variable {
        condition: Condition,
        ours: Option<Matcher>,
    },
}

impl Check {
    /// The check of a condition, unless it is always true.
    pub(super) fn new(condition: &Condition, variables: &Variables) -> Option<Self> {
        Some(match condition.source {
            ValueSource::Text => {
                let matcher = condition.text().filter(|matcher| !matcher.is_any())?.clone();
                match matcher.tokens() {
                    Some([only]) => Self::Is(Arc::clone(only), matcher),
                    Some([path, spelled]) if !path.ends_with('/') && spelled.strip_suffix('/') == Some(path) => {
                        Self::IsPath(Arc::clone(path), matcher)
                    }
                    _ => Self::Text(matcher),
                }
            }
            ValueSource::Parameter => Self::Present,
            ValueSource::Variable => {
                let ours = variables.get(condition.name()).and_then(|value| condition.with_value(&value).ok());
                Self::Variable { condition: condition.clone(), ours }
            }
        })
    }

    #[inline]
    pub(super) fn holds(&self, value: Option<&str>, labels: Option<&dyn Labels>) -> bool {
        match self {
            Self::Is(text, _) => value.is_some_and(|value| same(text, value)),
            Self::IsPath(path, _) => value.is_some_and(|value| same(path, value.strip_suffix('/').unwrap_or(value))),
            Self::Text(matcher) => matcher.matches(value),
            Self::Present => value.is_some(),
            Self::Variable { condition, ours } => {
                match labels.and_then(|labels| labels.get(LabelKind::Variable, condition.name())) {
                    Some(given) => condition.with_value(&given).is_ok_and(|matcher| matcher.matches(value)),
                    None => ours.as_ref().is_some_and(|matcher| matcher.matches(value)),
                }
            }
        }
    }

    /// Roughly how long it takes, for their order.
    pub(super) fn cost(&self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Is(..) | Self::IsPath(..) => 1,
            Self::Text(matcher) => match matcher.kind() {
                MatchKind::Exact | MatchKind::NotEquals | MatchKind::Range => 2,
                MatchKind::In | MatchKind::NotIn => 3,
                MatchKind::Regex => 5,
            },
            Self::Variable { .. } => 4,
        }
    }

    /// Whether the index decides it.
    pub(super) fn is_literal(&self) -> bool {
        self.tokens().is_some() || self.excluded().is_some()
    }

    /// The values that it is true for, if it is for those only.
    pub(super) fn tokens(&self) -> Option<&[Arc<str>]> {
        match self {
            Self::Is(_, matcher) | Self::IsPath(_, matcher) | Self::Text(matcher) => matcher.tokens(),
            Self::Present | Self::Variable { .. } => None,
        }
    }

    /// The values that it is false for, if it is for those only.
    pub(super) fn excluded(&self) -> Option<&[Arc<str>]> {
        match self {
            Self::Is(_, matcher) | Self::IsPath(_, matcher) | Self::Text(matcher) => matcher.excluded(),
            Self::Present | Self::Variable { .. } => None,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(_, matcher) | Self::IsPath(_, matcher) | Self::Text(matcher) => {
                write!(f, "{} {:?}", matcher.kind(), matcher.value())
            }
            Self::Present => f.write_str("there"),
            Self::Variable { condition, .. } => write!(f, "{} variable {:?}", condition.kind(), condition.name()),
        }
    }
}
