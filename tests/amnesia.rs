//! A control plane that restarts with an empty store, and goes on accepting beats of instances it does not know for a
//! while: every registration comes back, once, with its latest data, and none that was taken away does.

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

use polarismesh::testing::{Rpc, Server};
use polarismesh::{Register, RegistrationState};
use registering::*;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Runs the same on both flavours of the runtime: on a paused clock where there is one, else on a short real one.
fn real_time(run: impl AsyncFn()) {
    let mut many = tokio::runtime::Builder::new_multi_thread();
    for runtime in [&mut tokio::runtime::Builder::new_current_thread(), many.worker_threads(2)] {
        runtime.enable_all().build().unwrap().block_on(run());
    }
}

fn restart(server: &Server) {
    server.stop();
    server.wipe();
    server.start();
}

async fn all_back(server: &Server, all: usize) {
    let mut asks = tokio::time::interval(SECOND / 2);
    let wait = async {
        while server.instances(key()).len() < all {
            asks.tick().await;
        }
    };
    tokio::time::timeout(300 * SECOND, wait).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_registration_with_the_latest_data_follows_the_first_refused_beat() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    context.provider().register(at(1).metadata("v", "1")).await.unwrap();
    let registration = context.provider().register(at(1).metadata("v", "2")).await.unwrap();
    registration.update(|wanted| drop(wanted.set_weight(7))).await.unwrap();
    let mut watch = registration.watch();
    assert!(matches!(watch.next().await, Some(RegistrationState::Registered)));
    pass(6 * TTL).await;
    server.clear_calls();
    restart(&server);
    let Some(RegistrationState::Lost(error)) = watch.next().await else { panic!("lost") };
    assert_eq!(error.server_code().map(polarismesh::ServerCode::get), Some(400_202));
    assert!(matches!(watch.next().await, Some(RegistrationState::Registered)));
    pass(6 * TTL).await;
    let beats = server.calls_of(Rpc::Heartbeat);
    let codes: Vec<_> = beats.iter().filter_map(polarismesh::testing::Call::code).take(6).collect();
    assert_eq!(codes, [200_000, 200_000, 200_000, 200_000, 400_202, 200_000]);
    let registers = server.calls_of(Rpc::Register);
    assert_eq!(registers.len(), 1);
    let late = registers[0].at() - beats[4].at();
    assert!(late <= TTL + SECOND, "{late:?}");
    assert!(registers[0].is_background());
    let seen = seen(&server, 1).unwrap();
    assert_eq!((seen.get_metadata("v"), seen.get_weight(), seen.is_healthy()), (Some("2"), 7, true));
    let after = beats[5].at() - registers[0].at();
    assert!(after < Duration::from_millis(50), "the first beat follows at once: {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_instances_of_one_process_are_all_back_within_half_a_minute() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let mut registrations = Vec::new();
    for port in 1..=1000 {
        registrations.push(context.provider().register_in_background(at(port)).unwrap());
    }
    for registration in &registrations {
        registration.registered().await.unwrap();
    }
    pass(SECOND).await;
    server.clear_calls();
    restart(&server);
    let started = Instant::now();
    all_back(&server, 1000).await;
    assert!(started.elapsed() <= 30 * SECOND, "{:?}", started.elapsed());
    pass(TTL).await;
    assert_eq!(count(&server, Rpc::Register), 1000, "each once");
    assert!(registrations.iter().all(|registration| name(&registration.state()) == "registered"));
    assert!(server.instances(key()).iter().all(polarismesh::testing::TestInstance::is_healthy));
}

#[tokio::test(start_paused = true)]
async fn many_instances_come_back_from_a_server_that_refuses_and_stalls() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registrations: Vec<_> =
        (1..=200).map(|port| context.provider().register_in_background(at(port)).unwrap()).collect();
    for registration in &registrations {
        registration.registered().await.unwrap();
    }
    pass(SECOND).await;
    restart(&server);
    server.on(Rpc::Register).times(100).status(14, "still starting");
    server.on(Rpc::Register).times(100).answer(500_007);
    server.on(Rpc::Register).times(50).hang();
    all_back(&server, 200).await;
    for registration in &registrations {
        until(registration, "registered").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_meanwhile_wins_and_nothing_re_appears() {
    // Before the loss is noticed, just when it is, and while the restoration is under way.
    for moment in 0..4 {
        let server = Server::in_memory();
        let context = server.context().unwrap();
        let registration = context.provider().register(at(1).drain(Duration::ZERO)).await.unwrap();
        pass(6 * TTL + SECOND).await;
        restart(&server);
        match moment {
            0 => {}
            1 => pass(4 * TTL - SECOND / 2).await,
            2 => drop(until(&registration, "lost").await),
            _ => {
                server.on(Rpc::Register).times(1).delay(3 * SECOND);
                let restoring =
                    |calls: &[polarismesh::testing::Call]| calls.iter().any(polarismesh::testing::Call::is_background);
                server.wait_for(restoring).await.unwrap();
            }
        }
        registration.deregister().await.unwrap();
        assert!(seen(&server, 1).is_none(), "{moment}");
        server.clear_calls();
        support::throughout("nothing re-appears", 3 * TTL, async || seen(&server, 1).is_none()).await;
        assert_eq!(order(&server), [], "{moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_and_deregistered_is_never_written_again() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).drain(TTL)).await.unwrap();
    pass(6 * TTL).await;
    restart(&server);
    until(&registration, "lost").await;
    server.clear_calls();
    registration.deregister().await.unwrap();
    pass(4 * TTL).await;
    assert_eq!(order(&server), [Rpc::Deregister]);
}

#[tokio::test(start_paused = true)]
async fn an_update_while_it_is_lost_restores_it_with_the_new_data() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).metadata("v", "1")).await.unwrap();
    pass(6 * TTL).await;
    restart(&server);
    until(&registration, "lost").await;
    server.clear_calls();
    registration.update(|wanted| drop(wanted.set_metadata("v", "2"))).await.unwrap();
    pass(2 * TTL).await;
    assert_eq!(seen(&server, 1).unwrap().get_metadata("v"), Some("2"));
    assert_eq!(count(&server, Rpc::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restoration_that_is_refused_is_tried_until_it_is_accepted() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(6 * TTL).await;
    restart(&server);
    server.auto_create(false);
    until(&registration, "rejected").await;
    pass(60 * SECOND).await;
    server.service(key()).create();
    until(&registration, "registered").await;
    assert!(seen(&server, 1).is_some());
}

#[test]
fn it_comes_back_on_both_flavours_of_the_runtime() {
    real_time(async || {
        let server = Server::listen("127.0.0.1:0").await.unwrap();
        let context = server.context().unwrap();
        let wanted = Register::new(key(), (HOST, 1)).ttl(SECOND).metadata("v", "1");
        let registration = context.provider().register(wanted).await.unwrap();
        registration.update(|wanted| drop(wanted.set_metadata("v", "2"))).await.unwrap();
        let beats = |calls: &[polarismesh::testing::Call]| calls.iter().any(|call| call.rpc() == Rpc::Heartbeat);
        server.wait_for(beats).await.unwrap();
        // An empty store whose tolerance is used up already: as the real one does after four beats.
        server.wipe();
        server.on(Rpc::Heartbeat).times(4).answer(400_202);
        until(&registration, "lost").await;
        until(&registration, "registered").await;
        assert_eq!(seen(&server, 1).unwrap().get_metadata("v"), Some("2"));
        context.shutdown(5 * SECOND).await.unwrap();
        assert!(seen(&server, 1).is_none());
        server.shutdown().await;
    });
}
