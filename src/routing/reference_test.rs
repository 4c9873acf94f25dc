//! Routing by the book: who gets which share of the calls, by filtering lists for every call, one instance and one
//! condition at a time.
//!
//! It is written from the decisions of this project and shares nothing with the routers but plain data: rules are read as
//! they are written, and texts are compared where a call meets them. It is slow, and meant to be read beside the rules.

#![allow(clippy::cast_precision_loss, reason = "counts and weights are far below 2^52")]
#![allow(clippy::unnecessary_wraps, reason = "routers answer alike")]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::error::ErrorKind;
use crate::model::health::Breaker;
use crate::model::label::LabelKind;
use crate::model::request::asks::{MetadataFailover, RuleFailover};

/// Texts come from small alphabets.
pub(super) type Text = &'static str;
pub(super) type Pairs = Vec<(Text, Text)>;
/// Namespace and service.
pub(super) type Name = (Text, Text);
/// Which share of the calls ends where: at an instance, by its id, or at a refusal, by its kind.
pub(super) type Shares = BTreeMap<String, f64>;

/// All that routing may depend on, but for the call.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) instances: Vec<Backend>,
    pub(super) service_metadata: Pairs,
    /// The name that is asked for; and, if that is an alias, the one behind it.
    pub(super) callee: Vec<Name>,
    pub(super) caller: Option<Name>,
    pub(super) of_callee: Book,
    pub(super) of_caller: Book,
    pub(super) nearby_rules: Vec<NearRule>,
    /// Where the client is: campus, zone, region.
    pub(super) place: [Text; 3],
    pub(super) variables: Pairs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Router {
    Isolated,
    Metadata,
    Rules,
    Nearby,
    Recover,
}

/// What the configuration says; `None` leaves it at the default.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) chain: Vec<Router>,
    pub(super) metadata_failover: Option<Text>,
    pub(super) rule_failover: Option<Text>,
    /// 0 to 3: campus, zone, region, all.
    pub(super) first: Option<usize>,
    pub(super) widest: Option<usize>,
    pub(super) strict: bool,
    /// From how many percent of unhealthy instances on a level is left; 0 is never.
    pub(super) degrade: usize,
    pub(super) recover_all: bool,
    /// In twentieths of the list.
    pub(super) panic: usize,
}

/// An instance; its id is `i` and its place in the list, two digits at least.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) metadata: Pairs,
    /// Campus, zone, region.
    pub(super) place: [Text; 3],
    pub(super) weight: u32,
    pub(super) isolated: bool,
    pub(super) healthy: bool,
    pub(super) breaker: Breaker,
}

/// What the control plane delivers of rules for one service: routes by direction, or whole rules, which win.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    pub(super) inbounds: Vec<Rule>,
    pub(super) outbounds: Vec<Rule>,
    pub(super) whole: Vec<Whole>,
}

#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) id: Text,
    pub(super) priority: u32,
    pub(super) enabled: bool,
    /// Of one sub-rule that has no list around it.
    pub(super) plain: bool,
    pub(super) subs: Vec<Rule>,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) sources: Vec<Source>,
    pub(super) destinations: Vec<Destination>,
}

#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) caller: Name,
    pub(super) labels: Vec<(Label, Condition)>,
}

#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub(super) callee: Name,
    pub(super) labels: Vec<(Text, Condition)>,
    pub(super) priority: u32,
    pub(super) weight: u32,
    pub(super) isolate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) kind: LabelKind,
    pub(super) key: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Exact,
    Regex,
    NotEquals,
    In,
    NotIn,
    Range,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum From {
    Text,
    Parameter,
    Variable,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    pub(super) kind: Kind,
    pub(super) from: From,
    pub(super) value: Text,
}

#[derive(Debug, Clone)]
pub(super) struct NearRule {
    pub(super) id: Text,
    pub(super) priority: u32,
    pub(super) enabled: bool,
    pub(super) first: Option<usize>,
    pub(super) widest: Option<usize>,
    pub(super) strict: bool,
}

/// What a call says and asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) labels: Vec<(LabelKind, Text, Text)>,
    pub(super) metadata: Pairs,
    pub(super) metadata_failover: Option<MetadataFailover>,
    pub(super) rule_failover: Option<RuleFailover>,
    pub(super) nearby: bool,
    pub(super) broken: bool,
}

/// Instances that are still there, by their places in the list.
type List = Vec<usize>;
/// What a router makes of a list: lists with weights, or a refusal.
type Parts = Result<Vec<(u64, List)>, ErrorKind>;

const ZONE: usize = 1;
const ALL: usize = 3;
pub(super) const LEVELS: [&str; 4] = ["campus", "zone", "region", "all"];

/// What the environment of the process says.
pub(super) fn environment(name: &str) -> Option<String> {
    match name {
        "env" => Some("1".to_owned()),
        "both" => Some("2".to_owned()),
        "star" => Some("*".to_owned()),
        _ => None,
    }
}

pub(super) fn id(at: usize) -> String {
    format!("i{at:02}")
}

/// Who gets how much of such calls.
pub(super) fn shares(world: &World, ask: &Ask) -> Shares {
    let mut shares = Shares::new();
    if world.instances.is_empty() {
        add(&mut shares, refusal(ErrorKind::NoInstances), 1.0);
    } else {
        let everybody: List = (0..world.instances.len()).collect();
        walk(world, ask, &world.config.chain, &everybody, 1.0, &mut shares);
    }
    shares
}

pub(super) fn refusal(kind: ErrorKind) -> String {
    format!("{kind:?}")
}

pub(super) fn add(shares: &mut Shares, to: String, share: f64) {
    *shares.entry(to).or_default() += share;
}

fn walk(world: &World, ask: &Ask, chain: &[Router], list: &[usize], share: f64, shares: &mut Shares) {
    let Some((router, rest)) = chain.split_first() else { return balance(world, list, share, shares) };
    let parts = match router {
        Router::Isolated => isolated(world, list),
        Router::Metadata => metadata(world, ask, list),
        Router::Rules => rules(world, ask, list),
        Router::Nearby => nearby(world, ask, list),
        Router::Recover => recover(world, ask, list),
    };
    match parts {
        Err(kind) => add(shares, refusal(kind), share),
        Ok(parts) => {
            let total: u64 = parts.iter().map(|(weight, _)| weight).sum();
            for (weight, list) in parts {
                walk(world, ask, rest, &list, share * weight as f64 / total as f64, shares);
            }
        }
    }
}

/// By weight; alike if nobody has one.
fn balance(world: &World, list: &[usize], share: f64, shares: &mut Shares) {
    let weight = |at: &usize| f64::from(world.instances[*at].weight);
    let total: f64 = list.iter().map(weight).sum();
    for at in list {
        let part = if total > 0.0 { weight(at) / total } else { 1.0 / list.len() as f64 };
        if part > 0.0 {
            add(shares, id(*at), share * part);
        }
    }
}

fn only(list: List) -> Parts {
    Ok(vec![(1, list)])
}

fn those(world: &World, list: &[usize], keep: impl Fn(&Backend) -> bool) -> List {
    list.iter().copied().filter(|at| keep(&world.instances[*at])).collect()
}

/// The last of equal keys.
fn get<'p>(pairs: &'p [(Text, Text)], key: &str) -> Option<&'p str> {
    pairs.iter().rev().find(|(known, _)| *known == key).map(|(_, value)| *value)
}

// === isolated, recover ===

fn isolated(world: &World, list: &[usize]) -> Parts {
    let left = those(world, list, |instance| !instance.isolated && instance.weight != 0);
    if left.is_empty() { Err(ErrorKind::NoInstances) } else { only(left) }
}

fn recover(world: &World, ask: &Ask, list: &[usize]) -> Parts {
    let alive = those(world, list, |instance| instance.healthy && (ask.broken || instance.breaker != Breaker::Open));
    if world.config.recover_all && alive.len() * 20 <= world.config.panic * list.len() {
        return only(list.to_vec());
    }
    if alive.is_empty() { Err(ErrorKind::NoInstances) } else { only(alive) }
}

// === metadata ===

fn metadata(world: &World, ask: &Ask, list: &[usize]) -> Parts {
    if ask.metadata.is_empty() {
        return only(list.to_vec());
    }
    let all = |instance: &Backend| ask.metadata.iter().all(|(key, value)| get(&instance.metadata, key) == Some(value));
    let found = those(world, list, all);
    if !found.is_empty() {
        return only(found);
    }
    let of_service = get(&world.service_metadata, "internal-metadata-failover-type").and_then(metadata_failover);
    let of_config = world.config.metadata_failover.and_then(metadata_failover);
    match ask.metadata_failover.or(of_service).or(of_config) {
        None | Some(MetadataFailover::None) => Err(ErrorKind::RouteMismatch),
        Some(MetadataFailover::All) => only(list.to_vec()),
        Some(MetadataFailover::NotKey) => {
            let none = |instance: &Backend| ask.metadata.iter().all(|(key, _)| get(&instance.metadata, key).is_none());
            let others = those(world, list, none);
            if others.is_empty() { Err(ErrorKind::RouteMismatch) } else { only(others) }
        }
    }
}

fn metadata_failover(word: &str) -> Option<MetadataFailover> {
    match word {
        "none" => Some(MetadataFailover::None),
        "all" => Some(MetadataFailover::All),
        "others" | "notKey" => Some(MetadataFailover::NotKey),
        _ => None,
    }
}

// === rules ===

fn rules(world: &World, ask: &Ask, list: &[usize]) -> Parts {
    let mut matched = false;
    for (rules, inbound) in [(inbounds(world), true), (outbounds(world), false)] {
        for rule in rules {
            let for_caller = |source: &Source| !inbound || is_from(source, world.caller);
            let is_met = |source: &Source| for_caller(source) && source_matches(world, ask, source);
            if !rule.sources.is_empty() && !rule.sources.iter().any(is_met) {
                continue;
            }
            matched = true;
            let groups = groups(world, ask, &rule, list);
            if !groups.is_empty() {
                return Ok(groups);
            }
        }
        // The caller has a say only if no source of the callee's rules is met.
        if matched {
            break;
        }
    }
    let of_service = get(&world.service_metadata, "internal-rule-based-failover-type").and_then(rule_failover);
    let of_config = world.config.rule_failover.and_then(rule_failover);
    match ask.rule_failover.or(of_service).or(of_config) {
        Some(RuleFailover::None) if matched => Err(ErrorKind::RouteMismatch),
        _ => only(list.to_vec()),
    }
}

fn rule_failover(word: &str) -> Option<RuleFailover> {
    match word {
        "all" => Some(RuleFailover::All),
        "none" => Some(RuleFailover::None),
        _ => None,
    }
}

/// The callee's rules; of whole ones, what they say about the callee.
fn inbounds(world: &World) -> Vec<Rule> {
    let Some(real) = world.callee.last() else { return Vec::new() };
    let Some(subs) = whole(&world.of_callee) else { return valid(&world.of_callee.inbounds) };
    let about_it = |mut rule: Rule| {
        rule.destinations.retain(|to| is_to(to, *real));
        rule
    };
    subs.into_iter().map(about_it).filter(|rule| !rule.destinations.is_empty()).collect()
}

/// The caller's rules about calls to the callee; of whole ones, what they say about the caller.
fn outbounds(world: &World) -> Vec<Rule> {
    let Some(caller) = world.caller else { return Vec::new() };
    let rules = match whole(&world.of_caller) {
        None => valid(&world.of_caller.outbounds),
        Some(subs) => {
            let about_it = |mut rule: Rule| {
                let for_all = rule.sources.is_empty();
                rule.sources.retain(|source| is_from(source, Some(caller)));
                (for_all || !rule.sources.is_empty()).then_some(rule)
            };
            subs.into_iter().filter_map(about_it).collect()
        }
    };
    let to_callee = |mut rule: Rule| {
        rule.destinations.retain(|to| world.callee.iter().any(|callee| is_to(to, *callee)));
        rule
    };
    rules.into_iter().map(to_callee).filter(|rule| !rule.destinations.is_empty()).collect()
}

/// The sub-rules of whole rules, if there are whole rules.
fn whole(book: &Book) -> Option<Vec<Rule>> {
    let mut enabled: Vec<&Whole> = book.whole.iter().filter(|rule| rule.enabled).collect();
    enabled.sort_by_key(|rule| (rule.priority, rule.id));
    let usable = enabled.into_iter().filter(|rule| rule.subs.iter().all(is_valid));
    (!book.whole.is_empty()).then(|| usable.flat_map(|rule| rule.subs.clone()).collect())
}

fn valid(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().filter(|rule| is_valid(rule)).cloned().collect()
}

/// A rule with a bad expression is left out.
fn is_valid(rule: &Rule) -> bool {
    let of_sources = rule.sources.iter().flat_map(|source| &source.labels);
    let of_sources = of_sources.filter(|(label, _)| !is_any_key(*label)).map(|(_, condition)| condition);
    let of_destinations = rule.destinations.iter().flat_map(|to| &to.labels);
    let of_destinations = of_destinations.filter(|(key, _)| *key != "*").map(|(_, condition)| condition);
    of_sources.chain(of_destinations).all(|condition| {
        condition.kind != Kind::Regex
            || condition.from != From::Text
            || is_wildcard(condition.value)
            || with_regex(condition.value, |_| ()).is_some()
    })
}

/// A label of the application's own that is called `*` says nothing: consoles write it for "whatever the labels".
fn is_any_key(label: Label) -> bool {
    label.kind == LabelKind::Custom && label.key == "*"
}

fn is_wildcard(text: &str) -> bool {
    text.is_empty() || text == "*"
}

fn is_from(source: &Source, caller: Option<Name>) -> bool {
    let (namespace, service) = source.caller;
    // `!x` is everybody but `x`, though `!` alone is a name.
    let is = |wanted: &str, name: &str| match wanted.as_bytes() {
        [b'!', _, ..] => wanted != format!("!{name}"),
        _ => is_wildcard(wanted) || wanted == name,
    };
    match caller {
        None => is_wildcard(namespace) && is_wildcard(service),
        Some(caller) => is(namespace, caller.0) && is(service, caller.1),
    }
}

fn is_to(to: &Destination, callee: Name) -> bool {
    let is = |wanted: &str, name: &str| is_wildcard(wanted) || wanted == name;
    is(to.callee.0, callee.0) && is(to.callee.1, callee.1)
}

fn source_matches(world: &World, ask: &Ask, source: &Source) -> bool {
    source.labels.iter().filter(|(label, _)| !is_any_key(*label)).all(|(label, condition)| {
        let actual = ask.label(label.kind, label.key);
        let is_path = matches!(label.kind, LabelKind::Method | LabelKind::Path);
        match condition.from {
            From::Text => holds(condition, actual, is_path),
            From::Parameter => actual.is_some(),
            From::Variable => equals(condition, variable(world, ask, condition.value).as_deref(), actual, is_path),
        }
    })
}

/// The destinations that calls go to, by weight.
fn groups(world: &World, ask: &Ask, rule: &Rule, list: &[usize]) -> Vec<(u64, List)> {
    let mut by_priority: BTreeMap<u32, Vec<(u64, List)>> = BTreeMap::new();
    for to in rule.destinations.iter().filter(|to| !to.isolate && to.weight != 0) {
        let found = those(world, list, |instance| destination_matches(world, ask, to, instance));
        if !found.is_empty() {
            by_priority.entry(to.priority).or_default().push((u64::from(to.weight), found));
        }
    }
    by_priority.into_values().next().unwrap_or_default()
}

fn destination_matches(world: &World, ask: &Ask, to: &Destination, instance: &Backend) -> bool {
    to.labels.iter().filter(|(key, _)| *key != "*").all(|(key, condition)| {
        let actual = get(&instance.metadata, key);
        match condition.from {
            From::Text => holds(condition, actual, false),
            From::Parameter => equals(condition, ask.flat(condition.value), actual, false),
            From::Variable => equals(condition, variable(world, ask, condition.value).as_deref(), actual, false),
        }
    })
}

fn variable(world: &World, ask: &Ask, name: &str) -> Option<String> {
    let given = ask.label(LabelKind::Variable, name).or_else(|| get(&world.variables, name));
    given.map(str::to_owned).or_else(|| environment(name))
}

// === values ===

/// A condition whose value the rule states.
fn holds(condition: &Condition, actual: Option<&str>, is_path: bool) -> bool {
    is_wildcard(condition.value) || equals(condition, Some(condition.value), actual, is_path)
}

/// A condition with a value that is none of its wildcards; false if either side is not there.
fn equals(condition: &Condition, wanted: Option<&str>, actual: Option<&str>, is_path: bool) -> bool {
    let (Some(wanted), Some(actual)) = (wanted, actual) else { return false };
    let same = |wanted: &str| if is_path { same_path(wanted, actual) } else { wanted == actual };
    match condition.kind {
        Kind::Exact => same(wanted),
        Kind::NotEquals => !same(wanted),
        Kind::In => wanted.split(',').any(same),
        Kind::NotIn => !wanted.split(',').any(same),
        Kind::Regex => with_regex(wanted, |regex| regex.is_match(actual).unwrap()).unwrap_or(false),
        Kind::Range => {
            let bounds: Vec<Option<i64>> = wanted.split('~').map(|bound| bound.parse().ok()).collect();
            let [Some(from), Some(to)] = bounds[..] else { return false };
            actual.parse::<i64>().is_ok_and(|number| from <= number && number <= to)
        }
    }
}

/// `{x}` stands for a segment, one `/` at the end for nothing, and the empty text is no path.
fn same_path(rule: &str, actual: &str) -> bool {
    if !rule.starts_with('/') && !rule.contains('{') {
        return rule == actual;
    }
    let cut = |path: &str| -> Vec<String> {
        let path = path.strip_suffix('/').unwrap_or(path);
        path.split('/').map(str::to_owned).collect()
    };
    let stands_for_any = |segment: &str| {
        segment.len() > 1
            && segment.starts_with('{')
            && segment.ends_with('}')
            && segment.matches(['{', '}']).count() == 2
    };
    let (wanted, found) = (cut(rule), cut(actual));
    !actual.is_empty()
        && wanted.len() == found.len()
        && wanted.iter().zip(&found).all(|(wanted, found)| stands_for_any(wanted) || wanted == found)
}

/// Compiled once for all cases, which are many.
fn with_regex<T>(pattern: &str, ask: impl FnOnce(&fancy_regex::Regex) -> T) -> Option<T> {
    thread_local! {
        static KNOWN: RefCell<HashMap<String, Option<fancy_regex::Regex>>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let compiled = known.entry(pattern.to_owned()).or_insert_with(|| fancy_regex::Regex::new(pattern).ok());
        compiled.as_ref().map(ask)
    })
}

// === nearby ===

fn nearby(world: &World, ask: &Ask, list: &[usize]) -> Parts {
    let config = &world.config;
    let mut enabled: Vec<&NearRule> = world.nearby_rules.iter().filter(|rule| rule.enabled).collect();
    enabled.sort_by_key(|rule| (rule.priority, rule.id));
    let rule = enabled.first();
    let said = get(&world.service_metadata, "internal-enable-nearby");
    let is_on = ask.nearby || rule.is_some() || said.is_some_and(|said| said.to_lowercase() == "true");
    if !is_on {
        return only(list.to_vec());
    }
    if world.place == ["", "", ""] {
        let strict = config.strict || rule.is_some_and(|rule| rule.strict);
        return if strict { Err(ErrorKind::LocationUnknown) } else { only(list.to_vec()) };
    }
    let first = rule.and_then(|rule| rule.first).or(config.first).unwrap_or(ZONE);
    let widest = rule.and_then(|rule| rule.widest).or(config.widest).unwrap_or(ALL);
    let can_serve = |at: &usize| world.instances[*at].healthy && world.instances[*at].breaker == Breaker::Closed;
    let mut degraded: Vec<List> = Vec::new();
    // The level that is wanted is tried even where a rule says that it is too wide.
    for level in first..=widest.max(first) {
        let near = those(world, list, |instance| is_near(level, &world.place, &instance.place));
        if near.is_empty() {
            continue;
        }
        let unhealthy = near.iter().filter(|at| !can_serve(at)).count();
        if config.degrade == 0 || unhealthy * 100 < config.degrade * near.len() {
            return only(near);
        }
        degraded.push(near);
    }
    match (degraded.first(), degraded.last()) {
        (Some(_), Some(widest)) if widest.iter().any(can_serve) => only(widest.clone()),
        (Some(narrowest), _) => only(narrowest.clone()),
        _ => Err(ErrorKind::RouteMismatch),
    }
}

/// A level that the client does not know has nobody; a wider one must not differ where both know it.
fn is_near(level: usize, client: &[Text; 3], instance: &[Text; 3]) -> bool {
    if level == ALL {
        return true;
    }
    let unlike = |wider: &usize| {
        let (ours, theirs) = (client[*wider], instance[*wider]);
        ours != theirs && !ours.is_empty() && !theirs.is_empty()
    };
    !client[level].is_empty() && client[level] == instance[level] && !(level + 1..ALL).any(|wider| unlike(&wider))
}

// === what calls say ===

impl Ask {
    fn label(&self, kind: LabelKind, key: &str) -> Option<&str> {
        let same = |known: &str| match kind {
            LabelKind::Method | LabelKind::Path | LabelKind::CallerIp => true,
            LabelKind::Header => known.to_lowercase() == key.to_lowercase(),
            _ => known == key,
        };
        let labels = self.labels.iter().rev();
        labels.into_iter().find(|(other, known, _)| *other == kind && same(known)).map(|(_, _, value)| *value)
    }

    /// A label by its name in rules of the first version.
    fn flat(&self, name: &str) -> Option<&str> {
        match name {
            "$method" => self.label(LabelKind::Method, ""),
            "$path" | "$Path" => self.label(LabelKind::Path, ""),
            "$caller_ip" => self.label(LabelKind::CallerIp, ""),
            _ => {
                let kinds = [
                    ("$header.", LabelKind::Header),
                    ("$query.", LabelKind::Query),
                    ("$cookie.", LabelKind::Cookie),
                    ("$caller_service.", LabelKind::CallerService),
                    ("$caller_metadata.", LabelKind::CallerMetadata),
                ];
                let known = kinds.iter().find_map(|(prefix, kind)| Some((*kind, name.strip_prefix(prefix)?)));
                known.map_or_else(|| self.label(LabelKind::Custom, name), |(kind, key)| self.label(kind, key))
            }
        }
    }
}

// === rules as the control plane writes them ===

impl Label {
    /// The name in rules of the first version.
    pub(super) fn flat(self) -> String {
        let key = self.key;
        match self.kind {
            LabelKind::Method => "$method".to_owned(),
            LabelKind::Path if key == "Path" => "$Path".to_owned(),
            LabelKind::Path => "$path".to_owned(),
            LabelKind::CallerIp => "$caller_ip".to_owned(),
            LabelKind::Custom => key.to_owned(),
            kind => format!("${}.{key}", kind.as_str().to_lowercase()),
        }
    }
}

impl Condition {
    fn json(self) -> Value {
        let kind = match self.kind {
            Kind::Exact => None,
            Kind::Regex => Some("REGEX"),
            Kind::NotEquals => Some("NOT_EQUALS"),
            Kind::In => Some("IN"),
            Kind::NotIn => Some("NOT_IN"),
            Kind::Range => Some("RANGE"),
        };
        let from = match self.from {
            From::Text => None,
            From::Parameter => Some("PARAMETER"),
            From::Variable => Some("VARIABLE"),
        };
        said([
            ("type", kind.map(Value::from)),
            ("value", Some(self.value.into())),
            ("value_type", from.map(Value::from)),
        ])
    }
}

/// What a console writes: nothing in place of a default.
fn said<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let said = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(said.collect())
}

fn list(of: impl Iterator<Item = Value>) -> Option<Value> {
    let list: Vec<Value> = of.collect();
    (!list.is_empty()).then(|| list.into())
}

fn name(text: Text) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

impl Rule {
    /// As a route of one direction.
    fn route(&self) -> Value {
        let source = |source: &Source| {
            let labels = source.labels.iter().map(|(label, condition)| (label.flat(), condition.json()));
            let (namespace, service) = source.caller;
            said([("namespace", name(namespace)), ("service", name(service)), ("metadata", map(labels))])
        };
        self.json("metadata", source)
    }

    /// As a part of a whole rule.
    fn sub_rule(&self) -> Value {
        let source = |source: &Source| {
            let argument = |(label, condition): &(Label, Condition)| json!({"type": label.kind.as_str(), "key": label.key, "value": condition.json()});
            let (namespace, service) = source.caller;
            let arguments = list(source.labels.iter().map(argument));
            said([("namespace", name(namespace)), ("service", name(service)), ("arguments", arguments)])
        };
        self.json("labels", source)
    }

    fn json(&self, labels: &str, source: impl Fn(&Source) -> Value) -> Value {
        said([
            ("sources", list(self.sources.iter().map(source))),
            ("destinations", list(self.destinations.iter().map(|to| to.json(labels)))),
        ])
    }
}

impl Destination {
    fn json(&self, labels: &str) -> Value {
        let conditions = self.labels.iter().map(|(key, condition)| ((*key).to_owned(), condition.json()));
        said([
            ("namespace", name(self.callee.0)),
            ("service", name(self.callee.1)),
            (labels, map(conditions)),
            ("priority", (self.priority > 0).then(|| self.priority.into())),
            ("weight", (self.weight > 0).then(|| self.weight.into())),
            ("isolate", self.isolate.then(|| true.into())),
        ])
    }
}

fn map(pairs: impl Iterator<Item = (String, Value)>) -> Option<Value> {
    let map: Map<String, Value> = pairs.collect();
    (!map.is_empty()).then(|| map.into())
}

impl Book {
    /// As a `v1.Routing` of the service of this name.
    pub(super) fn json(&self, (namespace, service): Name) -> Value {
        said([
            ("namespace", name(namespace)),
            ("service", name(service)),
            ("inbounds", list(self.inbounds.iter().map(Rule::route))),
            ("outbounds", list(self.outbounds.iter().map(Rule::route))),
            ("rules", list(self.whole.iter().map(Whole::json))),
        ])
    }
}

impl Whole {
    fn json(&self) -> Value {
        let mut config = match self.subs.as_slice() {
            [only] if self.plain => only.sub_rule(),
            subs => json!({"rules": subs.iter().map(Rule::sub_rule).collect::<Vec<_>>()}),
        };
        config["@type"] = json!("type.googleapis.com/v1.RuleRoutingConfig");
        json!({"id": self.id, "priority": self.priority, "enable": self.enabled, "routing_config": config})
    }
}

impl NearRule {
    pub(super) fn json(&self) -> Value {
        let level = |level: Option<usize>| level.map_or_else(|| "UNKNOWN".to_owned(), |at| LEVELS[at].to_uppercase());
        json!({
            "id": self.id,
            "name": self.id,
            "priority": self.priority,
            "enable": self.enabled,
            "routing_policy": "NearbyPolicy",
            "routing_config": {
                "@type": "type.googleapis.com/v1.NearbyRoutingConfig",
                "match_level": level(self.first),
                "max_match_level": level(self.widest),
                "strict_nearby": self.strict,
            },
        })
    }
}
