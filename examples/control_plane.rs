//! A control plane for development: registration, discovery, rules, health checks and a limiter on one port, in memory.
//!
//! ```text
//! cargo run --example control_plane -- --listen 127.0.0.1:8091 [--data FILE] [--newer-kinds]
//! ```
//!
//! `--data` names a YAML file of namespaces, services, aliases, instances, locations and rules in the console's own
//! field names; it is followed while it changes. `--newer-kinds` serves what only newer servers do, such as nearby rules:
//!
//! ```yaml
//! services:
//!   - {namespace: default, name: payments, metadata: {team: blue}}
//! instances:
//!   - {namespace: default, service: payments, host: 10.0.0.1, port: 8080, weight: 100, metadata: {env: canary}}
//! routings:
//!   - name: testers
//!     enable: true
//!     routing_config:
//!       rules:
//!         - sources:
//!             - namespace: default
//!               service: '*'
//!               arguments: [{type: HEADER, key: user, value: {type: IN, value: 'ann,bob'}}]
//!           destinations:
//!             - {namespace: default, service: payments, weight: 100, labels: {env: {value: canary}}}
//! ratelimits:
//!   - {name: l, namespace: default, service: payments, type: GLOBAL, amounts: [{maxAmount: 100, validDuration: 1s}]}
//! nearbyroutings:
//!   - name: nearby
//!     enable: true
//!     routing_config: {namespace: default, service: payments, match_level: ZONE}
//! ```

use std::error::Error;

use polarismesh::testing::Server;

/// Enough to look at when something goes wrong, and bounded for a process that runs for days.
const KEPT_CALLS: usize = 1_000;

#[derive(Debug, PartialEq)]
struct Options {
    listen: String,
    data: Option<String>,
    newer_kinds: bool,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { listen: "127.0.0.1:8091".to_owned(), data: None, newer_kinds: false };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--listen" => options.listen = value()?,
            "--data" => options.data = Some(value()?),
            "--newer-kinds" => options.newer_kinds = true,
            _ => {
                let known = "--listen ADDRESS, --data FILE and --newer-kinds";
                return Err(format!("unknown argument {argument}; known are {known}"));
            }
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let options = options(std::env::args().skip(1))?;
    let server = Server::listen(&options.listen).await?;
    server.newer_kinds(options.newer_kinds).host_limiter().keep_calls(KEPT_CALLS);
    if let Some(file) = options.data {
        server.follow(file)?;
    }
    #[allow(clippy::print_stdout, reason = "the address is this program's output")]
    {
        println!("control plane on {}", server.address());
    }
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
