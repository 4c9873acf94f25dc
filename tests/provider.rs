//! Registering, as a provider and the control plane see it. Time is paused: waiting costs nothing.

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

use polarismesh::testing::{Grant, Rpc, Server, instance};
use polarismesh::{
    Deregister, ErrorKind, Heartbeat, Location, Register, RegistrationState, SdkContext, ServerCode, TokenSource,
};
use registering::*;
use support::throughout;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_registered_instance_is_seen_with_all_its_data_and_beats_at_once() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let wanted = at(1).weight(30).protocol("grpc").version("1.2").metadata("env", "prod").id("mine");
    let registration = context.provider().register(wanted).await.unwrap();
    assert_eq!(name(&registration.state()), "registered");
    assert_eq!(registration.instance_id().unwrap().as_str(), "mine");
    assert_eq!(registration.service(), key());
    let seen = seen(&server, 1).unwrap();
    assert_eq!((seen.get_id(), seen.get_weight(), seen.get_metadata("env")), ("mine", 30, Some("prod")));
    assert!(seen.is_healthy() && !seen.is_isolated());
    let calls = server.wait_for(|calls| calls.iter().any(|call| call.rpc() == Rpc::Heartbeat)).await.unwrap();
    let at = |rpc| calls.iter().find(|call| call.rpc() == rpc).unwrap().at();
    assert!(at(Rpc::Heartbeat) - at(Rpc::Register) < Duration::from_millis(10));
    // The application's own registration is never `async-regis`, and says nothing of isolation.
    let register = server.calls_of(Rpc::Register).remove(0);
    assert!(!register.is_background() && field(&register, "isolate").is_null());
    assert!(field(&register, "location").is_object(), "always sent, though empty");
}

#[tokio::test(start_paused = true)]
async fn beats_keep_a_fixed_rate_however_slow_their_answers_are() {
    let server = Server::in_memory();
    server.on(Rpc::Heartbeat).delay(Duration::from_millis(700));
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let start = Instant::now();
    pass(20 * TTL + SECOND).await;
    let beats = times(&server.calls_of(Rpc::Heartbeat), start);
    assert_eq!(beats.len(), 21);
    for (n, beat) in (0_u32..).zip(&beats) {
        let due = n * TTL;
        assert!(*beat >= due.saturating_sub(SECOND / 20) && *beat <= due + SECOND / 20, "{n}: {beat:?}");
    }
    assert!(seen(&server, 1).unwrap().is_healthy());
    drop(registration);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_has_one_beat_at_a_time() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    context.provider().register(at(1)).await.unwrap();
    pass(SECOND).await;
    server.clear_calls();
    let hung = server.on(Rpc::Heartbeat).hang();
    pass(3 * TTL).await;
    let beats = server.calls_of(Rpc::Heartbeat);
    // Each try is given up before the next one starts: no two are closer than half of a third of the TTL.
    assert!(beats.len() >= 6 && hung.hits() > 0, "{}", beats.len());
    for pair in beats.windows(2) {
        assert!(pair[1].at() - pair[0].at() >= TTL / 7, "{:?}", pair[1].at() - pair[0].at());
    }
    server.clear_faults();
    server.wait_until(|server| seen(server, 1).unwrap().is_healthy()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn beats_go_on_while_a_change_waits_for_its_answer() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).ttl(SECOND)).await.unwrap();
    server.on(Rpc::Register).hang();
    let start = Instant::now();
    registration.update(|wanted| drop(wanted.set_weight(7))).await.unwrap_err();
    pass(10 * SECOND).await;
    let beats = times(&server.calls_of(Rpc::Heartbeat), start);
    for pair in beats.windows(2) {
        assert!(pair[1] - pair[0] <= 2 * SECOND, "{beats:?}");
    }
    assert!(beats.len() >= 10 && seen(&server, 1).unwrap().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn the_same_instance_registered_twice_is_one_record_and_the_latest_wins() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let provider = context.provider();
    let (first, second) =
        tokio::join!(provider.register(at(1).metadata("v", "1")), provider.register(at(1).metadata("v", "2")),);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.instance_id(), second.instance_id());
    let third = context.provider().register(at(1).metadata("v", "3")).await.unwrap();
    assert_eq!(seen(&server, 1).unwrap().get_metadata("v"), Some("3"));
    pass(SECOND).await;
    server.clear_calls();
    pass(4 * TTL).await;
    assert_eq!(count(&server, Rpc::Heartbeat), 4, "one beat per TTL, not one per handle");
    first.deregister().await.unwrap();
    assert_eq!((name(&second.state()), name(&third.state())), ("gone", "gone"));
    assert!(seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_register_does_not_take_away_what_a_later_one_wants() {
    let server = Server::in_memory();
    server.on(Rpc::Register).delay(SECOND / 2);
    let context = server.context().unwrap();
    let provider = context.provider();
    let first = provider.register(at(1).metadata("v", "1"));
    let mut first = Box::pin(first);
    assert!(tokio::time::timeout(SECOND / 10, &mut first).await.is_err());
    let second = provider.register(at(1).metadata("v", "2"));
    let mut second = Box::pin(second);
    assert!(tokio::time::timeout(SECOND / 10, &mut second).await.is_err());
    drop(first);
    let registration = second.await.unwrap();
    pass(2 * TTL).await;
    assert_eq!(seen(&server, 1).unwrap().get_metadata("v"), Some("2"));
    assert_eq!((name(&registration.state()), count(&server, Rpc::Deregister)), ("registered", 0));
}

#[tokio::test(start_paused = true)]
async fn a_later_register_that_fails_leaves_the_earlier_one_in_force() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).metadata("v", "1")).await.unwrap();
    let refusal = server.on(Rpc::Register).when(|call| field(call, "metadata")["v"] == "2").answer(400_150);
    let error = context.provider().register(at(1).metadata("v", "2")).await.unwrap_err();
    assert_eq!((error.kind(), refusal.hits()), (ErrorKind::InvalidArgument, 1));
    until(&registration, "registered").await;
    pass(2 * TTL).await;
    assert_eq!(seen(&server, 1).unwrap().get_metadata("v"), Some("1"));
    assert_eq!(count(&server, Rpc::Deregister), 0);
}

#[tokio::test(start_paused = true)]
async fn an_update_is_in_force_when_it_returns_and_does_not_disturb_the_beats() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).metadata("old", "x")).await.unwrap();
    let start = Instant::now();
    pass(TTL / 2).await;
    registration
        .update(|wanted| {
            wanted.set_weight(7).set_metadata("v", "2").remove_metadata("old");
        })
        .await
        .unwrap();
    let seen = seen(&server, 1).unwrap();
    assert_eq!((seen.get_weight(), seen.get_metadata("v"), seen.get_metadata("old")), (7, Some("2"), None));
    pass(TTL).await;
    let beats = times(&server.calls_of(Rpc::Heartbeat), start);
    assert_eq!(beats.iter().map(Duration::as_secs).collect::<Vec<_>>(), [0, 5]);
}

#[tokio::test(start_paused = true)]
async fn updates_made_at_once_are_all_in_force() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let (one, two, three) = tokio::join!(
        registration.update(|wanted| drop(wanted.set_weight(7))),
        registration.update(|wanted| drop(wanted.set_metadata("a", "1"))),
        registration.update(|wanted| drop(wanted.set_metadata("b", "2"))),
    );
    one.and(two).and(three).unwrap();
    let seen = seen(&server, 1).unwrap();
    assert_eq!((seen.get_weight(), seen.get_metadata("a"), seen.get_metadata("b")), (7, Some("1"), Some("2")));
}

#[tokio::test(start_paused = true)]
async fn a_refused_update_is_taken_back() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let bad = server.on(Rpc::Register).when(|call| !field(call, "metadata")["bad"].is_null()).answer(400_150);
    let (one, two) = tokio::join!(
        registration.update(|wanted| drop(wanted.set_metadata("bad", "1"))),
        registration.update(|wanted| drop(wanted.set_metadata("bad", "2"))),
    );
    assert_eq!(one.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(two.unwrap_err().kind(), ErrorKind::InvalidArgument);
    until(&registration, "registered").await;
    let hits = bad.hits();
    registration.update(|wanted| drop(wanted.set_weight(9))).await.unwrap();
    pass(2 * TTL).await;
    assert_eq!((bad.hits(), seen(&server, 1).unwrap().get_weight()), (hits, 9));
    assert_eq!(name(&registration.state()), "registered");
}

#[tokio::test(start_paused = true)]
async fn an_update_whose_future_is_dropped_is_taken_back() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).weight(10)).await.unwrap();
    server.on(Rpc::Register).times(1).delay(SECOND / 2);
    let update = registration.update(|wanted| drop(wanted.set_weight(20)));
    assert!(tokio::time::timeout(SECOND / 10, update).await.is_err());
    server
        .wait_until(|server| seen(server, 1).unwrap().get_weight() == 10 && count(server, Rpc::Register) == 3)
        .await
        .unwrap();
    pass(2 * TTL).await;
    assert_eq!((seen(&server, 1).unwrap().get_weight(), count(&server, Rpc::Register)), (10, 3));
}

#[tokio::test(start_paused = true)]
async fn an_update_of_what_cannot_change_is_refused_before_it_is_sent() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let error = registration.update(|wanted| *wanted = at(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("deregister it and register another"), "{error}");
    let error = registration.update(|wanted| drop(wanted.set_weight(70_000))).await.unwrap_err();
    assert!(error.to_string().contains("0 to 65535"), "{error}");
    assert_eq!(count(&server, Rpc::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn isolation_by_the_application_and_by_people_both_survive_plain_updates() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let isolated = || seen(&server, 1).unwrap().is_isolated();
    registration.set_isolated(true).await.unwrap();
    assert!(isolated());
    registration.update(|wanted| drop(wanted.set_weight(1))).await.unwrap();
    assert!(isolated(), "the application's own isolation stays");
    registration.set_isolated(false).await.unwrap();
    assert!(!isolated());
    server.service(key()).edit(HOST, 1, |instance| instance.isolated(true));
    registration.update(|wanted| drop(wanted.set_weight(2))).await.unwrap();
    assert!(isolated(), "people at the console had the last word");
    registration.set_isolated(false).await.unwrap();
    assert!(!isolated());
}

#[tokio::test(start_paused = true)]
async fn a_registration_can_begin_isolated_or_explicitly_in_service() {
    let server = Server::in_memory();
    server.service(key()).instance(instance(HOST, 2).isolated(true));
    let context = server.context().unwrap();
    let out = context.provider().register(at(1).isolated(true)).await.unwrap();
    assert!(seen(&server, 1).unwrap().is_isolated());
    context.provider().register(at(2)).await.unwrap();
    assert!(seen(&server, 2).unwrap().is_isolated(), "without a word it stays as people have set it");
    context.provider().register(at(2).isolated(false)).await.unwrap();
    assert!(!seen(&server, 2).unwrap().is_isolated());
    out.set_isolated(false).await.unwrap();
    assert!(!seen(&server, 1).unwrap().is_isolated());
}

#[tokio::test(start_paused = true)]
async fn what_an_unclean_removal_left_isolated_is_in_service_when_it_is_registered_again() {
    let (log, _guard) = Log::start();
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(SECOND).await;
    let down = server.on(Rpc::Deregister).status(14, "gone");
    registration.deregister().await.unwrap_err();
    assert_eq!(name(&registration.state()), "gone");
    assert!(log.text().contains("Register::isolated(false)"), "{}", log.text());
    assert!(down.hits() >= 4, "it is tried several times");
    // The isolating write is fresh after a short life: nothing else wrote `isolate`.
    let wrote = server.calls_of(Rpc::Register).iter().any(|call| field(call, "isolate") == true);
    assert!(wrote && seen(&server, 1).unwrap().is_isolated());
    server.clear_faults();
    context.provider().register(at(1)).await.unwrap();
    assert!(!seen(&server, 1).unwrap().is_isolated());
    server.service(key()).edit(HOST, 1, |instance| instance.isolated(true));
    context.provider().register(at(1)).await.unwrap();
    assert!(seen(&server, 1).unwrap().is_isolated(), "only the first registration says so");
}

#[tokio::test(start_paused = true)]
async fn a_register_that_is_refused_leaves_nothing_wanted() {
    let server = Server::in_memory();
    server.service(("default", "source")).create();
    server.service(key()).alias_of(("default", "source"));
    let context = server.context().unwrap();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.server_code().map(ServerCode::get)), (ErrorKind::InvalidArgument, Some(400_000)));
    assert!(error.to_string().contains("payments"), "{error}");
    server.clear_calls();
    pass(60 * SECOND).await;
    assert_eq!(order(&server), [], "nothing was written, and nothing is undone");
}

#[tokio::test(start_paused = true)]
async fn a_register_that_runs_out_of_time_is_undone() {
    let server = Server::in_memory();
    // The server writes it and answers late.
    server.on(Rpc::Register).times(1).delay(SECOND * 2);
    let context = server.context().unwrap();
    let started = Instant::now();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(started.elapsed() <= SECOND + SECOND / 10);
    pass(2 * TTL).await;
    assert_eq!(count(&server, Rpc::Deregister), 1);
    assert!(seen(&server, 1).is_none());
    assert_eq!(count(&server, Rpc::Heartbeat), 0);
}

#[tokio::test(start_paused = true)]
async fn a_register_whose_future_is_dropped_is_undone() {
    let server = Server::in_memory();
    server.on(Rpc::Register).delay(SECOND / 2);
    let context = server.context().unwrap();
    let provider = context.provider();
    assert!(tokio::time::timeout(SECOND / 4, provider.register(at(1))).await.is_err());
    server.wait_until(|server| count(server, Rpc::Deregister) == 1).await.unwrap();
    until_seen(&server, 1, false).await;
    server.clear_calls();
    pass(4 * TTL).await;
    assert_eq!(order(&server), []);
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_failed_register_is_not_undone_by_the_first_ones_removal() {
    let server = Server::in_memory();
    server.on(Rpc::Register).times(1).hang();
    server.on(Rpc::Deregister).delay(SECOND / 2);
    let context = server.context().unwrap();
    context.provider().register(at(1)).await.unwrap_err();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(TTL).await;
    assert!(seen(&server, 1).is_some());
    assert_eq!(name(&registration.state()), "registered");
    assert_eq!(order(&server)[..3], [Rpc::Register, Rpc::Deregister, Rpc::Register]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_registered_again_while_it_drains_comes_back_in_service() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let first = context.provider().register(at(1).drain(60 * SECOND)).await.unwrap();
    let leaving = first.clone();
    let leaving = tokio::task::spawn(async move { leaving.deregister().await });
    server.wait_until(|server| seen(server, 1).unwrap().is_isolated()).await.unwrap();
    let second = context.provider().register(at(1)).await.unwrap();
    leaving.await.unwrap().unwrap();
    pass(4 * TTL).await;
    let seen = seen(&server, 1).unwrap();
    assert!(!seen.is_isolated() && seen.is_healthy());
    assert_eq!((name(&first.state()), name(&second.state())), ("gone", "registered"));
}

#[tokio::test(start_paused = true)]
async fn in_the_background_it_is_registered_soon_after_the_server_comes_up() {
    let server = Server::in_memory();
    server.stop();
    let context = server.context().unwrap();
    let registration = context.provider().register_in_background(at(1)).unwrap();
    let mut watch = registration.watch();
    assert!(matches!(watch.next().await, Some(RegistrationState::Pending)));
    pass(300 * SECOND).await;
    assert_eq!(name(&registration.state()), "pending");
    server.start();
    let up = Instant::now();
    registration.registered().await.unwrap();
    assert!(up.elapsed() <= TTL + SECOND, "{:?}", up.elapsed());
    assert!(matches!(watch.next().await, Some(RegistrationState::Registered)));
    assert!(seen(&server, 1).is_some());
    registration.deregister().await.unwrap();
    assert!(matches!(watch.next().await, Some(RegistrationState::Gone)));
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn in_the_background_a_refusal_is_told_and_mended_by_an_update() {
    let server = Server::in_memory();
    let refusal = server.on(Rpc::Register).when(|call| !field(call, "metadata")["bad"].is_null()).answer(400_150);
    let context = server.context().unwrap();
    let registration = context.provider().register_in_background(at(1).metadata("bad", "")).unwrap();
    let RegistrationState::Rejected(error) = until(&registration, "rejected").await else { panic!() };
    assert_eq!(error.server_code().unwrap().get(), 400_150);
    pass(120 * SECOND).await;
    assert_eq!(refusal.hits(), 1, "what was refused is not repeated");
    registration.update(|wanted| drop(wanted.remove_metadata("bad"))).await.unwrap();
    assert_eq!(name(&registration.state()), "registered");
}

#[tokio::test(start_paused = true)]
async fn in_the_background_a_service_that_comes_later_is_waited_for() {
    let server = Server::in_memory();
    server.auto_create(false);
    let context = server.context().unwrap();
    let registration = context.provider().register_in_background(at(1)).unwrap();
    until(&registration, "rejected").await;
    pass(300 * SECOND).await;
    let tries = count(&server, Rpc::Register);
    assert!((5..40).contains(&tries), "{tries}");
    server.service(key()).create();
    until(&registration, "registered").await;
}

#[tokio::test(start_paused = true)]
async fn beats_by_hand_are_left_to_the_caller() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let provider = context.provider();
    let registration = provider.register(at(1).manual_heartbeat()).await.unwrap();
    pass(2 * TTL).await;
    assert_eq!(count(&server, Rpc::Heartbeat), 0);
    provider.heartbeat(Heartbeat::new(key(), (HOST, 1))).await.unwrap();
    provider.heartbeat(&registration.instance_id().unwrap()).await.unwrap();
    provider.heartbeat(&at(1)).await.unwrap();
    assert_eq!(count(&server, Rpc::Heartbeat), 3);
    for _ in 0..4 {
        provider.heartbeat(Heartbeat::new(key(), (HOST, 9))).await.unwrap();
    }
    let error = provider.heartbeat(Heartbeat::new(key(), (HOST, 9))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    registration.deregister().await.unwrap();
    assert!(seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_isolated_drained_and_removed_and_does_not_beat_after() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).drain(2 * TTL)).await.unwrap();
    pass(SECOND).await;
    let started = Instant::now();
    let (one, two) = tokio::join!(registration.deregister(), registration.deregister());
    one.and(two).unwrap();
    assert!(started.elapsed() >= 2 * TTL && started.elapsed() < 2 * TTL + SECOND);
    registration.deregister().await.unwrap();
    assert_eq!(name(&registration.state()), "gone");
    assert!(seen(&server, 1).is_none());
    use Rpc::{Deregister, Heartbeat, Register};
    // Isolated, two beats while it drains, and isolated once more for stores that look at the age of the last write.
    assert_eq!(order(&server), [Register, Heartbeat, Register, Heartbeat, Heartbeat, Register, Deregister]);
    let isolating: Vec<_> = server.calls_of(Register).iter().map(|call| field(call, "isolate") == true).collect();
    assert_eq!(isolating, [false, true, true]);
    assert!(server.calls_of(Register).iter().all(|call| !call.is_background()));
    server.clear_calls();
    pass(4 * TTL).await;
    assert_eq!(order(&server), []);
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_this_context_is_deregistered_by_name() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let provider = context.provider();
    let by_address = provider.register(at(1)).await.unwrap();
    let by_id = provider.register(at(2)).await.unwrap();
    let by_register = provider.register(at(3)).await.unwrap();
    provider.deregister(Deregister::new(key(), (HOST, 1))).await.unwrap();
    provider.deregister(&by_id.instance_id().unwrap()).await.unwrap();
    provider.deregister(&at(3)).await.unwrap();
    for registration in [by_address, by_id, by_register] {
        assert_eq!(name(&registration.state()), "gone");
    }
    assert!(server.instances(key()).is_empty());
    server.clear_calls();
    pass(4 * TTL).await;
    assert_eq!(order(&server), []);
}

#[tokio::test(start_paused = true)]
async fn deregistering_what_nobody_knows_succeeds() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let other = server.context().unwrap();
    let id = other.provider().register(at(2).manual_heartbeat()).await.unwrap().instance_id().unwrap();
    context.provider().deregister(Deregister::new(key(), (HOST, 1))).await.unwrap();
    context.provider().deregister(Deregister::new(key(), (HOST, 1))).await.unwrap();
    context.provider().deregister(&id).await.unwrap();
    context.provider().deregister(&id).await.unwrap();
    assert!(server.instances(key()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_deregister_completes() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).drain(TTL)).await.unwrap();
    assert!(tokio::time::timeout(SECOND, registration.deregister()).await.is_err());
    until_seen(&server, 1, false).await;
    until(&registration, "gone").await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_instance_comes_back_with_its_latest_data() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).metadata("v", "1").weight(3)).await.unwrap();
    registration.update(|wanted| drop(wanted.set_metadata("v", "2"))).await.unwrap();
    registration.set_isolated(true).await.unwrap();
    pass(4 * TTL + SECOND).await;
    server.wipe();
    until(&registration, "lost").await;
    until(&registration, "registered").await;
    let seen = seen(&server, 1).unwrap();
    assert_eq!((seen.get_metadata("v"), seen.get_weight(), seen.is_isolated()), (Some("2"), 3, true));
    let restoration = server.calls_of(Rpc::Register).pop().unwrap();
    assert!(restoration.is_background());
    pass(SECOND).await;
    assert!(server.calls().pop().unwrap().rpc() != Rpc::Register, "beats follow at once");
}

#[tokio::test(start_paused = true)]
async fn not_found_is_believed_from_the_fourth_beat_on() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let young = server.on(Rpc::Heartbeat).times(3).answer(400_202);
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(3 * TTL).await;
    assert_eq!((young.hits(), count(&server, Rpc::Register)), (3, 1), "a young registration is given time");
    let old = server.on(Rpc::Heartbeat).times(1).answer(400_202);
    until(&registration, "lost").await;
    let lost = Instant::now();
    until(&registration, "registered").await;
    assert!(lost.elapsed() <= SECOND + SECOND / 10);
    pass(4 * TTL).await;
    assert_eq!((old.hits(), count(&server, Rpc::Register)), (1, 2), "once");
}

#[tokio::test(start_paused = true)]
async fn failures_on_the_way_never_count_as_not_found() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(SECOND).await;
    for fault in 0..4 {
        server.clear_faults();
        match fault {
            0 => drop(server.on(Rpc::Heartbeat).status(14, "unavailable")),
            1 => drop(server.on(Rpc::Heartbeat).hang()),
            2 => drop(server.on(Rpc::Heartbeat).answer(500_007)),
            _ => drop(server.on(Rpc::Heartbeat).close()),
        }
        pass(4 * TTL).await;
        assert_eq!(name(&registration.state()), "lost", "{fault}");
        assert_eq!(count(&server, Rpc::Register), 1, "{fault}");
    }
    server.clear_faults();
    until(&registration, "registered").await;
    assert_eq!(count(&server, Rpc::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn one_lost_beat_changes_nothing() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let peer = server.peer().await.unwrap();
    drop(peer);
    pass(TTL / 2).await;
    server.on(Rpc::Heartbeat).times(1).hang();
    let fine = || async { seen(&server, 1).is_some_and(|instance| instance.is_healthy()) };
    throughout("it stays healthy", 6 * TTL, fine).await;
    assert_eq!(name(&registration.state()), "registered");
}

#[tokio::test(start_paused = true)]
async fn beats_go_to_another_server_when_one_dies() {
    let server = Server::in_memory();
    let peer = server.peer().await.unwrap();
    let context = server.builder().address(peer.address()).build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let mut last = Instant::now();
    let mut gaps = Vec::new();
    server.black_hole(true);
    let mut dead_first = true;
    for _ in 0..8 {
        pass(2 * TTL).await;
        let accepted = |server: &Server| {
            server
                .calls_of(Rpc::Heartbeat)
                .iter()
                .filter(|call| call.code() == Some(200_000))
                .map(polarismesh::testing::Call::at)
                .max()
        };
        let newest = accepted(&server).max(accepted(&peer)).unwrap();
        gaps.push(Instant::now() - newest);
        last = last.max(newest);
        dead_first = !dead_first;
        server.black_hole(dead_first);
        peer.black_hole(!dead_first);
    }
    assert!(gaps.iter().all(|gap| *gap < 2 * TTL), "{gaps:?}");
    assert!(seen(&server, 1).unwrap().is_healthy());
    assert_eq!(name(&registration.state()), "registered");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_told_and_tried_ever_more_rarely() {
    let server = Server::in_memory();
    server.token("good", Grant::Administrator);
    let context = server.builder().token("bad").build().unwrap();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!error.to_string().contains("bad"), "{error}");
    let registration = context.provider().register_in_background(at(1)).unwrap();
    until(&registration, "rejected").await;
    server.clear_calls();
    pass(600 * SECOND).await;
    let tries = count(&server, Rpc::Register);
    assert!((10..60).contains(&tries), "{tries}");
    server.without_tokens();
    until(&registration, "registered").await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_stops_the_beats_loudly_and_slowly() {
    let (log, _guard) = Log::start();
    let server = Server::in_memory();
    server.token("good", Grant::Administrator);
    let context = server.builder().token("good").build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(SECOND).await;
    server.clear_calls();
    let refusal = server.on(Rpc::Heartbeat).answer_bare(401_001);
    let RegistrationState::Rejected(error) = until(&registration, "rejected").await else { panic!() };
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    pass(300 * SECOND).await;
    assert!((5..12).contains(&refusal.hits()), "{}", refusal.hits());
    assert_eq!(log.lines_with("refused"), 1, "{}", log.text());
    refusal.clear();
    until(&registration, "registered").await;
    assert_eq!(count(&server, Rpc::Register), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_file_rotates_without_a_restart() {
    let server = Server::in_memory();
    server.token("first", Grant::Administrator);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let context = server.builder().token(TokenSource::file(file.path())).build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(SECOND).await;
    std::fs::write(file.path(), "second\n").unwrap();
    server.revoke_tokens().token("second", Grant::Administrator);
    registration.update(|wanted| drop(wanted.set_weight(3))).await.unwrap();
    pass(4 * TTL).await;
    let tokens: Vec<_> = server.calls_of(Rpc::Register).iter().map(|call| call.token().unwrap().to_owned()).collect();
    assert_eq!(tokens.last().map(String::as_str), Some("second"));
    assert!(seen(&server, 1).unwrap().is_healthy());
    assert_eq!(name(&registration.state()), "registered");
}

#[tokio::test(start_paused = true)]
async fn every_call_carries_the_token() {
    let server = Server::in_memory();
    server.token("good", Grant::Administrator);
    let context = server.builder().token("good").build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    context.consumer().get_one_instance(&key()).await.unwrap();
    pass(TTL).await;
    registration.deregister().await.unwrap();
    context.shutdown(TTL).await.unwrap();
    let calls = server.calls();
    for rpc in [Rpc::Register, Rpc::Heartbeat, Rpc::Deregister, Rpc::ReportClient, Rpc::Discover] {
        assert!(calls.iter().any(|call| call.rpc() == rpc), "{rpc:?}");
    }
    for call in calls {
        assert_eq!((call.token(), call.request_id().is_some()), (Some("good"), true), "{:?}", call.rpc());
        assert!(call.user_agent().is_some_and(|agent| agent.starts_with("polaris-rust/")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_checks_no_health_keeps_the_instance_in_service() {
    let server = Server::in_memory();
    server.health_checks(false);
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    pass(10 * TTL).await;
    assert_eq!(name(&registration.state()), "registered");
    assert!((10..=11).contains(&count(&server, Rpc::Heartbeat)), "{}", count(&server, Rpc::Heartbeat));
}

#[tokio::test(start_paused = true)]
async fn the_configured_location_is_registered() {
    let server = Server::in_memory();
    let context = server.builder().set("global.location.region", "r").set("global.location.zone", "z").build().unwrap();
    context.provider().register(at(1)).await.unwrap();
    context.provider().register(at(2).location(Location::new("own", "", ""))).await.unwrap();
    let sent: Vec<_> = server.calls_of(Rpc::Register).iter().map(|call| field(call, "location")).collect();
    assert_eq!((&sent[0]["region"], &sent[0]["zone"]), (&"r".into(), &"z".into()));
    assert_eq!(sent[1]["region"], "own");
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_registered_again_when_its_location_is_learnt() {
    let server = Server::in_memory();
    server.location("10.9.9.9", &Location::new("told", "zone", "campus"));
    server.on(Rpc::ReportClient).delay(SECOND / 2);
    let context = server.builder().set("global.api.bindIP", "10.9.9.9").build().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    let own = context.provider().register(at(2).location(Location::new("own", "", ""))).await.unwrap();
    server.wait_for(|calls| calls.iter().filter(|call| call.rpc() == Rpc::Register).count() == 3).await.unwrap();
    let last = server.calls_of(Rpc::Register).pop().unwrap();
    assert_eq!((field(&last, "location")["region"].clone(), last.addr().unwrap().port()), ("told".into(), 1));
    assert!(!last.is_background());
    pass(4 * TTL).await;
    assert_eq!(count(&server, Rpc::Register), 3, "only what has the location of the context, and once");
    drop((registration, own));
}

#[tokio::test(start_paused = true)]
async fn all_addresses_of_this_host_become_the_configured_one() {
    let server = Server::in_memory();
    let context = server.builder().set("global.api.bindIP", "10.9.9.9").build().unwrap();
    let provider = context.provider();
    let bare = provider.register(Register::new(key(), 1)).await.unwrap();
    provider.register(Register::new(key(), ("0.0.0.0", 2))).await.unwrap();
    provider.register(Register::new(key(), ("[::]", 3))).await.unwrap_or_else(|error| panic!("{error}"));
    let hosts: Vec<_> = server.instances(key()).iter().map(|instance| instance.addr().host().to_owned()).collect();
    assert_eq!(hosts, ["10.9.9.9"; 3]);
    // By its real name it is the same instance.
    provider.deregister(Deregister::new(key(), ("10.9.9.9", 1))).await.unwrap();
    assert_eq!(name(&bare.state()), "gone");
    pass(6 * TTL).await;
    assert!(seen(&server, 1).is_none());
}

#[tokio::test]
async fn all_addresses_of_this_host_become_the_one_that_reaches_the_server() {
    let server = Server::listen("127.0.0.1:0").await.unwrap();
    let context = server.context().unwrap();
    context.provider().register(Register::new(key(), 1)).await.unwrap();
    assert_eq!(server.instances(key())[0].addr().to_string(), "127.0.0.1:1");
    context.shutdown(TTL).await.unwrap();
    assert!(server.instances(key()).is_empty());
    server.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn metadata_that_the_server_owns_is_warned_of_once() {
    let (log, _guard) = Log::start();
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let wanted = at(1).metadata("zone", "mine").metadata("internal-x", "y").metadata("env", "prod");
    context.provider().register(wanted).await.unwrap();
    pass(4 * TTL).await;
    assert_eq!(log.lines_with("overwrites it"), 2, "{}", log.text());
    assert!(log.text().contains("zone") && log.text().contains("internal-x") && !log.text().contains("env"));
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_seen_on_a_store_that_hides_late_ones() {
    let server = Server::in_memory();
    server.bolt_store(true);
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).drain(4 * TTL)).await.unwrap();
    let old = context.provider().register(at(2).manual_heartbeat()).await.unwrap();
    let removed = tokio::join!(registration.deregister(), async {
        // Others change all the while.
        for port in 10..20 {
            pass(2 * SECOND).await;
            context.provider().register(at(port)).await.unwrap();
        }
    });
    removed.0.unwrap();
    assert!(seen(&server, 1).is_none());
    pass(2 * TTL).await;
    context.provider().register(at(30)).await.unwrap();
    old.deregister().await.unwrap();
    assert!(seen(&server, 2).is_none());
    // By name, without knowing when it was written.
    let other = server.context().unwrap();
    let _kept = other.provider().register(at(3).manual_heartbeat()).await.unwrap();
    pass(2 * TTL).await;
    other.provider().register(at(31)).await.unwrap();
    context.provider().deregister(Deregister::new(key(), (HOST, 3))).await.unwrap();
    assert!(seen(&server, 3).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gathers_registrations_is_put_up_with() {
    let server = Server::in_memory();
    server.batch_window(Duration::from_millis(30));
    let context = server.context().unwrap();
    let provider = context.provider();
    let (one, two) = tokio::join!(provider.register(at(1).weight(1)), provider.register(at(1).weight(2)));
    one.and(two).unwrap();
    assert_eq!(seen(&server, 1).unwrap().get_weight(), 2);
}

#[tokio::test(start_paused = true)]
async fn deregister_when_ends_after_the_removal() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1)).await.unwrap();
    registration.deregister_when(std::future::ready(())).await;
    assert!(seen(&server, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_ends_the_wait_for_a_registration() {
    let server = Server::in_memory();
    server.service(("default", "source")).instance(instance(HOST, 9));
    server.service(key()).alias_of(("default", "source"));
    let context = server.context().unwrap();
    let registration = context.provider().register_in_background(at(1)).unwrap();
    let error = registration.registered().await.unwrap_err();
    assert_eq!(error.server_code().map(ServerCode::get), Some(400_000), "{error}");
    assert!(matches!(registration.state(), RegistrationState::Rejected(_)));
}

/// An executor of no runtime: parks the thread between polls.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut work = std::pin::pin!(work);
    loop {
        match work.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_caller_without_a_runtime_may_use_a_context_that_has_one() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::listen("127.0.0.1:0")).unwrap();
    let context = server.builder().runtime(runtime.handle().clone()).build().unwrap();
    block_on(async {
        context.ready(Duration::from_secs(5)).await.unwrap();
        let registration = context.provider().register(at(1)).await.unwrap();
        registration.update(|wanted| drop(wanted.set_weight(7))).await.unwrap();
        assert_eq!(context.consumer().get_one_instance(&key()).await.unwrap().weight(), 7);
        context.provider().heartbeat(Heartbeat::new(key(), (HOST, 1))).await.unwrap();
        registration.deregister().await.unwrap();
        context.shutdown(Duration::from_secs(5)).await.unwrap();
    });
    runtime.block_on(server.shutdown());
}

#[tokio::test]
async fn a_context_of_fixed_services_only_is_ready() {
    let context = SdkContext::builder().fixed(key(), [(HOST, 80)]).build().unwrap();
    context.ready(Duration::from_secs(1)).await.unwrap();
    assert_eq!(context.consumer().get_one_instance(&key()).await.unwrap().authority(), "10.0.0.1:80");
}
