//! What the two official SDKs answer, case by case (READMEs beside the data say how it was made). Where the decisions of this
//! project differ, the case is listed with what is asserted in its place, and why.

#![allow(clippy::match_same_arms, reason = "each arm is a case of its own, with its reason")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

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
use crate::model::subset::{Base, Subset};
use crate::model::variables::Variables;
use crate::routing::explain::explain;
use crate::routing::{
    Build, ByMetadata, Chain, Isolated, Maker, Matching, Nearby, Recover, RouteRequest, RuleBased, ServiceRouter,
    Surroundings,
};
use crate::testing::compiled;
use crate::util::panic::caught;

/// The share of each instance that gets any.
type Shares = BTreeMap<String, f64>;

fn golden(file: &str) -> Value {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// The instances of a case, with their breakers.
fn base(key: &ServiceKey, metadata: &Value, list: &Value) -> Arc<Base> {
    let mut builder = SnapshotBuilder::new(key.clone());
    for instance in list.as_array().into_iter().flatten() {
        let place = if instance["location"].is_object() { &instance["location"] } else { instance };
        let parts = InstanceParts {
            id: text(instance, "id"),
            host: "10.0.0.1",
            port: 80,
            weight: instance["weight"].as_u64().map_or(100, |weight| u32::try_from(weight).unwrap()),
            healthy: instance["healthy"].as_bool().unwrap_or(true),
            isolated: instance["isolate"].as_bool().unwrap_or(false),
            location: (text(place, "region"), text(place, "zone"), text(place, "campus")),
            ..InstanceParts::default()
        };
        builder.push(parts, pairs(&instance["metadata"])).unwrap();
    }
    let snapshot = Arc::new(builder.finish(Revision::new("r"), pairs(metadata), None));
    let slots = snapshot.instances().iter().map(|instance| {
        let listed =
            list.as_array().unwrap().iter().find(|listed| text(listed, "id") == instance.id().as_str()).unwrap();
        let slot = Slot::default();
        slot.set_breaker(match text(listed, "breaker").to_lowercase().as_str() {
            "open" => Breaker::Open,
            "half_open" | "half-open" | "halfopen" => Breaker::HalfOpen,
            "" | "close" | "closed" => Breaker::Closed,
            other => panic!("breaker {other}"),
        });
        Arc::new(slot)
    });
    let slots = slots.collect();
    Arc::new(Base::new(snapshot, slots))
}

fn pairs(value: &Value) -> Vec<(&str, &str)> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap())).collect()
}

fn surroundings(base: &Base) -> Surroundings {
    Surroundings { health: Arc::new(HealthView::of(base.slots())), ..Surroundings::default() }
}

/// Who gets how much of such picks, exactly.
fn shares(
    base: &Arc<Base>,
    chain: &[&Arc<dyn ServiceRouter>],
    surroundings: &Surroundings,
    pick: &Pick<'_>,
) -> Result<Shares, ErrorKind> {
    let chain = Chain::new(chain.iter().map(|router| ("router".into(), Arc::clone(router))).collect());
    let maker = Maker { chain: &chain, surroundings, leaf: &Ok, crowded: &|| {} };
    let plan = Build::new(&maker, Subset::whole(base).ok_or(ErrorKind::NoInstances)?).run();
    let mut shares = Shares::new();
    for route in explain(&plan, &RouteRequest { pick, entropy: 0 }, &maker, &|leaf: &Subset| leaf) {
        let instances = route.outcome.map_err(|error| error.kind())?;
        let total: f64 = instances.iter().map(|instance| f64::from(instance.weight())).sum();
        for instance in instances {
            let share = route.share * f64::from(instance.weight()) / total;
            *shares.entry(instance.id().as_str().to_owned()).or_default() += share;
        }
    }
    Ok(shares)
}

fn assert_shares(name: &str, found: &Result<Shares, ErrorKind>, expected: &Value) {
    let found = found.as_ref().unwrap_or_else(|kind| panic!("{name}: refused with {kind:?}, not {expected}"));
    let expected: Shares =
        expected.as_object().unwrap().iter().map(|(id, share)| (id.clone(), share.as_f64().unwrap())).collect();
    let alike = found.len() == expected.len()
        && found.iter().all(|(id, share)| expected.get(id).is_some_and(|other| (share - other).abs() < 0.0051));
    assert!(alike, "{name}: {found:?} instead of {expected:?}");
}

/// The instances, whatever their shares.
fn assert_instances(name: &str, found: &Result<Shares, ErrorKind>, expected: &[&str]) {
    let found = found.as_ref().unwrap_or_else(|kind| panic!("{name}: refused with {kind:?}, not {expected:?}"));
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{name}");
}

/// What a case of polaris-java expects: groups, each with its share.
fn assert_groups(name: &str, found: &Result<Shares, ErrorKind>, groups: &Value) {
    let groups = groups.as_array().unwrap();
    if let [only] = groups.as_slice() {
        let ids: Vec<_> = only["instances"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap()).collect();
        if ids.is_empty() {
            assert!(found.is_err(), "{name}: {found:?} instead of a refusal");
        } else {
            assert_instances(name, found, &ids);
        }
        return;
    }
    let mut expected = Shares::new();
    for group in groups {
        let ids: Vec<_> = group["instances"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        for id in &ids {
            let share = group["share"].as_f64().unwrap() / f64::from(u32::try_from(ids.len()).unwrap());
            *expected.entry((*id).to_owned()).or_default() += share;
        }
    }
    let found = found.as_ref().unwrap();
    // Measured over 20,000 runs.
    let near = |(id, share): (&String, &f64)| expected.get(id).is_some_and(|other| (share - other).abs() < 0.02);
    assert!(found.len() == expected.len() && found.iter().all(near), "{name}: {found:?} instead of {expected:?}");
}

fn labels(list: &Value) -> LabelSet {
    let mut labels = LabelSet::new();
    for argument in list.as_array().into_iter().flatten() {
        let at = |n: usize, key: &str| argument.get(n).or_else(|| argument.get(key)).and_then(Value::as_str);
        let (key, value) = (at(1, "key").unwrap_or_default(), at(2, "value").unwrap_or_default());
        let kind = match at(0, "type").unwrap() {
            "CUSTOM" => LabelKind::Custom,
            "METHOD" => LabelKind::Method,
            "HEADER" => LabelKind::Header,
            "QUERY" => LabelKind::Query,
            "COOKIE" => LabelKind::Cookie,
            "PATH" => LabelKind::Path,
            "CALLER_IP" => LabelKind::CallerIp,
            "CALLER_SERVICE" => LabelKind::CallerService,
            "CALLER_METADATA" => LabelKind::CallerMetadata,
            other => panic!("argument {other}"),
        };
        labels.insert(kind, key, value);
    }
    labels
}

fn isolated() -> Arc<dyn ServiceRouter> {
    Arc::new(Isolated)
}

fn recover() -> Arc<dyn ServiceRouter> {
    Arc::new(Recover::new(true, 0.0))
}

fn by_rules(failover: &str) -> Arc<dyn ServiceRouter> {
    Arc::new(RuleBased::from_options(&PluginOptions::new().with("failoverType", failover)).unwrap())
}

fn nearby(options: &[(&str, &str)]) -> Arc<dyn ServiceRouter> {
    let options = options.iter().fold(PluginOptions::new(), |options, (key, value)| options.with(key, value));
    Arc::new(Nearby::from_options(&options).unwrap())
}

fn rule_failover<'a>(pick: Pick<'a>, name: &str) -> Pick<'a> {
    match name {
        "all" => pick.rule_failover(RuleFailover::All),
        "none" => pick.rule_failover(RuleFailover::None),
        "" | "none-config" => pick,
        other => panic!("fail-over {other}"),
    }
}

/// The variables of the vectors of polaris-go, as its README gives them.
fn go_variables() -> Variables {
    let configured = [("H2_VAR", "gray"), ("H2_BOTH", "gray"), ("H2_STAR", "*"), ("H2_RE", "^g")];
    let configured = configured.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Variables::new(configured, |name| matches!(name, "H2_ENV" | "H2_BOTH").then(|| "env".to_owned()))
}

/// Runs every case and tells all that fail, not only the first.
fn every(file: &Value, check: impl Fn(&Value)) {
    let cases = file["cases"].as_array().unwrap();
    let failed: Vec<_> = cases.iter().filter_map(|case| caught(|| check(case)).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn rules_of_polaris_go() {
    let callee = ServiceKey::new("ns", "svc");
    every(&golden("polaris-go/rule_route.json"), |case| {
        let name = text(case, "name");
        let base = base(&callee, &Value::Null, &case["instances"]);
        let caller = case["caller"]
            .is_object()
            .then(|| ServiceKey::new(text(&case["caller"], "namespace"), text(&case["caller"], "service")));
        let rules = |rules: &Value, of: &ServiceKey| {
            if rules.is_null() { Arc::default() } else { compiled::routing(of, rules).0 }
        };
        let inbound = rules(&case["callee_rules"], &callee);
        let outbound = caller.as_ref().map(|caller| rules(&case["caller_rules"], caller));
        let variables = Arc::new(go_variables());
        let surroundings = Surroundings {
            matching: Arc::new(Matching::new(&[&callee], caller.as_ref(), &inbound, outbound.as_deref(), &variables)),
            variables,
            ..surroundings(&base)
        };
        let mut labels = labels(&case["caller"]["arguments"]);
        for (key, value) in pairs(&case["caller"]["metadata"]) {
            // An argument wins over caller metadata of the same name.
            if crate::model::label::Labels::get(&labels, LabelKind::Custom, key).is_none() {
                labels.insert(LabelKind::Custom, key, value);
            }
        }
        let failover = text(case, "failover");
        let router = by_rules(if failover == "none-config" { "none" } else { "all" });
        let pick = rule_failover(Pick::new().labels(&labels), failover);
        let found = shares(&base, &[&isolated(), &router, &recover()], &surroundings, &pick);
        let all = json!({"a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2, "e": 0.2});
        match (name, case.get("deviates")) {
            // One bad rule is skipped, and there is no other.
            ("destination REGEX invalid", Some(_)) => assert_shares(name, &found, &all),
            // `isolate` is read: the group takes no calls.
            ("isolated destination", Some(_)) => assert_instances(name, &found, &["c"]),
            // And a rule that has no other lets the next one try.
            ("only an isolated destination", Some(_)) => assert_instances(name, &found, &["c"]),
            // No instance has both labels: the next rule is asked.
            ("group of two labels that no instance has together", Some(_)) => assert_instances(name, &found, &["c"]),
            // A rule value of `*` matches an absent label, and a key of `*` says nothing.
            (
                "source label absent though the rule says *"
                | "source label * and the caller has no labels at all"
                | "source label key *, caller without labels",
                None,
            ) => assert_instances(name, &found, &["c"]),
            ("the same, failover all", Some(_)) => assert_shares(name, &found, &all),
            ("NOT_EQUALS twice with different values in one weight class", Some(_)) => {
                assert_shares(name, &found, &json!({"a": 0.17, "b": 0.17, "c": 0.42, "d": 0.25}));
            }
            ("destination IN", Some(_)) => assert_instances(name, &found, &["a", "b", "c"]),
            // A negation needs the label to be there.
            ("destination NOT_IN", Some(_)) => assert_instances(name, &found, &["d"]),
            ("destination EXACT empty value", Some(_)) => assert_shares(name, &found, &all),
            ("inbound source misses, outbound hits", Some(_)) => assert_instances(name, &found, &["c"]),
            // The fail-over is for rules that matched.
            ("no source matches, failover none", Some(_)) => assert_shares(name, &found, &all),
            (_, deviates) => {
                let expect = &case["expect"];
                match (expect.get("fair_shares"), expect.get("shares")) {
                    (Some(fair), _) => assert_shares(name, &found, fair),
                    (None, Some(shares)) if deviates.is_none() => assert_shares(name, &found, shares),
                    (None, None) if deviates.is_none() => assert!(found.is_err(), "{name}: {found:?}"),
                    _ => panic!("{name}: {found:?}, which deviates: {deviates:?}, {expect}"),
                }
            }
        }
    });
}

#[test]
fn rules_of_polaris_java_in_both_forms() {
    let file = golden("polaris-java/rules_v2.json");
    every(&file, |case| {
        let name = text(case, "name");
        let key = |side: &str| ServiceKey::new(text(&case[side], "namespace"), text(&case[side], "service"));
        let (callee, caller) = (key("callee"), key("caller"));
        let instances = case.get("instances").unwrap_or(&file["default_instances"]);
        let base = base(&callee, &case["callee"]["metadata"], instances);
        let configured = pairs(&case["variables"]).into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let variables = Variables::new(configured, |name| (name == "GOLDEN_ENV").then(|| "prod".to_owned()));
        let variables = Arc::new(variables);
        let router = by_rules(case["config_failover"].as_str().unwrap_or("all"));
        let labels = labels(&case["arguments"]);
        let pick = rule_failover(Pick::new().labels(&labels), text(case, "request_failover"));
        let native = json!({ "rules": case["rules"] });
        for (form, of_callee, of_caller) in
            [("as routes", &case["v1"]["callee"], &case["v1"]["caller"]), ("as whole rules", &native, &native)]
        {
            let rules = |rules: &Value, of: &ServiceKey| compiled::routing(of, rules).0;
            let (inbound, outbound) = (rules(of_callee, &callee), rules(of_caller, &caller));
            let surroundings = Surroundings {
                matching: Arc::new(Matching::new(&[&callee], Some(&caller), &inbound, Some(&outbound), &variables)),
                variables: Arc::clone(&variables),
                ..surroundings(&base)
            };
            let found = shares(&base, &[&isolated(), &router], &surroundings, &pick);
            let said = format!("{name}, {form}");
            let everybody = ["i1", "i2", "i3", "i4", "i6"];
            match name {
                // Values are compared case by case.
                "source EXACT other case" => assert_instances(&said, &found, &everybody),
                "source NOT_EQUALS other case" | "source NOT_IN other case" => {
                    assert_instances(&said, &found, &["i1", "i2"]);
                }
                "destination: label IN case" => assert_instances(&said, &found, &["i1", "i2"]),
                "destination: label NOT_EQUALS case" => assert_instances(&said, &found, &["i3", "i4", "i5"]),
                // A rule value of `*` or nothing matches whatever is there, and what is not.
                "source value * and no labels at all" => assert_instances(&said, &found, &["i1", "i2"]),
                "destination: label value * and no instance has labels at all" => {
                    assert_instances(&said, &found, &["i1", "i2"]);
                }
                "destination: label value empty" => assert_instances(&said, &found, &everybody),
                // All segments of a path count, what stands before the first `/` included.
                "PATH user/list against other/list" => assert_instances(&said, &found, &everybody),
                // Templates are for methods too.
                "METHOD with a template" => assert_instances(&said, &found, &["i1", "i2"]),
                // The rule's value names the variable, not the label's key.
                "VARIABLE from the configuration, by the label key" => assert_instances(&said, &found, &everybody),
                _ if case.get("deviates").is_some() => panic!("{said} deviates, and nobody says to what: {found:?}"),
                _ => assert_groups(&said, &found, &case["expect"]["groups"]),
            }
        }
    });
}

#[test]
fn metadata_of_polaris_go() {
    let callee = ServiceKey::new("ns", "svc");
    every(&golden("polaris-go/dst_meta.json"), |case| {
        let name = text(case, "name");
        let base = base(&callee, &Value::Null, &case["instances"]);
        let metadata = pairs(&case["request_metadata"]);
        let failover = match text(case, "failover") {
            "GetOneHealth" => Some(MetadataFailover::All),
            "NotContainMetaKey" => Some(MetadataFailover::NotKey),
            "none" => Some(MetadataFailover::None),
            "" => None,
            // A map of its own to fail over to is no kind of fail-over here: a caller asks again for that map.
            "CustomMeta" => return,
            other => panic!("fail-over {other}"),
        };
        let pick = Pick::new().metadata(&metadata);
        let pick = failover.map_or(pick, |failover| pick.metadata_failover(failover));
        let recover: Arc<dyn ServiceRouter> = Arc::new(Recover::new(case["recover_all"].as_bool().unwrap(), 0.0));
        let router: Arc<dyn ServiceRouter> = Arc::new(ByMetadata::from_options(&PluginOptions::new()).unwrap());
        let found = shares(&base, &[&isolated(), &router, &recover], &surroundings(&base), &pick);
        match case["expect"].get("shares") {
            _ if case.get("deviates").is_some() => panic!("{name} deviates, and nobody says to what: {found:?}"),
            Some(shares) => assert_shares(name, &found, shares),
            None => assert!(found.is_err(), "{name}: {found:?} instead of a refusal"),
        }
    });
}

#[test]
fn metadata_of_polaris_java() {
    let file = golden("polaris-java/metadata.json");
    every(&file, |case| {
        let name = text(case, "name");
        let callee = ServiceKey::new("default", "svc");
        let base =
            base(&callee, &case["callee"]["metadata"], case.get("instances").unwrap_or(&file["default_instances"]));
        let metadata = pairs(&case["metadata"]);
        let options =
            PluginOptions::new().with("metadataFailOverType", case["config_failover"].as_str().unwrap_or("all"));
        let router: Arc<dyn ServiceRouter> = Arc::new(ByMetadata::from_options(&options).unwrap());
        let pick = Pick::new().metadata(&metadata);
        let pick = match text(case, "request_failover") {
            "NONE" => pick.metadata_failover(MetadataFailover::None),
            "ALL" => pick.metadata_failover(MetadataFailover::All),
            "NOTKEY" => pick.metadata_failover(MetadataFailover::NotKey),
            _ => pick,
        };
        let found = shares(&base, &[&router], &surroundings(&base), &pick);
        match case["expect"].get("error") {
            // Others are those that have none of the wanted keys.
            _ if case.get("deviates").is_some() => assert_instances(name, &found, &["m4"]),
            // The word of the request, written by a service, means the same.
            _ if name == "service metadata notKey is unknown, config decides" => {
                assert_instances(name, &found, &["m3", "m4"]);
            }
            None => assert_groups(name, &found, &case["expect"]["groups"]),
            Some(_) => assert!(found.is_err(), "{name}: {found:?} instead of a refusal"),
        }
    });
}

#[test]
fn nearby_of_polaris_go() {
    let callee = ServiceKey::new("ns", "svc");
    every(&golden("polaris-go/nearby.json"), |case| {
        let name = text(case, "name");
        let base = base(&callee, &case["service_metadata"], &case["instances"]);
        let location: Vec<_> = text(case, "client_location").split('/').collect();
        let percent = case["unhealthy_percent_to_degrade"].to_string();
        let router = nearby(&[
            ("matchLevel", text(case, "match_level")),
            ("maxMatchLevel", text(case, "max_match_level")),
            ("enableDegradeByUnhealthyPercent", &case["degrade_by_unhealthy"].to_string()),
            ("unhealthyPercentToDegrade", &percent),
        ]);
        let rule = case.get("nearby_rules").and_then(|rules| compiled::nearby(&callee, rules).0.rule.clone());
        let level = |at: usize| location.get(at).copied().unwrap_or_default();
        let location = Location::new(level(0), level(1), level(2));
        let surroundings = Surroundings { location: Arc::new(location), nearby: rule, ..surroundings(&base) };
        let recover: Arc<dyn ServiceRouter> = Arc::new(Recover::new(case["recover_all"].as_bool().unwrap(), 0.0));
        let found = shares(&base, &[&isolated(), &router, &recover], &surroundings, &Pick::new());
        match case["expect"].get("shares") {
            // An instance that does not say where it is at a level is not near at it.
            _ if name == "instance without a location is near" => assert_instances(name, &found, &["s4"]),
            _ if name == "instance with region only" => assert_instances(name, &found, &["s1", "s4"]),
            // All fields of a rule count: the widest level of this one has nobody.
            _ if name == "rule says max region, region empty" => assert!(found.is_err(), "{name}: {found:?}"),
            Some(shares) => assert_shares(name, &found, shares),
            None => assert!(found.is_err(), "{name}: {found:?} instead of a refusal"),
        }
    });
}

#[test]
fn nearby_of_polaris_java() {
    let file = golden("polaris-java/nearby.json");
    every(&file, |case| {
        let name = text(case, "name");
        let callee = ServiceKey::new("default", "svc");
        let base =
            base(&callee, &case["callee"]["metadata"], case.get("instances").unwrap_or(&file["default_instances"]));
        let mut options = vec![("enableDegradeByUnhealthyPercent".to_owned(), "false".to_owned())];
        for (key, value) in case["config"].as_object().into_iter().flatten() {
            options.push((key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
        let options: Vec<_> = options.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let place = &case["client_location"];
        let location = Location::new(text(place, "region"), text(place, "zone"), text(place, "campus"));
        let rule = case.get("rule").and_then(|rules| compiled::nearby(&callee, rules).0.rule.clone());
        let surroundings = Surroundings { location: Arc::new(location), nearby: rule, ..surroundings(&base) };
        let pick = if case["request_enable"] == json!(true) { Pick::new().nearby() } else { Pick::new() };
        let found = shares(&base, &[&nearby(&options)], &surroundings, &pick);
        match (case.get("decided"), case["expect"].get("error")) {
            // A level that the client does not know is skipped.
            (None, None) if name.starts_with("client knows its region only, match ") => {
                assert_instances(name, &found, &["n1", "n2", "n3"]);
            }
            (Some(decided), _) => {
                let ids: Vec<_> = decided.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
                let mut sorted = ids.clone();
                sorted.sort_unstable();
                assert_instances(name, &found, &sorted);
            }
            (None, Some(_)) => assert!(found.is_err(), "{name}: {found:?} instead of a refusal"),
            (None, None) => assert_groups(name, &found, &case["expect"]["groups"]),
        }
    });
}

#[test]
fn recovery_of_polaris_go() {
    let callee = ServiceKey::new("ns", "svc");
    every(&golden("polaris-go/filter_only.json"), |case| {
        let name = text(case, "name");
        let base = base(&callee, &Value::Null, &case["instances"]);
        let share = case["percent_of_min_instances"].as_f64().unwrap();
        let recover: Arc<dyn ServiceRouter> = Arc::new(Recover::new(case["recover_all"].as_bool().unwrap(), share));
        let pick =
            if case["include_circuit_breaked"] == json!(true) { Pick::new().include_broken() } else { Pick::new() };
        let found = shares(&base, &[&isolated(), &recover], &surroundings(&base), &pick);
        let everybody = ["a", "b", "c", "d"];
        match case["expect"].get("shares") {
            // Half open is a candidate, open is none while there is another.
            _ if name == "half-open and open" => assert_instances(name, &found, &["a"]),
            // A request that includes broken instances gets them.
            _ if name == "half-open and open, circuit-broken included" => assert_instances(name, &found, &["a", "b"]),
            // At or below the percentage it is the whole list.
            _ if name == "percent 0.5, 2 of 4 healthy" => assert_instances(name, &found, &everybody),
            _ if name == "percent 0.5, 1 of 4 healthy, 1 open" => assert_instances(name, &found, &everybody),
            _ if case.get("deviates").is_some() => panic!("{name} deviates, and nobody says to what: {found:?}"),
            Some(shares) => assert_shares(name, &found, shares),
            None => assert!(found.is_err(), "{name}: {found:?} instead of a refusal"),
        }
    });
}

#[test]
fn recovery_of_polaris_java() {
    let file = golden("polaris-java/recover.json");
    every(&file, |case| {
        let name = text(case, "name");
        let callee = ServiceKey::new("default", "svc");
        let base = base(&callee, &Value::Null, case.get("instances").unwrap_or(&file["default_instances"]));
        let all = case["config"]["allRecoverEnable"].as_bool().unwrap_or(true);
        let recover: Arc<dyn ServiceRouter> = Arc::new(Recover::new(all, 0.0));
        let exclude = case["config"]["excludeCircuitBreakInstances"].as_bool().unwrap_or(true);
        let include = case["include_circuit_break"] == json!(true) || !exclude;
        let pick = if include { Pick::new().include_broken() } else { Pick::new() };
        let found = shares(&base, &[&recover], &surroundings(&base), &pick);
        assert_groups(name, &found, &case["expect"]["groups"]);
    });
}

#[test]
fn isolation_of_polaris_java() {
    let file = golden("polaris-java/isolated.json");
    every(&file, |case| {
        let callee = ServiceKey::new("default", "svc");
        let base = base(&callee, &Value::Null, &case["instances"]);
        let found = shares(&base, &[&isolated()], &surroundings(&base), &Pick::new());
        assert_groups(text(case, "name"), &found, &case["expect"]["groups"]);
    });
}
