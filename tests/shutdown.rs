//! The end of a context: in order, in time, once, and without a trace.

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

use std::time::Duration;

use polarismesh::testing::{Call, Rpc, Server, instance};
use polarismesh::{ContextState, Deregister, ErrorKind, Heartbeat, Outcome, Pick, RuleKind, SdkContext};
use registering::*;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Runs the same on both flavours of the runtime, in real time.
fn on_both(run: impl AsyncFn()) {
    let mut many = tokio::runtime::Builder::new_multi_thread();
    for builder in [&mut tokio::runtime::Builder::new_current_thread(), many.worker_threads(2)] {
        builder.enable_all().build().unwrap().block_on(run());
    }
}

async fn first_beat(server: &Server) {
    let beaten = |calls: &[Call]| calls.iter().any(|call| call.rpc() == Rpc::Heartbeat && call.code().is_some());
    server.wait_for(beaten).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_isolates_drains_deregisters_and_then_is_silent() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "12s").build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    context.consumer().get_one_instance(&key()).await.unwrap();
    first_beat(&server).await;
    let (begun, closing) = (Instant::now(), context.clone());
    let closing = tokio::task::spawn(async move { closing.shutdown(60 * SECOND).await });
    server.wait_until(|server| seen(server, 1).unwrap().is_isolated()).await.unwrap();
    let isolated = Instant::now();
    // While it drains everything still works, what is new on the consumer's side included.
    server.service(("default", "other")).instance(instance("10.0.0.9", 9));
    pass(3 * SECOND).await;
    assert_eq!(context.consumer().get_one_instance(("default", "other")).await.unwrap().port(), 9);
    let call = context.consumer().service(("default", "other")).start_call(&Pick::new()).unwrap();
    call.finish(Outcome::Success(0));
    // Only what would have to be removed again is refused.
    let late = context.provider().register(at(2)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
    closing.await.unwrap().unwrap();
    assert!(begun.elapsed() >= 12 * SECOND && begun.elapsed() < 14 * SECOND, "{:?}", begun.elapsed());
    let calls = server.calls();
    let index = |rpc: Rpc| calls.iter().rposition(|call| call.rpc() == rpc).unwrap();
    let removal = calls[index(Rpc::Deregister)].at();
    let draining = calls.iter().filter(|call| call.rpc() == Rpc::Heartbeat && call.at() > isolated);
    assert_eq!(draining.count(), 2, "beats go on while it drains");
    assert!(index(Rpc::Heartbeat) < index(Rpc::Deregister) && removal >= isolated + 12 * SECOND - SECOND / 10);
    assert_eq!((count(&server, Rpc::Deregister), name(&registration.state())), (1, "gone"));
    assert_eq!(server.open_connections(), 0);
    server.clear_calls();
    pass(4 * TTL).await;
    assert!(server.calls().is_empty() && seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn many_instances_drain_together() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "5s").build().unwrap();
    for port in 1..=100 {
        context.provider().register(at(port)).await.unwrap();
    }
    let begun = Instant::now();
    context.shutdown(30 * SECOND).await.unwrap();
    assert!(begun.elapsed() < 7 * SECOND, "{:?}", begun.elapsed());
    assert!(server.instances(key()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_short_deadline_cuts_the_drain_and_still_removes() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "60s").build().unwrap();
    context.provider().register(at(1)).await.unwrap();
    let begun = Instant::now();
    context.shutdown(3 * SECOND).await.unwrap();
    assert!(begun.elapsed() >= SECOND && begun.elapsed() <= 3 * SECOND, "{:?}", begun.elapsed());
    assert!(seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn it_is_done_by_its_deadline_when_no_server_is_reached() {
    for fault in ["black hole", "stopped", "hanging"] {
        let server = Server::in_memory();
        let context = server.context().unwrap();
        let registration = context.provider().register(at(1)).await.unwrap();
        let pending = context.provider().register_in_background(at(2)).unwrap();
        first_beat(&server).await;
        match fault {
            "black hole" => server.black_hole(true),
            "stopped" => server.stop(),
            _ => drop(server.on_any().hang()),
        }
        let begun = Instant::now();
        let error = context.shutdown(3 * SECOND).await.unwrap_err();
        assert!(begun.elapsed() <= 3 * SECOND + SECOND / 10, "{fault}: {:?}", begun.elapsed());
        assert!(!error.registrations.is_empty() && error.tasks.is_empty(), "{fault}: {error}");
        assert_eq!(error.registrations[0].0, key());
        assert!(error.to_string().contains("default/payments"), "{error}");
        // Whoever waits for the registrations is told, too.
        for registration in [registration, pending] {
            let ended = tokio::time::timeout(SECOND, registration.deregister()).await;
            assert!(ended.is_ok(), "{fault}");
            until(&registration, "gone").await;
        }
        assert!(matches!(context.state(), ContextState::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_is_waited_for_within_the_deadline() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    context.provider().register(at(1)).await.unwrap();
    server.on(Rpc::Register).delay(2 * SECOND);
    server.on(Rpc::Deregister).delay(2 * SECOND);
    context.shutdown(20 * SECOND).await.unwrap();
    assert!(seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn any_time_may_be_given() {
    for within in [Duration::ZERO, Duration::MAX] {
        let server = Server::in_memory();
        let context = server.context().unwrap();
        context.provider().register(at(1)).await.unwrap();
        let result = tokio::time::timeout(60 * SECOND, context.shutdown(within)).await.unwrap();
        assert_eq!(result.is_ok(), within > Duration::ZERO);
        assert!(matches!(context.state(), ContextState::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn several_callers_wait_for_the_same_end_and_hear_the_same() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "5s").build().unwrap();
    context.provider().register(at(1)).await.unwrap();
    let begun = Instant::now();
    let (one, two, three) =
        tokio::join!(context.shutdown(20 * SECOND), context.shutdown(20 * SECOND), context.shutdown(SECOND));
    one.unwrap();
    two.unwrap();
    assert_eq!(three.unwrap_err().tasks, ["shutdown"], "it was not waited for long enough");
    assert!(begun.elapsed() >= 5 * SECOND);
    context.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(count(&server, Rpc::Deregister), 1);

    let context = server.context().unwrap();
    context.provider().register(at(1)).await.unwrap();
    server.on(Rpc::Deregister).answer(500_007);
    let (one, two) = tokio::join!(context.shutdown(3 * SECOND), context.shutdown(4 * SECOND));
    assert_eq!(one.unwrap_err().registrations.len(), 1);
    assert_eq!(two.unwrap_err().registrations.len(), 1);
    assert_eq!(context.shutdown(SECOND).await.unwrap_err().registrations.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_shutdown_completes() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "5s").build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    assert!(tokio::time::timeout(SECOND, context.shutdown(20 * SECOND)).await.is_err());
    until(&registration, "gone").await;
    assert!(seen(&server, 1).is_none());
    drop((context, registration));
    server.wait_until(|server| server.open_connections() == 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_under_way_ends_with_the_shutdown() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).drain(60 * SECOND)).await.unwrap();
    let begun = Instant::now();
    let (removed, closed) = tokio::join!(registration.deregister(), context.shutdown(6 * SECOND));
    removed.unwrap();
    closed.unwrap();
    assert!(begun.elapsed() <= 6 * SECOND && seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn after_it_every_call_is_closed() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let (provider, consumer) = (context.provider(), context.consumer());
    let instance = consumer.get_one_instance(&key()).await.unwrap();
    let (handle, mut watch) = (consumer.service(key()), consumer.watch_instances(key()));
    let mut states = context.watch_state();
    context.shutdown(SECOND).await.unwrap();
    let begun = Instant::now();
    let kinds = [
        provider.register(at(2)).await.err(),
        provider.register_in_background(at(2)).err(),
        provider.deregister(Deregister::new(key(), (HOST, 1))).await.err(),
        provider.heartbeat(Heartbeat::new(key(), (HOST, 1))).await.err(),
        registration.update(|wanted| drop(wanted.set_weight(1))).await.err(),
        registration.set_isolated(true).await.err(),
        consumer.get_one_instance(&key()).await.err(),
        consumer.get_instances(&key()).await.err(),
        consumer.get_all_instances(&key()).await.err(),
        consumer.get_healthy_instances(&key()).await.err(),
        consumer.get_services("default").await.err(),
        consumer.get_rule(key(), RuleKind::Routing).await.err(),
        consumer.pick(&key(), &Pick::new()).err(),
        consumer.report_call(instance.id(), Outcome::Success(0), SECOND).err(),
        handle.pick(&Pick::new()).err(),
        handle.start_call(&Pick::new()).err(),
        handle.ready().await.err(),
        context.ready(SECOND).await.err(),
    ];
    for (n, error) in kinds.into_iter().enumerate() {
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Closed), "{n}");
    }
    registration.deregister().await.unwrap();
    registration.registered().await.unwrap();
    while watch.next().await.is_some() {}
    while let Some(state) = states.next().await {
        assert!(matches!(state, ContextState::Closed | ContextState::Ready), "{state}");
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "nothing waits");
    server.clear_calls();
    pass(TTL).await;
    assert!(server.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_everything_and_says_so_once() {
    let (log, _guard) = Log::start();
    let server = Server::in_memory();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let second = context.provider().register(at(2)).await.unwrap();
    let watch = registration.watch();
    context.consumer().get_one_instance(&key()).await.unwrap();
    drop((context, second));
    pass(2 * TTL).await;
    assert!(seen(&server, 1).unwrap().is_healthy(), "a registration keeps the context");
    assert_eq!(log.lines_with("without a shutdown"), 0);
    drop(registration);
    server.wait_until(|server| server.open_connections() == 0).await.unwrap();
    assert_eq!(log.lines_with("without a shutdown"), 1, "{}", log.text());
    server.clear_calls();
    pass(TTL).await;
    assert!(server.calls().is_empty());
    drop(watch);
    let alive = || async { tokio::runtime::Handle::current().metrics().num_alive_tasks() <= before };
    support::eventually("all tasks have ended", SECOND, alive).await;
    server.wait_until(|server| !seen(server, 1).unwrap().is_healthy()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_a_context_without_registrations_says_nothing() {
    let (log, _guard) = Log::start();
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    registration.deregister().await.unwrap();
    drop((context, registration));
    pass(SECOND).await;
    assert_eq!(log.text(), "");
}

#[tokio::test(start_paused = true)]
async fn tasks_and_connections_are_back_to_where_they_were() {
    let server = Server::in_memory();
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for round in 0..50 {
        let context = server.context().unwrap();
        if round % 2 == 0 {
            context.provider().register(at(1)).await.unwrap();
            context.consumer().get_one_instance(&key()).await.unwrap();
        }
        context.shutdown(5 * SECOND).await.unwrap();
    }
    server.wait_until(|server| server.open_connections() == 0).await.unwrap();
    let alive = || async { metrics.num_alive_tasks() <= before };
    support::eventually("all tasks have ended", SECOND, alive).await;
}

#[test]
fn it_works_on_both_flavours_of_the_runtime() {
    on_both(async || {
        let server = Server::listen("127.0.0.1:0").await.unwrap();
        for own_thread in ["true", "false"] {
            let context = server.builder().set("provider.heartbeat.ownThread", own_thread).build().unwrap();
            let registration = context.provider().register(at(1)).await.unwrap();
            context.consumer().get_one_instance(&key()).await.unwrap();
            first_beat(&server).await;
            let (one, two) = tokio::join!(context.shutdown(5 * SECOND), context.shutdown(5 * SECOND));
            one.unwrap();
            two.unwrap();
            assert_eq!(name(&registration.state()), "gone");
            assert!(seen(&server, 1).is_none());
            server.wait_until(|server| server.open_connections() == 0).await.unwrap();
            server.clear_calls();
        }
        server.shutdown().await;
    });
}

#[test]
fn a_context_can_be_shut_down_from_another_runtime_than_its_own() {
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = home.block_on(Server::listen("127.0.0.1:0")).unwrap();
    let context = server.builder().runtime(home.handle().clone()).build().unwrap();
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        context.provider().register(at(1)).await.unwrap();
        context.shutdown(5 * SECOND).await.unwrap();
    });
    assert!(seen(&server, 1).is_none());
    home.block_on(server.shutdown());
}

#[test]
fn without_its_runtime_every_call_is_closed_and_says_why() {
    let alive = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = alive.block_on(Server::listen("127.0.0.1:0")).unwrap();
    for own_thread in ["true", "false"] {
        let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let builder = server.builder().set("provider.heartbeat.ownThread", own_thread);
        let context = builder.runtime(home.handle().clone()).build().unwrap();
        let registration = alive.block_on(context.provider().register(at(1))).unwrap();
        home.shutdown_timeout(5 * SECOND);
        alive.block_on(async {
            for error in [
                context.provider().register(at(2)).await.unwrap_err(),
                context.provider().register_in_background(at(2)).unwrap_err(),
                registration.update(|wanted| drop(wanted.set_weight(1))).await.unwrap_err(),
                registration.deregister().await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::Closed);
                assert!(error.to_string().contains("runtime"), "{error}");
            }
            until(&registration, "gone").await;
            let result = tokio::time::timeout(5 * SECOND, context.shutdown(SECOND)).await.unwrap();
            if let Err(left) = &result {
                assert!(left.to_string().contains("runtime"), "{left}");
            }
            assert!(matches!(context.state(), ContextState::Closed));
        });
    }
    alive.block_on(server.shutdown());
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// In a process of its own, because other tests open descriptors: see the last lines.
async fn a_thousand_rounds() {
    let idle = async || {
        let context = SdkContext::builder().address("127.0.0.1:1").build().unwrap();
        context.shutdown(SECOND).await.unwrap();
    };
    idle().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = (metrics.num_alive_tasks(), descriptors());
    for _ in 0..1000 {
        idle().await;
    }
    let back = || async { (metrics.num_alive_tasks(), descriptors()) <= before && descriptors() <= before.1 };
    support::eventually("tasks and descriptors are back", 10 * SECOND, back).await;
}

#[test]
fn a_thousand_idle_contexts_leave_no_task_and_no_descriptor() {
    const ALONE: &str = "POLARIS_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return on_both(async || a_thousand_rounds().await);
    }
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_thousand_idle_contexts_leave_no_task_and_no_descriptor"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
}

#[tokio::test(start_paused = true)]
async fn one_slow_registration_costs_no_other_its_removal() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "60s").build().unwrap();
    context.provider().register(at(1)).await.unwrap();
    let slow = |call: &Call| call.addr().is_some_and(|addr| addr.port() == 2);
    server.on(Rpc::Register).when(slow).delay(5 * SECOND);
    context.provider().register_in_background(at(2)).unwrap();
    context.shutdown(6 * SECOND).await.ok();
    assert!(seen(&server, 1).is_none(), "the drain was cut short in time for the removal");
}

#[tokio::test(start_paused = true)]
async fn beats_by_hand_are_taken_while_an_instance_drains() {
    let server = Server::in_memory();
    let context = server.builder().set("provider.drain", "20s").build().unwrap();
    context.provider().register(at(1).manual_heartbeat()).await.unwrap();
    let closing = context.clone();
    let closing = tokio::task::spawn(async move { closing.shutdown(60 * SECOND).await });
    server.wait_until(|server| seen(server, 1).unwrap().is_isolated()).await.unwrap();
    context.provider().heartbeat(Heartbeat::new(key(), (HOST, 1))).await.unwrap();
    let refused = context.provider().register(at(2)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed, "nothing new is taken: {refused}");
    closing.await.unwrap().unwrap();
}
