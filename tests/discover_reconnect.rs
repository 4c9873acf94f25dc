//! Faults of the discover stream: whatever happens to it, what is known serves on, and every key is followed again.

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

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use discovering::{
    A, B, MILLI, SECOND, asked, at, is_about, kind, listed, many, next_list, picked, serving, stop, told, until_list,
};
use polarismesh::testing::{Call, Grant, Release, Rpc, Server, instance};
use polarismesh::{ErrorKind, Pick, ResourceKind, RuleKind, SdkContext, ServiceHandle, ServiceKey, Update};
use support::{eventually, throughout};
use tokio::time::Instant;

/// How long it takes until a change is seen again after a fault is over: back-off, reconnecting, one poll.
const BACK: Duration = Duration::from_secs(5);

/// A service of one instance that is watched through a fault.
struct Watched {
    server: Server,
    context: SdkContext,
    handle: ServiceHandle,
}

impl Watched {
    async fn new() -> Self {
        let (server, context) = serving(2);
        let handle = context.consumer().service(A);
        handle.ready().await.unwrap();
        Self { server, context, handle }
    }

    fn picks(&self) -> bool {
        self.handle.pick(&Pick::new()).is_ok()
    }

    /// The fault is over: a change made now is seen soon, and all is well.
    async fn recovers(&self) {
        self.server.service(A).instance(at(99));
        eventually("the change is seen", BACK, async || self.handle.snapshot().unwrap().len() == 3).await;
        eventually("all is well", BACK, async || self.context.state().is_ready()).await;
        assert!(!self.handle.freshness().unwrap().stale);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_opened_again_and_nobody_notices() {
    // More than twice in a row over one key, and that key is held back: it may be what the server cannot stand.
    let ends = [(None, 2), (Some(14), 9), (Some(13), 2), (Some(2), 2), (Some(1), 9), (Some(4), 9), (Some(8), 2)];
    for (status, times) in ends {
        let watched = Watched::new().await;
        let faults = match status {
            None => watched.server.on(Rpc::Discover).times(times).end_stream(),
            Some(code) => watched.server.on(Rpc::Discover).times(times).status(code, "on purpose"),
        };
        eventually("the fault was met", 60 * SECOND, async || {
            assert!(watched.picks());
            faults.hits() == times
        })
        .await;
        watched.recovers().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_server_cannot_stand_is_held_back_for_half_a_minute_at_most() {
    let watched = Watched::new().await;
    watched.server.service(B).instance(at(7));
    let mut other = watched.context.consumer().watch_instances(B);
    next_list(&mut other).await;
    let fault = watched.server.on(Rpc::Discover).service(A).times(12).end_stream();
    for port in 8..20 {
        watched.server.service(B).instance(at(port));
        until_list(&mut other, &(7..=port).collect::<Vec<_>>()).await;
        assert!(watched.picks());
    }
    eventually("the fault is over", 600 * SECOND, async || fault.hits() == 12).await;
    eventually("it is asked for again", 33 * SECOND, async || !watched.handle.freshness().unwrap().stale).await;
    // Its rules were held back just as well, and need not have come at the same time.
    eventually("so are its rules", 33 * SECOND, async || watched.context.state().is_ready()).await;
    watched.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_while_questions_are_outstanding_loses_none_of_them() {
    let server = Server::in_memory();
    let names: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
    for name in &names {
        server.service(("default", name.as_str())).instance(at(1));
    }
    server.on(Rpc::Discover).skip(10).times(1).close();
    server.on(Rpc::Discover).skip(40).times(1).close_midway();
    server.on(Rpc::Discover).skip(70).times(1).end_stream();
    let context = server.context().unwrap();
    let consumer = context.consumer();
    let handles: Vec<_> = names.iter().map(|name| consumer.service(("default", name.as_str()))).collect();
    eventually("all are loaded", 10 * SECOND, async || handles.iter().all(|handle| handle.snapshot().is_some())).await;
    assert!(server.total_connections() >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_hangs_is_left_for_another_node_within_the_message_timeout() {
    for black_hole in [false, true] {
        let watched = Watched::new().await;
        let peer = watched.server.peer().await.unwrap();
        let builder = watched.server.builder().address(peer.address());
        let context = builder.build().unwrap();
        let mut watch = context.consumer().watch_instances(A);
        next_list(&mut watch).await;
        let (used, spare) = if asked(&peer, A) > 0 { (&peer, &watched.server) } else { (&watched.server, &peer) };
        if black_hole {
            used.black_hole(true);
        } else {
            drop(used.on(Rpc::Discover).hang());
        }
        let hung = Instant::now();
        watched.server.service(A).instance(at(3));
        next_list(&mut watch).await;
        // A poll has to be made first, and then its answer is waited for.
        assert!(hung.elapsed() <= Duration::from_millis(2200 + 5000 + 1000), "{:?}", hung.elapsed());
        // The first of the two nodes is used by the other context as well, so the spare one tells.
        assert!(asked(spare, A) > 0);
        assert!(context.state().is_ready(), "{}", context.state());
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_node_that_hangs_is_told_and_recovered_from() {
    let watched = Watched::new().await;
    watched.server.black_hole(true);
    eventually("it is told", 10 * SECOND, async || !watched.context.state().is_ready()).await;
    let state = watched.context.state().to_string();
    assert!(state.contains(watched.server.address()), "{state}");
    throughout("picks go on", 120 * SECOND, async || watched.picks()).await;
    watched.server.black_hole(false);
    watched.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_the_stream_and_not_the_data() {
    let watched = Watched::new().await;
    let fault = watched.server.on(Rpc::Discover).times(3).garbage();
    throughout("picks go on", 10 * SECOND, async || watched.picks()).await;
    eventually("it was met", 60 * SECOND, async || fault.hits() == 3).await;
    eventually("it is over", 60 * SECOND, async || watched.context.state().is_ready()).await;
    watched.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn one_key_that_is_always_answered_with_garbage_takes_no_other_with_it() {
    let (server, context) = serving(1);
    server.service(B).instance(at(7));
    server.on(Rpc::Discover).service(B).garbage();
    let consumer = context.consumer();
    assert_eq!(listed(&consumer, A).await, Ok(vec![1]));
    assert!(consumer.get_one_instance(B).await.is_err());
    for port in 2..8 {
        server.service(A).instance(at(port));
        let expected: Vec<_> = (1..=port).collect();
        // Each time that B ends the stream, A may be taken for the cause.
        eventually("A is followed", 40 * SECOND, async || listed(&consumer, A).await == Ok(expected.clone())).await;
    }
    let trouble = context.state().to_string();
    assert!(trouble.contains("default/b"), "{trouble}");
    server.clear_faults();
    eventually("B comes", 60 * SECOND, async || listed(&consumer, B).await == Ok(vec![7])).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_code_is_the_trouble_of_its_key_only() {
    let watched = Watched::new().await;
    watched.server.service(B).instance(at(7));
    let consumer = watched.context.consumer();
    consumer.get_one_instance(B).await.unwrap();
    for code in [500_000, 500_007, 400_000, 499_999, 1] {
        let fault = watched.server.on(Rpc::Discover).kind(ResourceKind::Instances).service(A).times(2).answer(code);
        eventually("it is told", 10 * SECOND, async || watched.handle.freshness().unwrap().stale).await;
        assert!(watched.picks() && !watched.context.state().is_ready());
        assert!(!consumer.service(B).freshness().unwrap().stale, "{code}");
        let state = watched.context.state().to_string();
        assert!(state.contains("default/a") && !state.contains("default/b"), "{state}");
        fault.clear();
        eventually("it is over", 70 * SECOND, async || !watched.handle.freshness().unwrap().stale).await;
    }
    watched.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn errors_without_a_type_and_a_service_keep_the_pairs_of_question_and_answer_in_step() {
    for code in [429_002, 403_003, 400_401, 401_001, 500_002] {
        let (server, context) = serving(1);
        server.service(B).instances([at(21), at(22)]);
        let consumer = context.consumer();
        let (mut a, mut b) = (consumer.watch_instances(A), consumer.watch_instances(B));
        assert_eq!((next_list(&mut a).await, next_list(&mut b).await), (vec![1], vec![21, 22]));
        let connections = server.total_connections();
        let fault = server.on(Rpc::Discover).times(7).when(|_| true).answer_bare(code);
        eventually("the errors were met", 900 * SECOND, async || {
            let (a, b) = (listed(&consumer, A).await, listed(&consumer, B).await);
            assert_eq!((a, b), (Ok(vec![1]), Ok(vec![21, 22])), "{code}");
            fault.hits() == 7
        })
        .await;
        assert_eq!(server.total_connections(), connections, "{code}: the stream stays");
        server.service(A).instance(at(2));
        server.service(B).instance(at(23));
        eventually("both are followed again", 400 * SECOND, async || {
            listed(&consumer, A).await == Ok(vec![1, 2]) && listed(&consumer, B).await == Ok(vec![21, 22, 23])
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_told_as_such_and_a_new_one_is_used() {
    let server = Server::in_memory();
    server.service(A).instance(at(1));
    server.token("right", Grant::Administrator);
    let file = std::env::temp_dir().join(format!("polarismesh-token-{}", std::process::id()));
    std::fs::write(&file, "wrong").unwrap();
    let context = server.builder().set("global.serverConnector.tokenFile", file.to_str().unwrap()).build().unwrap();
    let consumer = context.consumer();
    let began = Instant::now();
    let error = consumer.get_one_instance(A).await.unwrap_err();
    assert_eq!((error.kind(), error.server_code().unwrap().get()), (ErrorKind::Unauthorized, 401_001));
    assert!(began.elapsed() < SECOND && !error.to_string().contains("wrong"), "{error}");
    let before = server.calls_of(Rpc::Discover).len();
    throughout("nobody knocks all the time", 60 * SECOND, async || server.calls_of(Rpc::Discover).len() <= before + 12)
        .await;
    std::fs::write(&file, "right").unwrap();
    eventually("the new token is used", 400 * SECOND, async || consumer.get_one_instance(A).await.is_ok()).await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rule_kind_that_is_refused_as_routing_means_that_there_are_no_rules() {
    let (server, context) = serving(1);
    server.on(Rpc::Discover).kind(ResourceKind::CircuitBreaker).unsupported();
    let consumer = context.consumer();
    let breaker = consumer.get_rule(A, RuleKind::CircuitBreaker).await.unwrap();
    assert!(breaker.is_empty());
    let route = "{name: r, enable: true, routing_policy: RulePolicy, routing_config: {'@type': \
                 type.googleapis.com/v1.RuleRoutingConfig, rules: [{destinations: [{namespace: default, service: a}]}]}}";
    server.rule(ResourceKind::Routing, route).unwrap();
    assert!(!consumer.get_rule(A, RuleKind::Routing).await.unwrap().is_empty(), "routing itself is another matter");
    assert_eq!(listed(&consumer, A).await, Ok(vec![1]));
    assert!(context.state().is_ready());
}

#[tokio::test(start_paused = true)]
async fn instances_that_are_refused_as_unsupported_are_a_failure_and_no_empty_list() {
    let watched = Watched::new().await;
    watched.server.on(Rpc::Discover).kind(ResourceKind::Instances).unsupported();
    throughout("picks go on", 60 * SECOND, async || watched.picks()).await;
    assert!(watched.handle.freshness().unwrap().stale);
    watched.server.clear_faults();
    eventually("it is over", 400 * SECOND, async || !watched.handle.freshness().unwrap().stale).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_of_the_same_content_wakes_nobody() {
    let (server, context) = serving(3);
    let consumer = context.consumer();
    let mut watch = consumer.watch_instances(A);
    next_list(&mut watch).await;
    let before = consumer.get_all_instances(A).await.unwrap();
    let fault = server.on(Rpc::Discover).kind(ResourceKind::Instances).new_revision();
    let heard = told(&mut watch, 60 * SECOND).await;
    assert!(heard.is_empty(), "{heard:?}");
    assert!(fault.hits() >= 25 && fault.hits() <= 40, "and it is no reason to poll faster: {}", fault.hits());
    let after = consumer.get_all_instances(A).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&before, &after), "no new snapshot");
}

#[tokio::test(start_paused = true)]
async fn an_answer_above_four_megabytes_is_taken() {
    let server = Server::in_memory();
    let big = "x".repeat(3000);
    server.service(A).instances((1..=2000).map(|port| at(port).metadata("big", big.as_str())));
    let context = server.context().unwrap();
    let list = context.consumer().get_all_instances(A).await.unwrap();
    assert_eq!(list.len(), 2000);
    assert_eq!(list.instances()[0].metadata().get("big").map(str::len), Some(3000));
}

#[tokio::test(start_paused = true)]
async fn an_answer_above_the_limit_is_the_trouble_of_its_key_only() {
    let (server, _) = serving(1);
    server.service(B).instance(at(7));
    server.on(Rpc::Discover).service(B).pad(200_000);
    let limit = "global.serverConnector.plugin.grpc.maxCallRecvMsgSize";
    let context = server.builder().set(limit, "100000").build().unwrap();
    let consumer = context.consumer();
    assert_eq!(listed(&consumer, A).await, Ok(vec![1]));
    assert!(consumer.get_one_instance(B).await.is_err());
    eventually("the trouble names the key", 30 * SECOND, async || {
        context.state().to_string().contains("instances of default/b")
    })
    .await;
    server.service(A).instance(at(2));
    eventually("A is followed", 10 * SECOND, async || listed(&consumer, A).await == Ok(vec![1, 2])).await;
    server.clear_faults();
    eventually("B comes when it fits", 60 * SECOND, async || listed(&consumer, B).await == Ok(vec![7])).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_restarts_with_an_empty_store_takes_nothing_away_at_once() {
    let watched = Watched::new().await;
    watched.server.stop();
    watched.server.wipe();
    eventually("it is gone", 10 * SECOND, async || watched.server.open_connections() == 0).await;
    throughout("picks go on", 30 * SECOND, async || watched.picks()).await;
    watched.server.start();
    throughout("picks go on", 6 * SECOND, async || watched.picks()).await;
    watched.server.service(A).instances([at(1), at(2)]);
    throughout("picks go on", 20 * SECOND, async || watched.picks()).await;
    watched.recovers().await;
}

#[tokio::test(start_paused = true)]
async fn the_stream_moves_to_another_server_in_its_time_without_a_gap() {
    let (server, _) = serving(1);
    let peer = server.peer().await.unwrap();
    let context = server
        .builder()
        .address(peer.address())
        .set("global.serverConnector.serverSwitchInterval", "2m")
        .build()
        .unwrap();
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    let moved = async || asked(&server, A) > 0 && asked(&peer, A) > 0;
    eventually("both were used", 600 * SECOND, moved).await;
    assert!(told(&mut watch, SECOND).await.is_empty(), "nothing was lost on the way");
    assert!(context.state().is_ready());
    server.service(A).instance(at(2));
    assert_eq!(next_list(&mut watch).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn every_watched_key_survives_a_thousand_breaks_of_the_stream() {
    const KEYS: u16 = 20;
    let server = Server::in_memory();
    server.keep_calls(10_000);
    let names: Vec<String> = (0..KEYS).map(|n| format!("s{n}")).collect();
    for name in &names {
        server.service(("default", name.as_str())).instance(at(1));
    }
    let context = server.context().unwrap();
    let consumer = context.consumer();
    let mut watches: Vec<_> = names.iter().map(|name| consumer.watch_instances(("default", name.as_str()))).collect();
    for watch in &mut watches {
        next_list(watch).await;
    }
    // Every tenth question breaks the stream or its connection, in turns.
    let breaks = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let every = |nth: u64| {
        let breaks = std::sync::Arc::clone(&breaks);
        let seen = std::sync::atomic::AtomicU64::new(0);
        move |_: &Call| {
            let hit = (seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1).is_multiple_of(nth);
            breaks.fetch_add(u64::from(hit), std::sync::atomic::Ordering::Relaxed);
            hit
        }
    };
    server.on(Rpc::Discover).when(every(7)).status(14, "on purpose");
    server.on(Rpc::Discover).when(every(11)).close();
    server.on(Rpc::Discover).when(every(13)).end_stream();
    let broken = || breaks.load(std::sync::atomic::Ordering::Relaxed);
    eventually("a thousand breaks", Duration::from_secs(24 * 3600), async || broken() >= 1000).await;
    server.clear_faults();
    for name in &names {
        server.service(("default", name.as_str())).instance(at(2));
    }
    let healed = Instant::now();
    for watch in &mut watches {
        until_list(watch, &[1, 2]).await;
    }
    assert!(healed.elapsed() <= BACK, "{:?}", healed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_keys_of_a_context_share_one_stream_and_at_most_sixty_four_are_asked_at_a_time() {
    const KEYS: usize = 200;
    let server = Server::in_memory();
    let hold = server.on(Rpc::Discover).hang();
    let names: Vec<String> = (0..KEYS).map(|n| format!("s{n}")).collect();
    for name in &names {
        server.service(("default", name.as_str())).instance(at(1));
    }
    let context = server.context().unwrap();
    let consumer = context.consumer();
    let handles: Vec<_> = names.iter().map(|name| consumer.service(("default", name.as_str()))).collect();
    throughout("no more than 64", 4 * SECOND, async || server.calls_of(Rpc::Discover).len() <= 64).await;
    assert!(hold.hits() >= 1);
    server.clear_faults();
    eventually("all are loaded", 20 * SECOND, async || handles.iter().all(|handle| handle.snapshot().is_some())).await;
    let before = server.total_connections();
    throughout("one stream", 40 * SECOND, async || server.total_connections() == before).await;
    let streams: BTreeSet<_> = server
        .calls_of(Rpc::Discover)
        .iter()
        .rev()
        .take(KEYS)
        .map(|call| call.request_id().map(str::to_owned))
        .collect();
    assert_eq!(streams.len(), 1, "one stream has one request id");
    // No stampede: polls spread over the period.
    let mut by_tenth: HashMap<u128, usize> = HashMap::new();
    let calls = server.calls_of(Rpc::Discover);
    let end = calls.last().unwrap().at();
    for call in calls.iter().filter(|call| end - call.at() < 30 * SECOND) {
        *by_tenth.entry((end - call.at()).as_millis() / 100).or_default() += 1;
    }
    let most = by_tenth.values().max().unwrap();
    // Instances and rules of each; nearby rules are not known to this server, and not asked for again.
    let keys = 2 * KEYS;
    assert!(*most <= 4 * keys / 20, "{most} of {keys} polls within a tenth of a second");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changed_is_polled_faster_for_half_a_minute() {
    let (server, context) = serving(1);
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    let polls = async |period: Duration| {
        let before = asked(&server, A);
        throughout("polled", period, async || true).await;
        asked(&server, A) - before
    };
    let slow = polls(30 * SECOND).await;
    assert!((13..=18).contains(&slow), "{slow}");
    server.service(A).instance(at(2));
    next_list(&mut watch).await;
    let fast = polls(28 * SECOND).await;
    assert!((45..=65).contains(&fast), "four times as often: {fast}");
    polls(5 * SECOND).await;
    let slow = polls(30 * SECOND).await;
    assert!((13..=18).contains(&slow), "{slow}");
}

#[tokio::test(start_paused = true)]
async fn a_question_for_instances_always_names_its_service() {
    let (server, context) = serving(1);
    server.newer_kinds(false);
    let consumer = context.consumer();
    consumer.get_one_instance(A).await.unwrap();
    consumer.get_services("default").await.unwrap();
    for rule in [RuleKind::Lane, RuleKind::Lossless, RuleKind::CustomRoute] {
        consumer.get_rule(A, rule).await.unwrap();
    }
    server.close_connections();
    throughout("it goes on", 10 * SECOND, async || true).await;
    for call in server.calls_of(Rpc::Discover) {
        if call.kind() == Some(ResourceKind::Instances) {
            assert_eq!(call.service(), Some(ServiceKey::from(A)), "{}", call.json());
        }
    }
    assert_eq!(server.pings(), 0);
}

#[tokio::test(start_paused = true)]
async fn revisions_are_presented_and_an_answer_advances_them_only_when_it_is_taken() {
    let (server, context) = serving(1);
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    server.service(A).instance(at(2));
    let list = until_list(&mut watch, &[1, 2]).await;
    let last = async || server.calls_of(Rpc::Discover).iter().rfind(is_about(A)).and_then(Call::revision);
    let known = list.revision().as_str().to_owned();
    eventually("it is presented", 3 * SECOND, async || last().await.as_deref() == Some(known.as_str())).await;
    // A broken answer of a change leaves the revision as it was; the change is seen with the next one.
    server.on(Rpc::Discover).times(1).close_midway();
    server.service(A).instance(at(3));
    until_list(&mut watch, &[1, 2, 3]).await;
    let revisions: Vec<_> =
        server.calls_of(Rpc::Discover).iter().filter(is_about(A)).filter_map(Call::revision).collect();
    assert!(revisions.iter().rev().take(2).any(|revision| *revision == known), "{revisions:?}");
}

#[tokio::test(start_paused = true)]
async fn every_release_is_understood() {
    for release in [Release::V1_14, Release::V1_17, Release::V1_18, Release::Main] {
        let server = Server::in_memory();
        server.release(release);
        server.service(A).export_to(["*"]).instances(many(3));
        server.service(B).alias_of(A);
        let context = server.context().unwrap();
        let consumer = context.consumer();
        assert_eq!(listed(&consumer, A).await, Ok(vec![1, 2, 3]), "{release:?}");
        assert_eq!(listed(&consumer, B).await, Ok(vec![1, 2, 3]), "{release:?}");
        assert!(!consumer.get_services("default").await.unwrap().is_empty(), "{release:?}");
        assert!(consumer.get_rule(("default", "no"), RuleKind::Routing).await.unwrap().is_empty(), "{release:?}");
        assert_eq!(kind(consumer.get_one_instance(("default", "no")).await), Some(ErrorKind::ServiceNotFound));
        server.service(A).instance(at(4));
        eventually("it is followed", 3 * SECOND, async || listed(&consumer, A).await == Ok(vec![1, 2, 3, 4])).await;
        assert!(context.state().is_ready(), "{release:?}: {}", context.state());
        stop(&context).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_understood_takes_no_other_with_it() {
    let server = Server::in_memory();
    server.service(A).instances([at(1), instance("", 2).id("nowhere"), at(3)]);
    let context = server.context().unwrap();
    let mut watch = context.consumer().watch_instances(A);
    assert!(matches!(watch.next().await, Some(Update::Current(list)) if list.len() == 2));
    assert_eq!(picked(&context.consumer(), A).await, [1, 3]);
    let state = context.state().to_string();
    assert!(state.contains("default/a"), "{state}");
    server.service(A).instances([at(1), at(3)]);
    eventually("all is well", 5 * SECOND, async || context.state().is_ready()).await;
    assert!(told(&mut watch, MILLI).await.is_empty());
}
