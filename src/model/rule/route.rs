//! Rule-based routing: which calls a rule is for, and where it sends them.

use std::fmt;
use std::sync::Arc;

use crate::model::key::ServiceKey;
use crate::model::label::LabelKey;
use crate::model::matcher::{Condition, Matcher};

/// The rules that concern one service, each list in the order in which it is tried.
#[derive(Debug, Default)]
pub(crate) struct RouteRules {
    /// Rules about calls to the service.
    pub(crate) inbounds: Box<[Arc<RouteRule>]>,
    /// Rules about calls that the service makes.
    pub(crate) outbounds: Box<[Arc<RouteRule>]>,
}

/// One rule: calls that one of its sources matches go to its destinations.
#[derive(Debug)]
pub(crate) struct RouteRule {
    /// As people know it: `rule.sub-rule`, or its place in the list.
    pub(crate) name: String,
    /// Alternatives; without any, the rule is for every call.
    pub(crate) sources: Vec<RouteSource>,
    pub(crate) destinations: Vec<RouteDestination>,
}

/// Which calls: by the caller and by labels of the call, all of which must match.
#[derive(Debug, Clone)]
pub(crate) struct RouteSource {
    pub(crate) caller: ServicePattern,
    pub(crate) labels: Vec<(LabelKey, Condition)>,
}

/// A group of instances: by labels, all of which must match an instance's metadata.
#[derive(Debug, Clone)]
pub(crate) struct RouteDestination {
    pub(crate) callee: ServicePattern,
    pub(crate) labels: Vec<(Arc<str>, Condition)>,
    /// The smallest number that has instances is used alone.
    pub(crate) priority: u32,
    /// The share among groups of one priority; 0 takes no calls.
    pub(crate) weight: u32,
    /// Takes no calls either.
    pub(crate) isolated: bool,
    pub(crate) name: String,
}

/// Which services a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePattern {
    pub(crate) namespace: NamePattern,
    pub(crate) service: NamePattern,
}

/// A name in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamePattern {
    /// `*`, or nothing.
    Any,
    Is(String),
    /// `!name`; only in sources.
    Not(String),
}

// === impl RouteRules ===

impl RouteRules {
    /// A rule with an expression that was given up for some call.
    pub(crate) fn gave_up(&self) -> Option<&RouteRule> {
        let labels = |rule: &RouteRule| {
            let of_sources =
                rule.sources.iter().flat_map(|source| source.labels.iter().map(|(_, condition)| condition));
            let of_destinations =
                rule.destinations.iter().flat_map(|to| to.labels.iter().map(|(_, condition)| condition));
            of_sources.chain(of_destinations).filter_map(Condition::text).any(Matcher::gave_up)
        };
        self.inbounds.iter().chain(&self.outbounds).map(|rule| &**rule).find(|rule| labels(rule))
    }
}

// === impl NamePattern ===

impl NamePattern {
    /// The name of a destination.
    pub(crate) fn exact(text: &str) -> Self {
        match text {
            "" | "*" => Self::Any,
            name => Self::Is(name.to_owned()),
        }
    }

    /// The name of a source, where `!x` is everybody but `x`.
    pub(crate) fn of_source(text: &str) -> Self {
        match text.strip_prefix('!') {
            Some(name) if !name.is_empty() => Self::Not(name.to_owned()),
            _ => Self::exact(text),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(wanted) => wanted == name,
            Self::Not(unwanted) => unwanted != name,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Is(name) => f.write_str(name),
            Self::Not(name) => write!(f, "!{name}"),
        }
    }
}

// === impl ServicePattern ===

impl ServicePattern {
    pub(crate) fn matches(&self, key: &ServiceKey) -> bool {
        self.namespace.matches(key.namespace()) && self.service.matches(key.service())
    }

    /// Whether it names everybody: then it is also for a caller that has no service of its own.
    pub(crate) fn is_any(&self) -> bool {
        self.namespace == NamePattern::Any && self.service == NamePattern::Any
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_any_or_exact_or_in_sources_a_negation() {
        for (text, name, of_source, exact) in [
            ("*", "a", true, true),
            ("", "a", true, true),
            ("a", "a", true, true),
            ("a", "A", false, false),
            ("!a", "a", false, false),
            ("!a", "b", true, false),
            ("!a", "!a", true, true),
            ("!", "b", false, false),
            ("!", "!", true, true),
        ] {
            assert_eq!(NamePattern::of_source(text).matches(name), of_source, "source {text:?} of {name:?}");
            assert_eq!(NamePattern::exact(text).matches(name), exact, "destination {text:?} of {name:?}");
        }
    }

    #[test]
    fn only_any_of_any_is_for_nobody_in_particular() {
        let pattern = |namespace, service| ServicePattern {
            namespace: NamePattern::of_source(namespace),
            service: NamePattern::of_source(service),
        };
        assert!(pattern("*", "").is_any());
        assert!(!pattern("default", "*").is_any() && !pattern("*", "!a").is_any());
        assert_eq!(pattern("", "!a").to_string(), "*/!a");
    }
}
