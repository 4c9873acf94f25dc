//! Routing rules, as a control plane delivers them.
//!
//! Problem: the console writes rules of sub-rules, and clients of public servers get something else: two lists of routes,
//! those of the service as the callee (inbound) and as the caller (outbound). Which rules count for a service, what becomes
//! of wildcards and in which order routes come differs between the main branch and the releases before it. Choice: the
//! conversion of both, without anything around it. Invariant: what comes out is what a server of the release answers
//! with, its oddities included; only that 1.14, which has no sub-rules yet, is taught them.

use std::collections::{BTreeMap, BTreeSet};

use prost::{DecodeError, Message};

use super::behaviour::{Release, RoutingForm};
use super::sha1;
use crate::model::key::ServiceKey;
use crate::pb::v1;

/// Any service, or any namespace.
const ANY: &str = "*";
/// Under which keys the main branch says which rule a route is from.
const ID: &str = "__routing_v2_id__";
const PRIORITY: &str = "__routing_v2_priority__";

/// A routing rule as the store keeps it.
#[derive(Debug, Clone)]
pub(super) enum RoutingRule {
    /// As the console writes it.
    Console(Box<ConsoleRule>),
    /// The routes of one service, as they are delivered: what stores from before 1.12 hold.
    Old(Box<v1::Routing>),
}

#[derive(Debug, Clone)]
pub(super) struct ConsoleRule {
    message: v1::RouteRule,
    sub_rules: Vec<v1::SubRuleRouting>,
    /// Counts rules in the order of their creation.
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Inbound,
    Outbound,
}

/// How a rule comes to count for a service; the closer, the earlier its routes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Exact,
    /// In the old form, which knows no other than its own service.
    Old,
    Namespace,
    Everything,
}

/// The routes of one rule, and what they are ordered by.
struct Listed<'a> {
    class: Class,
    priority: Option<u32>,
    number: u64,
    id: &'a str,
    revision: &'a str,
    routes: Vec<v1::Route>,
}

/// A namespace and a service, as a rule writes them.
type Named<'a> = (&'a str, &'a str);

/// What a server of `release` tells about routing to who asks for `key`, the service behind an alias.
pub(super) fn deliver(rules: &[&RoutingRule], key: &ServiceKey, release: Release, form: RoutingForm) -> v1::Routing {
    let side = |side| listed(rules, key, release, side);
    let (inbound, outbound) = (side(Side::Inbound), side(Side::Outbound));
    let native: Vec<_> = rules.iter().filter_map(|rule| rule.native(key)).filter(|_| form.is_native()).collect();
    let revisions: BTreeSet<_> = (inbound.iter().chain(&outbound).map(|listed| listed.revision))
        .chain(native.iter().map(|rule| rule.revision.as_str()))
        .collect();
    let revision = sha1::hex(revisions);
    let routes = |listed: Vec<Listed<'_>>| {
        let shown = listed.into_iter().filter(|_| form.is_converted());
        shown.flat_map(|listed| listed.routes).collect()
    };
    v1::Routing {
        service: Some(key.service().to_owned()),
        namespace: Some(key.namespace().to_owned()),
        inbounds: routes(inbound),
        outbounds: routes(outbound),
        rules: native.into_iter().cloned().collect(),
        revision: Some(revision),
        ..Default::default()
    }
}

/// The rules that count for `key` on one side, in the order of their routes.
fn listed<'a>(rules: &[&'a RoutingRule], key: &ServiceKey, release: Release, side: Side) -> Vec<Listed<'a>> {
    let mut listed: Vec<_> = rules.iter().filter_map(|rule| rule.listed(key, release, side)).collect();
    listed.sort_by_key(|rule| (rule.class, rule.priority, rule.number, rule.id));
    if release == Release::Main && side == Side::Inbound {
        // Main sorts once more, by the priority that stands in inbound routes only.
        listed.sort_by_key(|rule| rule.priority);
    }
    listed
}

// === impl RoutingRule ===

impl RoutingRule {
    /// The rule as the store keeps it: sub-rules take over what stands above them.
    pub(super) fn console(mut message: v1::RouteRule, number: u64) -> Result<Self, DecodeError> {
        let mut sub_rules = Vec::new();
        if let Some(any) = &mut message.routing_config {
            let mut config = v1::RuleRoutingConfig::decode(any.value.as_slice())?;
            if config.rules.is_empty() {
                let (sources, destinations) = (config.sources.clone(), config.destinations.clone());
                config.rules.push(v1::SubRuleRouting { name: String::new(), sources, destinations });
            } else {
                let (sources, destinations) =
                    (std::mem::take(&mut config.sources), std::mem::take(&mut config.destinations));
                for sub_rule in &mut config.rules {
                    inherit(&mut sub_rule.sources, &sources);
                    inherit(&mut sub_rule.destinations, &destinations);
                }
            }
            any.value = config.encode_to_vec();
            sub_rules = config.rules;
        }
        Ok(Self::Console(Box::new(ConsoleRule { message, sub_rules, number })))
    }

    /// The rule as the message that the store holds.
    pub(super) fn encoded(&self) -> Vec<u8> {
        match self {
            Self::Console(rule) => rule.message.encode_to_vec(),
            Self::Old(routes) => routes.encode_to_vec(),
        }
    }

    fn listed(&self, key: &ServiceKey, release: Release, side: Side) -> Option<Listed<'_>> {
        match self {
            Self::Console(rule) if rule.message.enable => {
                let class = rule.class(key, release, side)?;
                Some(Listed {
                    class,
                    priority: Some(rule.message.priority),
                    number: if release == Release::Main { 0 } else { rule.number },
                    id: &rule.message.id,
                    revision: &rule.message.revision,
                    routes: rule.routes(key, release, side),
                })
            }
            Self::Old(old) if named(old) == (key.namespace(), key.service()) => {
                let routes = if side == Side::Inbound { &old.inbounds } else { &old.outbounds };
                let revision = old.revision.as_deref().unwrap_or_default();
                Some(Listed { class: Class::Old, priority: None, number: 0, id: "", revision, routes: routes.clone() })
            }
            _ => None,
        }
    }

    /// The rule itself, if it is in force and names the service anywhere.
    fn native(&self, key: &ServiceKey) -> Option<&v1::RouteRule> {
        match self {
            Self::Console(rule) if rule.message.enable => rule.closest(key).map(|_| &rule.message),
            _ => None,
        }
    }
}

fn inherit<T: Clone>(own: &mut Vec<T>, above: &[T]) {
    if own.is_empty() {
        own.extend_from_slice(above);
    }
}

fn named(old: &v1::Routing) -> Named<'_> {
    (old.namespace.as_deref().unwrap_or_default(), old.service.as_deref().unwrap_or_default())
}

// === impl ConsoleRule ===

impl ConsoleRule {
    /// Whether the rule counts for a service on this side, and how it names it.
    fn class(&self, key: &ServiceKey, release: Release, side: Side) -> Option<Class> {
        if release == Release::Main {
            // Main knows one caller and one callee of a whole rule, and forgets rules for everything.
            class(self.party(side)?, key).filter(|class| *class != Class::Everything)
        } else {
            self.closest(key)
        }
    }

    /// How the rule names the service, on whatever side, where it is closest.
    fn closest(&self, key: &ServiceKey) -> Option<Class> {
        let sources = self.sub_rules.iter().flat_map(|sub_rule| &sub_rule.sources).map(caller);
        let destinations = self.sub_rules.iter().flat_map(|sub_rule| &sub_rule.destinations).map(callee);
        sources.chain(destinations).filter_map(|named| class(named, key)).min()
    }

    /// Whom main takes for the callee, or the caller, of all sub-rules: the first of the last that names one.
    fn party(&self, side: Side) -> Option<Named<'_>> {
        self.sub_rules.iter().rev().find_map(|sub_rule| match side {
            Side::Inbound => sub_rule.destinations.first().map(callee),
            Side::Outbound => sub_rule.sources.first().map(caller),
        })
    }

    /// One route for each sub-rule.
    fn routes(&self, key: &ServiceKey, release: Release, side: Side) -> Vec<v1::Route> {
        let main = release == Release::Main;
        let asked = (key.namespace(), key.service());
        let own = if main { self.party(side).unwrap_or(asked) } else { asked };
        let counts = |named: Named<'_>| main || class(named, key).is_some();
        let mut routes = Vec::new();
        let mut found = main;
        for sub_rule in &self.sub_rules {
            let (sources, destinations) = (sub_rule.sources.iter(), sub_rule.destinations.iter());
            let group = |group, named| destination(group, named, &self.message.name, &sub_rule.name);
            let (sources, destinations): (Vec<_>, Vec<_>) = match side {
                Side::Inbound => (
                    sources.map(|of| source(of, caller(of))).collect(),
                    destinations.filter(|of| counts(callee(of))).map(|of| group(of, own)).collect(),
                ),
                Side::Outbound => (
                    sources.filter(|of| counts(caller(of))).map(|of| source(of, own)).collect(),
                    destinations.map(|of| group(of, callee(of))).collect(),
                ),
            };
            // Older releases stop where the first sub-rules are not about the service, and once they found it go on even
            // with sub-rules that are not.
            found |= if side == Side::Inbound { !destinations.is_empty() } else { !sources.is_empty() };
            if !found {
                break;
            }
            let extend_info = if main { self.origin(side) } else { BTreeMap::new() };
            routes.push(v1::Route { sources, destinations, extend_info, ..Default::default() });
        }
        routes
    }

    /// What main says of where a route is from.
    fn origin(&self, side: Side) -> BTreeMap<String, String> {
        let mut origin = BTreeMap::from([(ID.to_owned(), self.message.id.clone())]);
        if side == Side::Inbound {
            origin.insert(PRIORITY.to_owned(), format!("{:04}", self.message.priority));
        }
        origin
    }
}

fn class((namespace, service): Named<'_>, key: &ServiceKey) -> Option<Class> {
    match (namespace == key.namespace(), service == key.service()) {
        (true, true) => Some(Class::Exact),
        (true, false) if service == ANY => Some(Class::Namespace),
        _ if namespace == ANY && service == ANY => Some(Class::Everything),
        _ => None,
    }
}

fn caller(source: &v1::SourceService) -> Named<'_> {
    (&source.namespace, &source.service)
}

fn callee(group: &v1::DestinationGroup) -> Named<'_> {
    (&group.namespace, &group.service)
}

/// A source under this name, its arguments as labels.
fn source(source: &v1::SourceService, (namespace, service): Named<'_>) -> v1::Source {
    let labels = source.arguments.iter().filter_map(|argument| {
        // What has no label is dropped: the route then matches more than the rule says.
        Some((label(argument)?, argument.value.clone().unwrap_or_default()))
    });
    v1::Source { service: Some(service.to_owned()), namespace: Some(namespace.to_owned()), metadata: labels.collect() }
}

/// Under which label an argument is found in a route.
fn label(argument: &v1::SourceMatch) -> Option<String> {
    use v1::source_match::Type;
    let key = &argument.key;
    Some(match Type::try_from(argument.r#type).ok()? {
        Type::Custom => key.clone(),
        Type::Method => "$method".to_owned(),
        Type::Header => format!("$header.{key}"),
        Type::Query => format!("$query.{key}"),
        Type::CallerIp => "$caller_ip".to_owned(),
        Type::Path => "$path".to_owned(),
        Type::Cookie => format!("$cookie.{key}"),
        Type::CallerMetadata => return None,
    })
}

/// A group under this name, called after its rule and sub-rule.
fn destination(
    group: &v1::DestinationGroup,
    (namespace, service): Named<'_>,
    rule: &str,
    sub_rule: &str,
) -> v1::Destination {
    v1::Destination {
        service: Some(service.to_owned()),
        namespace: Some(namespace.to_owned()),
        metadata: group.labels.clone(),
        priority: Some(group.priority),
        weight: Some(group.weight),
        transfer: Some(group.transfer.clone()),
        isolate: Some(group.isolate),
        name: Some(format!("{rule}.{sub_rule}.{}", group.name)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::key::ResourceKind;
    use crate::testing::rules::{Created, Dialect, Rule, Stamp};

    const OLDER: [Release; 4] = [Release::V1_14, Release::V1_16, Release::V1_17, Release::V1_18];

    /// Rules as a store takes them one after another, `id` as their id where they have none.
    fn stored(rules: &[Value]) -> Vec<RoutingRule> {
        let read = |(number, rule): (usize, &Value)| {
            let id = rule.get("id").and_then(Value::as_str).unwrap_or("id").to_owned();
            let created = Created { time: String::new(), number: number as u64 };
            let dialect = Dialect { release: Release::Main, whole: false };
            let stamp = Stamp { id, revision: format!("r{number}"), created, ..Stamp::trial(dialect) };
            Rule::read(ResourceKind::Routing, rule, stamp).unwrap().routing.unwrap()
        };
        rules.iter().enumerate().map(read).collect()
    }

    fn delivered(rules: &[Value], key: (&str, &str), release: Release) -> v1::Routing {
        let rules = stored(rules);
        deliver(&rules.iter().collect::<Vec<_>>(), &key.into(), release, RoutingForm::Converted)
    }

    /// A rule of one sub-rule `s` with one group `g`, from `namespace/service` to `namespace/service`.
    fn rule(name: &str, priority: u32, from: &str, to: &str) -> Value {
        json!({"name": name, "enable": true, "priority": priority, "routing_config": {"rules": [sub_rule("s", from, to)]}})
    }

    fn sub_rule(name: &str, from: &str, to: &str) -> Value {
        let side = |text: &str| {
            let (namespace, service) = text.split_once('/').unwrap();
            json!({"namespace": namespace, "service": service, "name": "g"})
        };
        let mut source = side(from);
        source.as_object_mut().unwrap().remove("name");
        json!({"name": name, "sources": [source], "destinations": [side(to)]})
    }

    /// `source > destination name` of each route.
    fn shown(routes: &[v1::Route]) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap();
        let show = |route: &v1::Route| {
            let sources = route.sources.iter().map(|of| format!("{}/{}", text(&of.namespace), text(&of.service)));
            let groups = route
                .destinations
                .iter()
                .map(|of| format!("{}/{} {}", text(&of.namespace), text(&of.service), text(&of.name)));
            format!("{} > {}", sources.collect::<Vec<_>>().join(" "), groups.collect::<Vec<_>>().join(" "))
        };
        routes.iter().map(show).collect()
    }

    /// The rule that each route is from, or the whole name of its group.
    fn names(routes: &[v1::Route]) -> Vec<&str> {
        let names = routes.iter().filter_map(|route| route.destinations[0].name.as_deref());
        names.filter_map(|name| name.split('.').next()).collect()
    }

    #[test]
    fn the_callee_gets_inbounds_and_the_caller_outbounds_one_route_a_sub_rule() {
        let two = json!({"name": "r", "enable": true, "routing_config": {"rules": [
            sub_rule("one", "edge/web", "shop/orders"), sub_rule("two", "edge/web", "shop/orders")]}});
        for release in OLDER.into_iter().chain([Release::Main]) {
            let of = |key| delivered(std::slice::from_ref(&two), key, release);
            let orders = of(("shop", "orders"));
            let expected = ["edge/web > shop/orders r.one.g", "edge/web > shop/orders r.two.g"];
            assert_eq!((shown(&orders.inbounds), orders.outbounds.len()), (expected.map(String::from).to_vec(), 0));
            let web = of(("edge", "web"));
            assert_eq!((web.inbounds.len(), shown(&web.outbounds)), (0, expected.map(String::from).to_vec()));
            let other = of(("shop", "web"));
            assert_eq!((other.inbounds.len(), other.outbounds.len(), other.rules.len()), (0, 0, 0));
            assert_eq!(other.revision, Some(sha1::hex::<&str>([])), "nothing counts for it: {release:?}");
            assert_ne!(orders.revision, other.revision);
        }
    }

    #[test]
    fn everything_of_a_rule_arrives_and_arguments_become_labels() {
        let value = json!({"type": "NOT_IN", "value": "a,b", "value_type": "VARIABLE"});
        let argument = |kind: &str| json!({"type": kind, "key": "k", "value": value});
        let kinds = ["CUSTOM", "METHOD", "HEADER", "QUERY", "CALLER_IP", "PATH", "COOKIE", "CALLER_METADATA"];
        let mut rule = rule("r", 3, "shop/web", "shop/orders");
        rule["id"] = json!("i");
        let sub_rule = &mut rule["routing_config"]["rules"][0];
        sub_rule["sources"][0]["arguments"] = kinds.map(argument).to_vec().into();
        sub_rule["destinations"][0] = json!({"namespace": "shop", "service": "orders", "name": "g", "priority": 2,
            "weight": 7, "transfer": "stock", "isolate": true, "labels": {"ver": value, "env": {}}});
        let routing = delivered(&[rule], ("shop", "orders"), Release::Main);
        let route = &routing.inbounds[0];
        let wanted = v1::MatchString {
            r#type: v1::match_string::MatchStringType::NotIn.into(),
            value: Some("a,b".to_owned()),
            value_type: v1::match_string::ValueType::Variable.into(),
        };
        let labels: Vec<_> = route.sources[0].metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let keys = ["$caller_ip", "$cookie.k", "$header.k", "$method", "$path", "$query.k", "k"];
        assert_eq!(labels, keys.map(|key| (key, &wanted)));
        let group = v1::Destination {
            service: Some("orders".to_owned()),
            namespace: Some("shop".to_owned()),
            metadata: BTreeMap::from([("ver".to_owned(), wanted), ("env".to_owned(), v1::MatchString::default())]),
            priority: Some(2),
            weight: Some(7),
            transfer: Some("stock".to_owned()),
            isolate: Some(true),
            name: Some("r.s.g".to_owned()),
        };
        assert_eq!(route.destinations, [group]);
        let origin = BTreeMap::from([(ID.to_owned(), "i".to_owned()), (PRIORITY.to_owned(), "0003".to_owned())]);
        assert_eq!(route.extend_info, origin);
    }

    #[test]
    fn where_a_route_is_from_is_told_by_main_alone_and_the_priority_to_the_callee_alone() {
        let rules = [rule("r", 1, "shop/web", "shop/orders")];
        let keys = |route: &v1::Route| route.extend_info.keys().cloned().collect::<Vec<_>>();
        let routing = delivered(&rules, ("shop", "web"), Release::Main);
        assert_eq!(keys(&routing.outbounds[0]), [ID]);
        assert_eq!(keys(&delivered(&rules, ("shop", "orders"), Release::Main).inbounds[0]), [ID, PRIORITY]);
        for release in OLDER {
            assert!(keys(&delivered(&rules, ("shop", "orders"), release).inbounds[0]).is_empty());
        }
    }

    #[test]
    fn wildcards_stay_on_main_and_become_the_asked_service_before() {
        let rules = [
            rule("all-callers", 0, "*/*", "shop/orders"),
            rule("all-callees", 0, "shop/web", "*/*"),
            rule("callers", 1, "shop/*", "shop/orders"),
            rule("callees", 1, "shop/web", "shop/*"),
            rule("elsewhere", 2, "edge/*", "edge/*"),
        ];
        let orders = delivered(&rules, ("shop", "orders"), Release::Main);
        assert_eq!(
            shown(&orders.inbounds),
            ["*/* > shop/orders all-callers.s.g", "shop/* > shop/orders callers.s.g", "shop/web > shop/* callees.s.g",]
        );
        assert_eq!(shown(&orders.outbounds), ["shop/* > shop/orders callers.s.g"]);
        for release in OLDER {
            let orders = delivered(&rules, ("shop", "orders"), release);
            assert_eq!(
                shown(&orders.inbounds),
                [
                    "*/* > shop/orders all-callers.s.g",
                    "shop/* > shop/orders callers.s.g",
                    "shop/web > shop/orders callees.s.g",
                    "shop/web > shop/orders all-callees.s.g",
                ]
            );
            assert_eq!(
                shown(&orders.outbounds),
                ["shop/orders > shop/orders all-callers.s.g", "shop/orders > shop/orders callers.s.g",]
            );
            let web = delivered(&rules, ("shop", "web"), release);
            assert_eq!(
                shown(&web.outbounds)[..2],
                ["shop/web > */* all-callees.s.g", "shop/web > shop/* callees.s.g",]
            );
        }
    }

    #[test]
    fn closer_rules_come_first_then_smaller_priorities_then_ids_or_age() {
        let with_id = |mut rule: Value, id: &str| {
            rule["id"] = json!(id);
            rule
        };
        let rules = [
            rule("wide", 0, "shop/*", "shop/*"),
            rule("late", 9, "shop/web", "shop/web"),
            with_id(rule("b", 4, "shop/web", "shop/web"), "2"),
            with_id(rule("a", 4, "shop/web", "shop/web"), "1"),
            rule("wider", 0, "*/*", "*/*"),
        ];
        let routing = delivered(&rules, ("shop", "web"), Release::Main);
        assert_eq!(names(&routing.inbounds), ["wide", "a", "b", "late"], "inbounds of main know no blocks");
        assert_eq!(names(&routing.outbounds), ["a", "b", "late", "wide"]);
        for release in OLDER {
            let routing = delivered(&rules, ("shop", "web"), release);
            let expected = ["b", "a", "late", "wide", "wider"];
            assert_eq!((names(&routing.inbounds), names(&routing.outbounds)), (expected.to_vec(), expected.to_vec()));
        }
    }

    #[test]
    fn main_takes_the_last_sub_rule_for_the_whole_and_older_releases_each_for_itself() {
        let mixed = |order: [&str; 3]| {
            let sub_rules = order.map(|callee| sub_rule(callee, "shop/web", &format!("shop/{callee}")));
            json!({"name": "r", "enable": true, "routing_config": {"rules": sub_rules}})
        };
        let stock_last = [mixed(["orders", "pay", "stock"])];
        let of = |key: &str, release| shown(&delivered(&stock_last, ("shop", key), release).inbounds);
        assert_eq!(of("orders", Release::Main), [""; 0]);
        assert_eq!(
            of("stock", Release::Main),
            ["shop/web > shop/stock r.orders.g", "shop/web > shop/stock r.pay.g", "shop/web > shop/stock r.stock.g",]
        );
        for release in OLDER {
            // What is found stays found: the sub-rules behind it come without a destination.
            assert_eq!(of("orders", release), ["shop/web > shop/orders r.orders.g", "shop/web > ", "shop/web > "]);
            // And one that is not found at first is not found at all.
            assert_eq!(of("stock", release), [""; 0]);
        }
    }

    #[test]
    fn what_stands_above_the_sub_rules_is_theirs() {
        let above = json!({"name": "r", "enable": true, "routing_config": {
            "sources": [{"namespace": "shop", "service": "web"}],
            "destinations": [{"namespace": "shop", "service": "orders", "name": "g"}]}});
        let mut both = above.clone();
        both["routing_config"]["rules"] = json!([{"name": "s", "destinations": [
            {"namespace": "shop", "service": "orders", "name": "own"}]}]);
        for release in OLDER.into_iter().chain([Release::Main]) {
            let of = |rule: &Value| shown(&delivered(std::slice::from_ref(rule), ("shop", "orders"), release).inbounds);
            assert_eq!(of(&above), ["shop/web > shop/orders r..g"]);
            assert_eq!(of(&both), ["shop/web > shop/orders r.s.own"]);
        }
    }

    #[test]
    fn a_disabled_rule_is_not_there_at_all() {
        let mut off = rule("r", 0, "shop/web", "shop/orders");
        off["enable"] = json!(false);
        for release in OLDER.into_iter().chain([Release::Main]) {
            let rules = stored(std::slice::from_ref(&off));
            let rules: Vec<_> = rules.iter().collect();
            let routing = deliver(&rules, &("shop", "orders").into(), release, RoutingForm::Both);
            assert_eq!((routing.inbounds.len(), routing.rules.len()), (0, 0));
            assert_eq!(routing.revision, Some(sha1::hex::<&str>([])));
        }
    }

    #[test]
    fn routes_in_the_old_form_come_as_they_are_after_the_rules_that_name_the_service() {
        let route = |name: &str| {
            json!({"sources": [{"namespace": "*", "service": "*"}], "destinations": [
            {"namespace": "shop", "service": "orders", "name": name, "weight": 3}]})
        };
        let old = json!({"namespace": "shop", "service": "orders",
            "inbounds": [route("in1"), route("in2")], "outbounds": [route("out")]});
        let rules = [rule("wide", 0, "shop/*", "shop/*"), rule("own", 9, "shop/orders", "shop/orders"), old];
        for release in OLDER {
            let routing = delivered(&rules, ("shop", "orders"), release);
            assert_eq!(names(&routing.inbounds), ["own", "in1", "in2", "wide"]);
            assert_eq!(names(&routing.outbounds), ["own", "out", "wide"]);
            assert!(routing.inbounds[1].destinations[0].isolate.is_none(), "nothing is filled in");
        }
        let routing = delivered(&rules, ("shop", "orders"), Release::Main);
        assert_eq!(names(&routing.inbounds), ["in1", "in2", "wide", "own"], "main sorts what has no priority first");
        assert_eq!(names(&routing.outbounds), ["own", "out", "wide"]);
        let other = delivered(&rules, ("shop", "web"), Release::V1_14);
        assert_eq!(names(&other.inbounds), ["wide"]);
    }

    #[test]
    fn rules_come_as_they_are_where_that_is_asked_for() {
        let rules = [rule("own", 1, "shop/web", "shop/orders"), rule("wider", 0, "*/*", "*/*")];
        let stored = stored(&rules);
        let rules: Vec<_> = stored.iter().collect();
        let counts = |form, key: (&str, &str)| {
            let routing = deliver(&rules, &key.into(), Release::Main, form);
            (routing.inbounds.len(), routing.outbounds.len(), routing.rules.len())
        };
        let orders = ("shop", "orders");
        assert_eq!(counts(RoutingForm::Converted, orders), (1, 0, 0));
        assert_eq!(counts(RoutingForm::Both, orders), (1, 0, 2));
        assert_eq!(counts(RoutingForm::Native, orders), (0, 0, 2));
        assert_eq!(counts(RoutingForm::Native, ("edge", "any")), (0, 0, 1));
        let native = deliver(&rules, &orders.into(), Release::Main, RoutingForm::Native).rules;
        let (url, name) = (native[0].routing_config.as_ref().unwrap().type_url.as_str(), native[0].name.as_str());
        assert_eq!((url, name, native[0].revision.as_str()), ("type.googleapis.com/v1.RuleRoutingConfig", "own", "r0"));
    }

    /// Rules, and what a real server of the main branch delivered for them: made with polaris-java's tests of its router.
    #[test]
    fn real_rules_become_what_a_real_server_delivered() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/polaris-java/rules_v2.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        let table = crate::pb::schema::find("v1.Routing").unwrap();
        for case in cases {
            let mut rules = case["rules"].as_array().unwrap().clone();
            for (index, rule) in rules.iter_mut().enumerate() {
                // They were renamed so that each was there once.
                rule["name"] = json!(format!("{}-{index}", rule["name"].as_str().unwrap()));
            }
            for side in ["callee", "caller"] {
                let text = |name: &str| case[side][name].as_str().unwrap();
                let mut found = delivered(&rules, (text("namespace"), text("service")), Release::Main);
                let bytes = crate::wire::json::to_bytes(table, &case["v1"][side]).unwrap();
                let expected = v1::Routing::decode(bytes.as_slice()).unwrap();
                for route in found.inbounds.iter_mut().chain(&mut found.outbounds) {
                    // These are not in the file.
                    assert_ne!(std::mem::take(&mut route.extend_info), BTreeMap::new());
                    route
                        .destinations
                        .iter_mut()
                        .for_each(|group| assert_eq!(group.transfer.take(), Some(String::new())));
                }
                assert_eq!(found.inbounds, expected.inbounds, "{} of {}", side, case["name"]);
                assert_eq!(found.outbounds, expected.outbounds, "{} of {}", side, case["name"]);
            }
        }
        assert_eq!(cases.len(), 93);
    }
}
