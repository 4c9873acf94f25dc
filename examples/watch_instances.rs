//! A watch feeds a connection pool of the program's own: the current list first, then what changed.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polarismesh::{InstanceChange, Register, Result, ServiceInstances, Update};
use support::ControlPlane;

#[tokio::main]
async fn main() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let context = plane.context()?;
    let provider = plane.context()?;
    let register = |port| {
        let register = Register::new(("default", "pooled"), ("127.0.0.1", port)).drain(Duration::ZERO);
        provider.provider().register_in_background(register)
    };
    let first = register(9001)?;
    first.registered().await?;

    let mut watch = context.consumer().watch_instances(("default", "pooled"));
    let mut pool: BTreeSet<String> = BTreeSet::new();
    let mut known: Option<Arc<ServiceInstances>> = None;
    let mut steps = 0;
    while let Some(update) = watch.next().await {
        match update {
            Update::Current(now) => {
                for change in now.diff(known.as_deref()) {
                    println!("{change:?}");
                    match change {
                        InstanceChange::Added(i) => drop(pool.insert(i.authority().to_owned())),
                        InstanceChange::Removed(i) => drop(pool.remove(i.authority())),
                        _ => {}
                    }
                }
                known = Some(now);
                println!("pool: {pool:?}");
            }
            // What is known stays in use.
            Update::Unavailable(error) => println!("not current: {error}"),
            _ => {}
        }
        // The program's life: a second instance joins, then the first one leaves.
        match (steps, pool.len()) {
            (0, 1) => {
                register(9002)?;
                steps = 1;
            }
            (1, 2) => {
                first.deregister().await?;
                steps = 2;
            }
            (2, 1) => break,
            _ => {}
        }
    }
    provider.shutdown(Duration::from_secs(5)).await.ok();
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
