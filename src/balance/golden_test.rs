//! What polaris-go and polaris-java answer, case by case; `tests/golden/` holds the files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::balance::{
    Criteria, Hash, L5cst, LeastConnection, LoadBalancer, Maglev, RingHash, Selector, ShortestResponseTime,
    WeightedRoundRobin,
};
use crate::config::PluginOptions;
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::call::Outcome;
use crate::model::health::Slot;
use crate::model::key::{Revision, ServiceKey};
use crate::model::service::ServiceInstances;
use crate::model::subset::{Base, Subset};

/// Choices for one key that differ in nothing but chance must not differ.
const ANY_ENTROPY: u64 = 0x0123_4567_89AB_CDEF;

fn cases(file: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_str(file).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

/// A service of these instances: id, host, port, weight.
fn service<'a>(instances: impl Iterator<Item = (&'a str, &'a str, u32, u32)>) -> Arc<ServiceInstances> {
    let mut builder = SnapshotBuilder::new(ServiceKey::new("default", "a"));
    for (id, host, port, weight) in instances {
        builder.push(InstanceParts { id, host, port, weight, ..InstanceParts::default() }, []).unwrap();
    }
    Arc::new(builder.finish(Revision::new("r"), [], None))
}

fn id(subset: &Subset, place: usize) -> &str {
    subset.instance(place).unwrap().id().as_str()
}

/// Those instances of a case of polaris-go that its routers leave: not isolated, not unhealthy, breaker not open; `None`
/// if there are none, which it answers with 1010. Instances of weight 0 are left in, though it drops them, so that the
/// balancers show that they do not matter.
fn candidates(case: &Value) -> Option<Subset> {
    let instances = case["instances"].as_array().unwrap();
    let serves = |instance: &&Value| {
        let state = instance.get(4).map_or("", text);
        assert!(["", "unhealthy", "isolated", "breaker_open", "breaker_half_open"].contains(&state), "{state}");
        ["", "breaker_half_open"].contains(&state)
    };
    let parts = |i: &'_ Value| (text(&i[0]).to_owned(), text(&i[1]).to_owned(), number(&i[2]), number(&i[3]));
    let parts: Vec<_> = instances.iter().filter(serves).map(parts).collect();
    let service = service(parts.iter().map(|(id, host, port, weight)| (id.as_str(), host.as_str(), *port, *weight)));
    Subset::whole(&Arc::new(Base::new(service, Vec::new())))
}

/// Holds a policy of keys to a file of polaris-go: every key, every value, and every list of replicas.
fn check_keys(file: &str, policy: impl Fn(&Value) -> Box<dyn LoadBalancer>) {
    for case in cases(file) {
        let name = text(&case["name"]);
        assert!(case.get("deviates").is_none(), "{name}: look what decisions are deviated from");
        let subset = candidates(&case);
        let prepared = subset.as_ref().map(|subset| policy(&case).prepare(subset).unwrap());
        let pick = |criteria: &Criteria<'_>| match (&subset, &prepared) {
            (Some(subset), Some(selector)) => id(subset, selector.select(subset, criteria)),
            _ => "error 1010",
        };
        let chance = Criteria::new(ANY_ENTROPY);
        for pair in case["picks"].as_array().unwrap() {
            let key = text(&pair[0]);
            assert_eq!(pick(&chance.with_hash_key(key.as_bytes())), text(&pair[1]), "{name}: {key:?}");
        }
        for pair in case["hash_values"].as_array().unwrap() {
            let value = text(&pair[0]).parse().unwrap();
            assert_eq!(pick(&chance.with_hash_value(value)), text(&pair[1]), "{name}: {value}");
        }
        for row in case.get("replicas").map_or(&[][..], |rows| rows.as_array().unwrap()) {
            let criteria = chance.with_hash_key(text(&row[0]).as_bytes());
            let count = 1 + usize::try_from(number(&row[1])).unwrap();
            let (Some(subset), Some(selector)) = (&subset, &prepared) else {
                assert_eq!(row[2], "error 1010", "{name}: {row}");
                continue;
            };
            let expected: Vec<_> = row[2].as_array().unwrap().iter().map(text).collect();
            assert_eq!(replicas(subset, &**selector, &criteria, count), expected, "{name}: {row}");
        }
    }
}

/// The first `count` different instances on the way of a key.
fn replicas<'s>(subset: &'s Subset, selector: &dyn Selector, criteria: &Criteria<'_>, count: usize) -> Vec<&'s str> {
    let way = (1..).map_while(|step| selector.walk(subset, criteria, step));
    let mut found: Vec<&str> = Vec::new();
    for place in [selector.select(subset, criteria)].into_iter().chain(way) {
        if !found.contains(&id(subset, place)) && found.len() < count {
            found.push(id(subset, place));
        }
    }
    found
}

fn options(key: &str, value: &Value) -> PluginOptions {
    PluginOptions::new().with(key, &value.to_string())
}

#[test]
fn the_ring_is_that_of_polaris_go() {
    let file = include_str!("../../tests/golden/polaris-go/ring_hash.json");
    check_keys(file, |case| Box::new(RingHash::from_options(&options("vnodeCount", &case["vnodes"])).unwrap()));
}

#[test]
fn the_table_of_maglev_is_that_of_polaris_go() {
    let file = include_str!("../../tests/golden/polaris-go/maglev.json");
    check_keys(file, |case| Box::new(Maglev::from_options(&options("tableSize", &case["table_size"])).unwrap()));
}

#[test]
fn the_plain_hash_is_that_of_polaris_go() {
    check_keys(include_str!("../../tests/golden/polaris-go/hash_lb.json"), |_| Box::new(Hash));
}

#[test]
fn the_ring_of_l5_is_that_of_polaris_go() {
    check_keys(include_str!("../../tests/golden/polaris-go/l5cst.json"), |_| Box::new(L5cst));
}

/// The instances of a case of polaris-java, with the weights that it adjusted.
fn java_subset(instances: &Value, dynamic: Option<&Value>) -> Subset {
    let parts = |i: &'_ Value| {
        let weight = i.get("weight").map_or(100, number);
        (text(&i["id"]).to_owned(), text(&i["host"]).to_owned(), number(&i["port"]), weight)
    };
    let parts: Vec<_> = instances.as_array().unwrap().iter().map(parts).collect();
    let service = service(parts.iter().map(|(id, host, port, weight)| (id.as_str(), host.as_str(), *port, *weight)));
    let adjusted = dynamic.map(|dynamic| {
        let weight = |id: &str, own| dynamic.get(id).map_or(own, number);
        service.instances().iter().map(|instance| weight(instance.id().as_str(), instance.weight())).collect()
    });
    Subset::whole(&Arc::new(Base::with_weights(service, Vec::new(), adjusted))).unwrap()
}

/// Two cases are decided otherwise:
/// * "weights 0 0": polaris-java calls the first one always; here all are called evenly where nobody has a weight.
/// * "weight changes: its state is reset": polaris-java goes on with the credit of those whose weight stayed; here a
///   change of the data begins a cycle anew, as it does there when an instance comes or goes.
///
/// "another order of the same instances" is no change here: instances are sorted, and the selector is the same one.
#[test]
fn turns_are_those_of_polaris_java() {
    for case in cases(include_str!("../../tests/golden/polaris-java/smooth_wrr.json")) {
        let name = text(&case["name"]);
        let mut prepared: Option<(Subset, Box<dyn Selector>)> = None;
        for (phase, picks) in case["phases"].as_array().unwrap().iter().zip(case["expect"]["picks"].as_array().unwrap())
        {
            let subset = java_subset(&phase["instances"], phase.get("dynamic"));
            let same = |(before, _): &(Subset, _)| before.iter().eq(subset.iter());
            let (subset, selector) = prepared.take().filter(same).unwrap_or_else(|| {
                let selector = WeightedRoundRobin.prepare(&subset).unwrap();
                (subset, selector)
            });
            let chance = Criteria::new(ANY_ENTROPY);
            let turns = (0..number(&phase["n"])).map(|_| id(&subset, selector.select(&subset, &chance)));
            let turns = turns.collect::<Vec<_>>().join(",");
            let expected = match (name, text(picks)) {
                ("weights 0 0", _) => "w1,w2,".repeat(15).trim_end_matches(',').to_owned(),
                ("weight changes: its state is reset", "w2,w3,w1,w2,w3,w1,w2,w3,w1") => {
                    "w1,w2,w3,w1,w2,w3,w1,w2,w3".to_owned()
                }
                (_, picks) => picks.to_owned(),
            };
            assert_eq!(turns, expected, "{name}");
            prepared = Some((subset, selector));
        }
    }
}

#[test]
fn fewest_calls_are_followed_as_in_polaris_java() {
    for case in cases(include_str!("../../tests/golden/polaris-java/least_connection.json")) {
        let subset = java_subset(&case["instances"], None);
        let slot = |wanted: &str| (0..subset.len().get()).find(|place| id(&subset, *place) == wanted).unwrap();
        for instance in case["instances"].as_array().unwrap() {
            let slot = subset.slot(slot(text(&instance["id"]))).unwrap();
            (0..number(&instance["active"])).for_each(|_| slot.enter());
        }
        let selector = LeastConnection.prepare(&subset).unwrap();
        let run = |op: &Value| {
            if let Some(done) = text(op).strip_prefix("done ") {
                subset.slot(slot(done)).unwrap().leave();
                return "-";
            }
            let place = selector.select(&subset, &Criteria::new(ANY_ENTROPY));
            subset.slot(place).unwrap().enter();
            id(&subset, place)
        };
        let trace = case["ops"].as_array().unwrap().iter().map(run);
        let trace = trace.collect::<Vec<_>>().join(",");
        assert_eq!(trace, text(&case["expect"]["trace"]), "{}", case["name"]);
    }
}

/// Shares were measured there, so they are allowed to be off by 0.02. "slower than 100 s is out" lies within that: it
/// has the smallest share here, and none there.
#[test]
fn shares_by_time_are_those_of_polaris_java() {
    const PICKS: u32 = 20_000;
    for case in cases(include_str!("../../tests/golden/polaris-java/shortest_response.json")) {
        let subset = java_subset(&case["instances"], None);
        let report = |slot: &Slot, delays: &Value, outcome| {
            for millis in delays.as_array().unwrap() {
                slot.record(outcome, Duration::from_millis(number(millis).into()));
            }
        };
        for (place, instance) in case["instances"].as_array().unwrap().iter().enumerate() {
            assert_eq!(id(&subset, place), text(&instance["id"]), "cases are sorted as subsets are");
            let slot = subset.slot(place).unwrap();
            report(slot, &instance["ok_delays"], Outcome::Success(0));
            report(slot, &instance["fail_delays"], Outcome::Failure(1));
        }
        let selector = ShortestResponseTime.prepare(&subset).unwrap();
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for pick in 0..PICKS {
            let criteria = Criteria::new(u64::from(pick) * (u64::MAX / u64::from(PICKS)));
            *counts.entry(id(&subset, selector.select(&subset, &criteria))).or_default() += 1;
        }
        for instance in subset.iter() {
            let id = instance.id().as_str();
            let expected = case["expect"]["share"].get(id).map_or(0.0, |share| share.as_f64().unwrap());
            let share = f64::from(counts.get(id).copied().unwrap_or(0)) / f64::from(PICKS);
            assert!((share - expected).abs() <= 0.02, "{}: {id} has {share} of {expected}", case["name"]);
        }
    }
}
