use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tonic::Request;

use super::*;
use crate::testing::{Grant, Release, Rpc};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn pay() -> v1::Instance {
    message(json!({"namespace": "shop", "service": "pay", "host": "127.0.0.1", "port": 7001, "protocol": "grpc",
        "version": "1.0", "weight": 80, "metadata": {"a": "b"}, "healthCheck": {"type": "HEARTBEAT", "heartbeat": {"ttl": 1}},
        "location": {"region": "r", "zone": "z", "campus": "c"}}))
}

pub(super) async fn register(server: &Server, instance: v1::Instance) -> v1::Response {
    client(server).register_instance(instance).await.unwrap().into_inner()
}

pub(super) async fn beat(server: &Server, instance: v1::Instance) -> u32 {
    client(server).heartbeat(instance).await.unwrap().into_inner().code.unwrap()
}

pub(super) fn by_id(id: &str) -> v1::Instance {
    v1::Instance { id: Some(id.to_owned()), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_answered_with_the_id_and_creates_what_it_needs() {
    let server = Server::in_memory();
    let answer = register(&server, pay()).await;
    assert_eq!((answer.code, answer.info.as_deref()), (Some(200_000), Some("execute success")));
    let expected = json!({"id": "1c89695779a2e01536a05219a5fe5bcbee89df86", "service": "pay", "namespace": "shop",
        "host": "127.0.0.1", "port": 7001});
    assert_eq!(answer.instance, Some(message(expected)));
    let seen = server.instances(("shop", "pay"));
    assert_eq!((seen.len(), seen[0].get_weight(), seen[0].is_healthy()), (1, 80, true));
    let vpc = v1::Instance { vpc_id: Some("vpc-1".to_owned()), port: Some(7003), ..pay() };
    assert_eq!(register(&server, vpc).await.instance.unwrap().id.unwrap(), "f797ba545013a36dbed4b7ac9587f87e97433078");
    let named = v1::Instance { port: Some(7002), ..by_id("pay-7002") };
    let named = v1::Instance { id: named.id, port: named.port, ..pay() };
    assert_eq!(register(&server, named).await.instance.unwrap().id.unwrap(), "pay-7002");
    assert_eq!(server.instances(("shop", "pay")).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn bad_registrations_are_refused_in_the_order_of_the_server() {
    let server = Server::in_memory();
    let long = |n: usize| Some("a".repeat(n));
    let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
    let cases: Vec<(u32, v1::Instance)> = vec![
        (400_150, v1::Instance { metadata: many, host: None, ..pay() }),
        (400_120, v1::Instance { service: long(129), namespace: long(65), ..pay() }),
        (400_110, v1::Instance { namespace: long(65), host: long(129), ..pay() }),
        (400_131, v1::Instance { host: long(129), protocol: long(33), ..pay() }),
        (400_136, v1::Instance { protocol: long(33), version: long(33), ..pay() }),
        (400_137, v1::Instance { version: long(33), logic_set: long(129), ..pay() }),
        (400_138, v1::Instance { logic_set: long(129), port: Some(70_000), ..pay() }),
        (400_150, v1::Instance { metadata: [("k".to_owned(), "v".repeat(4097))].into(), port: Some(70_000), ..pay() }),
        (400_132, v1::Instance { port: Some(65_536), weight: Some(65_536), ..pay() }),
        (400_103, v1::Instance { weight: Some(65_536), service: None, ..pay() }),
        (400_120, v1::Instance { service: Some("a b".to_owned()), namespace: None, ..pay() }),
        (400_110, v1::Instance { namespace: None, host: None, ..pay() }),
        (400_131, v1::Instance { host: None, port: None, ..pay() }),
        (400_132, v1::Instance { port: None, ..pay() }),
    ];
    for (code, request) in cases {
        let answer = register(&server, request.clone()).await;
        assert_eq!((answer.code, answer.instance), (Some(code), Some(request)));
    }
    let allowed = v1::Instance {
        port: Some(0),
        host: Some("a b".to_owned()),
        id: Some(String::new()),
        metadata: [(String::new(), "ä".repeat(4096))].into(),
        ..pay()
    };
    assert_eq!(register(&server, allowed).await.code, Some(200_000));
}

#[tokio::test(start_paused = true)]
async fn an_alias_takes_no_instances_and_a_missing_service_may_be_refused() {
    let server = Server::in_memory();
    server.service(("shop", "pay-alias")).alias_of(("shop", "pay"));
    let aliased = v1::Instance { service: Some("pay-alias".to_owned()), ..pay() };
    let answer = register(&server, aliased).await;
    assert_eq!((answer.code, answer.instance), (Some(400_000), None));
    server.auto_create(false);
    assert_eq!(register(&server, pay()).await.code, Some(400_301));
}

#[tokio::test(start_paused = true)]
async fn registering_again_overwrites_all_but_the_isolation() {
    let server = Server::in_memory();
    let plain = v1::Instance { weight: None, ..pay() };
    register(&server, plain.clone()).await;
    server.service(("shop", "pay")).edit("127.0.0.1", 7001, |instance| instance.isolated(true));
    let before = server.instances(("shop", "pay"))[0].message.revision.clone();
    register(&server, v1::Instance { metadata: [].into(), ..plain }).await;
    let now = &server.instances(("shop", "pay"))[0];
    assert!(now.is_isolated() && now.get_metadata("a").is_none() && now.get_weight() == 100);
    assert_ne!(now.message.revision, before);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_out_of_range_is_five_seconds() {
    let server = Server::in_memory();
    for (port, given, taken) in [(1, 0, Some(5)), (2, 61, Some(5)), (3, 60, Some(60)), (4, 7, Some(7))] {
        let check = Some(super::super::naming::heartbeat(given));
        register(&server, v1::Instance { port: Some(port), health_check: check, ..pay() }).await;
        let seen = server.instances(("shop", "pay"));
        let row = seen.iter().find(|row| row.addr().port() == u16::try_from(port).unwrap()).unwrap();
        assert_eq!(super::super::store::ttl(&row.message), taken);
    }
    register(&server, v1::Instance { port: Some(9), enable_health_check: Some(false), ..pay() }).await;
    assert!(server.instances(("shop", "pay")).iter().any(|row| super::super::store::ttl(&row.message).is_none()));
}

#[tokio::test(start_paused = true)]
async fn of_registrations_at_the_same_moment_one_is_taken() {
    let server = Server::in_memory();
    server.batch_window(Duration::from_millis(30));
    let started = Instant::now();
    let (one, two) = tokio::join!(register(&server, pay()), register(&server, pay()));
    let mut codes = [one.code.unwrap(), two.code.unwrap()];
    codes.sort_unstable();
    assert_eq!((codes, started.elapsed().as_millis()), ([200_000, 400_208], 30));
    assert_eq!(register(&server, pay()).await.code, Some(200_000));
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_is_always_fine_and_shows_the_computed_id() {
    let server = Server::in_memory();
    register(&server, pay()).await;
    let mut client = client(&server);
    let gone = client.deregister_instance(pay()).await.unwrap().into_inner();
    assert_eq!(gone.code, Some(200_000));
    assert_eq!(gone.instance.unwrap().id.unwrap(), "1c89695779a2e01536a05219a5fe5bcbee89df86");
    assert!(server.instances(("shop", "pay")).is_empty());
    for (code, target) in [
        (200_000, by_id("nobody")),
        (400_130, by_id("")),
        (400_120, v1::Instance::default()),
        (400_110, v1::Instance { namespace: None, ..pay() }),
        (400_131, v1::Instance { host: None, ..pay() }),
        (400_132, v1::Instance { port: None, ..pay() }),
    ] {
        let answer = client.deregister_instance(target.clone()).await.unwrap().into_inner();
        assert_eq!((answer.code, answer.instance), (Some(code), Some(target)));
    }
    server.release(Release::V1_18);
    assert_eq!(client.deregister_instance(pay()).await.unwrap().into_inner().instance, Some(pay()));
}

#[tokio::test(start_paused = true)]
async fn the_bolt_store_hides_a_late_deregistration_unless_it_was_isolated_first() {
    let server = Server::in_memory();
    server.bolt_store(true);
    // A health check that fails would be a change as well.
    let pay = || v1::Instance { health_check: None, ..pay() };
    let other = v1::Instance { port: Some(7002), ..pay() };
    for isolate_first in [false, true] {
        register(&server, pay()).await;
        tokio::time::advance(6 * SECOND).await;
        register(&server, other.clone()).await;
        if isolate_first {
            register(&server, v1::Instance { isolate: Some(true), ..pay() }).await;
        }
        let code = client(&server).deregister_instance(pay()).await.unwrap().into_inner().code;
        assert_eq!(code, Some(200_000));
        let left = server.instances(("shop", "pay")).len();
        assert_eq!(left, if isolate_first { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_seen_after_the_delay() {
    let server = Server::in_memory();
    server.visible_after(SECOND);
    register(&server, pay()).await;
    assert!(server.instances(("shop", "pay")).is_empty());
    let started = Instant::now();
    server.wait_until(|server| !server.instances(("shop", "pay")).is_empty()).await.unwrap();
    assert!((SECOND..2 * SECOND).contains(&started.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_asked_for_where_the_server_asks() {
    let server = Server::in_memory();
    server.token("secret", Grant::Administrator).token("off", Grant::Disabled);
    let mut client = client(&server);
    let with = |token: &str, instance: v1::Instance| {
        let mut request = Request::new(instance);
        request.metadata_mut().insert("x-polaris-token", token.parse().unwrap());
        request
    };
    for (token, code) in [("", 401_001), ("other", 401_001), ("off", 401_003), ("secret", 200_000)] {
        let answer = client.register_instance(with(token, pay())).await.unwrap().into_inner();
        assert_eq!((answer.code, answer.instance.is_some()), (Some(code), code == 200_000), "{token}");
    }
    assert_eq!(client.deregister_instance(pay()).await.unwrap().into_inner().code, Some(401_001));
    assert_eq!(client.heartbeat(pay()).await.unwrap().into_inner().code, Some(200_000));
    assert_eq!(client.report_client(v1::Client::default()).await.unwrap().into_inner().code, Some(200_000));
    let refused = Discovery::open(&server).await.ask(question(Kind::Instance, "shop", "pay")).await;
    let bare = v1::DiscoverResponse { code: Some(401_001), info: refused.info.clone(), ..Default::default() };
    assert_eq!(refused, bare);
    server.release(Release::V1_17);
    let by_message = v1::Instance { service_token: Some("secret".to_owned()), ..pay() };
    assert_eq!(client.register_instance(with("secret", pay())).await.unwrap().into_inner().code, Some(401_001));
    assert_eq!(client.register_instance(by_message).await.unwrap().into_inner().code, Some(200_000));
    server.without_tokens();
    assert_eq!(client.register_instance(pay()).await.unwrap().into_inner().code, Some(200_000));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reports_itself_hears_where_it_is() {
    use crate::model::location::Location;
    let server = Server::in_memory();
    server.location("10.20.0.1", &Location::new("R1", "Z1", "C1"));
    let mut client = client(&server);
    let mut report =
        async |json| client.report_client(message::<v1::Client>(json)).await.unwrap().into_inner().client.unwrap();
    let own = json!({"host": "10.20.0.1", "type": "SDK", "version": "0.1.0", "location": {"region": "own"}});
    let known = message(json!({"host": "10.20.0.1", "location": {"region": "R1", "zone": "Z1", "campus": "C1"}}));
    assert_eq!(report(own).await, known);
    let elsewhere = json!({"host": "10.9.9.9", "location": {"region": "own"}});
    assert_eq!(report(elsewhere.clone()).await, message(elsewhere));
    let with_id = json!({"host": "h", "type": "SDK", "version": "1", "id": "5a3c", "stat": [{"target": "prometheus"}]});
    assert_eq!(report(with_id.clone()).await, message(with_id));
    assert_eq!(report(json!({})).await, v1::Client::default());
    assert_eq!(server.clients(), ["5a3c"]);
    tokio::time::advance(360 * SECOND).await;
    assert!(server.clients().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_beats_is_answered_by_nothing_and_counts() {
    use crate::pb::v1::polaris_heartbeat_grpc_client::PolarisHeartbeatGrpcClient;
    let server = Server::in_memory();
    let (batches, outbound) = mpsc::channel(4);
    let mut answers = PolarisHeartbeatGrpcClient::new(channel(&server))
        .batch_heartbeat(ReceiverStream::new(outbound))
        .await
        .unwrap()
        .into_inner();
    let stranger = json!({"heartbeats": [{"instance_id": "nobody"}]});
    for _ in 0..4 {
        batches.send(message(stranger.clone())).await.unwrap();
        assert_eq!(answers.message().await.unwrap(), Some(v1::HeartbeatsResponse {}));
    }
    assert_eq!(beat(&server, by_id("nobody")).await, 400_202);
    drop(batches);
    assert_eq!(answers.message().await.unwrap(), None);
    server.release(Release::V1_14);
    let (_batches, outbound) = mpsc::channel(1);
    let refused =
        PolarisHeartbeatGrpcClient::new(channel(&server)).batch_heartbeat(ReceiverStream::new(outbound)).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test(start_paused = true)]
async fn contracts_are_kept_by_what_they_describe() {
    use crate::pb::v1::polaris_service_contract_grpc_client::PolarisServiceContractGrpcClient;
    let server = Server::in_memory();
    let mut client = PolarisServiceContractGrpcClient::new(channel(&server));
    let contract = json!({"namespace": "shop", "service": "orders", "name": "orders-api", "protocol": "http",
        "version": "1", "content": "openapi", "interfaces": [
            {"method": "GET", "path": "/x", "name": "getX", "content": "{}", "source": "Client"}]});
    let asked: v1::ServiceContract = message(json!({"namespace": "shop", "service": "orders", "name": "orders-api",
        "protocol": "http", "version": "1"}));
    let missing = client.get_service_contract(asked.clone()).await.unwrap().into_inner();
    assert_eq!(
        (missing.code, missing.service_contract.unwrap().ctime.as_str()),
        (Some(200_000), "0001-01-01 00:00:00")
    );
    let taken = client.report_service_contract(message::<v1::ServiceContract>(contract)).await.unwrap().into_inner();
    assert_eq!((taken.code, taken.service_contract), (Some(200_000), None));
    let got = client.get_service_contract(asked.clone()).await.unwrap().into_inner();
    let found = got.service_contract.unwrap();
    assert_eq!((found.id.as_str(), found.r#type.as_str()), ("b7c0151bad94ce45976fa6d9469457442b3f5cc2", "orders-api"));
    assert_eq!(found.interfaces[0].id, "51e99b129d9de615643fa3e1e594c2e621498c75");
    assert_eq!(got.service.unwrap().revision.unwrap(), found.revision);
    let known = v1::ServiceContract { revision: found.revision, ..asked.clone() };
    assert_eq!(client.get_service_contract(known).await.unwrap().into_inner().code, Some(200_001));
    for (code, request) in [
        (400_103, v1::ServiceContract { name: String::new(), ..asked.clone() }),
        (400_110, v1::ServiceContract { namespace: String::new(), ..asked.clone() }),
    ] {
        let answer = client.get_service_contract(request.clone()).await.unwrap().into_inner();
        assert_eq!((answer.code, answer.service_contract), (Some(code), Some(request)));
    }
    let blank = message::<v1::ServiceContract>(json!({"name": "n", "interfaces": [{"path": " "}]}));
    assert_eq!(client.report_service_contract(blank).await.unwrap().into_inner().code, Some(400_000));
    server.release(Release::V1_18);
    let other = v1::ServiceContract { name: "other".to_owned(), ..asked.clone() };
    assert_eq!(client.get_service_contract(other).await.unwrap().into_inner().code, Some(400_202));
    server.release(Release::V1_17);
    assert_eq!(client.get_service_contract(asked).await.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test(start_paused = true)]
async fn what_arrived_is_on_record() {
    let server = Server::in_memory();
    let mut request = Request::new(pay());
    request.metadata_mut().insert("async-regis", "true".parse().unwrap());
    request.metadata_mut().insert("request-id", "17".parse().unwrap());
    let mut client = client(&server);
    let (answer, seen) = tokio::join!(
        client.register_instance(request),
        server.wait_for(|calls| { calls.iter().any(|call| call.code() == Some(200_000)) })
    );
    answer.unwrap();
    let call = &seen.unwrap()[0];
    assert_eq!(
        (call.rpc(), call.is_background(), call.request_id(), call.token()),
        (Rpc::Register, true, Some("17"), None)
    );
    assert!(call.user_agent().unwrap().starts_with("tonic"));
    assert_eq!((call.service(), call.addr().unwrap().port()), (Some(("shop", "pay").into()), 7001));
    assert!(call.json().contains("\"ttl\":1"), "{}", call.json());
    server.clear_calls();
    server.keep_calls(1);
    beat(&server, by_id("a")).await;
    beat(&server, by_id("b")).await;
    let ids: Vec<_> = server.calls().iter().map(|call| (call.id().unwrap(), call.code())).collect();
    assert_eq!(ids, [("b".to_owned(), Some(200_000))]);
}
