use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::model::key::ResourceKind;
use crate::model::rule_kind::RuleKind;
use crate::testing::{Release, RoutingForm};

/// From `web` to `orders`, both in `shop`.
fn rule(name: &str) -> Value {
    json!({"name": name, "enable": true, "routing_config": {"rules": [{"name": "s",
        "sources": [{"namespace": "shop", "service": "web"}],
        "destinations": [{"namespace": "shop", "service": "orders", "name": "g"}]}]}})
}

fn nearby(name: &str) -> Value {
    json!({"name": name, "enable": true, "routing_policy": "NearbyPolicy",
        "routing_config": {"namespace": "shop", "service": "orders", "match_level": "ZONE", "strict_nearby": true}})
}

async fn routing(server: &Server, name: &str) -> v1::DiscoverResponse {
    Discovery::open(server).await.ask(question(Kind::Routing, "shop", name)).await
}

fn groups(routes: &[v1::Route]) -> Vec<&str> {
    routes.iter().flat_map(|route| &route.destinations).filter_map(|group| group.name.as_deref()).collect()
}

fn load(server: &Server, data: &Value) -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.yaml");
    std::fs::write(&file, data.to_string()).unwrap();
    server.load(&file)
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_changed_switched_and_taken_away_by_its_id() {
    let server = Server::in_memory();
    let id = server.rule(RuleKind::Routing, rule("r")).unwrap();
    let mut last = routing(&server, "orders").await;
    assert_eq!(groups(&last.routing.as_ref().unwrap().inbounds), ["r.s.g"]);
    let mut step = async |text: &str, expected: &[&str]| {
        let next = routing(&server, "orders").await;
        assert_eq!(groups(&next.routing.as_ref().unwrap().inbounds), expected, "{text}");
        assert_ne!(revision(&next), revision(&last), "{text}");
        last = next;
    };
    server.change_rule(RuleKind::Routing, &id, json!({"name": "renamed", "description": "d"})).unwrap();
    step("changed", &["renamed.s.g"]).await;
    server.enable_rule(RuleKind::Routing, &id, false).unwrap();
    step("off", &[]).await;
    server.enable_rule(RuleKind::Routing, &id, true).unwrap();
    step("on", &["renamed.s.g"]).await;
    let stored = server.rules(RuleKind::Routing);
    let stored: Value = serde_json::from_str(&stored[&id]).unwrap();
    assert_eq!((&stored["description"], &stored["etime"]), (&json!("d"), &stored["mtime"]));
    server.change_rule(RuleKind::Routing, &id, "description:").unwrap();
    assert!(!server.rules(RuleKind::Routing)[&id].contains("description"), "null takes a field away");
    step("touched", &["renamed.s.g"]).await;
    assert!(server.remove_rule(RuleKind::Routing, &id) && !server.remove_rule(RuleKind::Routing, &id));
    step("gone", &[]).await;
    let gone = server.change_rule(RuleKind::Routing, &id, "{}").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(server.enable_rule(RuleKind::Routing, "x", true).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn rules_of_other_kinds_are_switched_by_the_field_that_they_have() {
    let server = Server::in_memory();
    let limit = server.rule(RuleKind::RateLimit, "{namespace: shop, service: orders}").unwrap();
    server.enable_rule(RuleKind::RateLimit, &limit, false).unwrap();
    assert!(server.rules(RuleKind::RateLimit)[&limit].contains(r#""disable":true"#));
    let probe = server.rule(RuleKind::FaultDetector, "{name: f}").unwrap();
    let error = server.enable_rule(RuleKind::FaultDetector, &probe, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    // Either spelling of a name is the same field.
    let breaker = server.rule(RuleKind::CircuitBreaker, "{name: b, enable: true}").unwrap();
    for name in ["rule_matcher", "ruleMatcher"] {
        server.change_rule(RuleKind::CircuitBreaker, &breaker, json!({name: {"source": {"service": name}}})).unwrap();
        let stored: Value = serde_json::from_str(&server.rules(RuleKind::CircuitBreaker)[&breaker]).unwrap();
        assert_eq!(stored["ruleMatcher"]["source"]["service"], name);
    }
    let error = server.change_rule(RuleKind::RateLimit, &limit, "{amounts: [{x: 1}]}").unwrap_err();
    assert!(error.to_string().contains("amounts[0].x"), "{error}");
    assert!(server.change_rule(RuleKind::RateLimit, &limit, "3").unwrap_err().to_string().contains("fields"));
}

#[tokio::test(start_paused = true)]
async fn rules_of_equal_priority_come_in_the_order_in_which_they_were_set() {
    for release in [Release::V1_18, Release::Main] {
        let server = Server::in_memory();
        server.release(release);
        let ids: Vec<_> =
            (0..20).map(|index| server.rule(RuleKind::Routing, rule(&format!("r{index}"))).unwrap()).collect();
        // What is changed keeps its place.
        server.change_rule(RuleKind::Routing, &ids[0], "{description: d}").unwrap();
        let expected: Vec<_> = (0..20).map(|index| format!("r{index}.s.g")).collect();
        assert_eq!(groups(&routing(&server, "orders").await.routing.unwrap().inbounds), expected);
        assert_eq!(groups(&routing(&server, "web").await.routing.unwrap().outbounds), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_none_is_an_error_that_names_the_place() {
    let server = Server::in_memory();
    let refused = |kind: RuleKind, rule: &str| {
        let error = server.rule(kind, rule).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRule, "{error}");
        error.to_string()
    };
    for (rule, place) in [
        ("{name: r}", "routing_config: missing: RulePolicy needs its v1.RuleRoutingConfig"),
        ("{routing_config: {rules: [{sources: [{argument: 1}]}]}}", "routing_config.rules[0].sources[0].argument:"),
        ("{routing_config: {rules: [{sources: [{arguments: [{type: HEAD}]}]}]}}", "arguments[0].type: expected one of"),
        ("{priority: -1, routing_config: {}}", "priority: expected a whole number"),
        ("{routing_config: {'@type': x/v1.NearbyRoutingConfig}}", "routing_config.@type: expected type.googleapis"),
        ("{inbounds: []}", "namespace: missing"),
        ("{namespace: a, outbounds: []}", "service: missing"),
        ("{namespace: a, service: b, inbounds: [{from: 1}]}", "inbounds[0].from: v1.Route has no such field"),
        ("{namespace: a, service: b, inbounds: [], rules: [{}]}", "rules: these are set one by one"),
        ("{namespace: a, service: b, inbounds: [], id: x}", "id: v1.Routing has no such field"),
        ("[]", "(root): expected an object"),
        ("{", "neither JSON nor YAML"),
    ] {
        let error = refused(RuleKind::Routing, rule);
        assert!(error.contains(place), "{rule}: {error}");
    }
    let error = refused(RuleKind::NearbyRoute, "{routing_policy: RulePolicy, routing_config: {}}");
    assert!(error.contains("routing_policy: expected NearbyPolicy"), "{error}");
    assert!(server.rule(ResourceKind::Services, "{}").is_err());
    assert!(server.rules(RuleKind::Routing).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_console_refuses_is_refused_with_its_code() {
    let metadata = json!({"routing_policy": "MetadataPolicy", "routing_config": {}});
    let late = json!({"priority": 11, "routing_config": {}});
    let mut newer = rule("r");
    newer["routing_config"]["rules"][0]["sources"][0]["arguments"] =
        json!([{}, {"type": "CALLER_METADATA", "key": "k"}]);
    for (release, rule, code, place) in [
        (Release::Main, &metadata, Some(400_701), "routing_policy: "),
        (Release::V1_18, &metadata, Some(400_701), "routing_policy: "),
        (Release::Main, &nearby("n"), Some(400_701), "routing_policy: "),
        (Release::V1_18, &nearby("n"), Some(400_001), "routing_policy: "),
        (Release::V1_17, &nearby("n"), Some(400_001), "routing_policy: "),
        (Release::Main, &json!({"routing_policy": 9}), Some(400_701), "routing_policy: "),
        (Release::Main, &late, Some(400_703), "priority: 11 is above 10"),
        (Release::V1_14, &late, Some(400_703), "priority: 11 is above 10"),
        (Release::Main, &newer, None, ""),
        (Release::V1_18, &newer, Some(400_001), "routing_config.rules[0].sources[0].arguments[1].type: "),
    ] {
        let server = Server::in_memory();
        server.release(release);
        let refused = server.rule(RuleKind::Routing, rule).err();
        let found = refused.as_ref().and_then(Error::server_code).map(ServerCode::get);
        assert_eq!(found, code, "{release:?} {rule}: {refused:?}");
        let text = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains(place), "{text}");
        let loaded = load(&server, &json!({"routings": [rule]}));
        assert_eq!(loaded.is_ok(), code.is_none(), "{loaded:?}");
        if let (Err(error), Some(code)) = (loaded, code) {
            let text = error.to_string();
            assert!(
                text.contains("routings[0]: ") && text.contains(&code.to_string()) && text.contains(place),
                "{text}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn routes_in_the_old_form_are_set_as_a_rule_or_in_the_data_file() {
    let old = |name: &str| {
        let route = json!({"sources": [{"namespace": "shop", "service": "web"}],
            "destinations": [{"namespace": "shop", "service": "orders", "name": name}]});
        json!({"namespace": "shop", "service": "orders", "inbounds": [route]})
    };
    let server = Server::in_memory();
    let id = server.rule(RuleKind::Routing, old("one")).unwrap();
    let first = routing(&server, "orders").await;
    assert_eq!(groups(&first.routing.as_ref().unwrap().inbounds), ["one"]);
    assert!(first.routing.as_ref().unwrap().ctime.is_none());
    assert_eq!(server.rule(RuleKind::Routing, old("two")).unwrap(), id, "a service has one");
    let second = routing(&server, "orders").await;
    assert_eq!(groups(&second.routing.as_ref().unwrap().inbounds), ["two"]);
    assert_ne!(revision(&first), revision(&second));
    let changed = json!({"outbounds": old("out")["inbounds"], "inbounds": null});
    server.change_rule(RuleKind::Routing, &id, changed).unwrap();
    let third = routing(&server, "orders").await.routing.unwrap();
    assert_eq!((groups(&third.inbounds), groups(&third.outbounds)), (vec![], vec!["out"]));
    server.change_rule(RuleKind::Routing, &id, json!({"outbounds": null})).unwrap();
    assert!(routing(&server, "orders").await.routing.unwrap().outbounds.is_empty());
    assert_eq!(server.enable_rule(RuleKind::Routing, &id, false).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(server.remove_rule(RuleKind::Routing, &id));
    assert!(routing(&server, "orders").await.routing.unwrap().outbounds.is_empty());
    load(&server, &json!({"routings": [old("file"), rule("new")]})).unwrap();
    server.service(("edge", "alias")).alias_of(("shop", "orders"));
    server.service(("shop", "orders")).create();
    let asked = question(Kind::Routing, "edge", "alias");
    let answer = Discovery::open(&server).await.ask(asked).await.routing.unwrap();
    assert_eq!(groups(&answer.inbounds), ["file", "new.s.g"]);
    assert_eq!((answer.namespace.as_deref(), answer.service.as_deref()), (Some("shop"), Some("orders")));
    let error = load(&server, &json!({"routings": [old("a"), old("b")]})).unwrap_err();
    assert!(error.to_string().contains("routings[1]: stands in the file twice"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_form_of_routing_rules_follows_the_release_unless_it_is_set() {
    let server = Server::in_memory();
    server.service(("shop", "orders")).create();
    server.rule(RuleKind::Routing, rule("r")).unwrap();
    let forms = async |server: &Server| {
        let routing = routing(server, "orders").await.routing.unwrap();
        (routing.inbounds.len(), routing.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>())
    };
    let (none, native) = (Vec::<String>::new(), vec!["r".to_owned()]);
    for release in [Release::V1_14, Release::V1_17, Release::V1_18, Release::Main] {
        server.release(release);
        assert_eq!(forms(&server).await, (1, none.clone()), "{release:?}");
    }
    server.release(Release::V1_16);
    assert_eq!(forms(&server).await, (1, native.clone()));
    server.routing_form(RoutingForm::Converted);
    assert_eq!(forms(&server).await, (1, none.clone()));
    server.release(Release::Main).routing_form(RoutingForm::Native);
    assert_eq!(forms(&server).await, (0, native.clone()));
    server.routing_form(RoutingForm::Both);
    assert_eq!(forms(&server).await, (1, native));
    let rule = routing(&server, "orders").await.routing.unwrap().rules.remove(0);
    let config = v1::RuleRoutingConfig::decode(rule.routing_config.unwrap().value.as_slice()).unwrap();
    assert_eq!((config.rules.len(), rule.enable, rule.etime), (1, true, rule.mtime));
}

#[tokio::test(start_paused = true)]
async fn release_1_16_knows_no_rules_of_unknown_services_and_names_the_one_behind_an_alias() {
    let server = Server::in_memory();
    server.release(Release::V1_16);
    server.service(("shop", "orders")).metadata("k", "v").create();
    server.service(("shop", "alias")).alias_of(("shop", "orders"));
    let mut stream = Discovery::open(&server).await;
    for kind in [Kind::Routing, Kind::RateLimit] {
        assert_eq!(stream.ask(question(kind, "no", "where")).await.code, Some(400_301));
    }
    let answer = stream.ask(question(Kind::Instance, "shop", "alias")).await;
    let named = message::<v1::Service>(json!({"namespace": "shop", "name": "orders"}));
    assert_eq!(answer.alias_for, Some(named.clone()));
    assert_eq!(answer.service.unwrap().metadata["k"], "v");
    assert_eq!(stream.ask(question(Kind::Routing, "shop", "alias")).await.alias_for, Some(named));
}

#[tokio::test(start_paused = true)]
async fn nearby_rules_are_told_by_newer_servers_alone() {
    let from_file = Server::in_memory();
    load(&from_file, &json!({"nearbyroutings": [nearby("n")]})).unwrap();
    let from_test = Server::in_memory();
    let id = from_test.rule(RuleKind::NearbyRoute, nearby("n")).unwrap();
    for server in [&from_file, &from_test] {
        let mut stream = Discovery::open(server).await;
        let asked = || question(Kind::NearbyRouteRule, "shop", "orders");
        let answer = stream.ask(asked()).await;
        assert_eq!((answer.code, answer.r#type), (Some(400_004), i32::from(Kind::Routing)));
        assert!(answer.nearby_route_rules.is_empty() && answer.routing.is_none());
        server.newer_kinds(true);
        let answer = stream.ask(asked()).await;
        assert_eq!((answer.code, answer.r#type), (Some(200_000), i32::from(Kind::NearbyRouteRule)));
        let [rule] = answer.nearby_route_rules.as_slice() else { panic!("{answer:?}") };
        let config = v1::NearbyRoutingConfig::decode(rule.routing_config.as_ref().unwrap().value.as_slice()).unwrap();
        let zone = i32::from(v1::nearby_routing_config::LocationLevel::Zone);
        assert_eq!((rule.name.as_str(), config.match_level, config.strict_nearby), ("n", zone, true));
        let same = stream.ask(knowing(asked(), revision(&answer))).await;
        assert_eq!((same.code, same.nearby_route_rules.len()), (Some(200_001), 0));
        // Routing rules and nearby rules are kept apart.
        assert!(routing(server, "orders").await.routing.unwrap().inbounds.is_empty());
        assert!(stream.ask(question(Kind::NearbyRouteRule, "shop", "web")).await.nearby_route_rules.is_empty());
    }
    let count = async || {
        let asked = question(Kind::NearbyRouteRule, "shop", "orders");
        Discovery::open(&from_test).await.ask(asked).await.nearby_route_rules.len()
    };
    from_test.enable_rule(RuleKind::NearbyRoute, &id, false).unwrap();
    assert_eq!(count().await, 0);
    let everywhere = "{name: w, enable: true, routing_config: {namespace: '*', service: '*', match_level: REGION}}";
    from_test.rule(RuleKind::NearbyRoute, everywhere).unwrap();
    assert_eq!(count().await, 1, "a policy that follows from the kind need not be written");
}

#[tokio::test(start_paused = true)]
async fn a_routing_rule_of_the_data_file_keeps_its_revision_until_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.yaml");
    let write = |rules: &[Value]| {
        crate::util::fs::replace(&path, json!({"routings": rules}).to_string().as_bytes()).unwrap();
    };
    write(&[rule("a")]);
    let server = Server::in_memory();
    server.follow(&path).unwrap();
    let first = routing(&server, "orders").await;
    assert_eq!(groups(&first.routing.as_ref().unwrap().inbounds), ["a.s.g"]);
    let known = server.rules(RuleKind::Routing);
    write(&[rule("a"), rule("b")]);
    server.wait_until(|server| server.rules(RuleKind::Routing).len() == 2).await.unwrap();
    let now = server.rules(RuleKind::Routing);
    assert!(known.iter().all(|(id, rule)| now.get(id) == Some(rule)), "what did not change keeps its revision");
    write(&[json!({"name": "a", "routing_config": {"rulez": []}})]);
    server.wait_until(|_| true).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(server.rules(RuleKind::Routing), now, "what cannot be used changes nothing");
    write(&[rule("b")]);
    server.wait_until(|server| server.rules(RuleKind::Routing).len() == 1).await.unwrap();
    assert_eq!(groups(&routing(&server, "orders").await.routing.unwrap().inbounds), ["b.s.g"]);
}
