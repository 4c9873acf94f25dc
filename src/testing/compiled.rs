//! Rules as the crate's own tests need them: from the JSON of a vector, by the way that answers of a server take.

use std::sync::Arc;

use prost::Message;
use serde_json::{Value, json};

use crate::model::key::{ResourceKind, ServiceKey};
use crate::model::rule::limit::LimitRules;
use crate::model::rule::nearby::NearbyRules;
use crate::model::rule::route::RouteRules;
use crate::model::snapshot::{Answer, Resource, RuleSet};
use crate::pb::{schema, v1};
use crate::wire::{json as wire_json, resource};

/// The routing rules that a service gets, and what is left out of them. `routing` is a `v1.Routing`.
pub(crate) fn routing(key: &ServiceKey, routing: &Value) -> (Arc<RouteRules>, Vec<String>) {
    let (rules, skipped) = rules(key, ResourceKind::Routing, &json!({"type": "ROUTING", "routing": routing}));
    (Arc::clone(rules.route().expect("routing rules")), skipped)
}

/// The nearby rules that a service gets; `list` is of `v1.RouteRule`s.
pub(crate) fn nearby(key: &ServiceKey, list: &Value) -> (Arc<NearbyRules>, Vec<String>) {
    let answer = json!({"type": "NEARBY_ROUTE_RULE", "nearbyRouteRules": list});
    let (rules, skipped) = rules(key, ResourceKind::NearbyRoute, &answer);
    (Arc::clone(rules.nearby().expect("nearby rules")), skipped)
}

/// The rate-limit rules that a service gets; `list` is of `v1.Rule`s.
pub(crate) fn limit(key: &ServiceKey, list: &Value) -> (Arc<LimitRules>, Vec<String>) {
    let answer = json!({"type": "RATE_LIMIT", "rateLimit": {"rules": list}});
    let (rules, skipped) = rules(key, ResourceKind::RateLimit, &answer);
    (Arc::clone(rules.limit().expect("rate-limit rules")), skipped)
}

fn rules(key: &ServiceKey, kind: ResourceKind, answer: &Value) -> (Arc<RuleSet>, Vec<String>) {
    let table = schema::find("v1.DiscoverResponse").expect("the table of answers");
    let bytes = wire_json::to_bytes(table, answer).unwrap_or_else(|error| panic!("{error} in {answer}"));
    let mut response = v1::DiscoverResponse::decode(bytes.as_slice()).expect("a message");
    response.code = Some(200_000);
    match resource::answer(&key.of(kind), response) {
        Answer::Full { resource: Resource::Rules(rules), skipped } => (rules, skipped),
        other => panic!("{other:?}"),
    }
}
