//! A balancer of your own, next to the default one: it takes the instance with fewer calls under way, of two that chance
//! drew. One of three instances is slow; who balances by load sends it little. The control plane is in memory.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polarismesh::testing::{Server, instance};
use polarismesh::{Criteria, LoadBalancer, Outcome, Pick, Result, Selector, ServiceHandle, Subset};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const WORKERS: usize = 12;
const RUN: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct LessBusy;

impl LoadBalancer for LessBusy {
    /// When data changes. This policy keeps nothing; others build a table or a ring here.
    fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(LessBusy))
    }
}

impl Selector for LessBusy {
    /// For each call. Chance comes as a value, so that a choice can be replayed in a test.
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
        let (a, b) = criteria.two_of(subset.len());
        let calls = |index| subset.load(index).map(|load| load.in_flight());
        if calls(b) < calls(a) { b } else { a }
    }
}

/// Calls for a while, one call after the other, and counts who was called.
async fn work(service: ServiceHandle, policy: &'static str) -> Result<BTreeMap<u16, u32>> {
    let mut calls = BTreeMap::new();
    let end = Instant::now() + RUN;
    while Instant::now() < end {
        // A call that is started counts as under way until it is finished.
        let call = service.start_call(&Pick::new().balancer(policy))?;
        let port = call.instance().port();
        sleep(Duration::from_millis(if port == 1 { 200 } else { 20 })).await;
        call.finish(Outcome::http(200));
        *calls.entry(port).or_default() += 1;
    }
    Ok(calls)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let server = Server::in_memory();
    server.service(("default", "reports")).instances((1..=3).map(|port| instance("10.0.0.1", port)));
    // By name here; with `consumer.loadbalancer.type: lessBusy` it is the policy of requests that name none.
    let context = server.builder().load_balancer("lessBusy", |_| Ok(Arc::new(LessBusy))).build()?;
    let service = context.consumer().service(("default", "reports"));
    service.ready().await?;

    println!("{:<16}{:>8}{:>8}{:>8}{:>10}", "calls in 10 s", "slow", "fast", "fast", "together");
    for policy in ["weightedRandom", "lessBusy", "powerOfTwo"] {
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(service.clone(), policy));
        }
        let mut calls: BTreeMap<u16, u32> = BTreeMap::new();
        for worker in workers.join_all().await {
            worker?.into_iter().for_each(|(port, count)| *calls.entry(port).or_default() += count);
        }
        let of = |port| calls.get(&port).copied().unwrap_or(0);
        println!("{policy:<16}{:>8}{:>8}{:>8}{:>10}", of(1), of(2), of(3), of(1) + of(2) + of(3));
    }
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
