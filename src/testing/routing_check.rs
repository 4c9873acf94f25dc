//! Which rules of routing a console takes.
//!
//! Two things are told apart: a rule that is none, which names the field, and a rule that a real console refuses, which
//! names its code as well.

use prost::{Message, Name};
use serde_json::{Value, json};

use super::behaviour::Release;
use crate::model::key::ResourceKind;
use crate::pb::v1;
use crate::pb::v1::RoutingPolicy as Policy;

/// The largest priority, which is the last.
const LAST: u32 = 10;

/// Why a rule is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{path}: {problem}")]
    Malformed { path: &'static str, problem: String },
    #[error("{path}: {problem}, which a console refuses")]
    ByConsole { path: String, problem: String, code: u32 },
}

/// Whether rules of this kind are route rules.
pub(super) fn is_route(kind: ResourceKind) -> bool {
    matches!(kind, ResourceKind::Routing | ResourceKind::CustomRoute | ResourceKind::NearbyRoute)
}

/// Whether a rule is in the old form: the routes of one service.
pub(super) fn is_old(kind: ResourceKind, rule: &Value) -> bool {
    kind == ResourceKind::Routing && ["inbounds", "outbounds"].iter().any(|list| rule.get(list).is_some())
}

/// The service of a rule in the old form.
pub(super) fn old_service(rule: &Value) -> Option<(&str, &str)> {
    let text = |name: &str| rule.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    Some((text("namespace")?, text("service")?))
}

/// The rule with what follows from the rest of it: the policy of nearby rules, and the type that a policy needs.
pub(super) fn completed(kind: ResourceKind, rule: &Value) -> Value {
    let mut rule = rule.clone();
    if !is_route(kind) {
        return rule;
    }
    if kind == ResourceKind::NearbyRoute
        && let Some(object) = rule.as_object_mut()
    {
        object.entry("routing_policy").or_insert_with(|| json!(Policy::NearbyPolicy.as_str_name()));
    }
    let policy = match rule.get("routing_policy") {
        None | Some(Value::Null) => Some(Policy::RulePolicy),
        Some(Value::String(name)) => Policy::from_str_name(name),
        Some(number) => number.as_i64().and_then(|number| Policy::try_from(i32::try_from(number).ok()?).ok()),
    };
    if let (Some(policy), Some(config)) = (policy, rule.get_mut("routing_config").and_then(Value::as_object_mut)) {
        config.entry("@type").or_insert_with(|| json!(format!("type.googleapis.com/{}", config_of(policy))));
    }
    rule
}

/// What the console looks at before it stores a rule, in its order: what it cannot read, the priority, the policy.
pub(super) fn check(kind: ResourceKind, release: Release, rule: &v1::RouteRule) -> Result<(), Refused> {
    let malformed = |path, problem: String| Err(Refused::Malformed { path, problem });
    let refused = |path: &str, problem: String, code| Err(Refused::ByConsole { path: path.to_owned(), problem, code });
    let policy = Policy::try_from(rule.routing_policy).ok();
    let name = policy.map_or_else(|| rule.routing_policy.to_string(), |policy| policy.as_str_name().to_owned());
    let public = kind == ResourceKind::Routing;
    if public && release < Release::Main {
        if policy == Some(Policy::NearbyPolicy) {
            return refused("routing_policy", format!("{name} is not known to this release"), 400_001);
        }
        if let Some(path) = rule.routing_config.as_ref().and_then(|config| caller_metadata(&config.value)) {
            return refused(&path, "CALLER_METADATA is not known to this release".to_owned(), 400_001);
        }
    }
    if rule.priority > LAST {
        return refused("priority", format!("{} is above {LAST}", rule.priority), 400_703);
    }
    if public && policy != Some(Policy::RulePolicy) {
        let problem =
            format!("a rule of kind {kind:?} is a RulePolicy, found {name} (nearby rules are a kind of their own)");
        return refused("routing_policy", problem, 400_701);
    }
    let Some(policy) = policy else {
        return malformed("routing_policy", format!("expected one of the policies, found {name}"));
    };
    if kind == ResourceKind::NearbyRoute && policy != Policy::NearbyPolicy {
        return malformed("routing_policy", format!("expected NearbyPolicy for a rule of kind {kind:?}, found {name}"));
    }
    let expected = config_of(policy);
    let Some(config) = &rule.routing_config else {
        return malformed("routing_config", format!("missing: {name} needs its {expected}"));
    };
    if config.type_url.rsplit('/').next() != Some(expected.as_str()) {
        let problem = format!("expected type.googleapis.com/{expected} for {name}, found {:?}", config.type_url);
        return malformed("routing_config.@type", problem);
    }
    Ok(())
}

/// The message that a policy is configured by.
fn config_of(policy: Policy) -> String {
    match policy {
        Policy::RulePolicy => v1::RuleRoutingConfig::full_name(),
        Policy::MetadataPolicy => v1::MetadataRoutingConfig::full_name(),
        Policy::NearbyPolicy => v1::NearbyRoutingConfig::full_name(),
    }
}

/// Where the first argument of a type stands that older releases do not know.
fn caller_metadata(config: &[u8]) -> Option<String> {
    let config = v1::RuleRoutingConfig::decode(config).ok()?;
    let in_sources = |sources: &[v1::SourceService]| {
        sources.iter().enumerate().find_map(|(source, of)| {
            let unknown = i32::from(v1::source_match::Type::CallerMetadata);
            let argument = of.arguments.iter().position(|argument| argument.r#type == unknown)?;
            Some(format!("sources[{source}].arguments[{argument}].type"))
        })
    };
    let above = in_sources(&config.sources).map(|path| format!("routing_config.{path}"));
    let below = || {
        config.rules.iter().enumerate().find_map(|(rule, sub_rule)| {
            in_sources(&sub_rule.sources).map(|path| format!("routing_config.rules[{rule}].{path}"))
        })
    };
    above.or_else(below)
}
