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

mod support;

use std::time::Duration;

use polarismesh::testing::{Rpc, Server, Skew};
use polarismesh::{ContextState, Decision, LabelSet, LimitHandle, Quota, RuleKind, SdkContext};
use serde_json::{Value, json};
use support::eventually;
use tokio::time::Instant;

const PAY: (&str, &str) = ("default", "payments");
const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A global rule for calls to `PAY` with so many calls a second; `fields` beside.
fn rule(calls: u32, fields: &Value) -> String {
    let mut rule = json!({"name": "shared", "namespace": PAY.0, "service": PAY.1, "type": "GLOBAL",
        "amounts": [{"maxAmount": calls, "validDuration": "1s"}]});
    for (field, value) in fields.as_object().unwrap() {
        rule[field] = value.clone();
    }
    rule.to_string()
}

fn server(calls: u32, fields: &Value) -> Server {
    let server = Server::in_memory();
    server.host_limiter();
    server.rule(RuleKind::RateLimit, rule(calls, fields)).unwrap();
    server
}

/// A client of the server, counted along by the limiter.
struct Client {
    context: SdkContext,
    handle: LimitHandle,
}

impl Client {
    async fn new(server: &Server) -> Self {
        Self::of(server.context().unwrap()).await
    }

    async fn of(context: SdkContext) -> Self {
        let handle = context.limiter().service(PAY);
        handle.ready().await.unwrap();
        Self { context, handle }
    }

    fn passes(&self, quota: &Quota<'_>) -> bool {
        matches!(self.handle.check(quota).unwrap(), Decision::Granted(_))
    }
}

async fn clients(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::new(server).await);
    }
    for client in &clients {
        client.passes(&Quota::new());
    }
    let joined = async || server.limiter_counters().first().is_some_and(|counter| counter.clients == count);
    eventually("all have joined", 3 * SECOND, joined).await;
    clients
}

/// How many calls pass in `length` if each client asks every `pause`.
async fn passed(clients: &[Client], pause: Duration, length: Duration) -> Vec<usize> {
    let began = Instant::now();
    let mut passed = vec![0; clients.len()];
    while began.elapsed() < length {
        for (client, passed) in clients.iter().zip(&mut passed) {
            *passed += usize::from(client.passes(&Quota::new()));
        }
        tokio::time::sleep(pause).await;
    }
    passed
}

/// Sleeps until `beside`, and from then on until a window of the limiter is about to begin.
async fn window(server: &Server, beside: Duration) {
    tokio::time::sleep(beside).await;
    let into = Duration::from_nanos(server.limiter_clock().subsec_nanos().into());
    tokio::time::sleep(SECOND.checked_sub(into).unwrap()).await;
}

fn within(passed: usize, quota: usize, least: usize, most: usize) -> bool {
    (quota * least / 100..=quota * most / 100).contains(&passed)
}

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
