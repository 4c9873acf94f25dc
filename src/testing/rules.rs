//! Rules, as the console takes them.
//!
//! A rule is given in the console's own field names, checked against the table of the message, and kept as the bytes
//! that are delivered. Which service it is for is read from the same names.

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::pb::schema::{self, Message};
use crate::wire::json;

/// A rule in force.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) bytes: Vec<u8>,
    pub(super) revision: String,
    /// Namespace and service of those it is for; `*` is any.
    targets: Vec<(String, String)>,
}

/// What the control plane writes into a rule.
#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) id: String,
    pub(super) revision: String,
    pub(super) time: String,
    /// Keeps fields that the store of public servers drops.
    pub(super) whole: bool,
}

impl Rule {
    /// Reads a rule of this kind; what it lacks of id and times comes from `stamp`.
    pub(super) fn read(kind: ResourceKind, rule: &Value, stamp: Stamp) -> Result<Self> {
        let table = table(kind)?;
        let bytes = json::to_bytes(table, rule).map_err(|error| invalid(kind, &error))?;
        // Written again in one spelling, so that the rest need not know both.
        let mut rule = json::render(table, &bytes).map_err(|error| invalid(kind, &error))?;
        let has = |name: &str| table.fields.iter().any(|field| field.name == name);
        if let Some(object) = rule.as_object_mut() {
            if !stamp.whole {
                keep_what_a_store_keeps(kind, object);
            }
            let given =
                [("id", &stamp.id), ("revision", &stamp.revision), ("ctime", &stamp.time), ("mtime", &stamp.time)];
            for (name, value) in given.into_iter().filter(|(name, _)| has(name)) {
                object.insert(name.to_owned(), json!(value));
            }
        }
        let targets = targets(kind, &rule);
        let bytes = json::to_bytes(table, &rule).map_err(|error| invalid(kind, &error))?;
        Ok(Self { bytes, revision: stamp.revision, targets })
    }

    /// Whether a client that asks for the rules of `key` gets this one.
    pub(super) fn is_for(&self, key: &ServiceKey) -> bool {
        let any = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        self.targets.iter().any(|(namespace, service)| any(namespace, key.namespace()) && any(service, key.service()))
    }
}

/// The id that a rule names itself, if it does.
pub(super) fn id_of(rule: &Value) -> Option<&str> {
    rule.get("id").and_then(Value::as_str).filter(|id| !id.is_empty())
}

fn invalid(kind: ResourceKind, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidRule, format!("a rule of kind {kind:?}: {error}"))
}

fn table(kind: ResourceKind) -> Result<&'static Message> {
    let name = match kind {
        ResourceKind::Routing | ResourceKind::CustomRoute | ResourceKind::NearbyRoute => "v1.RouteRule",
        ResourceKind::RateLimit => "v1.Rule",
        ResourceKind::CircuitBreaker => "v1.CircuitBreakerRule",
        ResourceKind::FaultDetector => "v1.FaultDetectRule",
        ResourceKind::Lane => "v1.LaneGroup",
        ResourceKind::Lossless => "v1.LosslessRule",
        ResourceKind::BlockAllow => "v1.BlockAllowListRule",
        ResourceKind::TrafficMirroring => "v1.TrafficMirroring",
        ResourceKind::FaultInjection => "v1.FaultInjection",
        ResourceKind::Instances | ResourceKind::Services => {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{kind:?} is not a kind of rule")));
        }
    };
    schema::find(name).ok_or_else(|| Error::new(ErrorKind::Internal, format!("no table of {name}")))
}

/// Public servers lose some fields of a rule, and write others.
fn keep_what_a_store_keeps(kind: ResourceKind, rule: &mut Map<String, Value>) {
    let lost: &[&str] = match kind {
        ResourceKind::RateLimit => &["report", "subset", "cluster", "concurrencyAmount", "custom_response", "labels"],
        ResourceKind::CircuitBreaker => &["block_configs", "priority", "metadata", "metadata_1_5"],
        ResourceKind::FaultDetector => &["priority", "metadata"],
        _ => &[],
    };
    rule.retain(|name, _| !lost.contains(&name.as_str()));
    if kind == ResourceKind::RateLimit {
        rule.entry("action").or_insert_with(|| json!("REJECT"));
        let arguments = rule.get("arguments").and_then(Value::as_array).into_iter().flatten();
        let labels: Map<_, _> =
            arguments.map(|argument| (label(argument), argument.get("value").cloned().unwrap_or_default())).collect();
        if !labels.is_empty() {
            rule.insert("labels".to_owned(), labels.into());
        }
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

/// The services that a rule names where it says for whom it is.
fn targets(kind: ResourceKind, rule: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    match kind {
        ResourceKind::CircuitBreaker => at(rule, &["ruleMatcher", "destination"], &mut found),
        ResourceKind::FaultDetector => at(rule, &["targetService"], &mut found),
        ResourceKind::Routing | ResourceKind::CustomRoute | ResourceKind::NearbyRoute => {
            at(rule, &["routing_config"], &mut found);
        }
        _ => collect(rule, &mut found),
    }
    found
}

fn at(rule: &Value, path: &[&str], found: &mut Vec<(String, String)>) {
    if let Some(inner) = path.iter().try_fold(rule, |value, name| value.get(name)) {
        collect(inner, found);
    }
}

fn collect(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            found.extend(named(object));
            object.values().for_each(|value| collect(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn named(object: &Map<String, Value>) -> Option<(String, String)> {
    let text = |name| object.get(name).and_then(Value::as_str);
    Some((text("namespace")?.to_owned(), text("service")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp { id: "r1".to_owned(), revision: "v1".to_owned(), time: "2026-11-21 00:00:00".to_owned(), whole: false }
    }

    #[test]
    fn a_rule_is_for_the_services_it_names_and_wildcards_count() {
        let breaker = json!({"name": "b", "rule_matcher": {
            "source": {"namespace": "shop", "service": "web"}, "destination": {"namespace": "shop", "service": "*"}}});
        let rule = Rule::read(ResourceKind::CircuitBreaker, &breaker, stamp()).unwrap();
        assert!(rule.is_for(&ServiceKey::new("shop", "orders")));
        assert!(!rule.is_for(&ServiceKey::new("edge", "orders")));
        let route = json!({"name": "r", "enable": true, "routing_policy": "RulePolicy", "routing_config": {
            "@type": "type.googleapis.com/v1.RuleRoutingConfig", "rules": [{
                "sources": [{"namespace": "shop", "service": "web"}],
                "destinations": [{"namespace": "shop", "service": "orders"}]}]}});
        let rule = Rule::read(ResourceKind::Routing, &route, stamp()).unwrap();
        assert!(rule.is_for(&ServiceKey::new("shop", "orders")) && rule.is_for(&ServiceKey::new("shop", "web")));
        assert!(!rule.is_for(&ServiceKey::new("shop", "stock")));
    }

    #[test]
    fn what_public_servers_lose_is_lost_unless_it_is_to_be_kept() {
        use prost::Message;
        let limit = json!({"concurrencyAmount": {"maxAmount": 3}, "arguments": [
            {"type": "HEADER", "key": "h", "value": {"value": "x"}}, {"key": "c", "value": {"value": "1"}}]});
        let read = |whole| {
            let rule = Rule::read(ResourceKind::RateLimit, &limit, Stamp { whole, ..stamp() }).unwrap();
            crate::pb::v1::Rule::decode(rule.bytes.as_slice()).unwrap()
        };
        let stored = read(false);
        assert_eq!(stored.labels.keys().collect::<Vec<_>>(), ["$header.h", "c"]);
        assert_eq!((stored.concurrency_amount, stored.action.as_deref()), (None, Some("REJECT")));
        assert!(read(true).concurrency_amount.is_some());
    }

    #[test]
    fn a_field_that_nobody_knows_is_named() {
        let error = Rule::read(ResourceKind::RateLimit, &json!({"amounts": [{"maxamount": 1}]}), stamp()).unwrap_err();
        assert!(error.to_string().contains("amounts[0].maxamount"), "{error}");
        assert!(Rule::read(ResourceKind::Instances, &json!({}), stamp()).is_err());
    }
}
