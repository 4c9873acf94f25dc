//! Compiled conditions against ones that are written down as they are said, and against what should do harm.

use proptest::prelude::*;

use super::{MatchKind, Matcher};

const KINDS: [MatchKind; 6] =
    [MatchKind::Exact, MatchKind::Regex, MatchKind::NotEquals, MatchKind::In, MatchKind::NotIn, MatchKind::Range];

/// Everything but regular expressions, without any preparation.
fn naive(kind: MatchKind, rule: &str, actual: Option<&str>) -> bool {
    if rule == "*" || rule.is_empty() {
        return true;
    }
    let Some(actual) = actual else { return false };
    let listed = || rule.split(',').any(|token| token == actual);
    match kind {
        MatchKind::Exact => rule == actual,
        MatchKind::NotEquals => rule != actual,
        MatchKind::In => listed(),
        MatchKind::NotIn => !listed(),
        MatchKind::Range => {
            let bounds: Vec<Option<i64>> = rule.split('~').map(|bound| bound.parse().ok()).collect();
            match (bounds.as_slice(), actual.parse::<i64>()) {
                ([Some(from), Some(to)], Ok(number)) => *from <= number && number <= *to,
                _ => false,
            }
        }
        MatchKind::Regex => unreachable!(),
    }
}

fn a_kind() -> impl Strategy<Value = MatchKind> {
    proptest::sample::select(KINDS.as_slice())
}

fn a_plain_kind() -> impl Strategy<Value = MatchKind> {
    a_kind().prop_filter("has no naive twin", |kind| *kind != MatchKind::Regex)
}

fn compile(kind: MatchKind, rule: &str, path: bool) -> Result<Matcher, super::InvalidMatcher> {
    if path { Matcher::for_path(kind, rule) } else { Matcher::new(kind, rule) }
}

proptest! {
    #[test]
    fn a_compiled_condition_is_what_it_says(
        kind in a_plain_kind(),
        rule in "[abA*!,é ]{0,4}|[-+]?[0-9]{1,2}~[-+]?[0-9]{1,2}|[0-9~+-]{0,5}|9223372036854775807~?|0~922337203685477580[678]",
        actual in proptest::option::of("[abA*!,é ]{0,2}|[-+]?[0-9]{1,2}|922337203685477580[678]"),
    ) {
        let compiled = Matcher::new(kind, &rule).unwrap();
        prop_assert_eq!(compiled.matches(actual.as_deref()), naive(kind, &rule, actual.as_deref()));
        prop_assert_eq!(compiled.is_any(), rule.is_empty() || rule == "*");
        prop_assert!(compiled.flaw().is_none() || !compiled.matches(actual.as_deref()));
    }

    #[test]
    fn what_a_condition_names_is_what_it_is_true_for(
        kind in a_plain_kind(),
        path in any::<bool>(),
        rule in "(a|b|,|/|\\{x\\}|\\*|/a|\\{){0,6}",
        actual in "(a|b|,|/|\\{x\\}|\\*|/a){0,3}",
    ) {
        let compiled = compile(kind, &rule, path).unwrap();
        let named = |texts: &[std::sync::Arc<str>]| texts.iter().any(|text| **text == *actual);
        if let Some(tokens) = compiled.tokens() {
            prop_assert_eq!(named(tokens), compiled.matches(Some(&actual)), "{:?} {}", compiled, actual);
            prop_assert!(tokens.is_sorted_by(|a, b| a < b) && !compiled.matches(None));
            prop_assert!(tokens.iter().all(|token| compiled.matches(Some(token))));
        }
        if let Some(excluded) = compiled.excluded() {
            prop_assert_eq!(named(excluded), !compiled.matches(Some(&actual)), "{:?} {}", compiled, actual);
            prop_assert!(excluded.is_sorted_by(|a, b| a < b) && !compiled.matches(None));
            prop_assert!(excluded.iter().all(|token| !compiled.matches(Some(token))));
        }
        let literal = !path || !rule.contains('{');
        let positive = matches!(kind, MatchKind::Exact | MatchKind::In) && !compiled.is_any();
        let negative = matches!(kind, MatchKind::NotEquals | MatchKind::NotIn) && !compiled.is_any();
        prop_assert!(!literal || compiled.tokens().is_some() == positive);
        prop_assert!(!literal || compiled.excluded().is_some() == negative);
    }

    #[test]
    fn a_negation_is_the_opposite_wherever_the_label_is(
        path in any::<bool>(),
        rule in "(a|,|/|\\{x\\}|/a){1,6}",
        actual in "(a|/|/a|\\{x\\}){0,3}",
    ) {
        for (kind, negation) in [(MatchKind::Exact, MatchKind::NotEquals), (MatchKind::In, MatchKind::NotIn)] {
            let (yes, no) = (compile(kind, &rule, path).unwrap(), compile(negation, &rule, path).unwrap());
            prop_assert_ne!(yes.matches(Some(&actual)), no.matches(Some(&actual)));
        }
    }

    #[test]
    fn no_text_makes_it_panic(
        kind in a_kind(),
        path in any::<bool>(),
        rule in "\\PC{0,12}|[\u{0}-\u{7f}]{0,12}|[a-c()\\[\\]{}*+?|\\\\^$.<>=!:#0-9x-]{0,16}",
        actual in "\\PC{0,8}|[\u{0}-\u{1f}]{0,4}",
    ) {
        if let Ok(compiled) = compile(kind, &rule, path) {
            compiled.matches(None);
            compiled.matches(Some(&actual));
            compiled.matches(Some(&rule));
        }
    }
}

#[test]
fn control_characters_are_characters() {
    for kind in [MatchKind::Exact, MatchKind::In] {
        let compiled = Matcher::new(kind, "a\0\n\r\u{1b}").unwrap();
        assert!(compiled.matches(Some("a\0\n\r\u{1b}")) && !compiled.matches(Some("a")));
    }
    assert!(Matcher::new(MatchKind::Regex, "^a\0$").unwrap().matches(Some("a\0")));
}

#[test]
fn ten_thousand_values_are_looked_up_and_not_walked_through() {
    let list = (0..10_000).map(|n| format!("user-{n}")).collect::<Vec<_>>().join(",");
    let (one, none) = (Matcher::new(MatchKind::In, &list).unwrap(), Matcher::new(MatchKind::NotIn, &list).unwrap());
    assert_eq!((one.tokens().unwrap().len(), none.excluded().unwrap().len()), (10_000, 10_000));
    // Walked through, this would be 2 × 10^9 comparisons.
    for n in 0..100_000_u32 {
        let actual = if n % 2 == 0 { "user-9999" } else { "user-x" };
        assert_eq!(one.matches(Some(actual)), n % 2 == 0);
        assert_eq!(none.matches(Some(actual)), n % 2 == 1);
    }
}
