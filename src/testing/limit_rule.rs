//! Rate-limit rules, as a console takes them and a store keeps them.

use serde_json::{Map, Value, json};

use super::behaviour::Release;
use super::routing_check::Refused;
use super::rules::Dialect;
use crate::pb::v1;

/// What the console looks at before it stores a rule.
pub(super) fn check(rule: &v1::Rule) -> Result<(), Refused> {
    let refused = |path: String, problem: String, code| Err(Refused::ByConsole { path, problem, code });
    if rule.service.as_deref() == Some("*") {
        return refused("service".to_owned(), "a rule is for one service, found \"*\"".to_owned(), 400_120);
    }
    let length = |index: usize| rule.amounts.get(index).and_then(|amount| amount.valid_duration);
    let is_again = |index: &usize| (0..*index).any(|before| length(before) == length(*index));
    if let Some(index) = (0..rule.amounts.len()).find(is_again) {
        let problem = "the same duration as that of another amount".to_owned();
        return refused(format!("amounts[{index}].validDuration"), problem, 400_153);
    }
    Ok(())
}

/// Leaves of a rule what clients are told, and adds what the server writes.
pub(super) fn keep(rule: &mut Map<String, Value>, dialect: Dialect) {
    const LOST: [&str; 6] = ["report", "subset", "cluster", "concurrencyAmount", "custom_response", "labels"];
    if !dialect.whole {
        rule.retain(|name, _| !LOST.contains(&name.as_str()));
        if dialect.release < Release::Main {
            rule.remove("metadata");
        }
    }
    rule.entry("action").or_insert_with(|| json!("REJECT"));
    let arguments = rule.get("arguments").and_then(Value::as_array).into_iter().flatten();
    let labels: Map<_, _> =
        arguments.map(|argument| (label(argument), argument.get("value").cloned().unwrap_or_default())).collect();
    if !labels.is_empty() {
        rule.insert("labels".to_owned(), labels.into());
    }
}

/// Under which label older clients find an argument.
fn label(argument: &Value) -> String {
    let text = |name: &str| argument.get(name).and_then(Value::as_str).unwrap_or_default();
    let key = text("key");
    match text("type") {
        "METHOD" => "$method".to_owned(),
        "HEADER" => format!("$header.{key}"),
        "QUERY" => format!("$query.{key}"),
        "CALLER_SERVICE" => format!("$caller_service.{key}"),
        "CALLER_IP" => "$caller_ip".to_owned(),
        _ => key.to_owned(),
    }
}
