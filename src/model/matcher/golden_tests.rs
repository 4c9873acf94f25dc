//! What polaris-go and polaris-java answer, and where this crate answers otherwise.
//!
//! Each file is run case by case. Where the crate means to differ, the test says so in a sentence; a sentence that no
//! case needs is an error, so that the list stays true.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Condition, InvalidMatcher, MatchKind, Matcher, ValueSource};
use crate::model::label::{LabelKey, LabelKind, Labels};
use crate::model::label_set::LabelSet;

fn cases(text: &str) -> Vec<Value> {
    let Value::Array(cases) = serde_json::from_str::<Value>(text).unwrap()["cases"].take() else { panic!("no cases") };
    cases
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} of {case}"))
}

fn kind(case: &Value) -> MatchKind {
    match text(case, "type") {
        "EXACT" => MatchKind::Exact,
        "REGEX" => MatchKind::Regex,
        "NOT_EQUALS" => MatchKind::NotEquals,
        "IN" => MatchKind::In,
        "NOT_IN" => MatchKind::NotIn,
        "RANGE" => MatchKind::Range,
        other => panic!("{other}"),
    }
}

fn source(case: &Value) -> ValueSource {
    match case["value_type"].as_str() {
        None | Some("TEXT") => ValueSource::Text,
        Some("PARAMETER") => ValueSource::Parameter,
        Some("VARIABLE") => ValueSource::Variable,
        Some(other) => panic!("{other}"),
    }
}

// === polaris-go: match.json ===

/// The two sides of a routing rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// What becomes of a case: `None` is a rule that is skipped.
type Outcome = Option<bool>;

/// Where polaris-go is not followed: a sentence, the cases, and what is right instead.
struct Deviation {
    why: &'static str,
    applies: fn(&Value, Side) -> bool,
    right: fn(&Value) -> Outcome,
}

const GO: [Deviation; 6] = [
    Deviation {
        why: "a rule's text of * or nothing is true for an absent label too, on both sides and for every kind",
        applies: |case, _| is_any(case),
        right: |_| Some(true),
    },
    Deviation {
        why: "one bad regular expression makes its own rule invalid, not all of them",
        applies: |case, _| case["source"] == "refused" && source(case) == ValueSource::Text,
        right: |_| None,
    },
    Deviation {
        why: "a source's parameter has to be there, and its rule's value is not read, so it cannot be a bad expression",
        applies: |case, side| {
            case["source"] == "refused" && source(case) == ValueSource::Parameter && side == Side::Source
        },
        right: |case| Some(case["actual"].is_string()),
    },
    Deviation {
        why: "a name of * is looked up like any other name, and nothing has it, so that nothing is matched",
        applies: |case, side| {
            source(case) == ValueSource::Variable && case["rule"] == "*"
                || case["source"] == "refused" && side == Side::Destination
        },
        right: |_| Some(false),
    },
    Deviation {
        why: "a value of * that was looked up is a text like any other: it equals * alone, and is no regular expression",
        applies: |case, _| source(case) == ValueSource::Variable && case["rule"] == "H2_STAR",
        right: |case| {
            let (present, equal) = (case["actual"].is_string(), case["actual"] == "*");
            Some(match kind(case) {
                MatchKind::Exact | MatchKind::In => equal,
                MatchKind::NotEquals | MatchKind::NotIn => present && !equal,
                MatchKind::Regex | MatchKind::Range => false,
            })
        },
    },
    Deviation {
        why: "all kinds of conditions work on destinations as they do on sources",
        applies: |case, side| side == Side::Destination && source(case) == ValueSource::Text,
        right: |case| case["source"].as_bool(),
    },
];

fn is_any(case: &Value) -> bool {
    source(case) == ValueSource::Text && (case["rule"] == "*" || case["rule"] == "")
}

/// What routing makes of a condition, once rules are compiled: looks up what is to be looked up.
fn ask(case: &Value, side: Side) -> Outcome {
    let condition = Condition::new(kind(case), source(case), text(case, "rule"), false).ok()?;
    let actual = case["actual"].as_str();
    let looked_up = match (condition.source, side) {
        (ValueSource::Text, _) => return condition.text().map(|matcher| matcher.matches(actual)),
        (ValueSource::Parameter, Side::Source) => return Some(actual.is_some()),
        (ValueSource::Parameter, Side::Destination) => (condition.name() == "who").then_some("gray"),
        (ValueSource::Variable, _) => match condition.name() {
            "H2_VAR" | "H2_BOTH" => Some("gray"),
            "H2_STAR" => Some("*"),
            "H2_RE" => Some("^g"),
            "H2_ENV" => Some("env"),
            _ => None,
        },
    };
    let matcher = looked_up.and_then(|value| condition.with_value(value).ok());
    Some(matcher.is_some_and(|matcher| matcher.matches(actual)))
}

#[test]
fn conditions_are_those_of_polaris_go() {
    let cases = cases(include_str!("../../../tests/golden/polaris-go/match.json"));
    assert_eq!(cases.len(), 687);
    let mut needed = BTreeSet::new();
    for case in &cases {
        for (side, column) in [(Side::Source, "source"), (Side::Destination, "dest")] {
            let theirs = case[column].as_bool();
            let deviation = GO.iter().find(|deviation| (deviation.applies)(case, side));
            let right = deviation.map_or(theirs, |deviation| (deviation.right)(case));
            assert!(deviation.is_some() || case[column].is_boolean(), "{side:?} of {case}");
            needed.extend(deviation.filter(|_| right != theirs || case[column] == "refused").map(|it| it.why));
            assert_eq!(ask(case, side), right, "{side:?} of {case}");
        }
        // The matcher that polaris-go's breaker asks takes a bad expression for false, and never sees an absent label.
        if let Some(common) = case["match"].as_bool() {
            assert_eq!(ask(case, Side::Source).unwrap_or(false), common, "{case}");
        }
    }
    let all: BTreeSet<_> = GO.iter().map(|deviation| deviation.why).collect();
    assert_eq!(needed, all, "every sentence has a case");
}

// === polaris-java: string_match.json, trie_path.json ===

/// A sentence, and what is true for the value instead.
type Differs<'a> = Option<(&'static str, bool)>;

/// Holds a file against matchers made by `make`; `differs` says where they are not to agree.
fn assert_java(
    file: &str,
    values: &str,
    make: fn(MatchKind, &str) -> Result<Matcher, InvalidMatcher>,
    differs: impl Fn(&Value, &str) -> Differs<'static>,
    sentences: usize,
) {
    let mut needed = BTreeSet::new();
    for case in cases(file) {
        let theirs = &case["expect"]["match"];
        let matcher = match make(kind(&case), text(&case, "rule")) {
            Ok(matcher) => matcher,
            // They throw at the caller; here the rule is invalid.
            Err(InvalidMatcher::Regex { .. }) if theirs["x"] == "!PatternSyntaxException" => continue,
            Err(problem) => panic!("{case}: {problem}"),
        };
        for value in case[values].as_array().unwrap().iter().map(|value| value.as_str().unwrap()) {
            let theirs = theirs[value].as_bool().unwrap();
            let right = match differs(&case, value) {
                Some((why, right)) => {
                    needed.extend((right != theirs).then_some(why));
                    right
                }
                None => theirs,
            };
            assert_eq!(matcher.matches(Some(value)), right, "{value:?} of {case}");
        }
    }
    assert_eq!(needed.len(), sentences, "every sentence has a case: {needed:#?}");
}

#[test]
fn conditions_on_plain_labels_are_those_of_polaris_java() {
    let differs = |case: &Value, value: &str| {
        let rule = text(case, "rule");
        match (kind(case), rule) {
            (MatchKind::Exact, _) if case["deviates"].is_string() => Some(("case counts in EXACT", value == rule)),
            (MatchKind::NotEquals, _) => Some(("case counts in NOT_EQUALS", value != rule)),
            (MatchKind::NotIn, _) => Some(("case counts in NOT_IN", rule.split(',').all(|token| token != value))),
            (MatchKind::In, ",") => Some(("empty texts of a list count, the last one too", value.is_empty())),
            _ => None,
        }
    };
    let file = include_str!("../../../tests/golden/polaris-java/string_match.json");
    assert_java(file, "values", Matcher::new, differs, 4);
}

#[test]
fn conditions_on_paths_are_those_of_polaris_java() {
    const SUFFIX: &str = "a suffix like -GET is part of the last segment";
    const PLAIN: &str = "what neither begins with / nor holds a { is compared as it is, and so is a path without /";
    const EXACTLY: &str = "a template is exactly {name}";
    const TRIM: &str = "lists are not trimmed, and the text before the first / counts";
    let differs = |case: &Value, value: &str| {
        let rule = text(case, "rule");
        match rule {
            "/echo/{p}-GET" | "/echo-POST" => Some((SUFFIX, value == rule)),
            "echo" | "pkg.Service/Method" => Some((PLAIN, (value == rule) != (kind(case) == MatchKind::NotEquals))),
            "echo,list" => Some((PLAIN, true)),
            "/{x}-{y}" => Some((EXACTLY, false)),
            "/a, /b" => Some((TRIM, value != "/b")),
            _ => None,
        }
    };
    let file = include_str!("../../../tests/golden/polaris-java/trie_path.json");
    assert_java(file, "paths", Matcher::for_path, differs, 4);
}

// === polaris-java: argument_labels.json ===

fn label_kind(argument: &Value) -> LabelKind {
    match text(argument, "type") {
        "CUSTOM" => LabelKind::Custom,
        "METHOD" => LabelKind::Method,
        "HEADER" => LabelKind::Header,
        "QUERY" => LabelKind::Query,
        "CALLER_SERVICE" => LabelKind::CallerService,
        "CALLER_IP" => LabelKind::CallerIp,
        "PATH" => LabelKind::Path,
        "COOKIE" => LabelKind::Cookie,
        other => panic!("{other}"),
    }
}

/// Labels of a request become the flat map that rules of the first version are written against.
fn assert_flattened(case: &Value) {
    let mut set = LabelSet::new();
    for argument in case["arguments"].as_array().unwrap() {
        set.insert(label_kind(argument), text(argument, "key"), text(argument, "value"));
    }
    let flat: serde_json::Map<String, Value> =
        set.iter().map(|(kind, key, value)| (LabelKey::new(kind, key).flat(), value.into())).collect();
    // Names of headers ignore case, so that there is one of two that differ in it, and both spellings find it.
    if case["name"] == "routing header key case is kept" {
        assert_eq!(serde_json::to_value(flat).unwrap(), serde_json::json!({"$header.abc": "v"}));
        assert_eq!(set.get(LabelKind::Header, "ABC").as_deref(), Some("v"));
        return;
    }
    assert_eq!(Value::Object(flat), case["expect"]["labels"], "{case}");
    for (flat, value) in case["expect"]["labels"].as_object().unwrap() {
        let key = LabelKey::from_flat(flat);
        assert_eq!(set.get(key.kind, &key.key).as_deref(), value.as_str(), "{flat} of {case}");
    }
}

/// Flat keys name kind and key of a label.
fn assert_read_back(case: &Value) {
    let theirs = case["expect"]["parsed"].as_array().unwrap();
    let flat = case["labels"].as_object().unwrap();
    assert_eq!(flat.len(), theirs.len());
    for parsed in theirs {
        let (kind, key) = (label_kind(parsed), text(parsed, "key"));
        let written = LabelKey::new(kind, key).flat();
        assert_eq!(flat[&written], parsed["value"], "{written}");
        // One reader serves routing and limiting, so each reads what in polaris-java only the other knows.
        let right = match written.as_str() {
            "$caller_service.ns" => LabelKey::new(LabelKind::CallerService, "ns"),
            "$cookie.c" => LabelKey::new(LabelKind::Cookie, "c"),
            "$path" => LabelKey::new(LabelKind::Path, ""),
            _ => LabelKey::new(kind, key),
        };
        assert_eq!(LabelKey::from_flat(&written), right);
    }
}

#[test]
fn labels_flatten_and_read_back_as_in_polaris_java() {
    let mut ran = [0; 3];
    for case in cases(include_str!("../../../tests/golden/polaris-java/argument_labels.json")) {
        match text(&case, "kind") {
            "routing" | "limit" => {
                ran[0] += 1;
                assert_flattened(&case);
            }
            "routing_parse" | "limit_parse" => {
                ran[1] += 1;
                assert_read_back(&case);
            }
            // Windows are the limiter's.
            "limit_window" => ran[2] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(ran, [12, 2, 10]);
}
