//! An axum service that registers itself, answers readiness probes from the state of its context, and leaves without a
//! failed call: on SIGTERM or Ctrl-C its instance is isolated, callers drain, it is removed, and then the server stops.
//!
//! Stops by itself after two seconds when it runs on the embedded control plane.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use polarismesh::{Register, SdkContext};
use support::ControlPlane;
use tokio::net::TcpListener;

async fn readyz(State(context): State<SdkContext>) -> (StatusCode, String) {
    let state = context.state();
    let code = if state.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, state.to_string())
}

async fn stop_signal(by_itself: bool) {
    let timer = async {
        if by_itself { tokio::time::sleep(Duration::from_secs(2)).await } else { std::future::pending().await }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
        () = timer => {}
    }
    println!("stopping");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let plane = ControlPlane::start().await?;
    let context = plane.context()?;
    let app = Router::new().route("/readyz", get(readyz)).with_state(context.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;

    let register = Register::new(("default", "web"), listener.local_addr()?).protocol("http");
    let register = if plane.is_embedded() { register.drain(Duration::from_millis(500)) } else { register };
    let registration = context.provider().register(register).await?;
    println!("serving at {}, {}", listener.local_addr()?, context.state());

    let stop = registration.deregister_when(stop_signal(plane.is_embedded()));
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    context.shutdown(Duration::from_secs(10)).await?;
    println!("stopped, {}", context.state());
    Ok(())
}
