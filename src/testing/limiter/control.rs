//! What a test says to the limiter of a control plane, and hears from it.

#![allow(clippy::must_use_candidate, reason = "setters that are called for their effect hand themselves back")]

use std::time::Duration;

use super::{LimitCounter, Skew};
use crate::model::key::ServiceKey;
use crate::testing::edit::owned;
use crate::testing::fixtures::instance;
use crate::testing::server::{Server, split};

/// The limiter of this node. It answers at the node's address from the beginning, and is found by discovery once it is
/// hosted. Peers have limiters of their own, whose counter keys begin with another number.
///
/// ```
/// use polarismesh::testing::{Rpc, Server, Skew};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let server = Server::in_memory();
/// server.host_limiter().set_limiter_clock(Skew::Ahead(Duration::from_secs(3)));
/// assert_eq!(server.instances(("Polaris", "polaris.limiter")).len(), 2);
/// server.on(Rpc::LimitAcquire).skip(1).times(1).answer(404_001);
/// assert!(server.limiter_counters().is_empty());
/// server.restart_limiter();
/// # }
/// ```
impl Server {
    /// Registers the limiter as `polaris.limiter` in `Polaris`, as a real one registers itself: an instance of protocol
    /// `grpc` at this node's address, and one of protocol `http` at the port below, which nothing here answers at.
    pub fn host_limiter(&self) -> &Self {
        let (host, port) = split(self.address());
        let other = if port > 1 { port - 1 } else { 8100 };
        self.node.store.with(|state, now| {
            for (protocol, port) in [("grpc", port), ("http", other)] {
                let limiter = instance(host.clone(), port).protocol(protocol).ttl(5);
                let limiter = limiter.metadata("build-revision", env!("CARGO_PKG_VERSION"));
                let (key, message) = owned(&ServiceKey::new("Polaris", "polaris.limiter"), limiter.message);
                state.put_instance(key, message, true, now);
            }
        });
        self
    }

    /// Forgets all counters and clients of the limiter, and ends its streams with `UNAVAILABLE`, as a restart does.
    pub fn restart_limiter(&self) {
        self.node.limiter.restart();
    }

    /// Sets the limiter's wall clock so far off that of the control plane. Its windows move with it.
    pub fn set_limiter_clock(&self, skew: Skew) -> &Self {
        self.node.limiter.set_clock(skew);
        self
    }

    /// What the limiter's wall clock shows, since the Unix epoch. Windows begin at multiples of their length.
    #[must_use]
    pub fn limiter_clock(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.node.limiter.now()).unwrap_or_default())
    }

    /// The counters of the limiter, the oldest first. One that lay idle is gone after a while, and what it counted with
    /// it.
    #[must_use]
    pub fn limiter_counters(&self) -> Vec<LimitCounter> {
        self.node.limiter.counters()
    }
}
