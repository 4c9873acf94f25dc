//! Discovering and picking, as a program meets them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![allow(
    dropping_references,
    clippy::disallowed_methods,
    clippy::items_after_statements,
    clippy::similar_names,
    clippy::unchecked_time_subtraction,
    reason = "a test spawns what it needs to be concurrent, and reads as a story"
)]

mod support;

#[path = "support/discovering.rs"]
mod discovering;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use discovering::{A, B, MILLI, SECOND, asked, at, kind, listed, many, picked, ports, serving, stop};
use polarismesh::testing::{Rpc, Server};
use polarismesh::{
    Attempts, CallError, Classify, ErrorKind, GetInstances, GetOneInstance, InstanceId, Outcome, Pick, ResourceKind,
    RuleKind, SdkContext, ServiceKey, Source, Tried,
};
use support::{eventually, throughout};
use tokio::time::Instant;

const ANY: &Pick<'static> = &Pick::new();

#[tokio::test(start_paused = true)]
async fn a_pick_by_name_a_pick_by_handle_and_the_async_one_choose_among_the_same() {
    let (_server, context) = serving(3);
    let consumer = context.consumer();
    assert_eq!(kind(consumer.pick(A, ANY)), Some(ErrorKind::NotReady));
    let handle = consumer.service(A);
    handle.ready().await.unwrap();
    assert_eq!(picked(&consumer, A).await, [1, 2, 3]);
    assert_eq!(ports(&(0..200).map(|_| handle.pick(ANY).unwrap()).collect::<Vec<_>>()), [1, 2, 3]);
    let mut seen = Vec::new();
    for _ in 0..200 {
        seen.push(consumer.get_one_instance(A).await.unwrap());
    }
    assert_eq!(ports(&seen), [1, 2, 3]);
    assert_eq!(handle.key(), &ServiceKey::from(A));
}

#[tokio::test(start_paused = true)]
async fn isolated_weightless_and_unhealthy_instances_are_listed_and_not_picked() {
    let server = Server::in_memory();
    server.service(A).metadata("team", "shop").instances([
        at(1),
        at(2).isolated(true),
        at(3).weight(0),
        at(4).healthy(false),
        at(5).weight(7).metadata("env", "canary").version("1.2").protocol("grpc"),
    ]);
    let context = server.context().unwrap();
    let consumer = context.consumer();
    let all = consumer.get_all_instances(A).await.unwrap();
    assert_eq!(ports(all.instances()), [1, 2, 3, 4, 5]);
    assert_eq!(all.metadata().get("team"), Some("shop"));
    let fifth = all.instances().iter().find(|i| i.port() == 5).unwrap();
    assert_eq!((fifth.weight(), fifth.version(), fifth.protocol()), (7, "1.2", "grpc"));
    assert_eq!(fifth.metadata().get("env"), Some("canary"));
    assert_eq!(ports(&consumer.get_healthy_instances(A).await.unwrap()), [1, 5]);
    assert_eq!(ports(&consumer.get_instances(A).await.unwrap()), [1, 5]);
    assert_eq!(picked(&consumer, A).await, [1, 5]);
}

#[tokio::test(start_paused = true)]
async fn with_nobody_healthy_all_that_are_not_isolated_serve_unless_that_is_switched_off() {
    let server = Server::in_memory();
    server.service(A).instances([at(1).healthy(false), at(2).healthy(false), at(3).healthy(false).isolated(true)]);
    let recovering = server.context().unwrap();
    recovering.consumer().get_one_instance(A).await.unwrap();
    assert_eq!(picked(&recovering.consumer(), A).await, [1, 2]);
    assert_eq!(recovering.consumer().get_healthy_instances(A).await.unwrap(), []);

    let strict = server.builder().set("consumer.serviceRouter.enableRecoverAll", "false").build().unwrap();
    let error = strict.consumer().get_one_instance(A).await.unwrap_err();
    assert_eq!((error.kind(), error.service()), (ErrorKind::NoInstances, Some("default/a")));
    assert_eq!(strict.consumer().get_instances(A).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_namespace_and_of_all_are_listed() {
    let server = Server::in_memory();
    server.service(A).metadata("team", "shop").instance(at(1));
    server.service(B).create();
    server.service(("edge", "c")).create();
    let context = server.context().unwrap();
    let consumer = context.consumer();
    let names = |list: &polarismesh::ServiceList| -> Vec<String> {
        let mut names: Vec<_> = list.services().iter().map(|info| info.key().to_string()).collect();
        names.sort();
        names
    };
    let list = consumer.get_services("default").await.unwrap();
    assert_eq!(names(&list), ["default/a", "default/b"]);
    let a = list.services().iter().find(|info| info.key() == &ServiceKey::from(A)).unwrap();
    assert_eq!(a.metadata().get("team"), Some("shop"));
    let all = names(&consumer.get_services("").await.unwrap());
    assert!(all.contains(&"default/a".to_owned()) && all.contains(&"edge/c".to_owned()), "{all:?}");
    assert_eq!(names(&consumer.get_services("nowhere").await.unwrap()), [""; 0]);
}

/// A rule for A of each kind, in the console's field names; the second half is served by newer servers only.
const RULES: [(RuleKind, ResourceKind, &str); 11] = [
    (
        RuleKind::Routing,
        ResourceKind::Routing,
        "{name: r, enable: true, routing_policy: RulePolicy, routing_config: {'@type': \
         type.googleapis.com/v1.RuleRoutingConfig, rules: [{destinations: [{namespace: default, service: a}]}]}}",
    ),
    (RuleKind::RateLimit, ResourceKind::RateLimit, "{name: marked, namespace: default, service: a}"),
    (
        RuleKind::CircuitBreaker,
        ResourceKind::CircuitBreaker,
        "{name: marked, rule_matcher: {destination: {namespace: default, service: a}}}",
    ),
    (
        RuleKind::FaultDetector,
        ResourceKind::FaultDetector,
        "{name: marked, target_service: {namespace: default, service: a}}",
    ),
    (RuleKind::Lane, ResourceKind::Lane, "{name: marked, destinations: [{namespace: default, service: a}]}"),
    (
        RuleKind::CustomRoute,
        ResourceKind::CustomRoute,
        "{name: marked, enable: true, routing_policy: RulePolicy, routing_config: {'@type': \
         type.googleapis.com/v1.RuleRoutingConfig, rules: [{destinations: [{namespace: default, service: a}]}]}}",
    ),
    (
        RuleKind::NearbyRoute,
        ResourceKind::NearbyRoute,
        "{name: marked, enable: true, routing_policy: NearbyPolicy, routing_config: {'@type': \
         type.googleapis.com/v1.NearbyRoutingConfig, namespace: default, service: a}}",
    ),
    (RuleKind::Lossless, ResourceKind::Lossless, "{namespace: default, service: a}"),
    (RuleKind::BlockAllow, ResourceKind::BlockAllow, "{namespace: default, service: a}"),
    (RuleKind::TrafficMirroring, ResourceKind::TrafficMirroring, "{}"),
    (RuleKind::FaultInjection, ResourceKind::FaultInjection, "{}"),
];

#[tokio::test(start_paused = true)]
async fn rules_of_every_kind_come_as_json_with_their_revision() {
    let server = Server::in_memory();
    server.newer_kinds(true).service(A).instance(at(1));
    for (_, resource, rule) in RULES {
        server.rule(resource, rule).unwrap_or_else(|error| panic!("{resource:?}: {error}"));
    }
    let context = server.context().unwrap();
    for (kind, resource, rule) in RULES {
        let rules = context.consumer().get_rule(A, kind).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!((rules.kind(), rules.service()), (resource, &ServiceKey::from(A)));
        // Two kinds have messages that name no service, and so are for nobody.
        let named = rule != "{}";
        assert_eq!(rules.is_empty(), !named, "{kind:?}: {}", rules.json());
        assert_eq!(rules.revision().as_str().is_empty(), !named, "{kind:?}");
        assert!(
            !rule.contains("marked") || kind == RuleKind::NearbyRoute || rules.json().contains("marked"),
            "{kind:?}: {}",
            rules.json()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_that_the_server_does_not_serve_are_empty_and_take_nothing_away() {
    let (server, context) = serving(2);
    let consumer = context.consumer();
    for (kind, ..) in RULES {
        let rules = consumer.get_rule(A, kind).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!((rules.is_empty(), rules.json()), (true, "{}"), "{kind:?}");
    }
    assert_eq!(listed(&consumer, A).await, Ok(vec![1, 2]));
    assert_eq!(picked(&consumer, A).await, [1, 2]);
    // Nobody asks again and again for what is not served: such kinds are asked about once a stream.
    throughout("ready", 10 * SECOND, async || context.state().is_ready()).await;
    let unserved = |call: &&polarismesh::testing::Call| call.kind() == Some(ResourceKind::BlockAllow);
    assert!(server.calls_of(Rpc::Discover).iter().filter(unserved).count() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_added_changed_and_removed_is_followed() {
    let (server, context) = serving(1);
    let consumer = context.consumer();
    assert!(consumer.get_rule(A, RuleKind::RateLimit).await.unwrap().is_empty());
    let limit = |name: &str| format!("{{id: x, name: {name}, namespace: default, service: a}}");
    let says = async |text: &str| consumer.get_rule(A, RuleKind::RateLimit).await.unwrap().json().contains(text);
    for name in ["first", "second"] {
        server.rule(ResourceKind::RateLimit, limit(name)).unwrap();
        eventually("the rule is there", 3 * SECOND, || says(name)).await;
    }
    assert!(server.remove_rule(ResourceKind::RateLimit, "x"));
    eventually("the rule is gone", 3 * SECOND, async || {
        consumer.get_rule(A, RuleKind::RateLimit).await.unwrap().is_empty()
    })
    .await;
    // A service that nobody knows has no rules, and that is no error.
    assert!(consumer.get_rule(("default", "nobody"), RuleKind::Routing).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_alias_has_the_instances_of_its_service_and_says_whose() {
    let (server, context) = serving(2);
    server.service(B).alias_of(A);
    let consumer = context.consumer();
    let list = consumer.get_all_instances(B).await.unwrap();
    assert_eq!((list.key(), list.alias_for()), (&ServiceKey::from(B), Some(&ServiceKey::from(A))));
    assert_eq!(picked(&consumer, B).await, [1, 2]);
    server.service(A).instance(at(3));
    eventually("the alias follows", 3 * SECOND, async || listed(&consumer, B).await == Ok(vec![1, 2, 3])).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_service_and_an_empty_one_are_told_apart() {
    let (server, context) = serving(1);
    server.service(B).create();
    let consumer = context.consumer();
    let unknown = ("default", "nobody");
    let began = Instant::now();
    let error = consumer.get_one_instance(unknown).await.unwrap_err();
    assert_eq!((error.kind(), error.service()), (ErrorKind::ServiceNotFound, Some("default/nobody")));
    assert!(began.elapsed() < SECOND, "an answer is an answer");
    assert_eq!(kind(consumer.get_instances(unknown).await), Some(ErrorKind::ServiceNotFound));
    assert_eq!(kind(consumer.get_healthy_instances(unknown).await), Some(ErrorKind::ServiceNotFound));
    assert_eq!(kind(consumer.get_all_instances(unknown).await), Some(ErrorKind::ServiceNotFound));

    assert_eq!(kind(consumer.get_one_instance(B).await), Some(ErrorKind::NoInstances));
    assert_eq!(consumer.get_instances(B).await.unwrap(), []);
    assert_eq!(consumer.get_healthy_instances(B).await.unwrap(), []);
    assert!(consumer.get_all_instances(B).await.unwrap().is_empty());

    server.service(unknown).instance(at(7));
    server.service(B).instance(at(8));
    eventually("both serve", 3 * SECOND, async || {
        listed(&consumer, unknown).await == Ok(vec![7]) && listed(&consumer, B).await == Ok(vec![8])
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_is_never_picked_again_until_all_are_exhausted() {
    let (_server, context) = serving(20);
    let consumer = context.consumer();
    let mut tried = Tried::default();
    for _ in 0..20 {
        let instance = consumer.get_one_instance(GetOneInstance::new("default", "a").exclude(&tried)).await.unwrap();
        assert!(!tried.contains(instance.id()));
        tried.insert(instance.id());
    }
    let excluding = Pick::new().exclude(&tried);
    assert_eq!(kind(consumer.pick(A, &excluding)), Some(ErrorKind::Exhausted));
    let again = GetOneInstance::new("default", "a").exclude(&tried);
    assert_eq!(kind(consumer.get_one_instance(again).await), Some(ErrorKind::Exhausted));
    assert_eq!(consumer.service(A).start_call(&excluding).unwrap_err().kind(), ErrorKind::Exhausted);
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_nobody_gave_is_refused_by_its_name() {
    let (_server, context) = serving(2);
    let consumer = context.consumer();
    let unknown = GetOneInstance::new("default", "a").balancer("fairest");
    let error = consumer.get_one_instance(unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("fairest"), "{error}");
    assert!(consumer.get_one_instance(GetOneInstance::new("default", "a").balancer("weightedRandom")).await.is_ok());
    assert_eq!(kind(consumer.pick(A, &Pick::new().balancer("fairest"))), Some(ErrorKind::InvalidArgument));
}

#[tokio::test(start_paused = true)]
async fn names_that_no_server_takes_are_refused_and_never_sent() {
    let (server, context) = serving(1);
    let consumer = context.consumer();
    consumer.get_one_instance(A).await.unwrap();
    let before = server.calls_of(Rpc::Discover).len();
    for name in [("default", ""), ("", "a"), ("default", "a b"), ("default", "ä"), ("default", "a?b"), ("d\n", "a")] {
        let refused = Some(ErrorKind::InvalidArgument);
        assert_eq!(kind(consumer.get_one_instance(name).await), refused, "{name:?}");
        assert_eq!(kind(consumer.get_all_instances(name).await), refused, "{name:?}");
        assert_eq!(kind(consumer.pick(name, ANY)), refused, "{name:?}");
        assert_eq!(kind(consumer.get_rule(name, RuleKind::Routing).await), refused, "{name:?}");
        assert_eq!(kind(consumer.service(name).ready().await), refused, "{name:?}");
    }
    let long = "x".repeat(129);
    assert_eq!(kind(consumer.get_one_instance(("default", long.as_str())).await), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(consumer.get_services("a b").await), Some(ErrorKind::InvalidArgument));
    throughout("nothing of that is sent", 100 * MILLI, async || {
        let calls = server.calls_of(Rpc::Discover);
        // Whether a server knows a newer kind of rules is asked without a service.
        let about_a = |call: &polarismesh::testing::Call| call.service().is_none_or(|key| key == A.into());
        calls.iter().all(about_a) && calls.len() >= before
    })
    .await;
}

#[derive(Debug)]
struct Refused;

impl Classify for Refused {
    fn outcome(&self) -> Outcome {
        Outcome::NoAnswer
    }

    fn is_retryable(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Wrong;

impl Classify for Wrong {
    fn outcome(&self) -> Outcome {
        Outcome::http(400)
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_can_be_finished_elsewhere_or_dropped_and_leaves_nothing_behind() {
    let (_server, context) = serving(2);
    let handle = context.consumer().service(A);
    assert_eq!(handle.start_call(ANY).unwrap_err().kind(), ErrorKind::NotReady);
    handle.ready().await.unwrap();
    let calls: Vec<_> = (0..100).map(|_| handle.start_call(ANY).unwrap()).collect();
    let instances: Vec<_> = calls.iter().map(|call| call.instance().clone()).collect();
    assert_eq!(ports(&instances), [1, 2]);
    let finished = tokio::task::spawn(async move {
        for (n, call) in calls.into_iter().enumerate() {
            if n % 2 == 0 { call.finish(Outcome::http(500)) } else { drop(call) }
        }
    });
    finished.await.unwrap();
    assert!(handle.start_call(ANY).is_ok(), "failures are counted, and nobody judges them yet");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_made_again_elsewhere_while_that_may_help() {
    let (_server, context) = serving(3);
    let handle = context.consumer().service(A);
    let tries = std::sync::Mutex::new(Vec::new());
    let answer = handle
        .call(ANY, Attempts::up_to(3), |instance| {
            let mut tries = tries.lock().unwrap();
            tries.push(instance.port());
            let last = tries.len() == 3;
            async move { if last { Ok(instance.port()) } else { Err(Refused) } }
        })
        .await
        .unwrap();
    let mut tries = tries.into_inner().unwrap();
    assert_eq!(tries.last(), Some(&answer));
    tries.sort_unstable();
    assert_eq!(tries, [1, 2, 3], "it waits until the service is loaded, and no instance is tried twice");

    let once = handle.call(ANY, Attempts::up_to(3), |_| async { Err::<(), _>(Wrong) }).await;
    assert!(matches!(once, Err(CallError::Failed { attempts: 1, .. })), "{once:?}");
    let never = context.consumer().service(("default", "nobody"));
    let never = never.call(ANY, Attempts::up_to(3), |_| async { Err::<(), _>(Refused) }).await;
    let Err(CallError::NotSent(error)) = never else { panic!("{never:?}") };
    assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
}

#[tokio::test(start_paused = true)]
async fn the_time_for_all_attempts_ends_the_one_under_way() {
    let (_server, context) = serving(3);
    let handle = context.consumer().service(A);
    handle.ready().await.unwrap();
    let began = Instant::now();
    let tries = AtomicU32::new(0);
    let late = handle
        .call(ANY, Attempts::up_to(3).overall(250 * MILLI), |_| {
            tries.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::timeout(100 * MILLI, std::future::pending::<()>()).await.unwrap_err();
                Err::<(), _>(Refused)
            }
        })
        .await;
    let Err(CallError::TimedOut { error, attempts: 3, .. }) = late else { panic!("{late:?}") };
    assert_eq!((error.kind(), began.elapsed().as_millis()), (ErrorKind::Timeout, 250));
    assert_eq!(tries.into_inner(), 3);
}

#[tokio::test(start_paused = true)]
async fn retries_never_multiply_an_outage() {
    let (_server, context) = serving(3);
    let handle = context.consumer().service(A);
    let sent = AtomicU32::new(0);
    for _ in 0..1000 {
        let attempts = Attempts::up_to(3).budget(0.1);
        let failed = handle.call(ANY, attempts, |_| {
            sent.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(Refused) }
        });
        assert!(failed.await.is_err());
    }
    let sent = sent.into_inner();
    assert!((1090..=1115).contains(&sent), "a tenth of 1000, and a reserve: {sent}");
}

#[tokio::test(start_paused = true)]
async fn a_report_is_taken_of_what_is_loaded_only() {
    let (server, context) = serving(2);
    let consumer = context.consumer();
    let id = InstanceId::new(A, "whoever");
    assert_eq!(kind(consumer.report_call(&id, Outcome::Timeout, SECOND)), Some(ErrorKind::NotFound));
    let instance = consumer.get_one_instance(A).await.unwrap();
    consumer.report_call(instance.id(), Outcome::http(200), 3 * MILLI).unwrap();
    consumer.report_call(&id, Outcome::http(200), 3 * MILLI).unwrap();
    drop(server);
    stop(&context).await;
    assert_eq!(kind(consumer.report_call(instance.id(), Outcome::Timeout, SECOND)), Some(ErrorKind::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_fixed_service_is_served_without_a_server_and_never_asked_for() {
    let alone = SdkContext::builder().fixed(A, [("127.0.0.1", 8080), ("::1", 8081)]).build().unwrap();
    let consumer = alone.consumer();
    assert_eq!(picked(&consumer, A).await, [8080, 8081]);
    let handle = consumer.service(A);
    let fresh = handle.freshness().unwrap();
    assert_eq!((fresh.source, fresh.stale), (Source::Fixed, false));
    assert!(consumer.get_rule(A, RuleKind::RateLimit).await.unwrap().is_empty());
    let v6 = handle.snapshot().unwrap().instances().iter().find(|i| i.port() == 8081).unwrap().authority().to_owned();
    assert_eq!(v6, "[::1]:8081");
    assert_eq!(kind(consumer.get_one_instance(B).await), Some(ErrorKind::Timeout), "there is nobody to ask for others");

    let (server, _) = serving(3);
    server.service(B).instance(at(9));
    let both = server.builder().fixed(A, [("127.0.0.1", 8080)]).build().unwrap();
    let consumer = both.consumer();
    assert_eq!(consumer.get_one_instance(B).await.unwrap().port(), 9);
    assert_eq!(picked(&consumer, A).await, [8080]);
    throughout("only B is asked for", 5 * SECOND, async || asked(&server, A) == 0).await;
    assert!(asked(&server, B) >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_cold_handle_is_not_ready_and_becomes_so_by_itself() {
    let (server, context) = serving(1);
    server.on(Rpc::Discover).times(1).delay(300 * MILLI);
    let handle = context.consumer().service(A);
    assert_eq!(kind(handle.pick(ANY)), Some(ErrorKind::NotReady));
    assert!(handle.snapshot().is_none() && handle.freshness().is_none());
    throughout("not ready", 250 * MILLI, async || kind(handle.pick(ANY)) == Some(ErrorKind::NotReady)).await;
    eventually("ready", 200 * MILLI, async || handle.pick(ANY).is_ok()).await;
    assert_eq!(handle.snapshot().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_in_time_says_so_by_the_deadline_and_comes_later() {
    let (server, context) = serving(1);
    let fault = server.on(Rpc::Discover).times(1).delay(3 * SECOND);
    let consumer = context.consumer();
    for (request, within) in
        [(GetOneInstance::new("default", "a"), 1000), (GetOneInstance::new("default", "a").timeout(300 * MILLI), 300)]
    {
        let began = Instant::now();
        let error = consumer.get_one_instance(request).await.unwrap_err();
        assert_eq!((error.kind(), error.service()), (ErrorKind::Timeout, Some("default/a")));
        assert_eq!(began.elapsed().as_millis(), within);
        assert_eq!(error.elapsed().unwrap().as_millis(), within);
    }
    assert_eq!(fault.hits(), 1);
    let patient = consumer.get_all_instances(GetInstances::new("default", "a").timeout(5 * SECOND));
    assert_eq!(patient.await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn freshness_tells_age_source_and_doubt() {
    let (server, context) = serving(2);
    let handle = context.consumer().service(A);
    handle.ready().await.unwrap();
    throughout("fresh", 10 * SECOND, async || {
        let fresh = handle.freshness().unwrap();
        fresh.source == Source::Live && !fresh.stale && fresh.age <= Duration::from_millis(2300)
    })
    .await;
    server.black_hole(true);
    let cut = Instant::now();
    eventually("stale", 10 * SECOND, async || handle.freshness().unwrap().stale).await;
    let age = handle.freshness().unwrap().age;
    assert!(age >= cut.elapsed() && age <= cut.elapsed() + 3 * SECOND, "{age:?} after {:?}", cut.elapsed());
    assert_eq!(picked(&context.consumer(), A).await, [1, 2], "the last good list goes on serving");
    server.black_hole(false);
    eventually("fresh again", 5 * SECOND, async || !handle.freshness().unwrap().stale).await;
}

#[tokio::test(start_paused = true)]
async fn lists_of_services_and_rules_tell_their_freshness_too() {
    let (server, context) = serving(1);
    let consumer = context.consumer();
    assert!(consumer.rule_freshness(A, RuleKind::Routing).is_none());
    let (services, instances) = (consumer.watch_services("default"), consumer.watch_instances(A));
    assert!(services.freshness().is_none() && instances.freshness().is_none());
    consumer.get_rule(A, RuleKind::Routing).await.unwrap();
    let all = || [consumer.rule_freshness(A, RuleKind::Routing), services.freshness(), instances.freshness()];
    eventually("all are there", SECOND, async || all().iter().all(Option::is_some)).await;
    throughout("fresh", 10 * SECOND, async || {
        all()
            .into_iter()
            .flatten()
            .all(|f| f.source == Source::Live && !f.stale && f.age <= Duration::from_millis(2300))
    })
    .await;
    server.black_hole(true);
    eventually("stale", 10 * SECOND, async || all().into_iter().flatten().all(|fresh| fresh.stale)).await;
}

#[tokio::test(start_paused = true)]
async fn many_cold_callers_share_one_question() {
    let (server, context) = serving(3);
    server.on(Rpc::Discover).times(1).delay(200 * MILLI);
    let callers: Vec<_> = (0..500)
        .map(|_| {
            let consumer = context.consumer();
            tokio::task::spawn(async move { consumer.get_one_instance(A).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(asked(&server, A), 1);
    assert_eq!(server.total_connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_tasks_over_ten_services_never_mix_them_up() {
    const NAMES: [&str; 10] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];
    let server = Server::in_memory();
    for (n, name) in (0u16..).zip(NAMES) {
        server.service(("default", name)).instances((1..=20).map(|port| at(1000 * (n + 1) + port)));
    }
    let context = server.builder().set("consumer.localCache.serviceRefreshInterval", "100ms").build().unwrap();
    let tasks: Vec<_> = (0usize..10)
        .map(|task| {
            let consumer = context.consumer();
            tokio::task::spawn(async move {
                for round in 0..200 {
                    let n = (task + round) % 10;
                    let instance = consumer.get_one_instance(("default", NAMES[n])).await.unwrap();
                    assert_eq!(usize::from(instance.port()) / 1000, n + 1, "{instance:?}");
                    assert_eq!(instance.service().service(), NAMES[n]);
                    let list = consumer.get_all_instances(("default", NAMES[n])).await.unwrap();
                    assert_eq!((list.key().service(), list.len()), (NAMES[n], 20));
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    stop(&context).await;
}

#[tokio::test(start_paused = true)]
async fn picks_follow_weights_and_their_changes() {
    let server = Server::in_memory();
    server.service(A).instances([at(1).weight(300), at(2).weight(100)]);
    let context = server.context().unwrap();
    let consumer = context.consumer();
    consumer.get_one_instance(A).await.unwrap();
    let share = || (0..4000).filter(|_| consumer.pick(A, ANY).unwrap().port() == 1).count();
    // 3,000 and 1,000 expected; the bounds are more than seven standard deviations away.
    assert!((2800..=3200).contains(&share()));
    server.service(A).edit("10.0.0.1", 1, |one| one.weight(100)).edit("10.0.0.1", 2, |two| two.weight(300));
    eventually("the weights are swapped", 3 * SECOND, async || share() < 1200).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_shutdown_every_call_is_closed() {
    let (_server, context) = serving(1);
    let consumer = context.consumer();
    let handle = consumer.service(A);
    handle.ready().await.unwrap();
    stop(&context).await;
    let closed = Some(ErrorKind::Closed);
    assert_eq!(kind(consumer.get_one_instance(A).await), closed);
    assert_eq!(kind(consumer.get_instances(A).await), closed);
    assert_eq!(kind(consumer.get_services("default").await), closed);
    assert_eq!(kind(consumer.get_rule(A, RuleKind::Routing).await), closed);
    assert_eq!((kind(consumer.pick(A, ANY)), kind(handle.pick(ANY))), (closed, closed));
    assert_eq!(kind(handle.ready().await), closed);
    assert_eq!(kind(consumer.get_one_instance(("default", "never asked for")).await), closed);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_instances_are_listed_and_picked() {
    let server = Server::in_memory();
    server.service(A).instances(many(1000));
    let context = server.context().unwrap();
    let consumer = context.consumer();
    assert_eq!(consumer.get_all_instances(A).await.unwrap().len(), 1000);
    assert!(picked(&consumer, A).await.len() > 100);
}
