use std::time::Duration;

use tokio::time::Instant;

use super::registration::{SECOND, beat, by_id, pay, register};
use super::*;
use crate::testing::{Release, instance};

#[tokio::test(start_paused = true)]
async fn four_beats_of_an_unknown_instance_are_free_until_it_is_seen() {
    let server = Server::in_memory();
    let id = "1c89695779a2e01536a05219a5fe5bcbee89df86";
    for expected in [200_000, 200_000, 200_000, 200_000, 400_202, 400_202] {
        assert_eq!(beat(&server, by_id(id)).await, expected);
    }
    // The count is by id, however the instance is named; registering alone does not end it, being seen does.
    server.visible_after(SECOND);
    register(&server, pay()).await;
    assert_eq!(beat(&server, pay()).await, 400_202);
    tokio::time::advance(SECOND).await;
    assert_eq!(beat(&server, pay()).await, 200_000);
    server.visible_after(Duration::ZERO);
    client(&server).deregister_instance(pay()).await.unwrap();
    for expected in [200_000, 200_000, 200_000, 200_000, 400_202] {
        assert_eq!(beat(&server, pay()).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn beats_are_judged_by_release_and_echoed() {
    let server = Server::in_memory();
    let unchecked = v1::Instance { health_check: None, port: Some(1), ..pay() };
    register(&server, unchecked.clone()).await;
    assert_eq!(beat(&server, unchecked.clone()).await, 200_000);
    server.release(Release::V1_14);
    assert_eq!(beat(&server, unchecked.clone()).await, 400_141);
    assert_eq!(beat(&server, by_id("nobody")).await, 400_202);
    assert_eq!((beat(&server, by_id("")).await, beat(&server, v1::Instance::default()).await), (400_130, 400_120));
    let echo = client(&server).heartbeat(unchecked.clone()).await.unwrap().into_inner().instance;
    assert_eq!(echo, Some(unchecked.clone()));
    server.health_checks(false);
    assert_eq!(beat(&server, unchecked).await, 400_140);
}

#[tokio::test(start_paused = true)]
async fn who_stops_beating_turns_unhealthy_and_comes_back_and_is_never_deleted() {
    let server = Server::in_memory();
    let checked = v1::Instance { health_check: Some(super::super::naming::heartbeat(5)), ..pay() };
    register(&server, checked.clone()).await;
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(beat(&server, checked.clone()).await, 200_000);
        tokio::time::sleep(5 * SECOND).await;
        assert!(server.instances(("shop", "pay"))[0].is_healthy());
    }
    let last = Instant::now() - 5 * SECOND;
    let healthy = |server: &Server| server.instances(("shop", "pay"))[0].is_healthy();
    let before = server.instances(("shop", "pay"))[0].message.revision.clone();
    server.wait_until(|server| !healthy(server)).await.unwrap();
    let silent = last.elapsed();
    assert!((15 * SECOND..=30 * SECOND + SECOND).contains(&silent), "{silent:?} after {:?}", started.elapsed());
    let dead = server.instances(("shop", "pay"))[0].clone();
    assert_ne!(dead.message.revision, before);
    assert!(dead.get_metadata("internal-lastheartbeat").unwrap().parse::<u64>().unwrap() > 0);
    for _ in 0..4 {
        beat(&server, checked.clone()).await;
        tokio::time::sleep(5 * SECOND).await;
    }
    assert!(healthy(&server));
    assert_eq!(server.instances(("shop", "pay"))[0].get_metadata("internal-lastheartbeat"), None);
}

#[tokio::test(start_paused = true)]
async fn who_never_beats_is_dead_at_the_first_check() {
    let server = Server::in_memory();
    server.check_interval(SECOND);
    server.service(("shop", "pay")).instance(instance("10.0.0.1", 1).ttl(60));
    let started = Instant::now();
    server.wait_until(|server| !server.instances(("shop", "pay"))[0].is_healthy()).await.unwrap();
    assert!(started.elapsed() <= 2 * SECOND);
    assert_eq!(server.instances(("shop", "pay"))[0].get_metadata("internal-lastheartbeat"), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn the_seconds_of_a_ttl_can_be_shortened() {
    let server = Server::in_memory();
    server.ttl_second(Duration::from_millis(10));
    register(&server, pay()).await;
    let started = Instant::now();
    server.wait_until(|server| !server.instances(("shop", "pay"))[0].is_healthy()).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(100));
}
