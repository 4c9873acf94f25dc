//! An embedded control plane, for tests, examples and development.
//!
//! Problem: what a client does when a control plane is slow, silent, wrong, restarted or empty can be tested only
//! against one that does so on purpose, at once, and on a clock that the test owns. Choice: a [`Server`] that speaks the
//! real protocol, with the real server's validation, codes, revisions and oddities, over a pipe in memory (or a TCP
//! port), with an interface for what a console would do, a script of faults, and a record of what arrived. Invariant:
//! without a script it answers as a real server does, in the dialect of the [`Release`] that was chosen; with one,
//! exactly the calls that were named are met.
//!
//! ```
//! use polarismesh::testing::{Rpc, Server, instance};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let server = Server::in_memory();
//! server.service(("default", "payments")).instances([
//!     instance("10.0.0.1", 8080),
//!     instance("10.0.0.2", 8080).weight(50).isolated(true),
//! ]);
//! server.on(Rpc::Heartbeat).times(3).answer(400_202);
//! assert_eq!(server.instances(("default", "payments")).len(), 2);
//! assert!(server.calls().is_empty());
//! # }
//! ```

mod access;
mod answer;
mod behaviour;
#[doc(hidden)]
pub mod bench;
#[cfg(test)]
pub(crate) mod compiled;
mod context;
mod contract;
mod control;
mod data;
mod discover;
mod discover_rules;
mod edit;
mod fixtures;
mod follow;
mod grpc;
mod health;
mod limit_rule;
mod limiter;
mod link;
mod naming;
mod network;
mod node;
mod pings;
mod plugins;
mod record;
mod routing;
mod routing_check;
mod rulebook;
mod rules;
mod script;
mod server;
mod sha1;
mod store;
mod table;
#[doc(hidden)]
pub mod wire;

pub use access::Grant;
pub use behaviour::{Release, RoutingForm};
pub use edit::ServiceEditor;
pub use fixtures::{TestInstance, instance};
pub use limiter::{LimitCounter, LimitUse, Skew};
pub use plugins::{criteria, keyed_criteria, loaded_subset, route_request, subset};
pub use record::{Call, Rpc};
pub use script::{Fault, On};
pub use server::Server;

#[cfg(test)]
mod tests;
