//! A provider: registers itself, watches how its registration stands, changes it, and leaves.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::time::Duration;

use polarismesh::{Register, RegistrationState, Result};
use support::ControlPlane;

#[tokio::main]
async fn main() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let context = plane.context()?;

    let register = Register::new(("default", "payments"), ("127.0.0.1", 8080))
        .protocol("http")
        .version("1.4.2")
        .metadata("env", "prod")
        .drain(Duration::from_millis(500));
    // Wanted from now on: the program starts whether or not a server is there.
    let registration = context.provider().register_in_background(register)?;

    let mut states = registration.watch();
    while let Some(state) = states.next().await {
        match state {
            RegistrationState::Registered => {
                println!("registered as {:?}", registration.instance_id());
                break;
            }
            RegistrationState::Rejected(error) => return Err(error),
            state => println!("{state:?}"),
        }
    }

    registration
        .update(|wanted| {
            wanted.set_weight(20).set_metadata("env", "canary");
        })
        .await?;
    println!("weight and label changed");

    registration.set_isolated(true).await?;
    println!("out of service, still registered");
    registration.set_isolated(false).await?;

    registration.deregister().await?;
    println!("{:?}", registration.state());
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
