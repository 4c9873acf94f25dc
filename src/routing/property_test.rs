//! The compiled chain against [the book](super::reference_test): on random services, rules and calls both give the same
//! instances the same shares, or refuse alike; picks go where the plan explains, and what is kept says the same again.

#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRunner};
use serde_json::Value;

use super::reference_test::{
    Ask, Backend, Book, Condition, Config, Destination, From, Kind, LEVELS, Label, Name, NearRule, Router, Rule,
    Shares, Source, Text, Whole, World, add, environment, id, refusal, shares as by_the_book,
};
use crate::config::PluginOptions;
use crate::error::ErrorKind;
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::health::{Breaker, HealthView, Slot};
use crate::model::key::{Revision, ServiceKey};
use crate::model::label::LabelKind;
use crate::model::label_set::LabelSet;
use crate::model::location::Location;
use crate::model::request::asks::{MetadataFailover, RuleFailover};
use crate::model::request::instance::Pick;
use crate::model::rule::route::RouteRules;
use crate::model::subset::{Base, Subset};
use crate::model::variables::Variables;
use crate::routing::explain::{ExplainedRoute, Explanation, explain};
use crate::routing::{
    Build, ByMetadata, Chain, Isolated, Maker, Matching, Nearby, Node, Recover, RouteRequest, RuleBased, ServiceRouter,
    Surroundings,
};
use crate::testing::compiled;
use crate::util::murmur3::mix64;

/// Services of the large test, each with a few calls; two share their rules.
const CASES: u32 = 2_200;
/// Picks that are made at least where there are several ways to go, and at most until all have been gone.
const PICKS: std::ops::Range<u64> = 48..6_000;

type Checked = Result<(), TestCaseError>;
/// Which share of the calls goes to which list of instances, or which refusal.
type Leaves = BTreeMap<Vec<String>, f64>;

// === the compiled side ===

/// Rules between a caller and a callee, as they are kept while instances change.
struct Rules {
    of_callee: Arc<RouteRules>,
    of_caller: Option<Arc<RouteRules>>,
}

impl Rules {
    fn of(world: &World) -> Self {
        let real = *world.callee.last().unwrap();
        let of_caller = world.caller.map(|caller| compiled::routing(&key(caller), &world.of_caller.json(caller)).0);
        Self { of_callee: compiled::routing(&key(world.callee[0]), &world.of_callee.json(real)).0, of_caller }
    }
}

/// What a world compiles to.
struct Compiled {
    base: Arc<Base>,
    chain: Chain,
    surroundings: Surroundings,
    /// How often something was made that is not kept.
    made: AtomicUsize,
}

impl Compiled {
    fn new(world: &World, rules: &Rules) -> Self {
        let base = base(world);
        let names: Vec<ServiceKey> = world.callee.iter().copied().map(key).collect();
        let caller = world.caller.map(key);
        let configured =
            world.variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let variables = Variables::new(configured, environment);
        let callee: Vec<&ServiceKey> = names.iter().collect();
        let outbound = rules.of_caller.as_deref();
        let matching = Matching::new(&callee, caller.as_ref(), &rules.of_callee, outbound, &variables);
        let nearby: Vec<Value> = world.nearby_rules.iter().map(NearRule::json).collect();
        let nearby = if nearby.is_empty() { None } else { compiled::nearby(&names[0], &nearby.into()).0.rule.clone() };
        let [campus, zone, region] = world.place;
        let surroundings = Surroundings {
            health: Arc::new(HealthView::of(base.slots())),
            location: Arc::new(Location::new(region, zone, campus)),
            caller,
            matching: Arc::new(matching),
            nearby,
            variables: Arc::new(variables),
        };
        Self { base, chain: chain(&world.config), surroundings, made: AtomicUsize::new(0) }
    }

    /// Runs `ask` with the plan of all instances, and what makes it.
    fn with_plan<T>(&self, ask: impl FnOnce(&Node<Subset>, &Maker<'_, Subset>) -> T) -> T {
        let crowded = || {
            self.made.fetch_add(1, Ordering::Relaxed);
        };
        let maker = Maker { chain: &self.chain, surroundings: &self.surroundings, leaf: &Ok, crowded: &crowded };
        let plan = Build::new(&maker, Subset::whole(&self.base).unwrap()).run();
        ask(&plan, &maker)
    }
}

fn key((namespace, service): Name) -> ServiceKey {
    ServiceKey::new(namespace, service)
}

fn base(world: &World) -> Arc<Base> {
    let mut builder = SnapshotBuilder::new(key(world.callee[0]));
    for (at, instance) in world.instances.iter().enumerate() {
        let [campus, zone, region] = instance.place;
        let parts = InstanceParts {
            id: &id(at),
            host: "10.0.0.1",
            port: 80,
            weight: instance.weight,
            healthy: instance.healthy,
            isolated: instance.isolated,
            location: (region, zone, campus),
            ..InstanceParts::default()
        };
        builder.push(parts, instance.metadata.iter().copied()).unwrap();
    }
    let alias_for = world.callee.get(1).copied().map(key);
    let snapshot = builder.finish(Revision::new("r"), world.service_metadata.iter().copied(), alias_for);
    let slots = world.instances.iter().map(|instance| {
        let slot = Slot::default();
        slot.set_breaker(instance.breaker);
        Arc::new(slot)
    });
    Arc::new(Base::new(Arc::new(snapshot), slots.collect()))
}

fn chain(config: &Config) -> Chain {
    let router = |router: &Router| -> (Arc<str>, Arc<dyn ServiceRouter>) {
        let options = |pairs: &[(&str, Option<&str>)]| {
            let said = pairs.iter().filter_map(|(key, value)| Some((key, (*value)?)));
            said.fold(PluginOptions::new(), |options, (key, value)| options.with(key, value))
        };
        let level = |level: Option<usize>| level.map(|at| LEVELS[at]);
        match router {
            Router::Isolated => ("isolatedRouter".into(), Arc::new(Isolated)),
            Router::Metadata => {
                let options = options(&[("metadataFailOverType", config.metadata_failover)]);
                ("metadataRouter".into(), Arc::new(ByMetadata::from_options(&options).unwrap()))
            }
            Router::Rules => {
                let options = options(&[("failoverType", config.rule_failover)]);
                ("ruleBasedRouter".into(), Arc::new(RuleBased::from_options(&options).unwrap()))
            }
            Router::Nearby => {
                let percent = config.degrade.max(1).to_string();
                let options = options(&[
                    ("matchLevel", level(config.first)),
                    ("maxMatchLevel", level(config.widest)),
                    ("strictNearby", Some(if config.strict { "true" } else { "false" })),
                    ("enableDegradeByUnhealthyPercent", Some(if config.degrade > 0 { "true" } else { "false" })),
                    ("unhealthyPercentToDegrade", Some(&percent)),
                ]);
                ("nearbyBasedRouter".into(), Arc::new(Nearby::from_options(&options).unwrap()))
            }
            Router::Recover => {
                let panic_share = config.panic as f64 / 20.0;
                ("recoverRouter".into(), Arc::new(Recover::new(config.recover_all, panic_share)))
            }
        }
    };
    Chain::new(config.chain.iter().map(router).collect())
}

/// Runs `then` with the pick that asks for it.
fn picking<T>(ask: &Ask, then: impl FnOnce(&Pick<'_>) -> T) -> T {
    let mut labels = LabelSet::new();
    for (kind, key, value) in &ask.labels {
        labels.insert(*kind, key, *value);
    }
    let mut pick = Pick::new().metadata(&ask.metadata);
    if !ask.labels.is_empty() {
        pick = pick.labels(&labels);
    }
    pick = ask.metadata_failover.map_or(pick, |failover| pick.metadata_failover(failover));
    pick = ask.rule_failover.map_or(pick, |failover| pick.rule_failover(failover));
    pick = if ask.nearby { pick.nearby() } else { pick };
    then(&if ask.broken { pick.include_broken() } else { pick })
}

fn ids(subset: &Subset) -> Vec<String> {
    subset.iter().map(|instance| instance.id().as_str().to_owned()).collect()
}

fn routes(plan: &Node<Subset>, maker: &Maker<'_, Subset>, pick: &Pick<'_>) -> Vec<ExplainedRoute> {
    explain(plan, &RouteRequest { pick, entropy: 0 }, maker, &|leaf: &Subset| leaf)
}

/// The lists and refusals that calls end with, by what is explained.
fn leaves(routes: &[ExplainedRoute]) -> Leaves {
    let mut leaves = Leaves::new();
    for route in routes {
        let end = match &route.outcome {
            Ok(instances) => instances.iter().map(|instance| instance.id().as_str().to_owned()).collect(),
            Err(error) => vec![refusal(error.kind())],
        };
        *leaves.entry(end).or_default() += route.share;
    }
    leaves
}

/// The share of each instance, by what is explained and the weights.
fn shares(routes: &[ExplainedRoute]) -> Shares {
    let mut shares = Shares::new();
    for route in routes {
        match &route.outcome {
            Ok(instances) => {
                let total: f64 = instances.iter().map(|instance| f64::from(instance.weight())).sum();
                for instance in instances {
                    let weight = f64::from(instance.weight());
                    let part = if total > 0.0 { weight / total } else { 1.0 / instances.len() as f64 };
                    if part > 0.0 {
                        add(&mut shares, instance.id().as_str().to_owned(), route.share * part);
                    }
                }
            }
            Err(error) => add(&mut shares, refusal(error.kind()), route.share),
        }
    }
    shares
}

// === what is checked ===

/// Asks the same of both, and everything twice. Says how often something was made that is not kept.
fn check(world: &World, rules: &Rules, asks: &[Ask], seen: &Seen) -> Result<usize, TestCaseError> {
    let compiled = Compiled::new(world, rules);
    seen.world(world, &compiled);
    let expected: Vec<Shares> = asks.iter().map(|ask| by_the_book(world, ask)).collect();
    compiled.with_plan(|plan, maker| {
        for (ask, expected) in asks.iter().zip(&expected) {
            picking(ask, |pick| {
                // What is made on first use is made by a pick, or by an explanation.
                let picked = |number: u64| pick_one(plan, maker, pick, mix64(number));
                let first = (!ask.nearby).then(|| picked(u64::MAX));
                let routes = explained(plan, maker, pick, ask, expected)?;
                let leaves = leaves(&routes);
                prop_assert!(
                    first.is_none_or(|first| leaves.contains_key(&first)),
                    "the first pick is none of {:?}",
                    leaves
                );
                seen.ask(ask, &routes, &leaves);
                check_picks(picked, &leaves)?;
                check_support(world, routes, &leaves)
            })?;
        }
        for (ask, expected) in asks.iter().zip(&expected) {
            picking(ask, |pick| explained(plan, maker, pick, ask, expected).map(|_| ()))?;
        }
        Ok(compiled.made.load(Ordering::Relaxed))
    })
}

/// What is explained, if the book says the same.
fn explained(
    plan: &Node<Subset>,
    maker: &Maker<'_, Subset>,
    pick: &Pick<'_>,
    ask: &Ask,
    expected: &Shares,
) -> Result<Vec<ExplainedRoute>, TestCaseError> {
    let routes = routes(plan, maker, pick);
    let found = shares(&routes);
    let equal = |(a, b): ((&String, &f64), (&String, &f64))| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9;
    let alike = found.len() == expected.len() && found.iter().zip(expected).all(equal);
    prop_assert!(alike, "{:?}\nis explained, the book says\n{:?}\nfor {:?}", found, expected, ask);
    Ok(routes)
}

fn pick_one(plan: &Node<Subset>, maker: &Maker<'_, Subset>, pick: &Pick<'_>, entropy: u64) -> Vec<String> {
    match plan.choose(&RouteRequest { pick, entropy }, maker) {
        Ok(chosen) => ids(&chosen),
        Err(error) => vec![refusal(error.kind())],
    }
}

/// Picks go to all that is explained, about as often as it is said, and nowhere else.
fn check_picks(picked: impl Fn(u64) -> Vec<String>, leaves: &Leaves) -> Checked {
    let mut hits: BTreeMap<&Vec<String>, u32> =
        leaves.iter().filter(|(_, share)| **share > 0.01).map(|(leaf, _)| (leaf, 0)).collect();
    let (least, most) = if leaves.len() == 1 { (2, 2) } else { (PICKS.start, PICKS.end) };
    let mut made = 0;
    while made < least || made < most && hits.values().any(|hits| *hits == 0) {
        let end = picked(made);
        let Some((leaf, _)) = leaves.get_key_value(&end) else {
            return Err(TestCaseError::fail(format!("{end:?} is picked from, and explained is {leaves:?}")));
        };
        *hits.entry(leaf).or_default() += 1;
        made += 1;
    }
    for (leaf, hits) in hits {
        let (share, made) = (leaves[leaf], made as f64);
        prop_assert!(hits > 0 || share <= 0.01, "{:?} is never picked from, of {:?}", leaf, leaves);
        let off = (f64::from(hits) - made * share).abs();
        let bound = 6.0 * (made * share * (1.0 - share)).sqrt() + 4.0;
        prop_assert!(off <= bound, "{:?} is picked from {} times of {}, of {:?}", leaf, hits, made, leaves);
    }
    Ok(())
}

/// What the explanation says to people is the support of the picks.
fn check_support(world: &World, routes: Vec<ExplainedRoute>, leaves: &Leaves) -> Checked {
    let instances = world.instances.len();
    let explanation = Explanation { service: key(world.callee[0]), caller: None, instances, routes };
    let support: Vec<_> = explanation.support().iter().map(|instance| instance.id().as_str().to_owned()).collect();
    let mut ends: Vec<String> = leaves.keys().flatten().filter(|end| end.starts_with('i')).cloned().collect();
    ends.sort();
    ends.dedup();
    prop_assert_eq!(support, ends);
    for route in &explanation.routes {
        // Each step goes on with what the one before left.
        for pair in route.steps.windows(2) {
            prop_assert_eq!(pair[0].left, pair[1].given, "{}", explanation);
        }
        prop_assert_eq!(route.steps.first().map_or(instances, |step| step.given), instances);
        match (route.steps.last(), &route.outcome) {
            (Some(last), Ok(outcome)) => prop_assert_eq!(last.left, outcome.len()),
            (Some(last), Err(error)) => {
                prop_assert_eq!(last.left, 0);
                prop_assert!(last.why.contains(&error.to_string()), "{}", explanation);
            }
            (None, outcome) => prop_assert!(outcome.is_ok(), "nobody refused: {}", explanation),
        }
    }
    Ok(())
}

/// What has come up, so that the generator can be held to cover it.
#[derive(Default)]
struct Seen(RefCell<BTreeMap<String, usize>>);

impl Seen {
    fn count(&self, what: impl Into<String>, is_so: bool) {
        *self.0.borrow_mut().entry(what.into()).or_default() += usize::from(is_so);
    }

    fn of(&self, what: &str) -> usize {
        self.0.borrow().get(what).copied().unwrap_or_else(|| panic!("nobody counts {what}"))
    }

    fn world(&self, world: &World, compiled: &Compiled) {
        let matching = &compiled.surroundings.matching;
        for rule in &matching.rules {
            for (_, condition) in rule.rule.sources.iter().flat_map(|source| &source.labels) {
                self.count(format!("source {} {:?}", condition.kind(), condition.source), true);
            }
            let destinations = rule.destinations.iter().map(|at| &rule.rule.destinations[*at]);
            for (_, condition) in destinations.flat_map(|to| &to.labels) {
                self.count(format!("destination {} {:?}", condition.kind(), condition.source), true);
            }
        }
        self.count("cases with an index", matching.candidates.len() >= 9);
        self.count("cases without rules", matching.is_empty());
        self.count("cases with more labels than are kept", matching.slots().len() > 8);
        self.count("cases with whole rules", !world.of_callee.whole.is_empty());
        self.count("cases without a caller", world.caller.is_none());
        self.count("cases of an alias", world.callee.len() > 1);
        self.count("cases with a nearby rule", compiled.surroundings.nearby.is_some());
        self.count("cases with another chain", world.config.chain != DEFAULT_CHAIN);
        self.count("cases with a broken instance", !compiled.surroundings.health.all_closed());
    }

    fn ask(&self, ask: &Ask, routes: &[ExplainedRoute], leaves: &Leaves) {
        let by_rules = |route: &ExplainedRoute| route.steps.iter().position(|step| &*step.router == "ruleBasedRouter");
        let why: Vec<&str> = routes
            .iter()
            .find_map(|route| Some(route.steps[by_rules(route)?].why.iter().map(String::as_str).collect()))
            .unwrap_or_default();
        let says = |text: &str| why.iter().any(|why| why.contains(text));
        let decided = says("group ");
        self.count("calls that a rule decides", decided);
        self.count("calls that a rule of several groups decides", routes.len() > 1);
        self.count("calls that a rule of the caller decides", decided && says("group ") && says("of rule outbound["));
        self.count("calls that a rule decides after one that has nothing", decided && says("have no instance"));
        self.count("calls decided after five rules", decided && why.len() > 6);
        if decided && why.len() > 301 {
            self.count("calls decided after 300 rules", true);
        }
        self.count("calls of which a destination asks something in vain", says("for this call"));
        self.count("calls that rules match in vain", says("the fail-over decides"));
        self.count("calls that no rule matches", says("no rule matches"));
        self.count("calls with several ends", leaves.len() > 1);
        self.count("calls that want metadata", !ask.metadata.is_empty());
        self.count("calls that ask for nearby", ask.nearby);
        self.count("calls that include broken instances", ask.broken);
        for kind in [ErrorKind::NoInstances, ErrorKind::RouteMismatch, ErrorKind::LocationUnknown] {
            self.count(format!("calls refused with {kind:?}"), leaves.contains_key(&vec![refusal(kind)]));
        }
    }

    /// A generator that drifts away from what is hard would find nothing, and nobody would know.
    fn covers_what_it_should(&self) {
        let seen = self.0.borrow();
        let listed = || seen.iter().map(|(what, count)| format!("{count:7} {what}")).collect::<Vec<_>>().join("\n");
        let conditions = |side: &str| seen.keys().filter(|what| what.starts_with(side)).count();
        // Six kinds of matching by three kinds of values.
        assert_eq!((conditions("source "), conditions("destination ")), (18, 18), "{}", listed());
        assert!(seen.values().all(|count| *count >= 20), "too little of something:\n{}", listed());
        assert!(self.of("cases with an index") > 300, "{}", listed());
    }
}

// === random worlds ===

const DEFAULT_CHAIN: [Router; 5] = [Router::Isolated, Router::Metadata, Router::Rules, Router::Nearby, Router::Recover];

const KINDS: [Kind; 8] =
    [Kind::Exact, Kind::Exact, Kind::Exact, Kind::In, Kind::NotEquals, Kind::NotIn, Kind::Range, Kind::Regex];

/// Labels that rules ask for and calls bring. Small, so that they meet.
const LABELS: [(LabelKind, Text); 18] = [
    (LabelKind::Custom, "a"),
    (LabelKind::Custom, "b"),
    (LabelKind::Custom, "a"),
    (LabelKind::Custom, "b"),
    (LabelKind::Custom, "a"),
    (LabelKind::Custom, "b"),
    (LabelKind::Method, ""),
    (LabelKind::Path, ""),
    (LabelKind::Header, "h"),
    (LabelKind::Query, "q"),
    (LabelKind::Cookie, "c"),
    (LabelKind::CallerIp, ""),
    (LabelKind::CallerMetadata, "m"),
    (LabelKind::CallerService, "n"),
    // The same by other names, and what is none.
    (LabelKind::Header, "H"),
    (LabelKind::Path, "Path"),
    (LabelKind::Method, "*"),
    (LabelKind::Custom, "*"),
];

/// Values of labels and of metadata.
const VALUES: [Text; 20] =
    ["1", "2", "x", "1", "2", "1", "2", "x", "1", "2", "X", "", "*", "12", "5", "11", "/p/1", "/p/1/", "/", "1,2"];

const EXACT: [Text; 20] = [
    "1", "2", "x", "1", "2", "1", "2", "*", "", "1", "2", "x", "*", "X", "1,2", "/p/{id}", "/p/1", "/", "{id}",
    "/{a}/1/",
];
const LISTS: [Text; 14] =
    ["1,2", "x,", "1", "*,2", ",", "1,x,5", "*", "", "2,/p/{id}", "/p/1/,x", " 1,2", "1,1,12", "{x},1", "X,5"];
const RANGES: [Text; 11] =
    ["1~2", "0~9", "2~11", "2~1", "a~b", "1~", "*", "", "-5~5", "0~9223372036854775808", "1~2~3"];
const REGEXES: [Text; 12] =
    ["^1", "x|2", "(?!1)[0-9]", "^(?=1)", "1(?!2)", "(?<=1)[12]", "*", "", "^$", r"(.)\1", "(?i)x", "["];

/// Names of labels that destinations copy, as rules of the first version write them.
const PARAMETERS: [Text; 11] =
    ["a", "b", "a", "$header.h", "$method", "$path", "$Path", "$caller_ip", "$caller_metadata.m", "*", "none"];
const VARIABLES: [Text; 11] = ["v", "both", "v", "env", "v", "both", "w", "star", "none", "*", ""];
const VARIABLE_VALUES: [Text; 15] =
    ["1", "2", "x", "1", "2", "1", "*", "", "1,2", "1~5", "[", "^1", "x,1", "/p/{id}", "(?!1)."];

/// One of a few.
fn one<T: Copy + std::fmt::Debug>(of: &'static [T]) -> impl Strategy<Value = T> {
    (0..of.len()).prop_map(|at| of[at])
}

fn some<T: Copy + std::fmt::Debug>(of: &'static [T]) -> impl Strategy<Value = Option<T>> {
    (0..2 * of.len()).prop_map(|at| of.get(at.checked_sub(of.len())?).copied())
}

fn condition() -> impl Strategy<Value = Condition> {
    (0..KINDS.len(), 0..9_usize, 0..9_240_usize).prop_map(|(kind, from, value)| {
        let kind = KINDS[kind];
        let (from, values): (_, &[Text]) = match (from, kind) {
            (7, _) => (From::Parameter, &PARAMETERS),
            (8, _) => (From::Variable, &VARIABLES),
            (_, Kind::Exact | Kind::NotEquals) => (From::Text, &EXACT),
            (_, Kind::In | Kind::NotIn) => (From::Text, &LISTS),
            (_, Kind::Range) => (From::Text, &RANGES),
            (_, Kind::Regex) => (From::Text, &REGEXES),
        };
        Condition { kind, from, value: values[value % values.len()] }
    })
}

/// `strict` makes sources that few calls meet, so that later rules are reached.
fn source(strict: bool) -> impl Strategy<Value = Source> {
    const NAMESPACES: [Text; 7] = ["n", "*", "n", "", "n", "!m", "m"];
    const SERVICES: [Text; 9] = ["c", "*", "c", "c", "", "!d", "!c", "d", "!"];
    let conditions = if strict { 1..4_usize } else { 0..3 };
    let labels = proptest::collection::vec((one(&LABELS), condition()), conditions);
    (one(&NAMESPACES), one(&SERVICES), labels).prop_map(|(namespace, service, labels)| Source {
        caller: (namespace, service),
        labels: labels.into_iter().map(|((kind, key), condition)| (Label { kind, key }, condition)).collect(),
    })
}

fn destination() -> impl Strategy<Value = Destination> {
    const NAMESPACES: [Text; 10] = ["n", "*", "n", "", "n", "n", "n", "n", "n", "m"];
    const SERVICES: [Text; 12] = ["s", "*", "s", "", "s", "s", "s", "s", "s", "t", "!t", "alias"];
    const KEYS: [Text; 7] = ["a", "b", "a", "b", "c", "a", "*"];
    const WEIGHTS: [u32; 9] = [100, 1, 100, 3, 50, 0, 7, 30, u32::MAX];
    const PRIORITIES: [u32; 6] = [0, 0, 1, 0, 2, 0];
    let labels = proptest::collection::vec((one(&KEYS), condition()), 0..3);
    (one(&NAMESPACES), one(&SERVICES), labels, one(&PRIORITIES), one(&WEIGHTS), 0..10_u8).prop_map(
        |(namespace, service, mut labels, priority, weight, isolate)| {
            // They are a map.
            labels.sort_by_key(|(key, _)| *key);
            labels.dedup_by_key(|(key, _)| *key);
            Destination { callee: (namespace, service), labels, priority, weight, isolate: isolate == 9 }
        },
    )
}

fn rule(strict: bool) -> impl Strategy<Value = Rule> {
    let (few, groups) = if strict { (1..5_usize, 1..4_usize) } else { (0..3, 1..5) };
    let sources = proptest::collection::vec(source(strict), few);
    (sources, proptest::collection::vec(destination(), groups))
        .prop_map(|(sources, destinations)| Rule { sources, destinations })
}

/// A few rules that most calls meet, or many that few do.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop_oneof![
        3 => proptest::collection::vec(rule(false), 0..4),
        2 => proptest::collection::vec(rule(true), 4..9),
    ]
}

/// Rules of one service in either form, now and then in both.
fn book(inbound: bool) -> impl Strategy<Value = Book> {
    const IDS: [Text; 6] = ["d", "b", "f", "a", "e", "c"];
    let some_rules = || prop_oneof![3 => proptest::collection::vec(rule(false), 1..3), 1 => proptest::collection::vec(rule(true), 3..6)];
    let whole = (0..3_u32, 0..6_u8, some_rules(), 0..3_u8);
    let whole = proptest::collection::vec(whole, 1..4).prop_map(|all| {
        let whole = |(at, (priority, on, mut subs, plain)): (usize, (u32, u8, Vec<Rule>, u8))| {
            if plain == 2 {
                subs.truncate(1);
            }
            as_whole(Whole { id: IDS[at], priority, enabled: on < 5, plain: plain == 2, subs })
        };
        all.into_iter().enumerate().map(whole).collect::<Vec<_>>()
    });
    let routes = |rules: Vec<Rule>| rules.into_iter().map(as_route).collect::<Vec<_>>();
    // Rules of the other direction are there, and not asked.
    let others = proptest::option::weighted(0.1, rule(false));
    prop_oneof![
        4 => (rules(), others).prop_map(move |(rules, others)| {
            let (rules, others) = (routes(rules), routes(others.into_iter().collect()));
            let (inbounds, outbounds) = if inbound { (rules, others) } else { (others, rules) };
            Book { inbounds, outbounds, whole: Vec::new() }
        }),
        3 => whole.prop_map(|whole| Book { whole, ..Book::default() }),
        1 => (rule(false), some_rules()).prop_map(move |(rule, subs)| {
            let whole = Whole { id: "a", priority: 0, enabled: true, plain: false, subs };
            let routes = routes(vec![rule]);
            Book { inbounds: routes.clone(), outbounds: routes, whole: vec![as_whole(whole)] }
        }),
    ]
}

/// Labels of routes are a map.
fn as_route(mut rule: Rule) -> Rule {
    for source in &mut rule.sources {
        source.labels.sort_by_key(|(label, _)| label.flat());
        source.labels.dedup_by_key(|(label, _)| label.flat());
    }
    rule
}

/// Arguments of whole rules do not name services.
fn as_whole(mut whole: Whole) -> Whole {
    for source in whole.subs.iter_mut().flat_map(|rule| &mut rule.sources) {
        source.labels.retain(|(label, _)| label.kind != LabelKind::CallerService);
    }
    whole
}

fn place() -> impl Strategy<Value = [Text; 3]> {
    const CAMPUSES: [Text; 4] = ["c", "d", "", "c"];
    const ZONES: [Text; 4] = ["z", "y", "z", ""];
    const REGIONS: [Text; 5] = ["r", "q", "r", "r", ""];
    (one(&CAMPUSES), one(&ZONES), one(&REGIONS)).prop_map(|(campus, zone, region)| [campus, zone, region])
}

fn backend() -> impl Strategy<Value = Backend> {
    const WEIGHTS: [u32; 8] = [100, 1, 100, 3, 0, 100, 50, 100];
    const BREAKERS: [Breaker; 6] =
        [Breaker::Closed, Breaker::Closed, Breaker::Closed, Breaker::Closed, Breaker::HalfOpen, Breaker::Open];
    let metadata = (some(&VALUES), some(&VALUES), some(&VALUES));
    (metadata, place(), one(&WEIGHTS), 0..8_u8, 0..4_u8, one(&BREAKERS)).prop_map(
        |((a, b, c), place, weight, isolated, unhealthy, breaker)| Backend {
            metadata: pairs([("a", a), ("b", b), ("c", c)]),
            place,
            weight,
            isolated: isolated == 7,
            healthy: unhealthy < 3,
            breaker,
        },
    )
}

/// Now and then all share a fate.
fn backends() -> impl Strategy<Value = Vec<Backend>> {
    (proptest::collection::vec(backend(), 1..12), 0..24_u8).prop_map(|(mut backends, fate)| {
        for backend in &mut backends {
            match fate {
                1 => backend.isolated = true,
                2 => backend.weight = 0,
                3 => backend.healthy = false,
                4 => (backend.breaker, backend.healthy) = (Breaker::Open, true),
                5 => backend.breaker = Breaker::HalfOpen,
                6..12 => (backend.breaker, backend.healthy) = (Breaker::Closed, true),
                _ => {}
            }
        }
        backends
    })
}

fn config() -> impl Strategy<Value = Config> {
    const METADATA: [Text; 4] = ["none", "all", "others", "notKey"];
    const RULES: [Text; 2] = ["all", "none"];
    const DEGRADE: [usize; 7] = [100, 50, 0, 25, 75, 33, 1];
    const PANIC: [usize; 6] = [0, 0, 10, 5, 15, 20];
    let chain =
        (0..4_u8, Just(DEFAULT_CHAIN.to_vec()).prop_shuffle(), 0..6_usize).prop_map(|(other, mut chain, length)| {
            chain.truncate(length);
            if other < 3 { DEFAULT_CHAIN.to_vec() } else { chain }
        });
    let levels = (proptest::option::of(0..4_usize), proptest::option::of(0..4_usize));
    (chain, some(&METADATA), some(&RULES), levels, 0..4_u8, one(&DEGRADE), 0..4_u8, one(&PANIC)).prop_map(
        |(chain, metadata_failover, rule_failover, (first, widest), strict, degrade, recover_all, panic)| Config {
            chain,
            metadata_failover,
            rule_failover,
            first,
            // Else the options are refused.
            widest: widest.map(|widest| widest.max(first.unwrap_or(1))),
            strict: strict == 3,
            degrade,
            recover_all: recover_all < 3,
            panic,
        },
    )
}

fn near_rule() -> impl Strategy<Value = NearRule> {
    const IDS: [Text; 4] = ["b", "a", "d", "c"];
    let levels = (proptest::option::of(0..4_usize), proptest::option::of(0..4_usize));
    (one(&IDS), 0..2_u32, any::<bool>(), levels, any::<bool>()).prop_map(
        |(id, priority, enabled, (first, widest), strict)| NearRule { id, priority, enabled, first, widest, strict },
    )
}

/// Two services with the same rules, and calls to each: rules stay what they are while instances change.
fn cases() -> impl Strategy<Value = [(World, Vec<Ask>); 2]> {
    const CALLERS: [Option<Name>; 6] =
        [Some(("n", "c")), Some(("n", "c")), None, Some(("n", "c")), Some(("n", "d")), Some(("m", "c"))];
    let rules = (book(true), book(false), one(&CALLERS), 0..6_u8);
    (rules, [case(), case()]).prop_map(|((of_callee, of_caller, caller, alias), cases)| {
        let callee = if alias == 5 { vec![("n", "alias"), ("n", "s")] } else { vec![("n", "s")] };
        cases.map(|(world, asks)| {
            let (callee, of_callee, of_caller) = (callee.clone(), of_callee.clone(), of_caller.clone());
            (World { callee, caller, of_callee, of_caller, ..world }, asks)
        })
    })
}

/// All but the rules.
fn case() -> impl Strategy<Value = (World, Vec<Ask>)> {
    const METADATA_WORDS: [Text; 5] = ["none", "all", "others", "notKey", "bogus"];
    const RULE_WORDS: [Text; 3] = ["none", "all", "bogus"];
    const ENABLE: [Text; 4] = ["true", "True", "false", ""];
    let said = (some(&METADATA_WORDS), some(&RULE_WORDS), some(&ENABLE));
    let nearby = prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(near_rule(), 1..3)];
    let place = prop_oneof![6 => place(), 1 => Just(["", "", ""])];
    let variables = (some(&VARIABLE_VALUES), some(&VARIABLE_VALUES), some(&VARIABLE_VALUES));
    let world = (config(), backends(), said, nearby, place, variables).prop_map(
        |(config, instances, (metadata, rules, nearby), mut nearby_rules, place, (v, both, star))| {
            nearby_rules.sort_by_key(|rule| rule.id);
            nearby_rules.dedup_by_key(|rule| rule.id);
            World {
                config,
                instances,
                service_metadata: pairs([
                    ("internal-metadata-failover-type", metadata),
                    ("internal-rule-based-failover-type", rules),
                    ("internal-enable-nearby", nearby),
                ]),
                callee: Vec::new(),
                caller: None,
                of_callee: Book::default(),
                of_caller: Book::default(),
                nearby_rules,
                place,
                variables: pairs([("v", v), ("both", both), ("*", star)]),
            }
        },
    );
    (world, proptest::collection::vec(ask(), 2..4))
}

/// Those that have a value.
fn pairs<const N: usize>(pairs: [(Text, Option<Text>); N]) -> Vec<(Text, Text)> {
    pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn ask() -> impl Strategy<Value = Ask> {
    const KEYS: [Text; 5] = ["a", "b", "a", "c", "z"];
    const METADATA: [MetadataFailover; 3] = [MetadataFailover::None, MetadataFailover::All, MetadataFailover::NotKey];
    const RULES: [RuleFailover; 2] = [RuleFailover::All, RuleFailover::None];
    let mut rest = [LabelKind::Variable; 4].into_iter().zip(["v", "w", "both", "env"]).collect::<Vec<_>>();
    rest.extend(LABELS[..14].iter().skip(4).copied());
    let labels = rest.len();
    let labels = (proptest::collection::vec(0..2 * VALUES.len() + 4, labels), one(&VARIABLE_VALUES)).prop_map(
        move |(values, variable)| {
            let value = |(at, (kind, key)): (usize, &(LabelKind, Text))| {
                let value = *VALUES.iter().chain(&VALUES).nth(values[at])?;
                let value = if *kind == LabelKind::Variable { variable } else { value };
                // Fewer of those that no rule of most worlds asks for.
                (at > 3 || values[at] % 2 == 0).then_some((*kind, *key, value))
            };
            rest.iter().enumerate().filter_map(value).collect::<Vec<_>>()
        },
    );
    let metadata = prop_oneof![
        3 => Just(Vec::new()),
        1 => proptest::collection::vec((one(&KEYS), one(&VALUES)), 1..3),
    ];
    (labels, 0..8_u8, metadata, some(&METADATA), some(&RULES), 0..4_u8, 0..4_u8).prop_map(
        |(labels, bare, metadata, metadata_failover, rule_failover, nearby, broken)| Ask {
            labels: if bare == 7 { Vec::new() } else { labels },
            metadata,
            metadata_failover,
            rule_failover,
            nearby: nearby == 3,
            broken: broken == 3,
        },
    )
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        max_shrink_iters: 3_000,
        failure_persistence: None,
        // A cheap generator, because tests are not optimized.
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })
}

#[test]
fn the_compiled_chain_gives_what_the_book_says() {
    let seen = Seen::default();
    let result = runner(CASES / 2).run(&cases(), |cases| {
        let rules = Rules::of(&cases[0].0);
        cases.iter().try_for_each(|(world, asks)| check(world, &rules, asks, &seen).map(|_| ()))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    seen.covers_what_it_should();
}

/// One of a handful of texts, by chance that is the same each time.
fn text(dice: u64, of: &[Text]) -> Text {
    of[usize::try_from(mix64(dice) % of.len() as u64).unwrap()]
}

fn is(value: Text) -> Condition {
    Condition { kind: Kind::Exact, from: From::Text, value }
}

fn custom(key: Text) -> Label {
    Label { kind: LabelKind::Custom, key }
}

fn to(labels: Vec<(Text, Condition)>, weight: u32) -> Destination {
    Destination { callee: ("n", "s"), labels, priority: 0, weight, isolate: false }
}

fn from(labels: Vec<(Label, Condition)>) -> Source {
    Source { caller: ("*", "*"), labels }
}

/// A service whose callers find these rules.
fn ruled(instances: Vec<Backend>, inbounds: Vec<Rule>) -> World {
    World {
        config: Config {
            chain: DEFAULT_CHAIN.to_vec(),
            metadata_failover: None,
            rule_failover: None,
            first: None,
            widest: None,
            strict: false,
            degrade: 100,
            recover_all: true,
            panic: 0,
        },
        instances,
        service_metadata: Vec::new(),
        callee: vec![("n", "s")],
        caller: Some(("n", "c")),
        of_callee: Book { inbounds, ..Book::default() },
        of_caller: Book::default(),
        nearby_rules: Vec::new(),
        place: ["c", "z", "r"],
        variables: vec![("v", "2")],
    }
}

fn plain(metadata: Vec<(Text, Text)>, place: [Text; 3]) -> Backend {
    Backend { metadata, place, weight: 100, isolated: false, healthy: true, breaker: Breaker::Closed }
}

/// Texts that are all different.
fn numbered(count: usize) -> Vec<Text> {
    (0..count).map(|n| &*format!("v{n}").leak()).collect()
}

#[test]
fn more_sources_than_one_chunk_of_the_index_holds_are_tried_in_order() {
    let values = numbered(12);
    let keys = ["a", "b", "c"];
    // Most rules have nobody to go to, so that the walk goes on, from chunk to chunk.
    let rules = (0..430_u64).map(|rule| {
        let sources = (0..5_u64).map(|source| {
            let dice = rule * 5 + source;
            let labels = keys.iter().zip(1_u64..).map(|(key, n)| (custom(key), is(text(dice * 4 + n, &values))));
            from(labels.skip(usize::from(rule % 7 == 0)).collect())
        });
        let target = if rule % 3 == 0 { text(rule, &["1", "2"]) } else { "nobody" };
        Rule { sources: sources.collect(), destinations: vec![to(vec![("k", is(target))], 100)] }
    });
    let backends = ["1", "2", "3"].map(|value| plain(vec![("k", value)], ["c", "z", "r"])).to_vec();
    let world = ruled(backends, rules.collect());
    assert!(Compiled::new(&world, &Rules::of(&world)).surroundings.matching.candidates.len() > 2 * 1_024);
    let asks = (0..60_u64).map(|ask| {
        let value = |(key, n): (&Text, u64)| (LabelKind::Custom, *key, text(!(ask * 4 + n), &values));
        Ask { labels: keys.iter().zip(1..).map(value).collect(), ..Ask::default() }
    });
    let asks: Vec<Ask> = asks.collect();
    let seen = Seen::default();
    check(&world, &Rules::of(&world), &asks, &seen).unwrap();
    let (decided, late) = (seen.of("calls that a rule decides"), seen.of("calls decided after 300 rules"));
    assert!(decided > 30 && late > 5, "{decided} {late}");
}

#[test]
fn what_is_not_kept_any_more_is_made_alike() {
    const CALLS: usize = 1_060;
    let values = numbered(CALLS);
    let zones: [[Text; 3]; 3] = [["c", "z", "r"], ["d", "z", "r"], ["e", "y", "r"]];
    let backends = (0..24).map(|at| plain(vec![("k", values[at / 2]), ("a", ["1", "2", "3"][at % 3])], zones[at % 3]));
    let copied = |from, value| Condition { kind: Kind::Exact, from, value };
    let rule = Rule {
        sources: vec![from(vec![(custom("a"), copied(From::Parameter, ""))])],
        destinations: vec![
            to(vec![("a", copied(From::Parameter, "a"))], 30),
            to(vec![("a", copied(From::Variable, "v"))], 60),
            to(vec![("k", copied(From::Parameter, "$header.h"))], 10),
        ],
    };
    let world = ruled(backends.collect(), vec![rule]);
    let failovers = [None, Some(MetadataFailover::All), Some(MetadataFailover::NotKey)];
    // First each wants other metadata, then each says something else of itself.
    let asks = (0..2 * CALLS).map(|n| {
        let (own, another) = (values[n % CALLS], text(n as u64, &["1", "2", "none"]));
        Ask {
            labels: vec![
                (LabelKind::Custom, "a", another),
                (LabelKind::Header, "H", if n < CALLS { "v3" } else { own }),
            ],
            metadata: if n < CALLS { vec![("k", own)] } else { Vec::new() },
            metadata_failover: failovers[n % 3],
            nearby: n % 5 == 0,
            ..Ask::default()
        }
    });
    let asks: Vec<Ask> = asks.collect();
    let seen = Seen::default();
    let made = check(&world, &Rules::of(&world), &asks, &seen).unwrap();
    assert!(made > 100, "{made} were made for once");
    assert!(seen.of("calls with several ends") > 200);
}

#[test]
fn groups_share_calls_by_their_weights() {
    const PICKS: u32 = 20_000;
    let backends = ["1", "2", "3", "4"].map(|value| plain(vec![("k", value)], ["c", "z", "r"])).to_vec();
    let weights = [("1", 1), ("2", 2), ("3", 90), ("4", 7)];
    for from in [From::Text, From::Parameter] {
        let group = |(value, weight): (Text, u32)| {
            let name = if from == From::Text { value } else { numbered_label(value) };
            to(vec![("k", Condition { kind: Kind::Exact, from, value: name })], weight)
        };
        let rule = Rule { sources: Vec::new(), destinations: weights.map(group).to_vec() };
        let labels = weights.map(|(value, _)| (LabelKind::Custom, numbered_label(value), value)).to_vec();
        let ask = Ask { labels, ..Ask::default() };
        let world = ruled(backends.clone(), vec![rule]);
        let compiled = Compiled::new(&world, &Rules::of(&world));
        let mut hits = BTreeMap::new();
        compiled.with_plan(|plan, maker| {
            picking(&ask, |pick| {
                (0..PICKS)
                    .for_each(|n| *hits.entry(pick_one(plan, maker, pick, mix64(n.into()))).or_insert(0_u32) += 1);
            });
        });
        for (at, (_, weight)) in weights.into_iter().enumerate() {
            let share = f64::from(weight) / 100.0;
            let expected = f64::from(PICKS) * share;
            let off = (f64::from(hits[&vec![id(at)]]) - expected).abs();
            assert!(off < 4.0 * (expected * (1.0 - share)).sqrt(), "{from:?}: {hits:?}");
        }
    }
}

fn numbered_label(value: Text) -> Text {
    format!("label{value}").leak()
}
