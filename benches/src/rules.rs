//! How a service is routed, told once: as the control plane answers with it, and for the reference chain.
//!
//! Three rules of three conditions each: the first fails at its last text, the second at its last pattern, and the third
//! holds and sends 80 of 100 calls to one version and the rest to another. Any more rules stand before them and are for
//! other tenants. Calls come from the second of three zones, of which one instance has an open breaker.

use std::borrow::Cow;

use http::request::Parts;
use polarismesh::testing::bench::v1;
use polarismesh::{LabelKind, LabelSet, Labels};
use prost::Message as _;
use prost::bytes::Bytes;
use v1::discover_response::DiscoverResponseType;
use v1::match_string::MatchStringType;
use v1::nearby_routing_config::LocationLevel;
use v1::source_match;

use crate::data;

/// What a code says that all went well.
const DONE: u32 = 200_000;

/// By what a service is routed.
#[derive(Clone, Default)]
pub struct Routing {
    pub rules: Vec<Rule>,
    /// To the zone of the call.
    pub nearby: bool,
    /// One instance, the number [`BROKEN`], has an open breaker.
    pub broken: bool,
}

/// A call that all its conditions hold for goes to one of its destinations.
#[derive(Clone)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub destinations: Vec<Destination>,
}

/// What one label of a call has to be.
#[derive(Clone)]
pub struct Condition {
    pub label: Label,
    pub matcher: Matcher,
    pub value: String,
}

#[derive(Clone, Copy)]
pub enum Matcher {
    Exact,
    In,
    Regex,
}

/// A label of a call: where it stands in the call, and its name there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label {
    pub kind: source_match::Type,
    pub key: &'static str,
}

/// The instances with these labels, for so many of a hundred calls.
#[derive(Clone)]
pub struct Destination {
    pub labels: [(&'static str, &'static str); 2],
    pub weight: u32,
}

pub const TENANT: Label = Label { kind: source_match::Type::Header, key: "x-tenant" };
pub const USER: Label = Label { kind: source_match::Type::Header, key: "x-user" };
pub const REGION: Label = Label { kind: source_match::Type::Query, key: "region" };
pub const CHANNEL: Label = Label { kind: source_match::Type::Custom, key: "channel" };

/// The labels of every call.
pub const CALL: [(Label, &str); 4] = [(TENANT, "gold"), (USER, "u-4711"), (REGION, "east"), (CHANNEL, "app")];

/// Region, zone and campus of every call.
pub const FROM: [&str; 3] = ["east", "east-1", "east-1-4"];

/// The number of the instance whose breaker is open; it would take calls else.
pub const BROKEN: usize = 7;

/// The versions that calls go to, and their shares.
const VERSIONS: [&str; 2] = ["1.4.0", "1.4.1"];
const SHARES: [f64; 2] = [0.8, 0.2];

/// A call over HTTP: a request, and what a gateway adds to it.
pub struct Web {
    parts: Parts,
    channel: &'static str,
}

impl Routing {
    /// By so many rules, of which the last holds, and by all else that there is.
    pub fn by(count: usize) -> Self {
        Self { rules: rules(count), nearby: true, broken: true }
    }
}

pub fn condition(label: Label, matcher: Matcher, value: &str) -> Condition {
    Condition { label, matcher, value: value.to_owned() }
}

/// So many rules, of which the last holds.
pub fn rules(count: usize) -> Vec<Rule> {
    use Matcher::{Exact, In, Regex};
    let others = (3..count).map(|n| {
        let tenant = condition(TENANT, Exact, &format!("tenant-{n}"));
        [tenant, condition(CHANNEL, In, "web,app"), condition(REGION, Exact, "east")]
    });
    let last = [
        [condition(TENANT, Exact, "gold"), condition(CHANNEL, Exact, "app"), condition(REGION, Exact, "west")],
        [condition(TENANT, Exact, "gold"), condition(REGION, Exact, "east"), condition(USER, Regex, "^u-[0-3][0-9]*$")],
        [condition(TENANT, Exact, "gold"), condition(CHANNEL, In, "web,mini,app"), condition(REGION, Exact, "east")],
    ];
    others.chain(last).map(|conditions| rule(conditions.into())).collect()
}

/// A rule that sends calls to both versions.
pub fn rule(conditions: Vec<Condition>) -> Rule {
    let of = |(version, share): (_, f64)| Destination {
        labels: [("env", "prod"), ("version", version)],
        weight: (share * 100.0).round() as u32,
    };
    Rule { conditions, destinations: VERSIONS.into_iter().zip(SHARES).map(of).collect() }
}

/// Where calls have to go: shares, and the ids of the instances, in order.
pub fn groups(instances: usize, routing: &Routing) -> Vec<(f64, Vec<String>)> {
    let group = |wanted: &[(&str, &str)]| {
        let serves = |n: &usize| {
            let parts = data::parts(*n);
            let has = |(key, value): &(&str, &str)| parts.metadata.iter().any(|(of, is)| of == key && is == value);
            let near = !routing.nearby || parts.location.1 == FROM[1];
            near && !(routing.broken && *n == BROKEN) && wanted.iter().all(has)
        };
        let mut ids: Vec<String> = (0..instances).filter(serves).map(|n| data::parts(n).id).collect();
        ids.sort_unstable();
        ids
    };
    if routing.rules.is_empty() {
        return vec![(1.0, group(&[]))];
    }
    let versions = VERSIONS.into_iter().zip(SHARES);
    versions.map(|(version, share)| (share, group(&[("env", "prod"), ("version", version)]))).collect()
}

/// The labels of every call, collected.
pub fn labels() -> LabelSet {
    CALL.into_iter().fold(LabelSet::new(), |labels, (label, value)| match label.kind {
        source_match::Type::Header => labels.header(label.key, value),
        source_match::Type::Query => labels.query(label.key, value),
        _ => labels.custom(label.key, value),
    })
}

/// The same labels, where they stand in a request.
pub fn web() -> Web {
    let mut request = http::Request::get("http://bench/orders/17?page=2&region=east&size=50");
    for (name, value) in
        [("host", "bench"), ("user-agent", "curl/8.5.0"), ("accept", "*/*"), ("accept-encoding", "gzip")]
    {
        request = request.header(name, value);
    }
    for (label, value) in CALL.into_iter().filter(|(label, _)| label.kind == source_match::Type::Header) {
        request = request.header(label.key, value);
    }
    Web { parts: request.body(()).expect("a request").into_parts().0, channel: "app" }
}

impl Labels for Web {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        match kind {
            LabelKind::Custom => (key == "channel").then_some(Cow::Borrowed(self.channel)),
            _ => self.parts.get(kind, key),
        }
    }
}

/// The answer of the control plane with these rules.
pub fn routing(rules: &[Rule]) -> Bytes {
    let rules = rules.iter().zip(0..).map(|(rule, priority)| {
        let config = v1::RuleRoutingConfig { rules: vec![message(rule)], ..v1::RuleRoutingConfig::default() };
        let mut rule = envelope(format!("rule-{priority}"), v1::RoutingPolicy::RulePolicy, priority);
        let any = rule.routing_config.get_or_insert_default();
        any.type_url = "type.googleapis.com/v1.RuleRoutingConfig".into();
        any.value = config.encode_to_vec();
        rule
    });
    let routing = v1::Routing {
        namespace: Some("default".into()),
        service: Some("bench".into()),
        revision: Some("1".into()),
        rules: rules.collect(),
        ..v1::Routing::default()
    };
    answer(DiscoverResponseType::Routing, |answer| answer.routing = Some(routing))
}

/// The answer of the control plane that calls go to instances in the zone that they come from, or that they need not.
pub fn nearby(enable: bool) -> Bytes {
    let config = v1::NearbyRoutingConfig {
        namespace: "default".into(),
        service: "bench".into(),
        match_level: LocationLevel::Zone.into(),
        max_match_level: LocationLevel::All.into(),
        strict_nearby: false,
    };
    let mut rule = envelope("nearby".into(), v1::RoutingPolicy::NearbyPolicy, 0);
    let any = rule.routing_config.get_or_insert_default();
    any.type_url = "type.googleapis.com/v1.NearbyRoutingConfig".into();
    any.value = config.encode_to_vec();
    rule.enable = enable;
    answer(DiscoverResponseType::NearbyRouteRule, |answer| answer.nearby_route_rules = vec![rule])
}

fn answer(kind: DiscoverResponseType, fill: impl FnOnce(&mut v1::DiscoverResponse)) -> Bytes {
    let service = v1::Service {
        namespace: Some(data::key().namespace().to_owned()),
        name: Some(data::key().service().to_owned()),
        revision: Some("1".into()),
        ..v1::Service::default()
    };
    let mut answer = v1::DiscoverResponse {
        code: Some(DONE),
        r#type: kind.into(),
        service: Some(service),
        ..v1::DiscoverResponse::default()
    };
    fill(&mut answer);
    answer.encode_to_vec().into()
}

fn envelope(id: String, policy: v1::RoutingPolicy, priority: u32) -> v1::RouteRule {
    v1::RouteRule {
        name: id.clone(),
        id,
        namespace: "default".into(),
        enable: true,
        routing_policy: policy.into(),
        revision: "1".into(),
        priority,
        ..v1::RouteRule::default()
    }
}

fn message(rule: &Rule) -> v1::SubRuleRouting {
    let arguments = rule.conditions.iter().map(|condition| v1::SourceMatch {
        r#type: condition.label.kind.into(),
        key: condition.label.key.into(),
        value: Some(text(condition.matcher, &condition.value)),
    });
    let source = v1::SourceService { service: "*".into(), namespace: "*".into(), arguments: arguments.collect() };
    let destinations = rule.destinations.iter().map(|destination| v1::DestinationGroup {
        service: "bench".into(),
        namespace: "default".into(),
        labels: destination
            .labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), text(Matcher::Exact, value)))
            .collect(),
        weight: destination.weight,
        name: destination.labels.map(|(_, value)| value).join("-"),
        ..v1::DestinationGroup::default()
    });
    v1::SubRuleRouting { name: String::new(), sources: vec![source], destinations: destinations.collect() }
}

fn text(matcher: Matcher, value: &str) -> v1::MatchString {
    let kind = match matcher {
        Matcher::Exact => MatchStringType::Exact,
        Matcher::In => MatchStringType::In,
        Matcher::Regex => MatchStringType::Regex,
    };
    v1::MatchString { r#type: kind.into(), value: Some(value.to_owned()), value_type: 0 }
}
