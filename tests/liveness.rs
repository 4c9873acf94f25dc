//! An application that starves its own runtime stays registered, because beats have a thread of their own. Real time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]
#![allow(
    dropping_references,
    clippy::disallowed_methods,
    clippy::items_after_statements,
    clippy::similar_names,
    clippy::unchecked_time_subtraction,
    reason = "a test spawns what it needs to be concurrent, and reads as a story"
)]

#[path = "support/registering.rs"]
mod registering;
mod support;

use std::sync::mpsc;
use std::time::Duration;

use polarismesh::testing::{Call, Rpc, Server};
use registering::*;

const TTL: Duration = Duration::from_secs(1);

/// The server on a runtime of its own, as a process of its own would be.
struct Elsewhere {
    server: Option<Server>,
    runtime: tokio::runtime::Runtime,
}

impl Elsewhere {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(Server::listen("127.0.0.1:0")).unwrap();
        Self { server: Some(server), runtime }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn end(mut self) {
        self.runtime.block_on(self.server.take().unwrap().shutdown());
    }
}

/// Blocks the current thread, as a long computation does.
fn block(time: Duration) {
    let (_never, wait) = mpsc::channel::<()>();
    assert!(wait.recv_timeout(time).is_err());
}

/// The times between the beats that arrived while the application's only thread was blocked.
fn beats_while_blocked(own_thread: bool) -> Vec<Duration> {
    let elsewhere = Elsewhere::start();
    let server = elsewhere.server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gaps = runtime.block_on(async {
        let context = server.builder().set("provider.heartbeat.ownThread", own_thread.to_string()).build().unwrap();
        let registration = context.provider().register(at(1).ttl(TTL)).await.unwrap();
        let beaten = |calls: &[Call]| calls.iter().any(|call| call.rpc() == Rpc::Heartbeat && call.code().is_some());
        server.wait_for(beaten).await.unwrap();
        let before = server.calls_of(Rpc::Heartbeat).pop().unwrap().at();
        block(Duration::from_millis(3200));
        let mut times: Vec<_> =
            server.calls_of(Rpc::Heartbeat).iter().map(Call::at).filter(|at| *at > before).collect();
        times.insert(0, before);
        times.push(tokio::time::Instant::now());
        assert_eq!(name(&registration.state()), "registered");
        context.shutdown(Duration::from_secs(5)).await.unwrap();
        assert!(seen(server, 1).is_none());
        times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
    });
    elsewhere.end();
    gaps
}

#[test]
fn beats_on_their_own_thread_go_on_while_the_application_blocks_its_only_one() {
    let gaps = beats_while_blocked(true);
    assert!(gaps.len() >= 3, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 2 * TTL), "{gaps:?}");
}

#[test]
fn without_a_thread_of_their_own_they_stop_with_the_application() {
    let gaps = beats_while_blocked(false);
    assert!(gaps.iter().any(|gap| *gap > 3 * TTL), "{gaps:?}");
}

#[test]
fn beats_end_with_the_runtime_of_the_application() {
    let elsewhere = Elsewhere::start();
    let server = elsewhere.server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (context, registration) = runtime.block_on(async {
        let context = server.context().unwrap();
        let registration = context.provider().register(at(1).ttl(TTL)).await.unwrap();
        (context, registration)
    });
    drop(runtime);
    elsewhere.runtime.block_on(async {
        until(&registration, "gone").await;
        server.clear_calls();
        support::throughout("no beat", 2 * TTL, async || order(server).is_empty()).await;
        let error = registration.deregister().await.unwrap_err();
        assert!(error.to_string().contains("runtime"), "{error}");
        drop(context);
    });
    elsewhere.end();
}
