//! Rules: kept as the JSON of the specification, which is what callers read and what the cache keeps.
//!
//! The order of rules in an answer means nothing and changes between answers of equal content, and so does nothing but
//! the revision when a server numbers anew. So the text is canonical: rules are ordered by id, and the revision stands
//! beside the text, not in it. The order of inbound and outbound routes *is* their meaning and stays.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::model::key::{ResourceKind, Revision, ServiceEventKey};
use crate::model::rule::Compiled;
use crate::model::snapshot::RuleSet;
use crate::pb::{schema, v1};
use crate::wire::instance::{revision, service_message};
use crate::wire::json::{InvalidJson, to_bytes, to_json};
use crate::wire::limit;
use crate::wire::reader::Malformed;
use crate::wire::route;

/// Where an answer carries the rules of a kind.
#[derive(Clone, Copy)]
enum Payload {
    /// In one message of their own, whose lists are named here.
    Message { field: &'static str, lists: &'static [&'static str] },
    /// In a list of the answer itself.
    List { field: &'static str },
}

fn payload(kind: ResourceKind) -> Option<Payload> {
    Some(match kind {
        ResourceKind::Routing => Payload::Message { field: "routing", lists: &["rules", "inbounds", "outbounds"] },
        ResourceKind::RateLimit => Payload::Message { field: "rateLimit", lists: &["rules"] },
        ResourceKind::CircuitBreaker => Payload::Message { field: "circuitBreaker", lists: &["rules"] },
        ResourceKind::FaultDetector => Payload::Message { field: "faultDetector", lists: &["rules"] },
        ResourceKind::Lane => Payload::List { field: "lanes" },
        ResourceKind::CustomRoute => Payload::List { field: "customRouteRules" },
        ResourceKind::NearbyRoute => Payload::List { field: "nearbyRouteRules" },
        ResourceKind::Lossless => Payload::List { field: "losslessRuleList" },
        ResourceKind::BlockAllow => Payload::List { field: "blockAllowListRule" },
        ResourceKind::TrafficMirroring => Payload::List { field: "trafficMirroring" },
        ResourceKind::FaultInjection => Payload::List { field: "faultInjection" },
        ResourceKind::Instances | ResourceKind::Services => return None,
    })
}

/// The rules that an answer carries, none where its payload is absent; and those that are left out, each with its fault.
pub(super) fn rules(
    key: &ServiceEventKey,
    mut response: v1::DiscoverResponse,
) -> Result<(RuleSet, Vec<String>), Malformed> {
    let revision = rule_revision(key.kind, &response);
    let (compiled, skipped) = compile(key, &response);
    response.lossless_rule_list.append(&mut response.lossless);
    let mut whole = to_json(&response)?;
    let object = payload(key.kind).and_then(|payload| take(&mut whole, payload)).unwrap_or_default();
    let json = Value::Object(object).to_string().into();
    Ok((RuleSet { service: key.service.clone(), kind: key.kind, revision, json, compiled }, skipped))
}

/// The rules in the form that their readers need.
fn compile(key: &ServiceEventKey, response: &v1::DiscoverResponse) -> (Compiled, Vec<String>) {
    match key.kind {
        ResourceKind::Routing => {
            let none = v1::Routing::default();
            let (rules, skipped) = route::route_rules(&key.service, response.routing.as_ref().unwrap_or(&none));
            (Compiled::Route(Arc::new(rules)), skipped)
        }
        ResourceKind::NearbyRoute => {
            let (rules, skipped) = route::nearby_rules(&response.nearby_route_rules);
            (Compiled::Nearby(Arc::new(rules)), skipped)
        }
        ResourceKind::RateLimit => {
            let none = v1::RateLimit::default();
            let (rules, skipped) = limit::limit_rules(response.rate_limit.as_ref().unwrap_or(&none));
            (Compiled::Limit(Arc::new(rules)), skipped)
        }
        _ => (Compiled::Unread, Vec::new()),
    }
}

/// The canonical object of a payload; `None` where there is no rule.
fn take(whole: &mut Value, payload: Payload) -> Option<Map<String, Value>> {
    let whole = whole.as_object_mut()?;
    match payload {
        Payload::Message { field, lists } => {
            let Value::Object(mut object) = whole.remove(field)? else { return None };
            object.remove("revision");
            object.get_mut("rules").into_iter().for_each(order);
            lists.iter().any(|list| object.contains_key(*list)).then_some(object)
        }
        Payload::List { field } => {
            let mut list = whole.remove(field)?;
            order(&mut list);
            Some(Map::from_iter([(field.to_owned(), list)]))
        }
    }
}

/// By id, then by all that they say; a rule that came twice is one.
fn order(rules: &mut Value) {
    if let Some(rules) = rules.as_array_mut() {
        let id = |rule: &Value| rule.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        rules.sort_by_cached_key(|rule| (id(rule), rule.to_string()));
        rules.dedup();
    }
}

/// The payload's own revision, where it has one; newer kinds and empty answers have that of the service, or none.
fn rule_revision(kind: ResourceKind, response: &v1::DiscoverResponse) -> Revision {
    let own = match kind {
        ResourceKind::Routing => response.routing.as_ref().and_then(|rules| rules.revision.as_deref()),
        ResourceKind::RateLimit => response.rate_limit.as_ref().and_then(|rules| rules.revision.as_deref()),
        ResourceKind::CircuitBreaker => response.circuit_breaker.as_ref().and_then(|rules| rules.revision.as_deref()),
        ResourceKind::FaultDetector => response.fault_detector.as_ref().map(|rules| &*rules.revision),
        _ => None,
    };
    own.filter(|own| !own.is_empty()).map_or_else(|| revision(response.service.as_ref()), Revision::new)
}

/// The bytes of the answer that a set of rules would come from.
pub(super) fn answer_bytes(rules: &RuleSet) -> Result<Vec<u8>, InvalidJson> {
    let refuse = |problem: String| InvalidJson { path: rules.kind.to_string(), problem };
    let text: Value = serde_json::from_str(rules.json()).map_err(|error| refuse(error.to_string()))?;
    let (Some(payload), Some(table)) = (payload(rules.kind), schema::find("v1.DiscoverResponse")) else {
        return Err(refuse("these are no rules".to_owned()));
    };
    let whole = match payload {
        Payload::Message { field, .. } => Value::Object(Map::from_iter([(field.to_owned(), text)])),
        Payload::List { .. } => text,
    };
    let service = service_message(&rules.service, &rules.revision);
    let mut bytes = to_bytes(table, &whole)?;
    // Messages that follow each other are one message.
    let around = v1::DiscoverResponse { service: Some(service), ..v1::DiscoverResponse::default() };
    bytes.extend(prost::Message::encode_to_vec(&around));
    Ok(bytes)
}
