//! One condition whose value is known.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::kind::{InvalidMatcher, MatchKind, excerpt};
use super::pattern::Pattern;
use crate::model::path_template::{MAX_SEGMENTS, Parsed, PathTemplates, parse};
use crate::util::text::same;

/// A condition on a value. Cheap to clone; asking it does not allocate, but for the first searches of a REGEX.
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    kind: MatchKind,
    value: Arc<str>,
    check: Check,
}

#[derive(Debug, Clone)]
enum Check {
    /// True for everything, even for nothing.
    Any,
    OneOf(Listed),
    NoneOf(Listed),
    Pattern(Arc<Pattern>),
    Within(RangeInclusive<i64>),
    /// Of a range that is none.
    Never,
}

/// Up to how many values are compared one by one.
const FEW: usize = 8;

#[derive(Debug, Clone)]
struct Listed {
    /// Ordered, without doubles.
    literals: Arc<[Arc<str>]>,
    templates: Option<Arc<PathTemplates>>,
}

// === impl Matcher ===

impl Matcher {
    /// Compiles a rule's text for a plain label.
    #[cfg(test)]
    pub(crate) fn new(kind: MatchKind, value: &str) -> Result<Self, InvalidMatcher> {
        Self::from_text(kind, value, false)
    }

    /// Compiles a rule's text for a method or a path, in which `{x}` stands for a segment.
    #[cfg(test)]
    pub(crate) fn for_path(kind: MatchKind, value: &str) -> Result<Self, InvalidMatcher> {
        Self::from_text(kind, value, true)
    }

    pub(super) fn from_text(kind: MatchKind, value: &str, path: bool) -> Result<Self, InvalidMatcher> {
        match value {
            "" | "*" => Ok(Self { kind, value: value.into(), check: Check::Any }),
            _ => Self::from_looked_up(kind, value, path),
        }
    }

    /// A value that no rule wrote is never a wildcard: else callers could ask for everything.
    pub(super) fn from_looked_up(kind: MatchKind, value: &str, path: bool) -> Result<Self, InvalidMatcher> {
        let check = match kind {
            MatchKind::Exact => Check::OneOf(Listed::new([value], path)?),
            MatchKind::NotEquals => Check::NoneOf(Listed::new([value], path)?),
            MatchKind::In => Check::OneOf(Listed::new(value.split(','), path)?),
            MatchKind::NotIn => Check::NoneOf(Listed::new(value.split(','), path)?),
            MatchKind::Regex => Check::Pattern(Arc::new(Pattern::new(value)?)),
            MatchKind::Range => range(value).map_or(Check::Never, Check::Within),
        };
        Ok(Self { kind, value: value.into(), check })
    }

    /// Whether the condition is true for a label, or for its absence.
    pub(crate) fn matches(&self, actual: Option<&str>) -> bool {
        match (&self.check, actual) {
            (Check::Any, _) => true,
            (Check::Never, _) | (_, None) => false,
            (Check::OneOf(listed), Some(actual)) => listed.contains(actual),
            (Check::NoneOf(listed), Some(actual)) => !listed.contains(actual),
            (Check::Pattern(pattern), Some(actual)) => pattern.is_match(actual),
            (Check::Within(range), Some(actual)) => actual.parse().is_ok_and(|number| range.contains(&number)),
        }
    }

    /// Whether it is true for everything, an absent label included.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self.check, Check::Any)
    }

    /// If it is true for exactly these values: they, in order, each once. A path has several spellings.
    pub(crate) fn tokens(&self) -> Option<&[Arc<str>]> {
        match &self.check {
            Check::OneOf(Listed { literals, templates: None }) => Some(literals),
            _ => None,
        }
    }

    /// If it is true for exactly those values that are none of these: they, in order, each once.
    pub(crate) fn excluded(&self) -> Option<&[Arc<str>]> {
        match &self.check {
            Check::NoneOf(Listed { literals, templates: None }) => Some(literals),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> MatchKind {
        self.kind
    }

    /// The value as it was written, or looked up.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// Whether the regular expression, here or in a clone, was once stopped by the bound on its steps and taken for
    /// false. To be reported with its rule.
    pub(crate) fn gave_up(&self) -> bool {
        matches!(&self.check, Check::Pattern(pattern) if pattern.gave_up())
    }

    /// What is to be reported of a condition that can never be true, though its rule stays in force.
    pub(crate) fn flaw(&self) -> Option<InvalidMatcher> {
        matches!(self.check, Check::Never).then(|| InvalidMatcher::Range { value: excerpt(&self.value) })
    }
}

/// `None` for a range that no number is in.
fn range(value: &str) -> Option<RangeInclusive<i64>> {
    let (from, to) = value.split_once('~')?;
    let range = from.parse().ok()?..=to.parse().ok()?;
    (!range.is_empty()).then_some(range)
}

// === impl Listed ===

impl Listed {
    fn new<'a, I: IntoIterator<Item = &'a str>>(values: I, path: bool) -> Result<Self, InvalidMatcher> {
        let mut literals: Vec<Arc<str>> = Vec::new();
        let mut templates = PathTemplates::default();
        for value in values {
            if !path {
                literals.push(value.into());
                continue;
            }
            match parse(value) {
                Parsed::Spellings(texts) => literals.extend(texts),
                Parsed::Template(segments) if segments.len() > MAX_SEGMENTS => {
                    return Err(InvalidMatcher::Segments { template: excerpt(value), segments: segments.len() });
                }
                Parsed::Template(segments) => templates.insert(&segments),
            }
        }
        literals.sort_unstable();
        literals.dedup();
        let templates = (!templates.is_empty()).then(|| Arc::new(templates));
        Ok(Self { literals: literals.into(), templates })
    }

    fn contains(&self, actual: &str) -> bool {
        let literal = match &*self.literals {
            few if few.len() <= FEW => few.iter().any(|literal| same(literal, actual)),
            several => several.binary_search_by(|literal| (**literal).cmp(actual)).is_ok(),
        };
        literal || self.templates.as_ref().is_some_and(|templates| templates.matches(actual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [MatchKind; 6] =
        [MatchKind::Exact, MatchKind::Regex, MatchKind::NotEquals, MatchKind::In, MatchKind::NotIn, MatchKind::Range];

    fn matcher(kind: MatchKind, value: &str) -> Matcher {
        Matcher::new(kind, value).unwrap()
    }

    fn texts(tokens: Option<&[Arc<str>]>) -> Option<Vec<&str>> {
        tokens.map(|tokens| tokens.iter().map(|token| &**token).collect())
    }

    #[test]
    fn a_star_or_nothing_is_true_for_everything_and_for_nothing() {
        for kind in KINDS {
            for value in ["*", ""] {
                for compiled in [matcher(kind, value), Matcher::for_path(kind, value).unwrap()] {
                    assert!(compiled.is_any() && compiled.flaw().is_none(), "{kind} {value:?}");
                    assert!(compiled.matches(None) && compiled.matches(Some("")) && compiled.matches(Some("x")));
                    assert_eq!((compiled.tokens(), compiled.excluded()), (None, None));
                    assert_eq!((compiled.kind(), compiled.value()), (kind, value));
                }
            }
        }
    }

    #[test]
    fn any_other_condition_needs_the_label_to_be_there() {
        for kind in KINDS {
            for value in ["a", "1~2", "**", "*,", " ", "!a"] {
                let compiled = match Matcher::new(kind, value) {
                    Err(InvalidMatcher::Regex { .. }) if kind == MatchKind::Regex => continue,
                    compiled => compiled.unwrap(),
                };
                assert!(!compiled.matches(None) && !compiled.is_any(), "{kind} {value}");
            }
        }
    }

    #[test]
    fn a_star_of_a_request_is_a_text_like_any_other() {
        assert!(!matcher(MatchKind::Exact, "a").matches(Some("*")));
        assert!(matcher(MatchKind::NotEquals, "a").matches(Some("*")));
        assert!(matcher(MatchKind::In, "*,a").matches(Some("*")) && !matcher(MatchKind::In, "*,a").matches(Some("b")));
    }

    #[test]
    fn literal_conditions_name_their_values_in_order() {
        let cases = [
            (matcher(MatchKind::Exact, "b,a"), Some(vec!["b,a"]), None),
            (matcher(MatchKind::In, "b,a,,a"), Some(vec!["", "a", "b"]), None),
            (matcher(MatchKind::NotEquals, "a"), None, Some(vec!["a"])),
            (matcher(MatchKind::NotIn, "b, a"), None, Some(vec![" a", "b"])),
            (matcher(MatchKind::Exact, "/{x}"), Some(vec!["/{x}"]), None),
            (Matcher::for_path(MatchKind::Exact, "/{x}").unwrap(), None, None),
            (Matcher::for_path(MatchKind::In, "/a,/{x}").unwrap(), None, None),
            (Matcher::for_path(MatchKind::In, "/a,b,/").unwrap(), Some(vec!["/", "/a", "/a/", "b"]), None),
            (Matcher::for_path(MatchKind::NotIn, "/a").unwrap(), None, Some(vec!["/a", "/a/"])),
            (matcher(MatchKind::Regex, "a"), None, None),
            (matcher(MatchKind::Range, "1~1"), None, None),
        ];
        for (compiled, tokens, excluded) in cases {
            assert_eq!((texts(compiled.tokens()), texts(compiled.excluded())), (tokens, excluded), "{compiled:?}");
        }
    }

    #[test]
    fn a_range_that_is_none_is_false_and_has_a_flaw() {
        for value in ["a~b", "1", "1~", "~1", "1~2~3", "1-10", "10~1", "1.5~2", " 1~2", "0~9223372036854775808", "~"] {
            let compiled = matcher(MatchKind::Range, value);
            assert!(!compiled.matches(Some("1")) && !compiled.matches(Some(value)), "{value}");
            let flaw = compiled.flaw().unwrap().to_string();
            assert!(flaw.contains(&format!("`{value}`")) && flaw.contains("`1~10`"), "{flaw}");
        }
        assert!(matcher(MatchKind::Range, "-9223372036854775808~9223372036854775807").flaw().is_none());
    }

    #[test]
    fn what_is_invalid_is_named_and_cut_short() {
        let problem = Matcher::new(MatchKind::Regex, "[").unwrap_err().to_string();
        assert!(problem.starts_with("REGEX `[` is no regular expression"), "{problem}");
        let long = format!("({}", "é".repeat(1_000));
        assert!(Matcher::new(MatchKind::Regex, &long).unwrap_err().to_string().chars().count() < 300);
        let deep = format!("{}/{{x}}", "/a".repeat(MAX_SEGMENTS));
        let problem = Matcher::for_path(MatchKind::Exact, &deep).unwrap_err().to_string();
        assert!(problem.ends_with("has 258 segments: with a `{name}` up to 256 are right"), "{problem}");
        assert!(Matcher::for_path(MatchKind::Exact, &"/a".repeat(10_000)).is_ok(), "without a template any length is");
    }

    #[test]
    fn clones_share_that_one_gave_up() {
        let compiled = matcher(MatchKind::Regex, "^(?:(?=a)a|aa)+$");
        let clone = compiled.clone();
        assert!(!compiled.matches(Some(&format!("{}b", "a".repeat(40)))));
        assert!(compiled.gave_up() && clone.gave_up());
        assert!(!matcher(MatchKind::Exact, "a").gave_up());
    }
}
