use std::time::Duration;

use prost::Message;
use serde_json::json;

use super::*;
use crate::model::key::ResourceKind;
use crate::model::location::Location;
use crate::testing::{Release, instance};

const NOTHING: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

#[tokio::test(start_paused = true)]
async fn all_instances_are_told_whatever_their_state() {
    let server = Server::in_memory();
    server.service(("shop", "stock")).metadata("k", "v").instances([
        instance("10.0.1.1", 9001).protocol("grpc").version("1.2.3").location(&Location::new("south", "south-1", "a")),
        instance("10.0.1.2", 9002).healthy(false).weight(10),
        instance("10.0.1.3", 9003).isolated(true).metadata("version", "mine"),
        instance("10.0.1.4", 9004).weight(0).location(&Location::new("", "south-2", "")),
        instance("stock.example", 0),
    ]);
    let answer = Discovery::open(&server).await.ask(question(Kind::Instance, "shop", "stock")).await;
    assert_eq!((answer.code, answer.r#type, answer.info.as_deref()), (Some(200_000), 1, Some("execute success")));
    assert_eq!(hosts(&answer), ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "stock.example"]);
    let by_host = |host: &str| answer.instances.iter().find(|instance| instance.host.as_deref() == Some(host)).unwrap();
    let injected = json!({"metadata": {"version": "1.2.3", "protocol": "grpc", "region": "south", "zone": "south-1", "campus": "a"}});
    assert_eq!(by_host("10.0.1.1").metadata, message::<v1::Instance>(injected).metadata);
    assert_eq!(by_host("10.0.1.3").metadata["version"], "mine");
    assert_eq!(
        by_host("10.0.1.4").metadata,
        message::<v1::Instance>(json!({"metadata": {"region": "", "zone": "south-2", "campus": ""}})).metadata
    );
    let plain = by_host("stock.example");
    assert!(plain.metadata.is_empty() && plain.health_check.is_none() && plain.location.is_none());
    assert!(plain.revision.is_some() && plain.ctime.is_some() && plain.isolate == Some(false));
    let service = answer.service.as_ref().unwrap();
    assert_eq!((service.name.as_deref(), service.metadata["k"].as_str()), (Some("stock"), "v"));
    assert_eq!(service.ports.as_deref(), Some("0,9001,9002,9003,9004"));
    assert_eq!(answer.alias_for.unwrap().name.as_deref(), Some("stock"));
}

#[tokio::test(start_paused = true)]
async fn the_revision_follows_from_those_of_service_and_instances() {
    let server = Server::in_memory();
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1), instance("10.0.0.2", 2)]);
    let mut stream = Discovery::open(&server).await;
    let asked = || question(Kind::Instance, "shop", "orders");
    let first = stream.ask(asked()).await;
    let mut revisions: Vec<_> = first.instances.iter().map(|instance| instance.revision.clone().unwrap()).collect();
    revisions.sort_unstable();
    let service = first.alias_for.as_ref().unwrap().revision.clone().unwrap();
    let expected = super::super::sha1::hex([service].iter().chain(&revisions));
    assert_eq!(revision(&first), Some(expected.as_str()));
    let same = stream.ask(knowing(asked(), Some(&expected))).await;
    assert_eq!((same.code, same.r#type, same.info.as_deref()), (Some(200_001), 1, Some("discover data is no change")));
    assert_eq!((revision(&same), same.instances.len(), same.alias_for.is_none()), (Some(expected.as_str()), 0, true));
    for change in [
        |server: &Server| {
            server.service(("shop", "orders")).edit("10.0.0.1", 1, |instance| instance.weight(7));
        },
        |server: &Server| {
            server.service(("shop", "orders")).metadata("a", "b");
        },
        |server: &Server| {
            server.service(("shop", "orders")).touch();
        },
        |server: &Server| {
            server.service(("shop", "orders")).remove("10.0.0.2", 2);
        },
    ] {
        let before = stream.ask(asked()).await;
        change(&server);
        let after = stream.ask(knowing(asked(), revision(&before))).await;
        assert_eq!(after.code, Some(200_000));
        assert_ne!(revision(&after), revision(&before));
    }
    // Setting what is there already changes nothing.
    let before = stream.ask(asked()).await;
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1).weight(7)]);
    assert_eq!(stream.ask(knowing(asked(), revision(&before))).await.code, Some(200_001));
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_has_the_revision_of_its_release() {
    let server = Server::in_memory();
    server.service(("shop", "empty")).create();
    let mut stream = Discovery::open(&server).await;
    let answer = stream.ask(question(Kind::Instance, "shop", "empty")).await;
    assert_eq!((answer.code, revision(&answer), answer.instances.len()), (Some(200_000), Some(NOTHING), 0));
    for (stale, expected) in [(true, None), (false, Some("new"))] {
        server.stale_empty_lists(stale);
        stream.ask(question(Kind::Instance, "shop", "empty")).await;
        server.service(("shop", "empty")).metadata("k", "new");
        let told = stream.ask(question(Kind::Instance, "shop", "empty")).await.service.unwrap();
        assert_eq!(told.metadata.get("k").map(String::as_str), expected);
    }
    server.release(Release::V1_18);
    let answer = stream.ask(question(Kind::Instance, "shop", "empty")).await;
    assert!(revision(&answer).is_some_and(|revision| revision != NOTHING && revision.len() == 40));
}

#[tokio::test(start_paused = true)]
async fn a_service_nobody_knows_is_answered_with_the_question() {
    let server = Server::in_memory();
    let mut stream = Discovery::open(&server).await;
    let asked = knowing(question(Kind::Instance, "shop", "nobody"), Some("0123456789abcdef"));
    let answer = stream.ask(asked.clone()).await;
    assert_eq!((answer.code, answer.r#type, &answer.service), (Some(400_202), 1, &asked.service));
    server.service(("shop", "nobody")).instances([instance("10.0.0.1", 1)]);
    assert_eq!(hosts(&stream.ask(asked.clone()).await), ["10.0.0.1"]);
    server.service(("shop", "nobody")).delete();
    assert_eq!(stream.ask(asked).await.code, Some(400_202));
}

#[tokio::test(start_paused = true)]
async fn an_alias_shows_the_instances_of_its_source() {
    let server = Server::in_memory();
    server.service(("shop", "orders")).metadata("team", "blue").instances([instance("10.0.0.1", 8080)]);
    server.service(("edge", "orders-alias")).alias_of(("shop", "orders"));
    let mut stream = Discovery::open(&server).await;
    for (release, under) in [(Release::Main, ("shop", "orders")), (Release::V1_18, ("edge", "orders-alias"))] {
        server.release(release);
        let alias = stream.ask(question(Kind::Instance, "edge", "orders-alias")).await;
        let source = stream.ask(question(Kind::Instance, "shop", "orders")).await;
        assert_eq!(revision(&alias), revision(&source));
        let service = alias.service.as_ref().unwrap();
        assert_eq!((service.namespace.as_deref(), service.name.as_deref()), (Some("edge"), Some("orders-alias")));
        assert_eq!(service.metadata["team"], "blue");
        assert_eq!(alias.alias_for.as_ref().unwrap().name.as_deref(), Some("orders"));
        let shown = &alias.instances[0];
        assert_eq!((shown.namespace.as_deref(), shown.service.as_deref()), (Some(under.0), Some(under.1)));
    }
    server.release(Release::V1_14);
    assert_eq!(stream.ask(question(Kind::Instance, "edge", "orders-alias")).await.alias_for, None);
}

#[tokio::test(start_paused = true)]
async fn exported_services_are_seen_by_release() {
    let server = Server::in_memory();
    server.service(("a", "svc")).instances([instance("10.0.0.1", 1)]);
    server.service(("b", "svc")).export_to(["a"]).instances([instance("10.0.0.2", 2)]);
    let mut stream = Discovery::open(&server).await;
    let both = stream.ask(question(Kind::Instance, "a", "svc")).await;
    assert_eq!(hosts(&both), ["10.0.0.1", "10.0.0.2"]);
    // A change of the exporting service reaches the list it is part of.
    server.service(("b", "svc")).edit("10.0.0.2", 2, |instance| instance.weight(1));
    assert_ne!(revision(&stream.ask(question(Kind::Instance, "a", "svc")).await), revision(&both));
    server.release(Release::V1_18);
    assert_eq!(hosts(&stream.ask(question(Kind::Instance, "a", "svc")).await), ["10.0.0.1"]);
    server.service(("a", "svc")).delete();
    let exported = stream.ask(question(Kind::Instance, "a", "svc")).await;
    assert_eq!((hosts(&exported), exported.alias_for.clone().unwrap().revision), (vec!["10.0.0.2"], None));
    server.release(Release::V1_17);
    assert_eq!(stream.ask(question(Kind::Instance, "a", "svc")).await.code, Some(400_202));
    server.release(Release::Main);
    stream.send(question(Kind::Instance, "a", "svc")).await;
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn malformed_questions_get_their_codes_and_one_ends_the_stream() {
    let server = Server::in_memory();
    let mut stream = Discovery::open(&server).await;
    for (kind, namespace, name, code) in [
        (Kind::Instance, "shop", "", 400_120),
        (Kind::Routing, "", "orders", 400_110),
        (Kind::RateLimit, "", "", 400_120),
        (Kind::Services, "", "", 200_000),
    ] {
        let answer = stream.ask(question(kind, namespace, name)).await;
        assert_eq!((answer.code, answer.r#type), (Some(code), i32::from(kind)));
        assert!(answer.service.is_some());
    }
    let serviceless = |kind: Kind| v1::DiscoverRequest { r#type: kind.into(), ..Default::default() };
    let answer = stream.ask(serviceless(Kind::RateLimit)).await;
    assert_eq!((answer.code, answer.r#type, answer.service), (Some(400_002), 4, None));
    // Without a namespace instances are those of `default`, in the echo as well.
    let answer = stream.ask(question(Kind::Instance, "", "svc")).await;
    assert_eq!((answer.code, answer.service.unwrap().namespace.as_deref()), (Some(400_202), Some("default")));
    stream.send(serviceless(Kind::Instance)).await;
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_not_served_are_answered_as_routing() {
    let server = Server::in_memory();
    let mut stream = Discovery::open(&server).await;
    for kind in [0, 2, 12, 14, 100, 106, 999] {
        let asked =
            v1::DiscoverRequest { r#type: kind, ..knowing(question(Kind::Routing, "shop", "orders"), Some("r")) };
        let answer = stream.ask(asked.clone()).await;
        assert_eq!((answer.code, answer.r#type, answer.service), (Some(400_004), 3, asked.service));
    }
    let probe = stream.ask(v1::DiscoverRequest { r#type: 100, ..Default::default() }).await;
    assert_eq!((probe.code, probe.r#type, probe.service), (Some(400_004), 3, None));
    server.newer_kinds(true);
    let answer = stream.ask(question(Kind::Lane, "shop", "orders")).await;
    assert_eq!((answer.code, answer.r#type, revision(&answer)), (Some(200_000), 100, None));
    assert_eq!(stream.ask(v1::DiscoverRequest { r#type: 100, ..Default::default() }).await.code, Some(400_002));
}

#[tokio::test(start_paused = true)]
async fn services_are_listed_with_their_aliases() {
    let server = Server::in_memory();
    server.service(("shop", "orders")).metadata("team", "blue");
    server.service(("shop", "alias")).alias_of(("edge", "x"));
    server.service(("edge", "x")).create();
    let mut stream = Discovery::open(&server).await;
    let names = |answer: &v1::DiscoverResponse| {
        let mut names: Vec<_> = answer.services.iter().map(|service| service.name.clone().unwrap()).collect();
        names.sort_unstable();
        names
    };
    let answer = stream.ask(question(Kind::Services, "shop", "")).await;
    assert_eq!((answer.code, names(&answer)), (Some(200_000), vec!["alias".to_owned(), "orders".to_owned()]));
    let orders = answer.services.iter().find(|service| service.name.as_deref() == Some("orders")).unwrap();
    let bare = message(json!({"namespace": "shop", "name": "orders", "metadata": {"team": "blue"}}));
    assert_eq!(orders, &bare);
    let same = stream.ask(knowing(question(Kind::Services, "shop", ""), revision(&answer))).await;
    assert_eq!((same.code, same.services.len()), (Some(200_001), 0));
    assert_eq!(names(&stream.ask(question(Kind::Services, "", "")).await), ["alias", "orders", "polaris.checker", "x"]);
    let nowhere = knowing(question(Kind::Services, "nowhere", ""), Some("r"));
    let answer = stream.ask(nowhere.clone()).await;
    assert_eq!((answer.code, answer.service, answer.services.len()), (Some(200_000), nowhere.service, 0));
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_registers_itself() {
    let server = Server::in_memory();
    let answer = Discovery::open(&server).await.ask(question(Kind::Instance, "Polaris", "polaris.checker")).await;
    let own = &answer.instances[0];
    assert_eq!(format!("{}:{}", own.host.as_ref().unwrap(), own.port.unwrap()), server.address());
    assert_eq!((own.protocol.as_deref(), own.healthy), (Some("grpc"), Some(true)));
    let _peer = server.peer().await.unwrap();
    assert_eq!(server.instances(("Polaris", "polaris.checker")).len(), 2);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(server.instances(("Polaris", "polaris.checker")).iter().all(crate::testing::TestInstance::is_healthy));
}

#[tokio::test(start_paused = true)]
async fn rules_are_delivered_to_the_services_they_name() {
    let server = Server::in_memory();
    let mut stream = Discovery::open(&server).await;
    let none = stream.ask(question(Kind::Routing, "shop", "stock")).await;
    assert_eq!((none.code, revision(&none)), (Some(200_000), Some(NOTHING)));
    assert_eq!(none.routing.unwrap().revision.as_deref(), Some(NOTHING));
    assert_eq!(none.alias_for.unwrap().name.as_deref(), Some("stock"));
    for kind in [Kind::RateLimit, Kind::CircuitBreaker, Kind::FaultDetector] {
        let none = stream.ask(knowing(question(kind, "shop", "stock"), Some("old"))).await;
        let expected = v1::DiscoverResponse {
            code: Some(200_000),
            info: Some("execute success".to_owned()),
            ..question(kind, "shop", "stock").into_answer(kind)
        };
        assert_eq!(none, expected);
    }
    let limit = r#"{"name": "l1", "service": "stock", "namespace": "shop", "type": "LOCAL",
        "amounts": [{"maxAmount": 10, "validDuration": "1s"}]}"#;
    let id = server.rule(ResourceKind::RateLimit, limit).unwrap();
    server
        .rule(ResourceKind::CircuitBreaker, "name: b\nrule_matcher: {destination: {namespace: '*', service: '*'}}")
        .unwrap();
    server.rule(ResourceKind::FaultDetector, "name: f\ntarget_service: {namespace: shop, service: stock}").unwrap();
    let answer = stream.ask(question(Kind::RateLimit, "shop", "stock")).await;
    let limits = answer.rate_limit.as_ref().unwrap();
    assert_eq!((limits.rules.len(), limits.rules[0].id.as_ref()), (1, Some(&id)));
    assert_eq!((revision(&answer), limits.rules[0].revision.is_some()), (limits.revision.as_deref(), true));
    let same = stream.ask(knowing(question(Kind::RateLimit, "shop", "stock"), revision(&answer))).await;
    assert_eq!((same.code, same.rate_limit), (Some(200_001), None));
    let breakers = stream.ask(question(Kind::CircuitBreaker, "any", "thing")).await.circuit_breaker.unwrap();
    assert_eq!((breakers.service.as_deref(), breakers.rules[0].name.as_str()), (Some("thing"), "b"));
    assert_eq!(stream.ask(question(Kind::FaultDetector, "shop", "stock")).await.fault_detector.unwrap().rules.len(), 1);
    assert!(server.remove_rule(ResourceKind::RateLimit, &id));
    let gone = stream.ask(question(Kind::RateLimit, "shop", "stock")).await;
    assert_eq!((gone.code, gone.rate_limit, gone.service.unwrap().revision), (Some(200_000), None, None));
    server.release(Release::V1_14);
    assert_eq!(stream.ask(question(Kind::Routing, "no", "where")).await.code, Some(400_301));
    assert_eq!(stream.ask(question(Kind::CircuitBreaker, "no", "where")).await.code, Some(200_000));
}

#[tokio::test(start_paused = true)]
async fn main_sends_the_flag_that_newer_specifications_declare_otherwise() {
    /// What newer specifications make of tag 26.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Newer {
        #[prost(bool, tag = "26")]
        flag: bool,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct NewerAnswer {
        #[prost(message, optional, tag = "4")]
        service: Option<Newer>,
    }
    let server = Server::in_memory();
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1)]);
    let bytes = |server: &Server| {
        let asked = question(Kind::Instance, "shop", "orders");
        server.node.store.read(|state, _| state.discover(&asked).unwrap())
    };
    assert!(NewerAnswer::decode(bytes(&server).as_slice()).is_err());
    assert_eq!(v1::DiscoverResponse::decode(bytes(&server).as_slice()).unwrap().instances.len(), 1);
    server.release(Release::V1_18);
    assert!(NewerAnswer::decode(bytes(&server).as_slice()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_order_and_pending_ones_after_the_client_is_done() {
    let server = Server::in_memory();
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1)]);
    let Discovery { questions, mut answers } = Discovery::open(&server).await;
    let kinds =
        [Kind::Instance, Kind::Routing, Kind::Services, Kind::RateLimit, Kind::CircuitBreaker, Kind::FaultDetector];
    for round in 0..300 {
        questions.send(question(kinds[round % kinds.len()], "shop", "orders")).await.unwrap();
    }
    drop(questions);
    for round in 0..300 {
        assert_eq!(answers.message().await.unwrap().unwrap().r#type, i32::from(kinds[round % kinds.len()]));
    }
    assert_eq!(answers.message().await.unwrap(), None);
}

impl v1::DiscoverRequest {
    /// The answer that says what it belongs to and nothing else.
    fn into_answer(self, kind: Kind) -> v1::DiscoverResponse {
        v1::DiscoverResponse { r#type: kind.into(), service: self.service, ..Default::default() }
    }
}
