//! Quotas that clients share by a limiter: exact, used up, and going on when the limiter does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    reason = "a test may panic"
)]

#[path = "support/sharing.rs"]
mod sharing;
mod support;

use std::slice;
use std::time::Duration;

use polarismesh::testing::{Rpc, Skew};
use polarismesh::{ContextState, LabelSet, Quota};
use serde_json::json;
use sharing::{Client, MILLI, SECOND, clients, passed, server, window, within};
use support::eventually;

#[tokio::test(start_paused = true)]
async fn ten_clients_share_one_quota_and_use_it_up() {
    for amount in [20, 100, 1_000] {
        let server = server(amount, &json!({}));
        let clients = clients(&server, 10).await;
        // Where all come at once after a quiet time, a first window is overdrawn: each may use what nobody used before.
        passed(&clients, MILLI, 2 * SECOND).await;
        window(&server, Duration::ZERO).await;
        let passed = passed(&clients, MILLI, 30 * SECOND).await;
        let all: usize = passed.iter().sum();
        let quota = 30 * amount as usize;
        assert!(within(all, quota, 90, 105), "{all} of {quota}: {passed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_client_may_use_what_the_others_do_not() {
    let server = server(100, &json!({}));
    let clients = clients(&server, 10).await;
    window(&server, 2 * SECOND).await;
    let passed = passed(&clients[..1], MILLI, 30 * SECOND).await;
    assert!(within(passed[0], 3_000, 90, 105), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_each_client_moves_to_those_who_need_it() {
    let server = server(50, &json!({"amount_mode": "SHARE_EQUALLY"}));
    let clients = clients(&server, 2).await;
    window(&server, 2 * SECOND).await;
    let passed = passed(&clients, MILLI, 20 * SECOND).await;
    assert!(within(passed.iter().sum(), 2_000, 90, 105), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn each_amount_of_a_rule_has_a_counter_and_holds() {
    let amount = |calls: u32, within: &str| json!({"maxAmount": calls, "validDuration": within});
    for (amounts, expected) in [
        ([amount(50, "1s"), amount(200, "10s")], 400),
        ([amount(20, "1s"), amount(2_000, "10s")], 400),
        ([amount(9_000, "1s"), amount(90_000, "10s")], 20_000),
    ] {
        let server = server(1, &json!({ "amounts": amounts }));
        let client = Client::new(&server).await;
        client.passes(&Quota::new());
        let counters = async || server.limiter_counters().len() == 2;
        eventually("both are counted", 3 * SECOND, counters).await;
        // Until a window of the longer one begins.
        passed(slice::from_ref(&client), MILLI, 12 * SECOND).await;
        while server.limiter_clock().as_secs() % 10 != 9 {
            passed(slice::from_ref(&client), MILLI, SECOND / 2).await;
        }
        window(&server, Duration::ZERO).await;
        let total = || -> Vec<_> { server.limiter_counters().into_iter().map(|counter| counter.total_used).collect() };
        let before = total();
        let passed = passed(slice::from_ref(&client), MILLI, 20 * SECOND).await[0];
        assert!(within(passed, expected, 90, 105), "{passed} of {expected}");
        tokio::time::sleep(SECOND).await;
        let after = total();
        assert_eq!((before.len(), after.len()), (2, 2), "neither lay idle");
        for (before, after) in before.into_iter().zip(after) {
            let counted = usize::try_from(after - before).unwrap();
            assert!(within(counted, passed, 90, 105), "{counted} counted of {passed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn values_are_counted_apart_under_the_labels_of_the_protocol() {
    let arguments = json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": ".+"}}],
        "method": {"type": "EXACT", "value": "/pay"}});
    let server = server(10, &arguments);
    let client = Client::new(&server).await;
    for uid in ["1", "2"] {
        let labels = LabelSet::new().header("uid", uid);
        assert!(client.passes(&Quota::new().method("/pay").labels(&labels)));
    }
    let joined = async || server.limiter_counters().len() == 2;
    eventually("both are counted", 3 * SECOND, joined).await;
    let mut labels: Vec<_> = server.limiter_counters().into_iter().map(|counter| counter.labels).collect();
    labels.sort();
    assert_eq!(labels, ["/pay|HEADER:uid:1", "/pay|HEADER:uid:2"]);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_restarts_is_joined_again_and_the_quota_holds_within_two_windows() {
    let server = server(100, &json!({}));
    let clients = clients(&server, 5).await;
    passed(&clients, MILLI, 5 * SECOND).await;
    server.restart_limiter();
    passed(&clients, MILLI, SECOND).await;
    window(&server, Duration::ZERO).await;
    let passed = passed(&clients, MILLI, 10 * SECOND).await;
    assert!(within(passed.iter().sum(), 1_000, 90, 105), "{passed:?}");
    assert_eq!(server.limiter_counters()[0].clients, 5);
}

#[tokio::test(start_paused = true)]
async fn without_a_limiter_the_rule_says_whether_a_share_passes_or_all() {
    for (failover, least, most) in [("FAILOVER_LOCAL", 90, 110), ("FAILOVER_PASS", 1_900, 2_000)] {
        let server = server(100, &json!({"failover": failover}));
        let clients = clients(&server, 2).await;
        tokio::time::sleep(2 * SECOND).await;
        server.on(Rpc::LimitInit).hang();
        server.on(Rpc::LimitAcquire).hang();
        server.on(Rpc::LimitClock).hang();
        tokio::time::sleep(5 * SECOND).await;
        let passed = passed(&clients, MILLI, 10 * SECOND).await;
        assert!(within(passed.iter().sum(), 1_000, least, most), "{failover}: {passed:?}");
        let ContextState::Degraded { troubles, .. } = clients[0].context.state() else { panic!("it is told") };
        assert!(troubles[0].to_string().contains("limiters are not reached"), "{}", troubles[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_or_jumps_costs_no_more_than_a_moment() {
    for skew in [Skew::Ahead(5 * SECOND), Skew::Behind(5 * SECOND), Skew::Ahead(300 * MILLI)] {
        let server = server(100, &json!({}));
        let clients = clients(&server, 3).await;
        passed(&clients, MILLI, 3 * SECOND).await;
        server.set_limiter_clock(skew);
        // Until the limiter's time is asked for again.
        passed(&clients, MILLI, 31 * SECOND).await;
        window(&server, Duration::ZERO).await;
        let passed = passed(&clients, MILLI, 20 * SECOND).await;
        assert!(within(passed.iter().sum(), 2_000, 90, 105), "{skew:?}: {passed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn counters_that_the_limiter_dropped_or_never_gave_are_joined_again() {
    let server = server(100, &json!({}));
    let clients = clients(&server, 2).await;
    passed(&clients, MILLI, 3 * SECOND).await;
    server.on(Rpc::LimitInit).times(2).foreign_keys();
    server.restart_limiter();
    window(&server, 3 * SECOND).await;
    let before = passed(&clients, MILLI, 10 * SECOND).await;
    assert!(within(before.iter().sum(), 1_000, 90, 105), "{before:?}");
    // Longer than idle counters live.
    tokio::time::sleep(120 * SECOND).await;
    passed(&clients, MILLI, SECOND).await;
    window(&server, Duration::ZERO).await;
    let after = passed(&clients, MILLI, 10 * SECOND).await;
    assert!(within(after.iter().sum(), 1_000, 90, 105), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_is_gone_is_not_asked_more_often_because_there_are_new_labels() {
    let by_uid = json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": ".+"}}]});
    let server = server(10, &by_uid);
    server.on(Rpc::LimitClock).status(14, "gone");
    let client = Client::new(&server).await;
    for uid in 0..5_000 {
        client.passes(&Quota::new().labels(&LabelSet::new().header("uid", uid.to_string())));
        tokio::time::sleep(MILLI).await;
    }
    // Twice for a new connection, and after pauses of half a second on average.
    let asked = server.calls_of(Rpc::LimitClock).len();
    assert!((3..100).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_target_of_which_the_limiter_says_nothing_is_asked_for_again() {
    let by_uid = json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": ".+"}}]});
    let server = server(1_000, &by_uid);
    let client = Client::new(&server).await;
    let call = |uid: &str| client.passes(&Quota::new().labels(&LabelSet::new().header("uid", uid)));
    call("1");
    eventually("one is joined", 3 * SECOND, async || server.limiter_counters().len() == 1).await;
    let silent = server.on(Rpc::LimitInit).times(1).pass_over();
    call("2");
    // The answers to reports show that the limiter is there.
    for _ in 0..1_000 {
        call("1");
        tokio::time::sleep(10 * MILLI).await;
    }
    assert_eq!((silent.hits(), server.limiter_counters().len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn that_no_limiter_can_be_asked_is_told() {
    let server = server(100, &json!({}));
    let without_grpc = polarismesh::testing::instance("127.0.0.9", 9).protocol("http");
    server.service(("Polaris", "polaris.limiter")).instances([without_grpc]);
    let client = Client::new(&server).await;
    client.passes(&Quota::new());
    let told = async |told: bool| match client.context.state() {
        ContextState::Degraded { troubles, .. } => told && troubles[0].to_string().contains("limiters are not reached"),
        _ => !told,
    };
    eventually("the state tells", 5 * SECOND, async || told(true).await).await;
    server.host_limiter();
    eventually("the state is good again", 15 * SECOND, async || told(false).await).await;
}
