//! Each key of the local cache, of routing, and of the connector has the effect that it promises: seen from outside,
//! against the embedded control plane.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    reason = "a test may panic"
)]

mod support;

#[path = "support/discovering.rs"]
mod discovering;

use std::fs;
use std::path::Path;
use std::time::Duration;

use discovering::{A, B, MILLI, SECOND, asked, at, kind, listed, many, next_list, next_problem, picked, serving, stop};
use polarismesh::testing::{Rpc, Server};
use polarismesh::{ErrorKind, Pick, Register, SdkContext, Source};
use support::{eventually, throughout};
use tokio::time::Instant;

fn with(server: &Server, settings: &[(&str, &str)]) -> SdkContext {
    settings.iter().fold(server.builder(), |builder, (key, value)| builder.set(key, *value)).build().unwrap()
}

fn server(count: u16) -> Server {
    let server = Server::in_memory();
    server.service(A).instances(many(count));
    server
}

fn millis_since(began: Instant) -> u128 {
    began.elapsed().as_millis()
}

// === consumer.localCache

const REFRESH: &str = "consumer.localCache.serviceRefreshInterval";
const EXPIRE: &str = "consumer.localCache.serviceExpireTime";

#[tokio::test(start_paused = true)]
async fn service_refresh_interval_is_the_time_between_polls() {
    for (interval, fewest, most) in [("1s", 50, 70), ("10s", 5, 8)] {
        let server = server(1);
        let context = with(&server, &[(REFRESH, interval)]);
        context.consumer().get_one_instance(A).await.unwrap();
        throughout("polled", 60 * SECOND, async || true).await;
        let polls = asked(&server, A);
        assert!((fewest..=most).contains(&polls), "{polls} polls in a minute every {interval}");
    }
}

#[tokio::test(start_paused = true)]
async fn service_expire_time_and_enable_say_when_an_unused_service_is_forgotten() {
    for (settings, forgotten) in [
        (&[(EXPIRE, "10s")][..], true),
        (&[(EXPIRE, "10s"), ("consumer.localCache.serviceExpireEnable", "false")][..], false),
        (&[(EXPIRE, "1h")][..], false),
    ] {
        let server = server(1);
        let context = with(&server, settings);
        context.consumer().get_one_instance(A).await.unwrap();
        throughout("unused", 20 * SECOND, async || true).await;
        let before = asked(&server, A);
        throughout("unused", 20 * SECOND, async || true).await;
        assert_eq!(asked(&server, A) == before, forgotten, "{settings:?}");
    }
}

const DIRECTORY: &str = "consumer.localCache.persistDir";

/// A directory that has A of another time, with instances 1 to 3.
async fn written() -> tempfile::TempDir {
    let (directory, server) = (tempfile::tempdir().unwrap(), server(3));
    let context = with(&server, &[(DIRECTORY, path(&directory))]);
    context.consumer().get_one_instance(A).await.unwrap();
    stop(&context).await;
    directory
}

fn path(directory: &tempfile::TempDir) -> &str {
    directory.path().to_str().unwrap()
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test(start_paused = true)]
async fn start_use_file_cache_and_persist_available_interval_say_what_serves_before_the_server_answers() {
    for (settings, source) in [
        (&[][..], Source::Disk),
        (&[("consumer.localCache.startUseFileCache", "false")][..], Source::Live),
        (&[("consumer.localCache.persistAvailableInterval", "1h")][..], Source::Disk),
    ] {
        let directory = written().await;
        let server = server(1);
        server.on(Rpc::Discover).times(1).delay(300 * MILLI);
        let context = with(&server, &[&[(DIRECTORY, path(&directory))][..], settings].concat());
        let (began, consumer) = (Instant::now(), context.consumer());
        consumer.get_one_instance(A).await.unwrap();
        assert_eq!(consumer.service(A).freshness().unwrap().source, source, "{settings:?}");
        assert_eq!(millis_since(began) >= 300, source == Source::Live, "{settings:?}");
        eventually("live", 3 * SECOND, async || listed(&consumer, A).await == Ok(vec![1])).await;
    }
}

#[tokio::test(start_paused = true)]
async fn persist_available_interval_is_the_age_from_which_a_file_waits_for_the_server() {
    let directory = written().await;
    let server = server(1);
    server.on(Rpc::Discover).times(1).delay(300 * MILLI);
    // Longer ago than this, whatever the clock says.
    let interval = ("consumer.localCache.persistAvailableInterval", "0s");
    // The stamp of a file has milliseconds; one of them has to pass on the wall.
    let begun = std::time::SystemTime::now();
    while begun.elapsed().is_ok_and(|passed| passed < 5 * MILLI) {
        tokio::task::yield_now().await;
    }
    let context = with(&server, &[(DIRECTORY, path(&directory)), interval]);
    context.consumer().get_one_instance(A).await.unwrap();
    assert_eq!(context.consumer().service(A).freshness().unwrap().source, Source::Live);
}

#[tokio::test(start_paused = true)]
async fn persist_enable_switches_the_disk_off() {
    let directory = written().await;
    let server = server(1);
    server.stop();
    let off = ("consumer.localCache.persistEnable", "false");
    let context = with(&server, &[(DIRECTORY, path(&directory)), off]);
    assert!(context.consumer().get_one_instance(A).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn persist_max_write_retry_and_persist_retry_interval_say_how_a_failed_write_is_tried_again() {
    for (retries, interval, comes) in [("3", "1s", true), ("0", "1s", false), ("1", "1h", false)] {
        let outer = tempfile::tempdir().unwrap();
        let blocked = outer.path().join("cache");
        fs::write(&blocked, "in the way").unwrap();
        let server = server(1);
        let context = with(
            &server,
            &[
                (DIRECTORY, blocked.to_str().unwrap()),
                ("consumer.localCache.persistMaxWriteRetry", retries),
                ("consumer.localCache.persistRetryInterval", interval),
            ],
        );
        context.consumer().get_one_instance(A).await.unwrap();
        throughout("it cannot be written", 200 * MILLI, async || blocked.is_file()).await;
        fs::remove_file(&blocked).unwrap();
        throughout("time goes by", 3 * SECOND, async || true).await;
        assert_eq!(files(&blocked) > 0, comes, "{retries} retries every {interval}");
    }
}

#[tokio::test(start_paused = true)]
async fn persist_max_read_retry_says_how_often_a_bad_file_is_read_again() {
    for (retries, serves) in [("0", false), ("2", true)] {
        let directory = written().await;
        let file = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        let good = fs::read(&file).unwrap();
        fs::write(&file, "half of it").unwrap();
        let server = server(1);
        server.stop();
        let context = with(
            &server,
            &[
                (DIRECTORY, path(&directory)),
                ("consumer.localCache.persistMaxReadRetry", retries),
                ("consumer.localCache.persistRetryInterval", "300ms"),
            ],
        );
        let consumer = context.consumer();
        let picking = consumer.get_one_instance(A);
        throughout("it is read", 100 * MILLI, async || true).await;
        fs::write(&file, &good).unwrap();
        assert_eq!(picking.await.is_ok(), serves, "{retries}");
    }
}

const POLICY: &str = "consumer.localCache.emptyGuard.policy";

/// For how long the ten of A go on serving after the server says that so many are left, in whole seconds.
async fn held(left: u16, settings: &[(&str, &str)]) -> u64 {
    let server = server(10);
    let context = with(&server, settings);
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    throughout("it is quiet", 2 * SECOND, async || true).await;
    server.service(A).instances(many(left));
    let began = Instant::now();
    discovering::until_list(&mut watch, &(1..=left).collect::<Vec<_>>()).await;
    began.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn empty_guard_policy_says_what_is_done_with_an_empty_list() {
    assert!((6..=11).contains(&held(0, &[]).await));
    assert!((6..=11).contains(&held(0, &[(POLICY, "guard")]).await));
    assert!(held(0, &[(POLICY, "accept")]).await <= 2);
    let endless = server(10);
    let context = with(&endless, &[(POLICY, "keepLast")]);
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    endless.service(A).instances([]);
    next_problem(&mut watch).await;
    throughout("it is kept", 600 * SECOND, async || watch.current().unwrap().len() == 10).await;
}

#[tokio::test(start_paused = true)]
async fn empty_guard_window_is_the_time_that_a_loss_must_last() {
    let window = "consumer.localCache.emptyGuard.window";
    assert!((20..=25).contains(&held(0, &[(window, "20s")]).await));
    assert!(held(0, &[(window, "1s")]).await <= 5);
    assert!((3..=6).contains(&held(0, &[(REFRESH, "1s")]).await), "three polls, unless it is set");
}

#[tokio::test(start_paused = true)]
async fn empty_guard_shrink_percent_is_the_loss_from_which_it_counts() {
    let percent = "consumer.localCache.emptyGuard.shrinkPercent";
    assert!(held(5, &[]).await <= 2);
    assert!(held(5, &[(percent, "50")]).await >= 6);
    assert!(held(5, &[(percent, "51")]).await <= 2);
    assert!(held(2, &[]).await >= 6);
}

#[tokio::test(start_paused = true)]
async fn empty_guard_max_age_is_the_time_that_the_last_list_is_kept() {
    let max_age = "consumer.localCache.emptyGuard.maxAge";
    assert!((18..=24).contains(&held(0, &[(POLICY, "keepLast"), (max_age, "20s")]).await));
}

// === consumer.serviceRouter and loadbalancer

#[tokio::test(start_paused = true)]
async fn the_chain_says_which_routers_judge() {
    let server = Server::in_memory();
    server.service(A).instances([at(1), at(2).healthy(false), at(3).isolated(true)]);
    for (settings, ports) in [
        (&[][..], vec![1]),
        (&[("consumer.serviceRouter.afterChain", "[]")][..], vec![1, 2]),
        (&[("consumer.serviceRouter.beforeChain", "[]")][..], vec![1, 3]),
        (
            &[("consumer.serviceRouter.beforeChain", "[]"), ("consumer.serviceRouter.afterChain", "[isolatedRouter]")]
                [..],
            vec![1, 2],
        ),
        (
            &[
                ("consumer.serviceRouter.beforeChain", "[]"),
                ("consumer.serviceRouter.afterChain", "[]"),
                ("consumer.serviceRouter.chain", "[recoverRouter]"),
            ][..],
            vec![1, 3],
        ),
    ] {
        let context = with(&server, settings);
        assert_eq!(picked(&context.consumer(), A).await, ports, "{settings:?}");
    }
    let unknown = server.builder().set("consumer.serviceRouter.chain", "[fastestRouter]").build().unwrap_err();
    assert!(unknown.kind() == ErrorKind::InvalidConfig && unknown.to_string().contains("fastestRouter"), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn percent_of_min_instances_and_enable_recover_all_say_when_the_unhealthy_serve() {
    let server = Server::in_memory();
    server.service(A).instances([at(1), at(2).healthy(false), at(3).healthy(false), at(4).healthy(false)]);
    let percent = "consumer.serviceRouter.percentOfMinInstances";
    for (settings, ports) in [
        (&[][..], vec![1]),
        (&[(percent, "0.2")][..], vec![1]),
        (&[(percent, "0.25")][..], vec![1, 2, 3, 4]),
        (&[(percent, "0.25"), ("consumer.serviceRouter.enableRecoverAll", "false")][..], vec![1]),
    ] {
        let context = with(&server, settings);
        assert_eq!(picked(&context.consumer(), A).await, ports, "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_type_of_the_balancer_must_be_one_that_there_is() {
    let server = server(1);
    let unknown = server.builder().set("consumer.loadbalancer.type", "fairest").build().unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::InvalidConfig);
    let text = unknown.to_string();
    assert!(text.contains("fairest") && text.contains("weightedRandom"), "{text}");
    assert!(server.builder().set("consumer.loadbalancer.type", "weightedRandom").build().is_ok());
}

// === global.api

#[tokio::test(start_paused = true)]
async fn api_timeout_is_the_deadline_of_calls_that_bring_none() {
    for (timeout, expected) in [("300ms", 300), ("3s", 3000)] {
        let server = server(1);
        server.black_hole(true);
        let context = with(&server, &[("global.api.timeout", timeout)]);
        let began = Instant::now();
        assert!(context.consumer().get_one_instance(A).await.is_err());
        assert_eq!(millis_since(began), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn max_retry_times_and_retry_interval_say_how_a_failed_request_is_tried_again() {
    for (times, interval, tries) in [("0", "200ms", 1), ("1", "200ms", 2), ("3", "200ms", 4)] {
        let server = server(0);
        // A code, which is a definite answer: without one, a registration is not made again on the same server.
        let fault = server.on(Rpc::Register).answer(500_007);
        let settings = [
            ("global.api.maxRetryTimes", times),
            ("global.api.retryInterval", interval),
            ("global.api.timeout", "10s"),
        ];
        let context = with(&server, &settings);
        let began = Instant::now();
        let register = Register::new(A, ("10.0.0.1", 80));
        let error = context.provider().register(register).await.unwrap_err();
        assert_eq!((fault.hits(), error.attempts()), (tries, Some(u32::try_from(tries).unwrap())), "{error}");
        let pauses = millis_since(began);
        assert!(pauses <= 2 * 200 * u128::from(tries), "{pauses} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn report_enable_report_interval_and_bind_ip_say_what_is_told_of_this_process() {
    for (settings, reports) in [
        (&[("global.api.reportEnable", "false")][..], 0..=0),
        (&[("global.api.reportInterval", "10s")][..], 6..=7),
        (&[][..], 1..=2),
    ] {
        let server = server(1);
        let context = with(&server, &[&[("global.api.bindIP", "10.9.8.7")][..], settings].concat());
        context.consumer().get_one_instance(A).await.unwrap();
        throughout("a minute", 62 * SECOND, async || true).await;
        let calls = server.calls_of(Rpc::ReportClient);
        assert!(reports.contains(&calls.len()), "{settings:?}: {}", calls.len());
        assert!(calls.iter().all(|call| call.json().contains("10.9.8.7")));
    }
}

// === global.serverConnector

#[tokio::test(start_paused = true)]
async fn addresses_are_tried_one_after_the_other() {
    let first = server(1);
    let second = first.peer().await.unwrap();
    for down in [&first, &second] {
        down.stop();
        let both = format!("{},{}", first.address(), second.address());
        let context = with(&first, &[]);
        drop(context);
        let context = first.builder().address(second.address()).build().unwrap();
        assert!(both.contains(&context.config().global.server_connector.addresses[1].to_string()));
        context.consumer().get_one_instance(A).await.unwrap();
        stop(&context).await;
        down.start();
    }
}

#[tokio::test(start_paused = true)]
async fn a_protocol_other_than_grpc_is_refused() {
    let server = server(1);
    let error = server.builder().set("global.serverConnector.protocol", "http").build().unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidConfig && error.to_string().contains("protocol"), "{error}");
    let context = with(&server, &[("global.serverConnector.protocol", "grpc")]);
    context.consumer().get_one_instance(A).await.unwrap();
}

/// When the state first says that something is wrong, in milliseconds, on a server that drops every packet.
async fn trouble_after(settings: &[(&str, &str)], connected: bool) -> u128 {
    let server = server(1);
    let context = with(&server, &[&[("global.api.reportEnable", "false"), (REFRESH, "100ms")][..], settings].concat());
    if connected {
        context.consumer().get_one_instance(A).await.unwrap();
    }
    server.black_hole(true);
    let began = Instant::now();
    let _handle = context.consumer().service(A);
    eventually("it is told", 60 * SECOND, async || {
        matches!(context.state(), polarismesh::ContextState::Degraded { .. })
    })
    .await;
    millis_since(began)
}

#[tokio::test(start_paused = true)]
async fn connect_timeout_is_how_long_a_connection_may_take() {
    let key = "global.serverConnector.connectTimeout";
    let default = trouble_after(&[], false).await;
    assert!((500..700).contains(&default), "{default}");
    let long = trouble_after(&[(key, "2s")], false).await;
    assert!((2000..2200).contains(&long), "{long}");
}

#[tokio::test(start_paused = true)]
async fn message_timeout_is_how_long_an_answer_may_take() {
    let key = "global.serverConnector.messageTimeout";
    let default = trouble_after(&[], true).await;
    assert!((4900..5400).contains(&default), "{default}");
    let short = trouble_after(&[(key, "1s")], true).await;
    assert!((900..1400).contains(&short), "{short}");
}

#[tokio::test(start_paused = true)]
async fn connection_idle_timeout_is_when_an_unused_connection_is_closed() {
    for (timeout, within) in [("5s", 10 * SECOND), ("60s", 100 * SECOND)] {
        let server = server(1);
        let key = "global.serverConnector.connectionIdleTimeout";
        let settings = [(key, timeout), (EXPIRE, "5s"), ("global.api.reportEnable", "false")];
        let context = with(&server, &settings);
        context.consumer().get_one_instance(A).await.unwrap();
        let unused = Instant::now();
        eventually("it is closed", 30 * SECOND + within, async || server.open_connections() == 0).await;
        let idle = unused.elapsed();
        assert!(idle >= within / 2 + 5 * SECOND, "{timeout}: {idle:?}");
        context.consumer().get_one_instance(A).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn server_switch_interval_is_when_the_stream_moves_on() {
    for (interval, moves) in [("2m", true), ("10h", false)] {
        let first = server(1);
        let second = first.peer().await.unwrap();
        let builder = first.builder().address(second.address());
        let builder = builder.set("global.serverConnector.serverSwitchInterval", interval);
        let context = builder.set("global.api.reportEnable", "false").build().unwrap();
        context.consumer().get_one_instance(A).await.unwrap();
        throughout("time goes by", 600 * SECOND, async || true).await;
        assert_eq!(asked(&first, A) > 0 && asked(&second, A) > 0, moves, "{interval}");
    }
}

#[tokio::test(start_paused = true)]
async fn reconnect_interval_is_the_first_pause_before_a_stream_is_opened_again() {
    let key = "global.serverConnector.reconnectInterval";
    let mut longest = Vec::new();
    for interval in ["10ms", "10s"] {
        let mut gaps = Vec::new();
        for _ in 0..20 {
            let server = server(1);
            let context = with(&server, &[(key, interval), (REFRESH, "20s"), ("global.api.reportEnable", "false")]);
            server.on(Rpc::Discover).times(1).status(14, "on purpose");
            let began = Instant::now();
            let mut watch = context.consumer().watch_instances(A);
            discovering::until_list(&mut watch, &[1]).await;
            gaps.push(millis_since(began));
        }
        longest.push(gaps.into_iter().max().unwrap());
    }
    assert!(longest[0] <= 50, "{longest:?}");
    assert!((1000..=10_100).contains(&longest[1]), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn token_and_token_file_are_sent_with_every_request() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "from a file\n").unwrap();
    for (setting, expected) in [
        (("global.serverConnector.token", "fixed"), Some("fixed")),
        (("global.serverConnector.tokenFile", file.to_str().unwrap()), Some("from a file")),
    ] {
        let server = server(1);
        let context = with(&server, &[setting]);
        context.consumer().get_one_instance(A).await.unwrap();
        eventually("it reported", SECOND, async || !server.calls_of(Rpc::ReportClient).is_empty()).await;
        assert!(server.calls().iter().all(|call| call.token() == expected), "{setting:?}");
    }
}

#[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
#[tokio::test(start_paused = true)]
async fn keys_of_tls_are_never_ignored_where_it_is_not_built_in() {
    for settings in [
        &[("trustedCAFile", "ca.pem")][..],
        &[("certFile", "c.pem"), ("keyFile", "k.pem")][..],
        &[("trustedCAFile", "ca.pem"), ("tlsServerName", "polaris")][..],
    ] {
        let server = server(1);
        let key = |name: &str| format!("global.serverConnector.{name}");
        let builder = settings.iter().fold(server.builder(), |builder, (name, value)| builder.set(&key(name), *value));
        let error = builder.build().unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidConfig && error.to_string().contains("tls"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn max_call_recv_msg_size_bounds_an_answer() {
    for (limit, fits) in [("50000", false), ("1000000", true)] {
        let server = server(1);
        server.on(Rpc::Discover).service(A).pad(200_000);
        let context = with(&server, &[("global.serverConnector.plugin.grpc.maxCallRecvMsgSize", limit)]);
        assert_eq!(context.consumer().get_one_instance(A).await.is_ok(), fits, "{limit}");
    }
}

// === together

#[tokio::test(start_paused = true)]
async fn two_contexts_with_different_settings_do_not_share_them() {
    let (server, slow) = serving(1);
    server.service(B).create();
    let quick = with(&server, &[("global.api.timeout", "100ms")]);
    server.black_hole(true);
    for (context, expected) in [(&quick, 100), (&slow, 1000)] {
        let began = Instant::now();
        assert!(context.consumer().get_one_instance(A).await.is_err());
        assert_eq!(millis_since(began), expected);
    }
    assert_eq!(kind(quick.consumer().pick(B, &Pick::new())), Some(ErrorKind::NotReady));
    let _: Duration = quick.config().global.api.timeout;
}
