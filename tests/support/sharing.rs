//! What the tests of shared quotas share.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::time::Duration;

use polarismesh::testing::{Server, instance};
use polarismesh::{Decision, LimitHandle, Quota, RuleKind, SdkContext};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::eventually;
use crate::support::limits::with_fields;

pub const PAY: (&str, &str) = ("default", "payments");
pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLI: Duration = Duration::from_millis(1);

/// A global rule for calls to `PAY` with so many calls a second; `fields` beside.
pub fn rule(calls: u32, fields: &Value) -> String {
    let rule = json!({"name": "shared", "namespace": PAY.0, "service": PAY.1, "type": "GLOBAL",
        "amounts": [{"maxAmount": calls, "validDuration": "1s"}]});
    with_fields(rule, fields).to_string()
}

/// A server with such a rule, and no limiter.
pub fn ruled(calls: u32, fields: &Value) -> Server {
    let server = Server::in_memory();
    server.rule(RuleKind::RateLimit, rule(calls, fields)).unwrap();
    server
}

/// A server with such a rule, and its own limiter.
pub fn server(calls: u32, fields: &Value) -> Server {
    let server = ruled(calls, fields);
    server.host_limiter();
    server
}

/// A client of the server, counted along by the limiter.
pub struct Client {
    pub context: SdkContext,
    pub handle: LimitHandle,
}

impl Client {
    pub async fn new(server: &Server) -> Self {
        Self::of(server.context().unwrap()).await
    }

    pub async fn of(context: SdkContext) -> Self {
        let handle = context.limiter().service(PAY);
        handle.ready().await.unwrap();
        Self { context, handle }
    }

    pub fn passes(&self, quota: &Quota<'_>) -> bool {
        matches!(self.handle.check(quota).unwrap(), Decision::Granted(_))
    }
}

pub async fn clients(server: &Server, count: usize) -> Vec<Client> {
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
pub async fn passed(clients: &[Client], pause: Duration, length: Duration) -> Vec<usize> {
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
pub async fn window(server: &Server, beside: Duration) {
    tokio::time::sleep(beside).await;
    let into = Duration::from_nanos(server.limiter_clock().subsec_nanos().into());
    tokio::time::sleep(SECOND.checked_sub(into).unwrap()).await;
}

pub fn within(passed: usize, quota: usize, least: usize, most: usize) -> bool {
    (quota * least / 100..=quota * most / 100).contains(&passed)
}

/// Registers the limiter of a node under this name of a service.
pub fn host(server: &Server, node: &Server, service: (&str, &str)) {
    let (host, port) = node.address().rsplit_once(':').unwrap();
    server.service(service).instance(instance(host, port.parse().unwrap()).protocol("grpc"));
}

/// Takes the limiter of a node out again.
pub fn unhost(server: &Server, node: &Server, service: (&str, &str)) {
    let (host, port) = node.address().rsplit_once(':').unwrap();
    server.service(service).remove(host, port.parse().unwrap());
}
