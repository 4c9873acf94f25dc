//! Which rules apply to a call, in which order, and under which text they count it: as both official SDKs have it.

use serde_json::{Value, json};

use crate::limit::labels::node_hash;
use crate::limit::plan::Plan;
use crate::model::candidates::{Values, Walk};
use crate::model::key::ServiceKey;
use crate::model::label::LabelKind;
use crate::model::label_set::LabelSet;
use crate::model::request::quota::Quota;
use crate::model::variables::Variables;
use crate::testing::compiled;

/// Where we differ from polaris-go on purpose: the text that we send for the first rule, or none if no rule applies.
const GO: &[(&str, Option<&str>)] = &[
    // Names of headers are compared ignoring ASCII case, as HTTP has it.
    ("HEADER name case counts", Some("|HEADER:uid:1")),
    // One matcher for routing and limiting, which knows ranges.
    ("HEADER RANGE", Some("|HEADER:uid:4")),
    // A bad rule takes none of its neighbours with it.
    ("one amount below a second among good rules", Some("|")),
];

/// Where we differ from polaris-java on purpose.
const JAVA: &[(&str, &str)] = &[
    // polaris-go counts calls of different metadata apart, and so does a rule that says so.
    ("window CALLER_METADATA splits nothing", "|CALLER_METADATA:k:v"),
    // No rule applies to a call without the label, so there is no text with `null` in it.
    ("window argument absent", "/m|HEADER:h:1"),
];

fn cases(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn plan(rules: &Value) -> Plan {
    let (rules, _) = compiled::limit(&ServiceKey::new("ns", "svc"), rules);
    Plan::new(&rules, &Variables::default())
}

fn insert(labels: &mut LabelSet, kind: &str, key: &str, value: &str) {
    let kind = match kind {
        "CUSTOM" => LabelKind::Custom,
        "METHOD" => LabelKind::Method,
        "HEADER" => LabelKind::Header,
        "QUERY" => LabelKind::Query,
        "CALLER_SERVICE" => LabelKind::CallerService,
        "CALLER_IP" => LabelKind::CallerIp,
        "CALLER_METADATA" => LabelKind::CallerMetadata,
        "COOKIE" => LabelKind::Cookie,
        other => panic!("{other}"),
    };
    labels.insert(kind, key, value);
}

/// The rules that apply to a call, each with its text and whether it counts values apart.
fn matched(plan: &Plan, quota: &Quota<'_>) -> Vec<(String, String, bool)> {
    let mut values = Values::new(Some(quota));
    plan.tell(&mut values, quota);
    let mut found = Vec::new();
    let mut walk = Walk::default();
    while let Some(at) = plan.next(&mut values, &mut walk) {
        let planned = &plan.rules()[at];
        let slots = planned.text.apart().iter();
        let apart: Vec<_> =
            slots.map(|slot| values.with(*slot, plan.slots(), |value| value.unwrap().to_owned())).collect();
        let apart: Vec<_> = apart.iter().map(String::as_str).collect();
        found.push((planned.rule.id.to_string(), planned.text.render(&apart), !apart.is_empty()));
    }
    found
}

#[test]
fn rules_apply_and_count_as_in_polaris_go() {
    let cases = cases(include_str!("../../tests/golden/polaris-go/limit_label.json"));
    let mut deviations = 0;
    for case in &cases {
        let name = text(case, "name");
        let mut labels = LabelSet::new();
        for argument in case["arguments"].as_array().unwrap() {
            let part = |at: usize| argument[at].as_str().unwrap();
            insert(&mut labels, part(0), part(1), part(2));
        }
        let quota = Quota::new().method(text(case, "method")).labels(&labels);
        let found = matched(&plan(&case["rules"]), &quota);
        if let Some((_, expected)) = GO.iter().find(|(deviating, _)| *deviating == name) {
            deviations += 1;
            assert_eq!(found.first().map(|(_, text, _)| text.as_str()), *expected, "{name}");
            continue;
        }
        let expected: Vec<_> = case["matched"].as_array().unwrap().iter().collect();
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for ((id, labels, apart), expected) in found.iter().zip(expected) {
            assert_eq!((id.as_str(), labels.as_str()), (text(expected, "id"), text(expected, "labels")), "{name}");
            // Their one window for all values of an EXACT `*` has the text of the first value; ours are apart.
            let exact_any = name == "HEADER EXACT * has a value";
            assert_eq!(*apart, expected["window_per_labels"] == json!(true) || exact_any, "{name}");
            assert_eq!(format!("svc#ns#{labels}"), text(expected, "window_key"), "{name}");
            assert_eq!(format!("{:016x}", node_hash("ns", "svc", labels)), text(expected, "window_hash"), "{name}");
        }
    }
    assert_eq!((cases.len(), deviations), (53, GO.len()));
}

#[test]
fn texts_are_those_of_polaris_java() {
    let cases = cases(include_str!("../../tests/golden/polaris-java/argument_labels.json"));
    let windows: Vec<_> = cases.iter().filter(|case| text(case, "kind") == "limit_window").collect();
    let mut deviations = 0;
    for case in &windows {
        let name = text(case, "name");
        let mut rule = case["rule"].clone();
        rule["amounts"] = json!([{"maxAmount": 1, "validDuration": "1s"}]);
        let plan = plan(&json!([rule]));
        let planned = &plan.rules()[0];
        // Each label that is counted apart has the value that the call brings.
        let mut labels = LabelSet::new();
        for argument in case["arguments"].as_array().unwrap() {
            insert(&mut labels, text(argument, "type"), text(argument, "key"), text(argument, "value"));
        }
        let quota = Quota::new().method(text(case, "method")).labels(&labels);
        let mut values = Values::new(Some(&quota));
        let slots = planned.text.apart().iter();
        let apart: Vec<_> =
            slots.map(|slot| values.with(*slot, plan.slots(), |value| value.unwrap_or_default().to_owned())).collect();
        let rendered = planned.text.render(&apart.iter().map(String::as_str).collect::<Vec<_>>());
        let expected = match JAVA.iter().find(|(deviating, _)| *deviating == name) {
            Some((_, ours)) => {
                deviations += 1;
                *ours
            }
            None => text(&case["expect"], "window_labels"),
        };
        assert_eq!(rendered, expected, "{name}");
    }
    assert_eq!((windows.len(), deviations), (10, JAVA.len()));
}
