//! The state of a context: every edge of it, and who is told.

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

use std::time::Duration;

use discovering::{A, SECOND, serving, stop};
use polarismesh::testing::{Rpc, Server};
use polarismesh::{ContextState, ErrorKind, ResourceKind, SdkContext, ServiceKey, StateWatch};
use support::{eventually, throughout};
use tokio::time::{Instant, timeout};

/// The next state, which must come within two minutes.
async fn next(watch: &mut StateWatch) -> ContextState {
    timeout(120 * SECOND, watch.next()).await.expect("a state within two minutes").expect("the watch goes on")
}

fn name(state: &ContextState) -> &'static str {
    match state {
        ContextState::Starting => "starting",
        ContextState::Ready => "ready",
        ContextState::Degraded { .. } => "degraded",
        ContextState::Closed => "closed",
        other => panic!("{other:?}"),
    }
}

async fn is_next(watch: &mut StateWatch, expected: &str) -> ContextState {
    let state = next(watch).await;
    assert_eq!(name(&state), expected, "{state}");
    state
}

async fn ended(mut watch: StateWatch) {
    is_next(&mut watch, "closed").await;
    assert!(watch.next().await.is_none() && watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn starting_ready_closed() {
    let (_server, context) = serving(1);
    let mut watch = context.watch_state();
    is_next(&mut watch, "starting").await;
    assert!(timeout(60 * SECOND, watch.next()).await.is_err(), "a context that nobody uses does nothing");
    context.consumer().get_one_instance(A).await.unwrap();
    is_next(&mut watch, "ready").await;
    assert!(context.state().is_ready());
    stop(&context).await;
    ended(watch).await;
    assert_eq!(context.state(), ContextState::Closed);
}

#[tokio::test(start_paused = true)]
async fn starting_closed() {
    let (_server, context) = serving(1);
    let mut watch = context.watch_state();
    is_next(&mut watch, "starting").await;
    stop(&context).await;
    ended(watch).await;
}

#[tokio::test(start_paused = true)]
async fn starting_degraded_by_the_server_ready() {
    let (server, context) = serving(1);
    server.stop();
    let mut watch = context.watch_state();
    is_next(&mut watch, "starting").await;
    assert!(context.consumer().get_one_instance(A).await.is_err());
    let ContextState::Degraded { troubles, .. } = is_next(&mut watch, "degraded").await else { unreachable!() };
    assert!(!troubles.is_empty());
    assert!(troubles.iter().all(|trouble| trouble.server.as_deref() == Some(server.address())), "{troubles:?}");
    let since = troubles[0].since;
    // How long it lasts is told by its beginning.
    throughout("since then", 30 * SECOND, async || {
        let ContextState::Degraded { troubles, .. } = context.state() else { return false };
        troubles[0].since == since
    })
    .await;
    server.start();
    while name(&next(&mut watch).await) != "ready" {}
    stop(&context).await;
    ended(watch).await;
}

#[tokio::test(start_paused = true)]
async fn starting_degraded_by_a_key() {
    let (server, context) = serving(1);
    let fault = server.on(Rpc::Discover).kind(ResourceKind::Instances).answer_bare(401_001);
    let reporting = server.builder().set("global.api.reportEnable", "false").build().unwrap();
    let mut watch = reporting.watch_state();
    is_next(&mut watch, "starting").await;
    assert!(reporting.consumer().get_one_instance(A).await.is_err());
    let ContextState::Degraded { troubles, .. } = is_next(&mut watch, "degraded").await else { unreachable!() };
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert_eq!(troubles[0].service, Some(ServiceKey::from(A)));
    assert_eq!(troubles[0].kind, Some(ResourceKind::Instances));
    assert_eq!(troubles[0].error.kind(), ErrorKind::Unauthorized);
    fault.clear();
    is_next(&mut watch, "ready").await;
    drop(context);
}

#[tokio::test(start_paused = true)]
async fn ready_degraded_by_the_server_and_back_and_closed_from_there() {
    let (server, context) = serving(1);
    context.consumer().get_one_instance(A).await.unwrap();
    let mut watch = context.watch_state();
    is_next(&mut watch, "ready").await;
    for _ in 0..3 {
        server.black_hole(true);
        let state = is_next(&mut watch, "degraded").await;
        assert!(state.to_string().contains(server.address()), "{state}");
        server.black_hole(false);
        while name(&next(&mut watch).await) != "ready" {}
    }
    server.stop();
    is_next(&mut watch, "degraded").await;
    stop(&context).await;
    let mut last = next(&mut watch).await;
    while last != ContextState::Closed {
        last = next(&mut watch).await;
    }
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn ready_degraded_by_a_key_and_back() {
    let (server, context) = serving(1);
    context.consumer().get_one_instance(A).await.unwrap();
    let mut watch = context.watch_state();
    is_next(&mut watch, "ready").await;
    let fault = server.on(Rpc::Discover).kind(ResourceKind::Instances).service(A).answer(500_000);
    let ContextState::Degraded { troubles, .. } = is_next(&mut watch, "degraded").await else { unreachable!() };
    assert_eq!((troubles.len(), &troubles[0].service), (1, &Some(ServiceKey::from(A))));
    assert_eq!(troubles[0].error.server_code().map(polarismesh::ServerCode::get), Some(500_000));
    let told = timeout(60 * SECOND, watch.next()).await;
    assert!(told.is_err(), "the same trouble is not told again: {told:?}");
    fault.clear();
    is_next(&mut watch, "ready").await;
    // An answer that is held back is trouble too.
    server.service(A).instances([]);
    is_next(&mut watch, "degraded").await;
    is_next(&mut watch, "ready").await;
}

#[tokio::test(start_paused = true)]
async fn polls_and_changes_are_no_news_of_the_state() {
    let (server, context) = serving(1);
    let consumer = context.consumer();
    consumer.get_one_instance(A).await.unwrap();
    let mut watch = context.watch_state();
    is_next(&mut watch, "ready").await;
    for port in 2..10 {
        server.service(A).instance(discovering::at(port));
        eventually("it is seen", 3 * SECOND, async || {
            consumer.get_all_instances(A).await.unwrap().len() == usize::from(port)
        })
        .await;
    }
    // Nor is a service that does not exist, or that is asked for the first time.
    assert!(consumer.get_one_instance(("default", "nobody")).await.is_err());
    let told = timeout(30 * SECOND, watch.next()).await;
    assert!(told.is_err(), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_the_state_does_not_keep_the_context_alive() {
    let (server, context) = serving(1);
    context.consumer().get_one_instance(A).await.unwrap();
    let mut watch = context.watch_state();
    is_next(&mut watch, "ready").await;
    drop(context);
    ended(watch).await;
    eventually("its connections are closed", 2 * SECOND, async || server.open_connections() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn ready_makes_first_contact_and_returns_when_there_is_one() {
    let (server, context) = serving(1);
    context.ready(SECOND).await.unwrap();
    assert!(context.state().is_ready());
    assert_eq!(server.calls_of(Rpc::ReportClient).len(), 1);
    stop(&context).await;
    assert_eq!(context.ready(SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
}

/// What `ready` says of a context after it has waited for nothing.
async fn not_ready(context: &SdkContext, within: Duration) -> polarismesh::Error {
    let began = Instant::now();
    let error = context.ready(within).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_millis()), (ErrorKind::Timeout, within.as_millis()));
    error
}

#[tokio::test(start_paused = true)]
async fn ready_gives_up_at_its_deadline_and_names_the_trouble() {
    let (server, context) = serving(1);
    server.stop();
    let error = not_ready(&context, 3 * SECOND).await;
    assert!(error.to_string().contains(server.address()), "{error}");
    assert!(std::error::Error::source(&error).is_some(), "{error:?}");
    server.start();
    context.ready(10 * SECOND).await.unwrap();
    server.on(Rpc::Discover).service(A).answer_bare(401_001);
    assert!(context.consumer().get_one_instance(A).await.is_err());
    let error = not_ready(&context, SECOND).await;
    assert!(error.to_string().contains("default/a"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_a_client_report_ready_still_finds_out() {
    let server = Server::in_memory();
    let context = server.builder().set("global.api.reportEnable", "false").build().unwrap();
    server.stop();
    not_ready(&context, SECOND).await;
    server.start();
    context.ready(5 * SECOND).await.unwrap();
    eventually("nothing is asked any more", 5 * SECOND, async || context.state().is_ready()).await;
    let questions = server.calls_of(Rpc::Discover).len();
    throughout("nothing", 30 * SECOND, async || server.calls_of(Rpc::Discover).len() <= questions + 1).await;
    assert!(server.calls_of(Rpc::ReportClient).is_empty());
}
