//! Picks follow the rules of the control plane, the metadata that they want, and where the client is; and say why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a test may panic"
)]

mod support;

#[path = "support/discovering.rs"]
mod discovering;

use std::time::Duration;

use discovering::{A, B, SECOND, at, kind, ports, stop};
use polarismesh::testing::{Release, RoutingForm, Rpc, Server, TestInstance};
use polarismesh::{
    ContextState, ErrorKind, GetInstances, GetOneInstance, LabelSet, Location, MetadataFailover, Pick, ResourceKind,
    RouteInstances, RuleFailover, SdkContext, ServiceHandle, ServiceKey,
};
use serde_json::{Value, json};
use support::{eventually, throughout};
use tokio::time::Instant;

/// The service that calls.
const WEB: (&str, &str) = ("default", "web");

/// Ports 1 and 2 are version 1, ports 3 and 4 version 2.
fn versions() -> impl Iterator<Item = TestInstance> {
    (1..=4).map(|port| at(port).metadata("version", if port < 3 { "v1" } else { "v2" }))
}

fn server() -> Server {
    let server = Server::in_memory();
    server.service(A).instances(versions());
    server.service(WEB).create();
    server
}

fn exact(value: &str) -> Value {
    json!({"type": "EXACT", "value": value})
}

/// A rule for calls to A: `sources` to groups of versions with weights.
fn rule(name: &str, sources: impl Into<Value>, groups: &[(&str, u32)]) -> Value {
    let sources = sources.into();
    let group = |(version, weight): &(&str, u32)| {
        json!({"namespace": A.0, "service": A.1, "name": version, "weight": weight,
            "labels": {"version": exact(version)}})
    };
    json!({"name": name, "namespace": A.0, "enable": true, "priority": 0, "routing_policy": "RulePolicy",
        "routing_config": {"@type": "type.googleapis.com/v1.RuleRoutingConfig", "rules": [
            {"name": "only", "sources": sources, "destinations": groups.iter().map(group).collect::<Vec<_>>()}]}})
}

/// From anybody, with this header.
fn header(key: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    json!([{"namespace": "*", "service": "*", "arguments": [{"type": "HEADER", "key": key, "value": value}]}])
}

fn from_anybody() -> Value {
    json!([{"namespace": "*", "service": "*"}])
}

async fn ready(context: &SdkContext) -> ServiceHandle {
    let handle = context.consumer().service(A);
    handle.ready().await.unwrap();
    handle
}

/// The ports that many picks come to.
fn picked(handle: &ServiceHandle, pick: &Pick<'_>) -> Vec<u16> {
    ports(&(0..200).map(|_| handle.pick(pick).unwrap()).collect::<Vec<_>>())
}

#[tokio::test(start_paused = true)]
async fn a_rule_sends_the_calls_that_it_matches_and_no_others() {
    for release in [Release::Main, Release::V1_18, Release::V1_17] {
        let server = server();
        server.release(release);
        server.rule(ResourceKind::Routing, rule("canary", header("uid", exact("7")), &[("v2", 100)])).unwrap();
        let context = server.context().unwrap();
        let handle = ready(&context).await;
        let (seven, eight) = (LabelSet::new().header("uid", "7"), LabelSet::new().header("uid", "8"));
        assert_eq!(picked(&handle, &Pick::new().labels(&seven)), [3, 4], "{release:?}");
        assert_eq!(picked(&handle, &Pick::new().labels(&eight)), [1, 2, 3, 4]);
        assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4], "without labels");
        let request = GetOneInstance::new(A.0, A.1).labels(&seven);
        assert!(context.consumer().get_one_instance(request.clone()).await.unwrap().port() >= 3);
        assert_eq!(ports(&context.consumer().get_instances(request).await.unwrap()), [3, 4]);
        assert_eq!(ports(&context.consumer().get_instances(GetInstances::new(A.0, A.1)).await.unwrap()), [1, 2, 3, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn both_forms_of_a_rule_mean_the_same() {
    for form in [RoutingForm::Converted, RoutingForm::Native, RoutingForm::Both] {
        let server = server();
        server.routing_form(form);
        server.rule(ResourceKind::Routing, rule("canary", header("uid", exact("7")), &[("v2", 100)])).unwrap();
        let handle = ready(&server.context().unwrap()).await;
        let seven = LabelSet::new().header("uid", "7");
        assert_eq!(picked(&handle, &Pick::new().labels(&seven)), [3, 4], "{form:?}");
        assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4], "{form:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_changes_is_followed_within_a_refresh() {
    let server = server();
    let handle = ready(&server.context().unwrap()).await;
    assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4]);
    let refresh = Duration::from_millis(2500);
    let follows = async |what: &str, wanted: &[u16]| {
        eventually(what, refresh, async || picked(&handle, &Pick::new()) == wanted).await;
    };
    let id = server.rule(ResourceKind::Routing, rule("all", from_anybody(), &[("v1", 100)])).unwrap();
    follows("it is there", &[1, 2]).await;
    server.change_rule(ResourceKind::Routing, &id, rule("all", from_anybody(), &[("v2", 100)])).unwrap();
    follows("it is different", &[3, 4]).await;
    server.enable_rule(ResourceKind::Routing, &id, false).unwrap();
    follows("it is off", &[1, 2, 3, 4]).await;
    server.enable_rule(ResourceKind::Routing, &id, true).unwrap();
    follows("it is on", &[3, 4]).await;
    server.service(A).remove("10.0.0.1", 3);
    follows("an instance left", &[4]).await;
    assert!(server.remove_rule(ResourceKind::Routing, &id));
    follows("it is gone", &[1, 2, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn groups_share_the_calls_by_weight() {
    let server = server();
    server.rule(ResourceKind::Routing, rule("split", from_anybody(), &[("v1", 80), ("v2", 20)])).unwrap();
    let handle = ready(&server.context().unwrap()).await;
    let new = (0..20_000).filter(|_| handle.pick(&Pick::new()).unwrap().port() >= 3).count();
    // 4,000 expected; six standard deviations are 340.
    assert!((3_660..=4_340).contains(&new), "{new} of 20,000");
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_rules_count_where_the_callee_has_none_for_it() {
    let server = server();
    let key = ServiceKey::from(WEB);
    // About calls that web makes to any service of the namespace.
    let own = json!({"name": "own", "namespace": "default", "enable": true, "routing_policy": "RulePolicy",
        "routing_config": {"@type": "type.googleapis.com/v1.RuleRoutingConfig", "rules": [{"name": "s",
            "sources": [{"namespace": WEB.0, "service": WEB.1}],
            "destinations": [{"namespace": "default", "service": "*", "weight": 100, "labels": {"version": exact("v2")}}]}]}});
    let id = server.rule(ResourceKind::Routing, own).unwrap();
    let context = server.context().unwrap();
    let handle = ready(&context).await;
    assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4], "nobody in particular calls");
    let pick = Pick::new().caller(&key);
    assert_eq!(kind(handle.pick(&pick)), Some(ErrorKind::NotReady), "its rules are not known yet");
    handle.ready_for(&key).await.unwrap();
    assert_eq!(picked(&handle, &pick), [3, 4]);
    // A call that may wait waits.
    let context = server.context().unwrap();
    let request = GetOneInstance::new(A.0, A.1).caller(&key);
    assert!(context.consumer().get_one_instance(request).await.unwrap().port() >= 3);
    assert!(server.remove_rule(ResourceKind::Routing, &id));
    eventually("it is gone", 3 * SECOND, async || picked(&handle, &pick) == [1, 2, 3, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn the_configured_service_is_the_caller_of_those_who_name_none() {
    let server = server();
    let sources = json!([{"namespace": WEB.0, "service": WEB.1}]);
    server.rule(ResourceKind::Routing, rule("web only", sources, &[("v2", 100)])).unwrap();
    let plain = ready(&server.context().unwrap()).await;
    assert_eq!(picked(&plain, &Pick::new()), [1, 2, 3, 4]);
    let builder = server.builder().set("provider.service.namespace", WEB.0).set("provider.service.name", WEB.1);
    let ours = ready(&builder.build().unwrap()).await;
    assert_eq!(picked(&ours, &Pick::new()), [3, 4]);
    let other = ServiceKey::from(B);
    let pick = Pick::new().caller(&other);
    eventually("another caller", SECOND, async || ours.pick(&pick).is_ok()).await;
    assert_eq!(picked(&ours, &pick), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_a_call_says_is_looked_up_for_its_destination() {
    let server = server();
    let sources = json!([{"namespace": "*", "service": "*", "arguments": [
        {"type": "HEADER", "key": "want", "value": {"type": "EXACT", "value_type": "PARAMETER", "value": ""}}]}]);
    let mut wanted = rule("wanted", sources, &[("v1", 100)]);
    wanted["routing_config"]["rules"][0]["destinations"][0]["labels"]["version"] =
        json!({"type": "EXACT", "value_type": "PARAMETER", "value": "$header.want"});
    server.rule(ResourceKind::Routing, wanted).unwrap();
    let handle = ready(&server.context().unwrap()).await;
    for (want, expected) in [("v1", vec![1, 2]), ("v2", vec![3, 4]), ("v3", vec![1, 2, 3, 4])] {
        let labels = LabelSet::new().header("want", want);
        assert_eq!(picked(&handle, &Pick::new().labels(&labels)), expected, "{want}");
        let strict = Pick::new().labels(&labels).rule_failover(RuleFailover::None);
        let refused = (want == "v3").then_some(ErrorKind::RouteMismatch);
        assert_eq!(kind(handle.pick(&strict)), refused, "{want}");
    }
}

#[tokio::test(start_paused = true)]
async fn variables_come_from_the_request_then_from_the_configuration() {
    let server = server();
    let mut by_variable = rule("stage", from_anybody(), &[("v1", 100)]);
    by_variable["routing_config"]["rules"][0]["destinations"][0]["labels"]["version"] =
        json!({"type": "EXACT", "value_type": "VARIABLE", "value": "STAGE"});
    server.rule(ResourceKind::Routing, by_variable).unwrap();
    let context = server.builder().set("global.system.variables.STAGE", "v1").build().unwrap();
    let handle = ready(&context).await;
    assert_eq!(picked(&handle, &Pick::new()), [1, 2]);
    let labels = LabelSet::new().variable("STAGE", "v2");
    assert_eq!(picked(&handle, &Pick::new().labels(&labels)), [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn metadata_is_wanted_in_full_or_fails_over_as_asked() {
    let server = server();
    server.service(A).instance(at(5));
    let handle = ready(&server.context().unwrap()).await;
    let wants = |pairs| Pick::new().metadata(pairs);
    assert_eq!(picked(&handle, &wants(&[("version", "v2")])), [3, 4]);
    let nobody = &[("version", "v9")];
    assert_eq!(kind(handle.pick(&wants(nobody))), Some(ErrorKind::RouteMismatch));
    assert_eq!(picked(&handle, &wants(nobody).metadata_failover(MetadataFailover::All)), [1, 2, 3, 4, 5]);
    assert_eq!(picked(&handle, &wants(nobody).metadata_failover(MetadataFailover::NotKey)), [5]);
    server.service(A).metadata("internal-metadata-failover-type", "all");
    eventually("the service says so", 3 * SECOND, async || handle.pick(&wants(nobody)).is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn any_number_of_wanted_sets_is_served() {
    let server = Server::in_memory();
    server.service(A).instances((1..=50).map(|port| at(port).metadata("n", port.to_string())));
    let handle = ready(&server.context().unwrap()).await;
    for round in 0..3 {
        for n in 1..=1500_u16 {
            let text = n.to_string();
            let found = handle.pick(&Pick::new().metadata(&[("n", &text)]));
            match found {
                Ok(instance) => assert_eq!(instance.port(), n, "in round {round}"),
                Err(error) => assert!(n > 50 && error.kind() == ErrorKind::RouteMismatch, "{n}: {error}"),
            }
        }
        throughout("views may be made anew", 300 * discovering::MILLI, async || true).await;
    }
}

/// Two instances in each of two zones of one region, and one in another region.
fn placed() -> Vec<TestInstance> {
    let place = |zone: &str| Location::new(if zone == "z3" { "r2" } else { "r1" }, zone, "");
    let zones = [(1, "z1"), (2, "z1"), (3, "z2"), (4, "z2"), (5, "z3")];
    zones.map(|(port, zone)| at(port).location(&place(zone))).into()
}

fn placed_context(server: &Server) -> SdkContext {
    let builder = server.builder().set("global.location.region", "r1").set("global.location.zone", "z1");
    builder.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn near_instances_are_preferred_while_they_can_serve() {
    let server = Server::in_memory();
    server.service(A).instances(placed());
    let handle = ready(&placed_context(&server)).await;
    assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4, 5], "nobody asked for it");
    assert_eq!(picked(&handle, &Pick::new().nearby()), [1, 2], "a request did");
    server.service(A).metadata("internal-enable-nearby", "true");
    let follows = async |what: &str, wanted: &[u16]| {
        eventually(what, 3 * SECOND, async || picked(&handle, &Pick::new()) == wanted).await;
    };
    follows("the service asks for it", &[1, 2]).await;
    server.service(A).edit("10.0.0.1", 1, |instance| instance.healthy(false));
    follows("one is left", &[2]).await;
    server.service(A).edit("10.0.0.1", 2, |instance| instance.healthy(false));
    follows("the region", &[3, 4]).await;
    server.service(A).edit("10.0.0.1", 3, |instance| instance.healthy(false));
    server.service(A).edit("10.0.0.1", 4, |instance| instance.healthy(false));
    follows("the world", &[5]).await;
    server.service(A).edit("10.0.0.1", 5, |instance| instance.healthy(false));
    follows("nobody is healthy: near ones, so that no zone is flooded", &[1, 2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_nearby_rule_of_a_newer_server_counts_with_all_its_fields() {
    let server = Server::in_memory();
    server.newer_kinds(true);
    server.service(A).instances(placed());
    let nearby = |level: &str, widest: &str, strict: bool| {
        json!({"name": "near", "namespace": A.0, "enable": true, "routing_policy": "NearbyPolicy",
            "routing_config": {"@type": "type.googleapis.com/v1.NearbyRoutingConfig", "namespace": A.0,
                "service": A.1, "match_level": level, "max_match_level": widest, "strict_nearby": strict}})
    };
    let id = server.rule(ResourceKind::NearbyRoute, nearby("REGION", "REGION", false)).unwrap();
    let handle = ready(&placed_context(&server)).await;
    assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4]);
    let nowhere = ready(&server.context().unwrap()).await;
    assert_eq!(picked(&nowhere, &Pick::new()), [1, 2, 3, 4, 5], "a client that does not know where it is");
    server.change_rule(ResourceKind::NearbyRoute, &id, nearby("ZONE", "ALL", true)).unwrap();
    eventually("strict", 3 * SECOND, async || kind(nowhere.pick(&Pick::new())) == Some(ErrorKind::LocationUnknown))
        .await;
    eventually("the zone", 3 * SECOND, async || picked(&handle, &Pick::new()) == [1, 2]).await;
}

#[tokio::test(start_paused = true)]
async fn where_the_client_is_may_be_told_by_the_server_later() {
    let server = Server::in_memory();
    server.service(A).instances(placed()).metadata("internal-enable-nearby", "true");
    server.location("10.20.0.7", &Location::new("r1", "z2", ""));
    let context = server.builder().set("global.api.bindIP", "10.20.0.7").build().unwrap();
    let handle = ready(&context).await;
    eventually("it is learnt", 5 * SECOND, async || picked(&handle, &Pick::new()) == [3, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn rules_that_cannot_be_had_hold_a_pick_up_and_never_take_the_instances_away() {
    let server = server();
    server.on(Rpc::Discover).kind(ResourceKind::Routing).hang();
    let context = server.context().unwrap();
    let began = Instant::now();
    let handle = context.consumer().service(A);
    assert_eq!(kind(handle.pick(&Pick::new())), Some(ErrorKind::NotReady));
    context.consumer().get_one_instance(A).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 1, "the time of a call: {:?}", began.elapsed());
    assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4]);
    let state = context.state();
    let ContextState::Degraded { troubles, .. } = &state else { panic!("{state}") };
    let about =
        |t: &polarismesh::Trouble| t.kind == Some(ResourceKind::Routing) && t.error.kind() == ErrorKind::Timeout;
    assert!(troubles.iter().any(about), "{state}");
    server.rule(ResourceKind::Routing, rule("all", from_anybody(), &[("v2", 100)])).unwrap();
    server.clear_faults();
    eventually("the rules came", 20 * SECOND, async || picked(&handle, &Pick::new()) == [3, 4]).await;
    eventually("and all is well", 10 * SECOND, async || context.state() == ContextState::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn rules_that_cannot_be_had_fail_a_pick_that_is_strict_about_them() {
    let server = server();
    let fault = server.on(Rpc::Discover).kind(ResourceKind::Routing).answer(500_000);
    let context = server.builder().set("consumer.serviceRouter.strictRules", "true").build().unwrap();
    let error = context.consumer().get_one_instance(A).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server, "{error}");
    assert_eq!(context.consumer().get_all_instances(A).await.unwrap().len(), 4, "lists are not routed");
    fault.clear();
    let handle = context.consumer().service(A);
    eventually("the rules came", 20 * SECOND, async || handle.pick(&Pick::new()).is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_named_later_waits_for_its_rules_although_earlier_calls_waited_in_vain() {
    for strict in ["false", "true"] {
        let server = server();
        let key = ServiceKey::from(WEB);
        let sources = json!([{"namespace": WEB.0, "service": WEB.1}]);
        server.rule(ResourceKind::Routing, rule("of web", sources, &[("v2", 100)])).unwrap();
        let fault = server.on(Rpc::Discover).kind(ResourceKind::Routing).hang();
        let context = server.builder().set("consumer.serviceRouter.strictRules", strict).build().unwrap();
        let consumer = context.consumer();
        let first = consumer.get_one_instance(A).await;
        assert_eq!(first.is_err(), strict == "true", "{first:?}");
        fault.clear();
        let handle = consumer.service(A);
        eventually("all is well", 30 * SECOND, async || context.state() == ContextState::Ready).await;
        let request = GetOneInstance::new(A.0, A.1).caller(&key);
        assert!(consumer.get_one_instance(request).await.unwrap().port() >= 3, "{strict}");
        assert_eq!(picked(&handle, &Pick::new().caller(&key)), [3, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn rules_of_a_caller_that_cannot_be_had_are_seen_in_the_state() {
    let server = server();
    server.on(Rpc::Discover).kind(ResourceKind::Routing).service(WEB).answer(500_000);
    let builder = server.builder().set("provider.service.namespace", WEB.0).set("provider.service.name", WEB.1);
    let context = builder.build().unwrap();
    context.consumer().get_one_instance(A).await.unwrap();
    let seen = |state: &str| state.contains("default/web") && state.contains("500000");
    eventually("it is told", 3 * SECOND, async || seen(&context.state().to_string())).await;
    server.clear_faults();
    eventually("all is well", 30 * SECOND, async || context.state() == ContextState::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_rule_is_left_out_and_named_and_its_neighbours_stay() {
    let server = server();
    let bad = header("uid", json!({"type": "REGEX", "value": "(unclosed"}));
    server.rule(ResourceKind::Routing, rule("bad", bad, &[("v1", 100)])).unwrap();
    server.rule(ResourceKind::Routing, rule("good", header("uid", exact("7")), &[("v2", 100)])).unwrap();
    let odd = header("age", json!({"type": "RANGE", "value": "10-20"}));
    server.rule(ResourceKind::Routing, rule("odd", odd, &[("v1", 100)])).unwrap();
    let context = server.context().unwrap();
    let handle = ready(&context).await;
    let seven = LabelSet::new().header("uid", "7");
    assert_eq!(picked(&handle, &Pick::new().labels(&seven)), [3, 4]);
    let fifteen = LabelSet::new().header("age", "15");
    assert_eq!(picked(&handle, &Pick::new().labels(&fifteen)), [1, 2, 3, 4]);
    let state = context.state().to_string();
    for part in ["bad.only", "(unclosed", "odd.only", "10-20", "default/a"] {
        assert!(state.contains(part), "{part} is missing: {state}");
    }
    assert!(!state.contains("good"), "{state}");
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_takes_too_long_is_false_and_reported() {
    let server = server();
    let slow = header("uid", json!({"type": "REGEX", "value": r"^(?:(?=a)a|aa)+$"}));
    server.rule(ResourceKind::Routing, rule("slow", slow, &[("v2", 100)])).unwrap();
    let context = server.context().unwrap();
    let handle = ready(&context).await;
    let long = LabelSet::new().header("uid", format!("{}b", "a".repeat(60)));
    assert_eq!(picked(&handle, &Pick::new().labels(&long)), [1, 2, 3, 4]);
    eventually("it is told", 5 * SECOND, async || context.state().to_string().contains("slow.only")).await;
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_routed_by_the_rules_of_its_service() {
    let server = server();
    server.service(B).alias_of(A);
    server.rule(ResourceKind::Routing, rule("all", from_anybody(), &[("v2", 100)])).unwrap();
    for form in [RoutingForm::Converted, RoutingForm::Native] {
        server.routing_form(form);
        let context = server.context().unwrap();
        let handle = context.consumer().service(B);
        handle.ready().await.unwrap();
        assert_eq!(picked(&handle, &Pick::new()), [3, 4], "{form:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_explanation_says_what_every_step_did_and_why() {
    let server = Server::in_memory();
    server.service(A).instances(versions().map(|i| i.location(&Location::new("r1", "z1", ""))));
    server.service(A).edit("10.0.0.1", 1, |instance| instance.isolated(true));
    server.service(A).edit("10.0.0.1", 3, |instance| instance.healthy(false));
    server.rule(ResourceKind::Routing, rule("canary", header("uid", exact("7")), &[("v2", 100)])).unwrap();
    server.rule(ResourceKind::Routing, rule("split", from_anybody(), &[("v1", 75), ("v2", 25)])).unwrap();
    let context = server.context().unwrap();
    let seven = LabelSet::new().header("uid", "7");
    let told = context.router().explain(GetOneInstance::new(A.0, A.1).labels(&seven)).await.unwrap();
    assert_eq!(told.instances, 4);
    let [route] = &told.routes[..] else { panic!("{told}") };
    let steps: Vec<_> = route.steps.iter().map(|step| (&*step.router, step.given, step.left)).collect();
    let expected = [
        ("isolatedRouter", 4, 3),
        ("metadataRouter", 3, 3),
        ("ruleBasedRouter", 3, 2),
        ("nearbyBasedRouter", 2, 2),
        ("recoverRouter", 2, 1),
    ];
    assert_eq!(steps, expected, "{told}");
    assert!(route.steps[2].why.iter().any(|why| why.contains("canary.only")), "{told}");
    assert_eq!(ports(told.support()), [4]);

    let told = context.router().explain(A).await.unwrap();
    let shares: Vec<_> = told.routes.iter().map(|route| route.share).collect();
    assert_eq!(shares, [0.75, 0.25], "{told}");
    let text = told.to_string();
    for part in ["$header.uid is absent", "split.only", "75.0 %", "ruleBasedRouter"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let request = GetOneInstance::new(A.0, A.1).metadata(&[("version", "v9")]);
    let told = context.router().explain(request).await.unwrap();
    let error = told.routes[0].outcome.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RouteMismatch);
    assert_eq!(told.routes[0].steps.last().unwrap().left, 0, "{told}");
}

#[tokio::test(start_paused = true)]
async fn given_instances_are_routed_and_balanced_by_what_is_known() {
    let server = server();
    server.rule(ResourceKind::Routing, rule("canary", header("uid", exact("7")), &[("v2", 100)])).unwrap();
    let context = server.context().unwrap();
    let all = context.consumer().get_all_instances(A).await.unwrap();
    let given: Vec<_> = all.instances().iter().filter(|i| i.port() != 4).cloned().collect();
    let seven = LabelSet::new().header("uid", "7");
    let request = GetOneInstance::new(A.0, A.1).labels(&seven);
    let router = context.router();
    assert_eq!(ports(&router.route(given.clone(), request.clone()).await.unwrap()), [3]);
    let only = RouteInstances::new(request.clone()).routers(["isolatedRouter"]);
    assert_eq!(ports(&router.route(given.clone(), only).await.unwrap()), [1, 2, 3]);
    assert!(router.route(Vec::new(), request.clone()).await.unwrap().is_empty());
    let unknown = RouteInstances::new(request).routers(["mine"]);
    let error = router.route(given.clone(), unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("ruleBasedRouter"), "{error}");

    let chosen = router.balance(&given, &Pick::new().balancer("ringHash").hash_key(b"k")).unwrap();
    let reversed: Vec<_> = given.iter().rev().cloned().collect();
    let again = router.balance(&reversed, &Pick::new().balancer("ringHash").hash_key(b"k")).unwrap();
    assert_eq!(chosen, again, "whatever their order");
    assert_eq!(kind(router.balance(&[], &Pick::new())), Some(ErrorKind::NoInstances));
    stop(&context).await;
    assert_eq!(kind(router.balance(&given, &Pick::new())), Some(ErrorKind::Closed));
}

#[tokio::test(start_paused = true)]
async fn thousands_of_rules_are_tried_in_order() {
    let server = Server::in_memory();
    server.service(A).instances((1..=50).map(|port| at(port).metadata("n", port.to_string())));
    let route = |n: u16| {
        json!({"sources": [{"namespace": "*", "service": "*", "metadata": {"$header.n": exact(&n.to_string())}}],
            "destinations": [{"namespace": A.0, "service": A.1, "weight": 100,
                "metadata": {"n": exact(&(n % 50 + 1).to_string())}}]})
    };
    let routes: Vec<_> = (0..3000).chain(0..10).map(route).collect();
    server.rule(ResourceKind::Routing, json!({"namespace": A.0, "service": A.1, "inbounds": routes})).unwrap();
    let context = server.context().unwrap();
    let handle = ready(&context).await;
    for n in [0, 7, 63, 64, 1023, 1024, 2048, 2999] {
        let labels = LabelSet::new().header("n", n.to_string());
        assert_eq!(picked(&handle, &Pick::new().labels(&labels)), [n % 50 + 1], "rule {n}");
    }
    let all = GetInstances::new(A.0, A.1);
    assert_eq!(context.consumer().get_instances(all).await.unwrap().len(), 50, "no rule matches");
}
