//! A condition as a rule states it: its value may be the name of something to look up.

use std::sync::Arc;

use super::kind::{InvalidMatcher, MatchKind, ValueSource};
use super::value::Matcher;

/// A condition of a rule. What is known is compiled already; what is to be looked up, when it is known.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub(crate) source: ValueSource,
    kind: MatchKind,
    /// The value, or its name.
    name: Arc<str>,
    path: bool,
    text: Option<Matcher>,
}

impl Condition {
    /// `path` says that the condition is on a method or a path, in whose values `{x}` stands for a segment.
    pub(crate) fn new(kind: MatchKind, source: ValueSource, value: &str, path: bool) -> Result<Self, InvalidMatcher> {
        let text = match source {
            ValueSource::Text => Some(Matcher::from_text(kind, value, path)?),
            ValueSource::Parameter | ValueSource::Variable => None,
        };
        Ok(Self { source, kind, name: value.into(), path, text })
    }

    /// The condition with a value that was looked up, in which `*` and the empty text are no wildcards.
    ///
    /// Compiles, so it is not for every call: keep what comes back with the value that it was made of.
    pub(crate) fn with_value(&self, looked_up: &str) -> Result<Matcher, InvalidMatcher> {
        Matcher::from_looked_up(self.kind, looked_up, self.path)
    }

    /// The compiled condition, if the rule states its value.
    pub(crate) fn text(&self) -> Option<&Matcher> {
        self.text.as_ref()
    }

    /// The rule's value: what to look up, or the text itself.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn kind(&self) -> MatchKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_compiled_at_once_and_a_name_when_its_value_is_known() {
        let text = Condition::new(MatchKind::Exact, ValueSource::Text, "/a/{x}", true).unwrap();
        assert!(text.text().is_some_and(|matcher| matcher.matches(Some("/a/1"))));
        assert!(Condition::new(MatchKind::Regex, ValueSource::Text, "[", false).is_err());
        let named = Condition::new(MatchKind::Regex, ValueSource::Variable, "[", false).unwrap();
        assert_eq!((named.name(), named.kind(), named.source), ("[", MatchKind::Regex, ValueSource::Variable));
        assert!(named.text().is_none());
        assert!(named.with_value("^g").unwrap().matches(Some("gray")) && named.with_value("[").is_err());
    }

    #[test]
    fn a_value_that_was_looked_up_is_no_wildcard() {
        for source in [ValueSource::Parameter, ValueSource::Variable] {
            let condition = Condition::new(MatchKind::Exact, source, "who", false).unwrap();
            for value in ["*", ""] {
                let matcher = condition.with_value(value).unwrap();
                assert!(!matcher.is_any() && matcher.matches(Some(value)), "{value:?}");
                assert!(!matcher.matches(Some("gray")) && !matcher.matches(None), "{value:?}");
            }
        }
    }
}
