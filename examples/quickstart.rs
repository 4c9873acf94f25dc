//! The main job in one run: three providers register, a consumer picks one of them again and again; one provider is
//! killed and another one joins while picks go on. Ends with a table of who was picked, second by second.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use polarismesh::{ErrorKind, Register, Result, SdkContext};
use support::ControlPlane;
use tokio::time::Instant;

const SERVICE: (&str, &str) = ("default", "quickstart");
const RUN: Duration = Duration::from_secs(14);

/// A provider is a context with one registration; its instance beats every second.
async fn provider(plane: &ControlPlane, port: u16, weight: u32) -> Result<SdkContext> {
    let context = plane.context()?;
    let register =
        Register::new(SERVICE, ("127.0.0.1", port)).weight(weight).ttl(Duration::from_secs(1)).drain(Duration::ZERO);
    context.provider().register(register).await?;
    println!("{port} registered with weight {weight}");
    Ok(context)
}

#[tokio::main]
async fn main() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let mut providers = BTreeMap::new();
    for (port, weight) in [(9001, 100), (9002, 100), (9003, 200)] {
        providers.insert(port, provider(&plane, port, weight).await?);
    }

    let client = plane.context()?;
    let consumer = client.consumer();
    client.ready(Duration::from_secs(5)).await?;

    let started = Instant::now();
    let mut table: BTreeMap<u64, BTreeMap<u16, u32>> = BTreeMap::new();
    let mut refused = 0_u32;
    while started.elapsed() < RUN {
        let second = started.elapsed().as_secs();
        if second >= 3 && providers.remove(&9002).is_some() {
            // The context is dropped without a shutdown: beats stop, as if the process had been killed.
            println!("9002 killed");
        }
        if second >= 5 && !providers.contains_key(&9004) {
            providers.insert(9004, provider(&plane, 9004, 100).await?);
        }
        match consumer.get_one_instance(SERVICE).await {
            Ok(instance) => *table.entry(second).or_default().entry(instance.port()).or_default() += 1,
            // A server may need a second until it shows a new service to others.
            Err(e) if matches!(e.kind(), ErrorKind::ServiceNotFound | ErrorKind::NoInstances) => refused += 1,
            Err(e) => return Err(e),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    println!("\nsecond      9001   9002   9003   9004");
    for (second, picks) in &table {
        let of = |port| picks.get(&port).copied().unwrap_or(0);
        println!("{second:>6}    {:>6} {:>6} {:>6} {:>6}", of(9001), of(9002), of(9003), of(9004));
    }
    println!("{refused} picks before the service was known");

    for context in providers.into_values().chain([client]) {
        if let Err(error) = context.shutdown(Duration::from_secs(10)).await {
            println!("{error}");
        }
    }
    println!("all deregistered and shut down");
    Ok(())
}
