//! From a registration to a consumer that polls, on a real server.

use std::time::Duration;

use polarismesh::{ConsumerApi, Deregister, ProviderApi, Register, SdkContext};
use polarismesh_benches::harness::{Table, median, text};
use tokio::time::{Instant, sleep};

use crate::children;
use crate::effort::Effort;

/// A key is polled more often for half a minute after it changed.
const QUIET: Duration = Duration::from_secs(35);
const LOOK: Duration = Duration::from_millis(10);

pub fn measure(effort: &Effort, table: &mut Table) {
    let figure = "register to seen by a polling consumer, real server";
    let Ok(address) = std::env::var("POLARIS_SERVER_ADDRESS") else {
        table.shown(figure, "not measured".into(), "set POLARIS_SERVER_ADDRESS".into());
        return;
    };
    let (quiet, changed) = children::runtime().block_on(seen(&address, effort.rounds));
    for (what, samples, goal) in [("quiet for 35 s", quiet, 3.0), ("changed a moment ago", changed, 1.5)] {
        let time = median(&samples);
        let worst = samples.iter().copied().fold(0.0, f64::max);
        table.goal(
            &format!("{figure}, {what}"),
            text(time),
            format!("slowest of {}: {}; polaris-go 3.7 s", samples.len(), text(worst)),
            &format!("<= {goal} s"),
            time <= goal,
        );
    }
}

/// One service for each round, so that all of them can be quiet at the same time.
async fn seen(address: &str, rounds: usize) -> (Vec<f64>, Vec<f64>) {
    let context = || SdkContext::builder().address(address).set("provider.drain", "0s").build().expect("a context");
    let (providing, consuming) = (context(), context());
    let (provider, consumer) = (providing.provider(), consuming.consumer());
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let names: Vec<_> = (0..rounds).map(|n| format!("bench-{stamp}-{n}")).collect();
    for name in &names {
        register(&provider, name, 1).await;
    }
    for name in &names {
        until(&consumer, name, 1).await;
    }
    sleep(QUIET).await;
    let (mut quiet, mut changed) = (Vec::new(), Vec::new());
    for name in &names {
        quiet.push(time_of(&provider, &consumer, name, 2).await);
        changed.push(time_of(&provider, &consumer, name, 3).await);
    }
    for name in &names {
        for port in 1..=3 {
            let gone = provider.deregister(Deregister::new(("default", name.as_str()), ("127.0.0.1", port))).await;
            gone.expect("it goes");
        }
    }
    let within = Duration::from_secs(10);
    providing.shutdown(within).await.expect("an end");
    consuming.shutdown(within).await.expect("an end");
    (quiet, changed)
}

async fn register(provider: &ProviderApi, name: &str, port: u16) {
    let register = Register::new(("default", name), ("127.0.0.1", port)).manual_heartbeat();
    provider.register(register).await.expect("a registration");
}

/// From the moment the server said yes.
async fn time_of(provider: &ProviderApi, consumer: &ConsumerApi, name: &str, port: u16) -> f64 {
    // So that rounds fall on every phase of polls and of the server's own cache.
    sleep(Duration::from_millis(u64::from(std::process::id()).wrapping_mul(u64::from(port) * 97) % 700)).await;
    let start = Instant::now();
    register(provider, name, port).await;
    until(consumer, name, usize::from(port)).await;
    start.elapsed().as_secs_f64()
}

async fn until(consumer: &ConsumerApi, name: &str, count: usize) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let list = consumer.get_all_instances(("default", name)).await;
        if list.is_ok_and(|list| list.len() >= count) {
            return;
        }
        assert!(Instant::now() < end, "{name} never had {count} instances");
        sleep(LOOK).await;
    }
}
