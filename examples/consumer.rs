//! A consumer: picks an instance per call, tells how the call went, and tries elsewhere when one fails.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::time::Duration;

use polarismesh::{Attempts, CallError, Classify, Instance, Outcome, Pick, Register, Result, Update};
use support::ControlPlane;

/// What a call of this program fails with. Another instance may do better.
#[derive(Debug)]
struct Refused;

impl Classify for Refused {
    fn outcome(&self) -> Outcome {
        Outcome::NoAnswer
    }

    fn is_retryable(&self) -> bool {
        true
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let context = plane.context()?;
    for port in [9001, 9002, 9003] {
        let register = Register::new(("default", "payments"), ("127.0.0.1", port)).drain(Duration::ZERO);
        context.provider().register(register).await?;
    }
    let consumer = context.consumer();
    let payments = consumer.service(("default", "payments"));
    // A server may need a second until it shows a new service to others.
    let mut watch = payments.watch();
    while let Some(update) = watch.next().await {
        if matches!(update, Update::Current(list) if list.len() >= 3) {
            break;
        }
    }

    // By name, waiting if the service is not loaded yet.
    let instance = consumer.get_one_instance(("default", "payments")).await?;
    println!("one instance: {}", instance.authority());

    // By handle, never waiting: pick, call, and tell how it went.
    let call = payments.start_call(&Pick::new())?;
    println!("calling {}", call.instance().authority());
    call.finish(Outcome::http(200));

    // With retries elsewhere: the instance at 9001 refuses everything.
    for _ in 0..5 {
        let attempts = Attempts::up_to(3).overall(Duration::from_secs(1)).budget(0.5);
        let send = async |instance: Instance| {
            if instance.port() == 9001 { Err(Refused) } else { Ok(instance.port()) }
        };
        match payments.call(&Pick::new(), attempts, send).await {
            Ok(port) => println!("answered by {port}"),
            Err(CallError::Failed { error, attempts, .. }) => println!("{error:?} after {attempts} attempts"),
            Err(error) => println!("{error:?}"),
        }
    }
    println!("the data is {:?}", payments.freshness());
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
