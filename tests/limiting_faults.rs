//! Shared quotas while limiters are slow, refuse, die, move, and while rules change: bounded, told, and well again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    reason = "a test may panic"
)]

#[path = "support/registering.rs"]
mod registering;
#[path = "support/sharing.rs"]
mod sharing;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polarismesh::testing::{Rpc, Server};
use polarismesh::{ContextState, Quota, RuleKind};
use registering::Log;
use serde_json::json;
use sharing::{Client, MILLI, SECOND, clients, host, passed, ruled, server, unhost, window, within};
use support::limits::{by_user, user};
use support::{eventually, throughout};

const LIMITERS: (&str, &str) = ("Polaris", "polaris.limiter");
/// What a client says when it begins to go on without a limiter.
const LOST: &str = "limiters are not reached";

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

fn user_passes(client: &Client, uid: usize) -> bool {
    client.passes(&Quota::new().labels(&user(uid)))
}

/// Clients of a server, counted along by the limiter of a node.
async fn clients_of(server: &Server, limiter: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::new(server).await);
    }
    for client in &clients {
        client.passes(&Quota::new());
    }
    let joined = async || limiter.limiter_counters().first().is_some_and(|counter| counter.clients == count);
    eventually("all have joined", 3 * SECOND, joined).await;
    clients
}

/// What the clients pass together in ten windows, of 100 calls each that the limiter has.
async fn ten_windows(clients: &[Client], limiter: &Server) -> usize {
    window(limiter, Duration::ZERO).await;
    passed(clients, MILLI, 10 * SECOND).await.iter().sum()
}

// === limiters that are slow, refuse, die

#[tokio::test(start_paused = true)]
async fn a_slow_limiter_still_counts_and_one_that_is_too_slow_is_as_good_as_none() {
    // Where each answer is a third of a window old, so is what a client knows of the other one.
    for (delay, least, most, lost) in [(300 * MILLI, 80, 145, false), (2 * SECOND, 90, 105, true)] {
        let (log, _guard) = Log::start();
        let server = server(100, &json!({}));
        let clients = clients(&server, 2).await;
        // Until both know of each other.
        passed(&clients, MILLI, 2 * SECOND).await;
        for rpc in [Rpc::LimitInit, Rpc::LimitAcquire, Rpc::LimitClock] {
            server.on(rpc).delay(delay);
        }
        passed(&clients, MILLI, 5 * SECOND).await;
        let passed = ten_windows(&clients, &server).await;
        assert!(within(passed, 1_000, least, most), "{delay:?}: {passed}");
        assert_eq!(log.lines_with(LOST), if lost { 2 } else { 0 }, "{}", log.text());
        server.clear_faults();
        window(&server, 3 * SECOND).await;
        sharing::passed(&clients, MILLI, 2 * SECOND).await;
        let after = ten_windows(&clients, &server).await;
        assert!(within(after, 1_000, 90, 105), "{delay:?}: {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_refuses_is_asked_again_and_each_client_has_the_amount_until_then() {
    for code in [400_204, 401_101, 401_103, 500_000, 0] {
        let (log, _guard) = Log::start();
        let server = server(100, &json!({}));
        let refusing = server.on(Rpc::LimitInit).answer(code);
        let clients = [Client::new(&server).await, Client::new(&server).await];
        let alone = passed(&clients, 5 * MILLI, 20 * SECOND).await;
        assert!(alone.iter().all(|passed| within(*passed, 2_000, 90, 105)), "{code}: {alone:?}");
        // By each, at most every half second on average.
        assert!(refusing.hits() < 130, "{code}: {} joins", refusing.hits());
        assert_eq!(server.calls_of(Rpc::LimitAcquire).len(), 0, "{code}: nothing to report to");
        let (refused, lost) = (log.lines_with("counted by this process alone"), log.lines_with(LOST));
        assert_eq!(refused + lost, 2, "{code}: {}", log.text());
        assert!(log.text().lines().count() <= 4, "{code}: {}", log.text());
        refusing.clear();
        passed(&clients, MILLI, 7 * SECOND).await;
        let together = ten_windows(&clients, &server).await;
        assert!(within(together, 1_000, 90, 105), "{code}: {together}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_refuses_reports_is_joined_anew() {
    for code in [400_211, 400_214, 404_001, 404_002, 500_000] {
        let server = server(100, &json!({}));
        let clients = clients(&server, 2).await;
        passed(&clients, MILLI, 2 * SECOND).await;
        let refusing = server.on(Rpc::LimitAcquire).times(4).answer(code);
        passed(&clients, MILLI, 3 * SECOND).await;
        assert_eq!(refusing.hits(), 4, "{code}");
        let after = ten_windows(&clients, &server).await;
        assert!(within(after, 1_000, 90, 105), "{code}: {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_limiter_garbles_or_does_not_say_is_got_over() {
    for fault in ["garbage", "empty", "end", "close", "status", "skip"] {
        let server = server(100, &json!({}));
        let clients = clients(&server, 2).await;
        passed(&clients, MILLI, 2 * SECOND).await;
        for rpc in [Rpc::LimitInit, Rpc::LimitAcquire] {
            let on = server.on(rpc).times(3);
            drop(match fault {
                "garbage" => on.garbage(),
                "empty" => on.empty(),
                "end" => on.end_stream(),
                "close" => on.close(),
                "status" => on.status(14, "on purpose"),
                _ => on.pass_over(),
            });
        }
        passed(&clients, MILLI, 10 * SECOND).await;
        let after = ten_windows(&clients, &server).await;
        assert!(within(after, 1_000, 90, 105), "{fault}: {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_never_comes_back_costs_one_warning_and_a_bounded_effort() {
    for fault in ["stopped", "black hole", "hanging"] {
        let (log, _guard) = Log::start();
        let server = ruled(100, &json!({}));
        let limiter = server.peer().await.unwrap();
        host(&server, &limiter, LIMITERS);
        let clients = clients_of(&server, &limiter, 2).await;
        passed(&clients, MILLI, 3 * SECOND).await;
        let before = tasks();
        limiter.clear_calls();
        match fault {
            "stopped" => limiter.stop(),
            "black hole" => limiter.black_hole(true),
            _ => drop(limiter.on_any().hang()),
        }
        passed(&clients, MILLI, 3 * SECOND).await;
        for _ in 0..5 {
            passed(&clients, 20 * MILLI, 59 * SECOND).await;
            let minute = passed(&clients, MILLI, SECOND).await;
            assert!(minute.iter().all(|passed| (45..=100).contains(passed)), "{fault}: {minute:?}");
            assert!(tasks() <= before + 4, "{fault}: {} tasks, {before} before", tasks());
        }
        assert_eq!(log.lines_with(LOST), 2, "{fault}: {}", log.text());
        assert_eq!(log.text().lines().count(), 2, "{fault}: {}", log.text());
        // Asked for about every second by each, whatever the calls do.
        let asked = limiter.calls().len();
        assert!(asked <= 2 * 2 * 300, "{fault}: {asked}");
        let ContextState::Degraded { troubles, .. } = clients[0].context.state() else { panic!("it is told") };
        assert!(troubles[0].to_string().contains("limiters are not reached"), "{}", troubles[0]);
    }
}

// === limiters that come and go

#[tokio::test(start_paused = true)]
async fn quotas_move_from_a_limiter_that_vanishes_to_the_one_that_comes() {
    for fault in ["none", "stopped", "black hole", "hanging"] {
        for wait in [0, 700, 1_300] {
            let server = ruled(100, &json!({}));
            let (old, new) = (server.peer().await.unwrap(), server.peer().await.unwrap());
            host(&server, &old, LIMITERS);
            let clients = clients_of(&server, &old, 3).await;
            passed(&clients, MILLI, 3 * SECOND).await;
            match fault {
                "none" => {}
                "stopped" => old.stop(),
                "black hole" => old.black_hole(true),
                _ => drop(old.on_any().hang()),
            }
            // However far the clients are with what they try meanwhile.
            passed(&clients, 10 * MILLI, 3 * SECOND + wait * MILLI).await;
            unhost(&server, &old, LIMITERS);
            host(&server, &new, LIMITERS);
            let moved = async || {
                for client in &clients {
                    client.passes(&Quota::new());
                }
                new.limiter_counters().first().is_some_and(|counter| counter.clients == 3)
            };
            eventually("all have moved", 5 * SECOND, moved).await;
            passed(&clients, MILLI, 2 * SECOND).await;
            let counted = new.limiter_counters()[0].total_used;
            let after = ten_windows(&clients, &new).await;
            assert!(within(after, 1_000, 90, 105), "{fault} {wait}: {after}");
            let counted = new.limiter_counters()[0].total_used - counted;
            assert!(counted > 900, "{fault} {wait}: {counted} of {after} were reported");
            let state = async || clients[0].context.state() == ContextState::Ready;
            eventually("all is well", 5 * SECOND, state).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_two_limiters_each_text_is_counted_by_the_same_one_for_all_clients() {
    let server = ruled(10_000, &by_user());
    let (one, two) = (server.peer().await.unwrap(), server.peer().await.unwrap());
    host(&server, &one, LIMITERS);
    host(&server, &two, LIMITERS);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::new(&server).await);
    }
    let labels = |node: &Server| node.limiter_counters().into_iter().map(|c| c.labels).collect::<BTreeSet<_>>();
    for client in &clients {
        assert!((0..60).all(|uid| user_passes(client, uid)));
    }
    let joined = async || {
        let all = [one.limiter_counters(), two.limiter_counters()].concat();
        all.len() == 60 && all.iter().all(|counter| counter.clients == 4)
    };
    eventually("all are counted by all", 3 * SECOND, joined).await;
    assert!(labels(&one).len() > 10 && labels(&two).len() > 10 && labels(&one).is_disjoint(&labels(&two)));
    // One of them goes: what it counted moves, and what the other counts stays.
    let stayed = labels(&one);
    let keys: BTreeMap<_, _> = one.limiter_counters().into_iter().map(|c| (c.labels, c.key)).collect();
    unhost(&server, &two, LIMITERS);
    let moved = async || {
        assert!(clients.iter().all(|client| (0..60).all(|uid| user_passes(client, uid))));
        one.limiter_counters().iter().filter(|counter| counter.clients == 4).count() == 60
    };
    eventually("all are counted by one", 5 * SECOND, moved).await;
    assert!(one.limiter_counters().iter().all(|c| !stayed.contains(&c.labels) || keys[&c.labels] == c.key));
}

// === rules that change

#[tokio::test(start_paused = true)]
async fn a_new_amount_holds_within_a_refresh_and_two_windows() {
    for amount in [20, 300] {
        let server = server(100, &json!({}));
        let id = server.rules(RuleKind::RateLimit).into_keys().next().unwrap();
        let clients = clients(&server, 3).await;
        passed(&clients, MILLI, 3 * SECOND).await;
        let fields = json!({"amounts": [{"maxAmount": amount, "validDuration": "1s"}]});
        server.change_rule(RuleKind::RateLimit, &id, fields).unwrap();
        passed(&clients, MILLI, 4 * SECOND).await;
        let passed = ten_windows(&clients, &server).await;
        assert!(within(passed, 10 * amount, 90, 105), "{amount}: {passed}");
        let counters = server.limiter_counters();
        assert_eq!((counters.len(), counters[0].max), (1, i64::try_from(amount).unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_counter_of_an_amount_that_is_gone_is_not_reported_to_any_more() {
    let server = server(100, &json!({}));
    let id = server.rules(RuleKind::RateLimit).into_keys().next().unwrap();
    let clients = clients(&server, 3).await;
    passed(&clients, MILLI, 3 * SECOND).await;
    let old = server.limiter_counters()[0].key;
    let fields = json!({"amounts": [{"maxAmount": 50, "validDuration": "2s"}]});
    server.change_rule(RuleKind::RateLimit, &id, fields).unwrap();
    passed(&clients, MILLI, 8 * SECOND).await;
    server.clear_calls();
    let passed = passed(&clients, MILLI, 20 * SECOND).await.iter().sum();
    assert!(within(passed, 500, 85, 115), "{passed}");
    let uses: Vec<_> =
        server.calls_of(Rpc::LimitAcquire).iter().flat_map(polarismesh::testing::Call::limit_uses).collect();
    assert!(!uses.is_empty() && uses.iter().all(|used| used.key != old));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_deleted_is_not_counted_any_more_and_its_stream_ends() {
    let server = ruled(100, &json!({}));
    let limiter = server.peer().await.unwrap();
    host(&server, &limiter, LIMITERS);
    let id = server.rules(RuleKind::RateLimit).into_keys().next().unwrap();
    let clients = clients_of(&server, &limiter, 2).await;
    passed(&clients, MILLI, 3 * SECOND).await;
    server.remove_rule(RuleKind::RateLimit, &id);
    let free = async || clients.iter().all(|client| (0..150).all(|_| client.passes(&Quota::new())));
    eventually("nothing is limited", 3 * SECOND, free).await;
    tokio::time::sleep(2 * SECOND).await;
    limiter.clear_calls();
    let all = passed(&clients, MILLI, 10 * SECOND).await;
    assert!(all.iter().all(|passed| *passed > 9_000), "{all:?}");
    assert!(limiter.calls().is_empty(), "{:?}", limiter.calls());
    let gone = async || limiter.limiter_counters().iter().all(|counter| counter.clients == 0);
    eventually("nobody counts", 15 * SECOND, gone).await;
    eventually("nothing is held", 90 * SECOND, async || limiter.open_connections() == 0).await;
    // Put in force again, it is counted again.
    server.rule(RuleKind::RateLimit, sharing::rule(100, &json!({}))).unwrap();
    passed(&clients, MILLI, 4 * SECOND).await;
    let again = ten_windows(&clients, &limiter).await;
    assert!(within(again, 1_000, 90, 105), "{again}");
}

// === many labels

#[tokio::test(start_paused = true)]
async fn a_thousand_labels_are_joined_in_batches_and_reported_together() {
    let server = server(100, &by_user());
    let client = Client::new(&server).await;
    assert!((0..1_000).all(|uid| user_passes(&client, uid)));
    eventually("all are counted", 3 * SECOND, async || server.limiter_counters().len() == 1_000).await;
    let joins = server.calls_of(Rpc::LimitInit).len();
    assert!(joins <= 3, "{joins} messages to join");
    server.clear_calls();
    for n in 0..10_000 {
        user_passes(&client, n % 1_000);
        if n % 10 == 0 {
            tokio::time::sleep(10 * MILLI).await;
        }
    }
    let reports = server.calls_of(Rpc::LimitAcquire);
    // A tick is 10 ms; what is used, and the end of each period of each counter.
    assert!(reports.len() <= 2_000, "{} messages in ten seconds", reports.len());
    let most = reports.iter().map(|call| call.limit_uses().len()).max();
    assert!(most > Some(10), "{most:?} counters in one message");
    let used: u64 = server.limiter_counters().iter().map(|counter| counter.total_used).sum();
    assert!((10_500..=11_000).contains(&used), "{used}");
    // Without calls it is quiet before long, and in the end nothing is left.
    tokio::time::sleep(5 * SECOND).await;
    server.clear_calls();
    tokio::time::sleep(10 * SECOND).await;
    let quiet = server.calls_of(Rpc::LimitAcquire).len();
    assert!(quiet <= 1_100, "{quiet} messages in ten quiet seconds");
    let forgotten = async || client.handle.usage()[0].windows == 0;
    eventually("windows that nobody uses are dropped", 300 * SECOND, forgotten).await;
    tokio::time::sleep(2 * SECOND).await;
    server.clear_calls();
    let silent = async || server.calls_of(Rpc::LimitAcquire).is_empty() && server.calls_of(Rpc::LimitInit).is_empty();
    throughout("nothing is said any more", 60 * SECOND, silent).await;
}

// === the end

#[tokio::test(start_paused = true)]
async fn neither_a_shutdown_nor_a_drop_leaves_a_stream_or_a_task() {
    for shut_down in [true, false] {
        for fault in ["none", "black hole", "hanging"] {
            let server = ruled(100, &json!({}));
            let limiter = server.peer().await.unwrap();
            host(&server, &limiter, LIMITERS);
            let before = tasks();
            let clients = clients_of(&server, &limiter, 3).await;
            passed(&clients, MILLI, 2 * SECOND).await;
            match fault {
                "none" => {}
                "black hole" => limiter.black_hole(true),
                _ => drop(limiter.on(Rpc::LimitAcquire).hang()),
            }
            for Client { context, handle } in clients {
                if shut_down {
                    context.shutdown(SECOND).await.unwrap();
                }
                drop((context, handle));
            }
            limiter.black_hole(false);
            limiter.clear_faults();
            let closed = async || limiter.open_connections() == 0 && server.open_connections() == 0;
            eventually("connections are closed", 2 * SECOND, closed).await;
            eventually("all tasks have ended", 2 * SECOND, async || tasks() <= before).await;
            limiter.clear_calls();
            server.clear_calls();
            let gone = async || limiter.limiter_counters().iter().all(|counter| counter.clients == 0);
            eventually("the limiter knows nobody any more", 15 * SECOND, gone).await;
            assert!(limiter.calls().is_empty() && server.calls().is_empty(), "{shut_down} {fault}");
        }
    }
}
