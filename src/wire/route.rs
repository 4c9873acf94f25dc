//! Routing and nearby rules into the model.
//!
//! Servers deliver either routes by direction (`inbounds`, `outbounds`), which are in the order in which they are tried,
//! or whole rules (`rules`), which say for themselves whom they are for and how they are ordered; where there are whole
//! rules, they count. Both end as the same model. A rule with one bad part is left out as a whole: a condition that is
//! dropped would make it match more than its author meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use crate::model::key::ServiceKey;
use crate::model::label::{LabelKey, LabelKind};
use crate::model::location::Level;
use crate::model::matcher::Condition;
use crate::model::rule::nearby::{NearbyRule, NearbyRules};
use crate::model::rule::route::{NamePattern, RouteDestination, RouteRule, RouteRules, RouteSource, ServicePattern};
use crate::pb::v1;
use crate::pb::v1::nearby_routing_config::LocationLevel;
use crate::pb::v1::source_match::Type as ArgumentType;
use crate::wire::condition::{Checked, Fault, condition, label_condition, numbered};

/// Stands in place of the key of a custom label and says nothing: some consoles write it for "whatever the labels".
const ANY_KEY: &str = "*";

/// The routing rules of `key`.
pub(super) fn route_rules(key: &ServiceKey, routing: &v1::Routing) -> Checked<RouteRules> {
    let mut skipped = Vec::new();
    let rules = if routing.rules.is_empty() {
        RouteRules {
            inbounds: routes("inbound", &routing.inbounds, &mut skipped),
            outbounds: routes("outbound", &routing.outbounds, &mut skipped),
        }
    } else {
        // Asked by an alias, the rules are those of the service behind it, and name that.
        let real = match (routing.namespace.as_deref(), routing.service.as_deref()) {
            (Some(namespace), Some(service)) if !service.is_empty() => ServiceKey::new(namespace, service),
            _ => key.clone(),
        };
        whole_rules(&real, &routing.rules, &mut skipped)
    };
    (rules, skipped)
}

/// The nearby rule of a service: the first that is enabled.
pub(super) fn nearby_rules(rules: &[v1::RouteRule]) -> Checked<NearbyRules> {
    let mut skipped = Vec::new();
    let mut first = None;
    for rule in enabled(rules) {
        match nearby(rule) {
            Ok(rule) => {
                first.get_or_insert(rule);
            }
            Err(fault) => skipped.push(format!("nearby rule {}: {fault}", name_of(rule))),
        }
    }
    (NearbyRules { rule: first }, skipped)
}

// === routes by direction ===

fn routes(side: &str, routes: &[v1::Route], skipped: &mut Vec<String>) -> Box<[Arc<RouteRule>]> {
    let mut usable = Vec::with_capacity(routes.len());
    for (at, route) in routes.iter().enumerate() {
        let name = route_name(side, at, route);
        match self::route(&name, route) {
            Ok(rule) => {
                skipped.extend(flaws(&rule));
                usable.push(Arc::new(rule));
            }
            Err(fault) => skipped.push(format!("{side} rule {name}: {fault}")),
        }
    }
    usable.into()
}

/// A server names destinations `rule.sub-rule.group`; without that the place in the list is all there is.
fn route_name(side: &str, at: usize, route: &v1::Route) -> String {
    let named = route.destinations.iter().find_map(|to| to.name.as_deref().filter(|name| !name.is_empty()));
    match named {
        // Without a name of its own, a sub-rule leaves nothing between two dots.
        Some(name) => name.rsplit_once('.').map_or(name, |(rule, _)| rule.trim_end_matches('.')).to_owned(),
        None => format!("{side}[{at}]"),
    }
}

fn route(name: &str, route: &v1::Route) -> Result<RouteRule, Fault> {
    let source = |source: &v1::Source| -> Result<_, Fault> {
        let labels = source.metadata.iter().filter(|(key, _)| *key != ANY_KEY);
        let label = |(key, value): (&String, &v1::MatchString)| label_condition(LabelKey::from_flat(key), value);
        Ok(RouteSource {
            caller: source_pattern(source.namespace.as_deref(), source.service.as_deref()),
            labels: labels.map(label).collect::<Result<_, Fault>>()?,
        })
    };
    let destination = |(at, to): (usize, &v1::Destination)| -> Result<_, Fault> {
        Ok(RouteDestination {
            callee: destination_pattern(to.namespace.as_deref(), to.service.as_deref()),
            labels: metadata_conditions(&to.metadata)?,
            priority: to.priority.unwrap_or_default(),
            weight: to.weight.unwrap_or_default(),
            isolated: to.isolate.unwrap_or_default(),
            name: group_name(at, to.name.as_deref().unwrap_or_default()),
        })
    };
    Ok(RouteRule {
        name: name.to_owned(),
        sources: numbered("source", route.sources.iter().map(source))?,
        destinations: numbered("destination", route.destinations.iter().enumerate().map(destination))?,
    })
}

// === whole rules ===

/// The rules that are in force, in the order in which they are tried: 0 is the first priority.
fn enabled(rules: &[v1::RouteRule]) -> Vec<&v1::RouteRule> {
    let mut rules: Vec<_> = rules.iter().filter(|rule| rule.enable).collect();
    rules.sort_by(|a, b| a.priority.cmp(&b.priority).then_with(|| a.id.cmp(&b.id)));
    rules
}

fn name_of(rule: &v1::RouteRule) -> &str {
    if rule.name.is_empty() { &rule.id } else { &rule.name }
}

fn whole_rules(key: &ServiceKey, rules: &[v1::RouteRule], skipped: &mut Vec<String>) -> RouteRules {
    let (mut inbounds, mut outbounds) = (Vec::new(), Vec::new());
    for rule in enabled(rules) {
        match sub_rules(rule) {
            Ok(sub_rules) => {
                for sub in sub_rules {
                    skipped.extend(flaws(&sub));
                    inbounds.extend(inbound(key, &sub));
                    outbounds.extend(outbound(key, sub));
                }
            }
            Err(fault) => skipped.push(format!("rule {}: {fault}", name_of(rule))),
        }
    }
    RouteRules { inbounds: inbounds.into(), outbounds: outbounds.into() }
}

/// What a rule says about calls to `key`: only the destinations that are there.
fn inbound(key: &ServiceKey, rule: &RouteRule) -> Option<Arc<RouteRule>> {
    let destinations: Vec<_> = rule.destinations.iter().filter(|to| to.callee.matches(key)).cloned().collect();
    (!destinations.is_empty())
        .then(|| Arc::new(RouteRule { name: rule.name.clone(), sources: rule.sources.clone(), destinations }))
}

/// What a rule says about calls of `key`: only the sources that are it.
fn outbound(key: &ServiceKey, mut rule: RouteRule) -> Option<Arc<RouteRule>> {
    let for_all = rule.sources.is_empty();
    rule.sources.retain(|source| source.caller.matches(key));
    (for_all || !rule.sources.is_empty()).then(|| Arc::new(rule))
}

fn sub_rules(rule: &v1::RouteRule) -> Result<Vec<RouteRule>, Fault> {
    let Some(config) = rule.routing_config.as_ref() else { return Err("it has no routing_config".to_owned()) };
    match v1::RoutingPolicy::try_from(rule.routing_policy) {
        Ok(v1::RoutingPolicy::RulePolicy) => {}
        Ok(policy) => return Err(format!("policy {} is none of rule-based routing", policy.as_str_name())),
        Err(_) => return Err(format!("nobody knows policy {}", rule.routing_policy)),
    }
    let config = unpack::<v1::RuleRoutingConfig>(config)?;
    let plain = v1::SubRuleRouting { name: String::new(), sources: config.sources, destinations: config.destinations };
    let mut all = config.rules;
    if all.is_empty() {
        all.push(plain);
    }
    let name = name_of(rule);
    numbered("rules", all.iter().map(|sub| sub_rule(name, sub)))
}

fn sub_rule(rule: &str, sub: &v1::SubRuleRouting) -> Result<RouteRule, Fault> {
    let source = |source: &v1::SourceService| -> Result<_, Fault> {
        let says_nothing = |argument: &v1::SourceMatch| {
            argument.key == ANY_KEY && ArgumentType::try_from(argument.r#type) == Ok(ArgumentType::Custom)
        };
        let arguments = source.arguments.iter().filter(|argument| !says_nothing(argument));
        Ok(RouteSource {
            caller: source_pattern(Some(&source.namespace), Some(&source.service)),
            labels: numbered("argument", arguments.map(argument))?,
        })
    };
    let destination = |(at, to): (usize, &v1::DestinationGroup)| -> Result<_, Fault> {
        Ok(RouteDestination {
            callee: destination_pattern(Some(&to.namespace), Some(&to.service)),
            labels: metadata_conditions(&to.labels)?,
            priority: to.priority,
            weight: to.weight,
            isolated: to.isolate,
            name: group_name(at, &to.name),
        })
    };
    let name = if sub.name.is_empty() { rule.to_owned() } else { format!("{rule}.{}", sub.name) };
    Ok(RouteRule {
        name,
        sources: numbered("source", sub.sources.iter().map(source))?,
        destinations: numbered("destination", sub.destinations.iter().enumerate().map(destination))?,
    })
}

fn argument(argument: &v1::SourceMatch) -> Result<(LabelKey, Condition), Fault> {
    let kind = match ArgumentType::try_from(argument.r#type) {
        Ok(ArgumentType::Custom) => LabelKind::Custom,
        Ok(ArgumentType::Method) => LabelKind::Method,
        Ok(ArgumentType::Header) => LabelKind::Header,
        Ok(ArgumentType::Query) => LabelKind::Query,
        Ok(ArgumentType::CallerIp) => LabelKind::CallerIp,
        Ok(ArgumentType::Path) => LabelKind::Path,
        Ok(ArgumentType::Cookie) => LabelKind::Cookie,
        Ok(ArgumentType::CallerMetadata) => LabelKind::CallerMetadata,
        Err(_) => return Err(format!("nobody knows argument type {}", argument.r#type)),
    };
    let unsaid = v1::MatchString::default();
    label_condition(LabelKey::new(kind, &argument.key), argument.value.as_ref().unwrap_or(&unsaid))
}

fn nearby(rule: &v1::RouteRule) -> Result<NearbyRule, Fault> {
    let Some(config) = rule.routing_config.as_ref() else { return Err("it has no routing_config".to_owned()) };
    let config = unpack::<v1::NearbyRoutingConfig>(config)?;
    Ok(NearbyRule {
        name: name_of(rule).to_owned(),
        first: level("match_level", config.match_level)?,
        widest: level("max_match_level", config.max_match_level)?,
        strict: config.strict_nearby,
    })
}

fn level(field: &str, number: i32) -> Result<Option<Level>, Fault> {
    Ok(match LocationLevel::try_from(number) {
        Ok(LocationLevel::Unknown) => None,
        Ok(LocationLevel::Campus) => Some(Level::Campus),
        Ok(LocationLevel::Zone) => Some(Level::Zone),
        Ok(LocationLevel::Region) => Some(Level::Region),
        Ok(LocationLevel::All) => Some(Level::All),
        Err(_) => return Err(format!("{field}: nobody knows level {number}; known are 0 to 4")),
    })
}

/// The message inside, by the last part of its type: the host in front of it means nothing.
fn unpack<M: Message + prost::Name + Default>(any: &prost_types::Any) -> Result<M, Fault> {
    let wanted = M::full_name();
    if any.type_url.rsplit('/').next() != Some(&wanted) {
        return Err(format!("routing_config is a {:?}, not a {wanted}", any.type_url));
    }
    M::decode(any.value.as_slice()).map_err(|error| format!("routing_config is no {wanted}: {error}"))
}

// === parts ===

/// What is to be said of a rule that stays in force though a part of it can never be true.
fn flaws(rule: &RouteRule) -> Option<String> {
    let of_sources = rule.sources.iter().flat_map(|source| source.labels.iter().map(|(key, c)| (key.to_string(), c)));
    let of_destinations = rule.destinations.iter().flat_map(|to| to.labels.iter().map(|(key, c)| (key.to_string(), c)));
    let flaw = |(key, condition): (String, &Condition)| {
        let flaw = condition.text()?.flaw()?;
        Some(format!("rule {}: label {key}: {flaw}; it is never true", rule.name))
    };
    of_sources.chain(of_destinations).find_map(flaw)
}

fn source_pattern(namespace: Option<&str>, service: Option<&str>) -> ServicePattern {
    let name = |name: Option<&str>| NamePattern::of_source(name.unwrap_or_default());
    ServicePattern { namespace: name(namespace), service: name(service) }
}

fn destination_pattern(namespace: Option<&str>, service: Option<&str>) -> ServicePattern {
    let name = |name: Option<&str>| NamePattern::exact(name.unwrap_or_default());
    ServicePattern { namespace: name(namespace), service: name(service) }
}

fn group_name(at: usize, name: &str) -> String {
    match name.rsplit('.').next() {
        Some(last) if !last.is_empty() => last.to_owned(),
        _ => at.to_string(),
    }
}

fn metadata_conditions(labels: &BTreeMap<String, v1::MatchString>) -> Result<Vec<(Arc<str>, Condition)>, Fault> {
    let labels = labels.iter().filter(|(key, _)| *key != ANY_KEY);
    let condition = |(key, value): (&String, _)| {
        let condition = condition(value, false).map_err(|fault| format!("label {key}: {fault}"))?;
        Ok((key.as_str().into(), condition))
    };
    labels.map(condition).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pb::v1::match_string::MatchStringType;
    use crate::testing::compiled;

    fn text(value: &str) -> v1::MatchString {
        v1::MatchString { value: Some(value.to_owned()), ..Default::default() }
    }

    fn key() -> ServiceKey {
        ServiceKey::new("default", "a")
    }

    /// A route from anybody with this label to instances with that one.
    fn route_of(name: &str, label: (&str, v1::MatchString), to: (&str, v1::MatchString)) -> v1::Route {
        let map = |(key, value): (&str, v1::MatchString)| [(key.to_owned(), value)].into();
        v1::Route {
            sources: vec![v1::Source { metadata: map(label), ..Default::default() }],
            destinations: vec![v1::Destination {
                metadata: map(to),
                name: (!name.is_empty()).then(|| name.to_owned()),
                weight: Some(100),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn whole(id: &str, priority: u32, callee: &str) -> v1::RouteRule {
        let destination = v1::DestinationGroup {
            namespace: "default".to_owned(),
            service: callee.to_owned(),
            weight: 1,
            ..Default::default()
        };
        let sub = v1::SubRuleRouting {
            name: "s".to_owned(),
            sources: vec![v1::SourceService {
                namespace: "default".to_owned(),
                service: "web".to_owned(),
                ..Default::default()
            }],
            destinations: vec![destination],
        };
        v1::RouteRule {
            id: id.to_owned(),
            name: format!("rule-{id}"),
            enable: true,
            priority,
            routing_config: Some(packed(&v1::RuleRoutingConfig { rules: vec![sub], ..Default::default() })),
            ..Default::default()
        }
    }

    fn packed<M: Message + prost::Name>(message: &M) -> prost_types::Any {
        prost_types::Any { type_url: format!("type.example.com/{}", M::full_name()), value: message.encode_to_vec() }
    }

    fn names(rules: &[Arc<RouteRule>]) -> Vec<&str> {
        rules.iter().map(|rule| rule.name.as_str()).collect()
    }

    #[test]
    fn routes_keep_their_order_and_a_bad_one_is_left_out_with_its_place_and_fault() {
        let unknown = v1::MatchString { r#type: 9, ..text("x") };
        let odd = v1::MatchString { value_type: 7, ..text("x") };
        let regex = v1::MatchString { r#type: MatchStringType::Regex as i32, ..text("(") };
        let routing = v1::Routing {
            inbounds: vec![
                route_of("r.one.g", ("$header.x", text("1")), ("v", text("1"))),
                route_of("r.two.g", ("$header.x", unknown), ("v", text("1"))),
                route_of("", ("k", text("1")), ("v", odd)),
                route_of("", ("k", regex), ("v", text("1"))),
                route_of("", ("k", text("1")), ("v", text("2"))),
            ],
            ..Default::default()
        };
        let (rules, skipped) = route_rules(&key(), &routing);
        assert_eq!(names(&rules.inbounds), ["r.one", "inbound[4]"]);
        assert_eq!(skipped.len(), 3, "{skipped:?}");
        for (message, parts) in skipped.iter().zip([
            ["r.two", "source[0]", "$header.x", "match type 9"],
            ["inbound[2]", "destination[0]", "label v", "value type 7"],
            ["inbound[3]", "source[0]", "label k", "("],
        ]) {
            assert!(parts.iter().all(|part| message.contains(part)), "{message}: {parts:?}");
        }
        let [source] = &rules.inbounds[0].sources[..] else { panic!("{rules:?}") };
        assert_eq!((source.labels[0].0.kind, &*source.labels[0].0.key), (LabelKind::Header, "x"));
    }

    #[test]
    fn whole_rules_are_sorted_out_by_direction_and_tried_by_priority_and_id() {
        let off = v1::RouteRule { enable: false, ..whole("0", 0, "a") };
        let rules = [whole("c", 1, "a"), whole("b", 0, "a"), whole("a", 1, "*"), whole("d", 0, "other"), off];
        let routing = v1::Routing { rules: rules.to_vec(), ..Default::default() };
        let (of_callee, skipped) = route_rules(&key(), &routing);
        assert_eq!(names(&of_callee.inbounds), ["rule-b.s", "rule-a.s", "rule-c.s"]);
        assert!(of_callee.outbounds.is_empty() && skipped.is_empty());
        let (of_caller, _) = route_rules(&ServiceKey::new("default", "web"), &routing);
        assert_eq!(names(&of_caller.inbounds), ["rule-a.s"], "to anybody");
        assert_eq!(names(&of_caller.outbounds), ["rule-b.s", "rule-d.s", "rule-a.s", "rule-c.s"]);
    }

    #[test]
    fn a_whole_rule_that_cannot_be_read_says_why_and_its_neighbours_stay() {
        let with =
            |id, config, policy| v1::RouteRule { routing_config: config, routing_policy: policy, ..whole(id, 0, "a") };
        let good = whole("ok", 0, "a").routing_config;
        let cut = good.clone().map(|any| prost_types::Any { value: vec![0x0a, 0xff], ..any });
        let nearby = Some(packed(&v1::NearbyRoutingConfig::default()));
        let rules = vec![
            with("none", None, 0),
            with("cut", cut, 0),
            with("type", nearby, 0),
            with("policy", good.clone(), 1),
            with("unknown", good, 77),
            whole("ok", 0, "a"),
        ];
        let (read, skipped) = route_rules(&key(), &v1::Routing { rules, ..Default::default() });
        assert_eq!(names(&read.inbounds), ["rule-ok.s"]);
        for part in
            ["no routing_config", "is no v1.RuleRoutingConfig", "v1.NearbyRoutingConfig", "MetadataPolicy", "77"]
        {
            assert!(skipped.iter().any(|message| message.contains(part)), "{part}: {skipped:?}");
        }
    }

    #[test]
    fn a_rule_that_can_never_be_true_stays_and_is_told() {
        let range = v1::MatchString { r#type: MatchStringType::Range as i32, ..text("1-9") };
        let routing =
            v1::Routing { inbounds: vec![route_of("r.one.g", ("age", range), ("v", text("1")))], ..Default::default() };
        let (rules, told) = route_rules(&key(), &routing);
        assert_eq!(rules.inbounds.len(), 1);
        assert!(told[0].contains("r.one") && told[0].contains("1-9") && told[0].contains("never true"), "{told:?}");
    }

    #[test]
    fn of_nearby_rules_the_first_that_is_enabled_and_readable_counts() {
        let rule = |id: &str, priority, level| v1::RouteRule {
            id: id.to_owned(),
            enable: true,
            priority,
            routing_policy: v1::RoutingPolicy::NearbyPolicy as i32,
            routing_config: Some(packed(&v1::NearbyRoutingConfig { match_level: level, ..Default::default() })),
            ..Default::default()
        };
        let off = v1::RouteRule { enable: false, ..rule("off", 0, 1) };
        let (rules, skipped) = nearby_rules(&[rule("b", 1, 3), off, rule("odd", 0, 9), rule("a", 1, 1)]);
        let first = rules.rule.unwrap();
        assert_eq!(
            (first.name.as_str(), first.first, first.widest, first.strict),
            ("a", Some(Level::Campus), None, false)
        );
        assert!(skipped.len() == 1 && skipped[0].contains("match_level") && skipped[0].contains('9'), "{skipped:?}");
        assert!(nearby_rules(&[]).0.rule.is_none());
    }

    /// Whole rules of one sub-rule, as `default/web` gets them.
    fn rules(sources: &Value) -> Arc<RouteRules> {
        let routing = json!({"rules": [{"id": "r", "enable": true, "routing_config": {
            "@type": "type.googleapis.com/v1.RuleRoutingConfig",
            "rules": [{"sources": sources, "destinations": [{"namespace": "default", "service": "orders", "weight": 1}]}],
        }}]});
        compiled::routing(&ServiceKey::new("default", "web"), &routing).0
    }

    #[test]
    fn of_a_whole_rule_a_caller_takes_only_the_sources_that_are_it() {
        let source = |service: &str| json!({"namespace": "default", "service": service});
        let callers = |sources: Value| {
            let rules = rules(&sources);
            let callers = |rule: &Arc<RouteRule>| rule.sources.iter().map(|source| source.caller.to_string()).collect();
            rules.outbounds.iter().map(callers).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(callers(json!([source("shop"), source("web"), source("*")])), [["default/web", "default/*"]]);
        assert_eq!(callers(json!([source("shop")])), [[""; 0]; 0], "it is about others");
        assert_eq!(callers(json!([])), [[""; 0]], "it is for everybody");
    }

    #[test]
    fn a_key_of_a_star_says_nothing_of_custom_labels_only() {
        let argument = |kind: &str| json!({"type": kind, "key": "*", "value": {"value": "1"}});
        let arguments = ["CUSTOM", "METHOD", "HEADER"].map(argument);
        let rules = rules(&json!([{"namespace": "*", "service": "*", "arguments": arguments}]));
        let labels: Vec<_> = rules.outbounds[0].sources[0].labels.iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(labels, ["$method", "$header.*"]);
    }
}
