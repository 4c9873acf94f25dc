//! An axum service whose routes are limited by rules of the control plane: for each tenant apart, and with one download at
//! a time. A client calls it over loopback and prints the answers; then both stop.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use http::request::Parts;
use polarismesh::testing::Server;
use polarismesh::{LabelSet, RuleKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BY_TENANT: &str = "
    name: two-payments-a-minute
    namespace: default
    service: shop
    type: LOCAL
    method: {type: EXACT, value: /pay}
    arguments: [{type: CUSTOM, key: tenant, value: {type: REGEX, value: '.+'}}]
    amounts: [{maxAmount: 2, validDuration: 60s}]
    custom_response: {body: two a minute are enough}";
const DOWNLOADS: &str = "
    name: one-download-at-once
    namespace: default
    service: shop
    type: LOCAL
    resource: CONCURRENCY
    method: {type: EXACT, value: /download}
    concurrencyAmount: {maxAmount: 1}";

/// Sends a request as it stands on the wire, and prints of the answer what is about limits.
async fn call(to: SocketAddr, request: &str, tenant: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(to).await?;
    let head = format!("{request} HTTP/1.1\r\nhost: shop\r\nx-tenant: {tenant}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let told = ["HTTP", "retry-after", "x-polaris"];
    let told: Vec<_> = head.lines().filter(|line| told.iter().any(|name| line.starts_with(name))).collect();
    println!("{request} of {tenant}: {}; {body:?}", told.join(", "));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::in_memory();
    for rule in [BY_TENANT, DOWNLOADS] {
        server.newer_kinds(true).rule(RuleKind::RateLimit, rule)?;
    }
    let context = server.context()?;

    // What rules cannot read off a request is said here; path, verb, headers, parameters and cookies they see themselves.
    let limits = context.limiter().layer(("default", "shop")).labels(|parts: &Parts| {
        let tenant = parts.headers.get("x-tenant").and_then(|tenant| tenant.to_str().ok());
        LabelSet::new().custom("tenant", tenant.unwrap_or("nobody"))
    });
    let download = async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "all of it"
    };
    let app = Router::new().route("/pay", post(async || "paid")).route("/download", get(download)).layer(limits);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let to = listener.local_addr()?;
    let client = async {
        for tenant in ["a", "a", "a", "b"] {
            call(to, "POST /pay", tenant).await?;
        }
        // A download is under way until the body of its answer has ended.
        tokio::try_join!(call(to, "GET /download", "a"), call(to, "GET /download", "b"))?;
        call(to, "GET /download", "b").await
    };
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served?,
        called = client => called?,
    }
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}
