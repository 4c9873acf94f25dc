//! The control plane as a value: made, asked, and ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::fixtures::instance;
use super::network::{Network, TcpPort};
use super::node::Node;
use super::store::Store;
use crate::error::{Error, ErrorKind, Result};
use crate::model::key::ServiceKey;
use crate::util::connect::{Connector, Tcp};
use crate::util::task::TaskScope;

/// An embedded control plane: one node of it, over a state that several nodes may share.
///
/// It lives on the runtime it was made on. Dropping it ends it; if something inside it panicked, the drop panics too
/// (unless the thread is panicking already), so that a test cannot pass over a broken fake.
pub struct Server {
    pub(super) node: Arc<Node>,
    place: Place,
    address: String,
}

/// Where a node is reached.
enum Place {
    Memory(Arc<Network>),
    Port(TcpPort),
}

impl Server {
    /// A control plane behind a pipe in memory: no port, no thread, and all of its time is the runtime's, paused or
    /// not. Only contexts made by it or over its connector reach it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn in_memory() -> Self {
        let store = Arc::new(Store::new());
        Self::tend(&store);
        Self::node_in_memory(store, &Arc::new(Network::default()))
    }

    /// A control plane on a TCP port: `127.0.0.1:8091`, or port 0 for any free one, which [`Server::address`] tells.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the address cannot be listened on; says why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future makes no server.
    pub async fn listen(address: &str) -> Result<Self> {
        let store = Arc::new(Store::new());
        let server = Self::node_on_port(Arc::clone(&store), address).await?;
        Self::tend(&store);
        Ok(server)
    }

    /// Another node of this control plane, with connections, script and record of its own, over the same state.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if no further port can be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future makes no node.
    pub async fn peer(&self) -> Result<Self> {
        let store = Arc::clone(&self.node.store);
        match &self.place {
            Place::Memory(network) => Ok(Self::node_in_memory(store, network)),
            Place::Port(port) => Self::node_on_port(store, &SocketAddr::new(port.address().ip(), 0).to_string()).await,
        }
    }

    fn node_in_memory(store: Arc<Store>, network: &Arc<Network>) -> Self {
        let node = Arc::new(Node::new(store, TaskScope::new(Handle::current())));
        let address = network.join(&node);
        Self::announced(Self { node, place: Place::Memory(Arc::clone(network)), address })
    }

    async fn node_on_port(store: Arc<Store>, address: &str) -> Result<Self> {
        let node = Arc::new(Node::new(store, TaskScope::new(Handle::current())));
        let port = TcpPort::open(address, &node).await.map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, format!("cannot listen on {address}: {error}")).with_source(error)
        })?;
        let address = port.address().to_string();
        Ok(Self::announced(Self { node, place: Place::Port(port), address }))
    }

    /// Keeps checking the health of instances, as long as the state is there.
    fn tend(store: &Arc<Store>) {
        let store = Arc::downgrade(store);
        let scope = TaskScope::new(Handle::current());
        let ending = scope.clone();
        scope.spawn("health checks", async move {
            Store::check_health(store).await;
            // The scope ends with its only task.
            ending.cancel();
        });
    }

    /// Registers the node as the checker, as every server does.
    fn announced(self) -> Self {
        self.node.store.with(|state, now| {
            let (host, port) = split(&self.address);
            let checker = instance(host, port).protocol("grpc").ttl(5).metadata("polaris_service", "polaris.checker");
            let checker = checker.metadata("build-revision", env!("CARGO_PKG_VERSION"));
            let (key, message) = super::edit::owned(&ServiceKey::new("Polaris", "polaris.checker"), checker.message);
            state.put_instance(key, message, true, now);
        });
        self
    }

    /// `host:port` of this node.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What connects to this node and its peers.
    pub(crate) fn connector(&self) -> Arc<dyn Connector> {
        match &self.place {
            Place::Memory(network) => Arc::clone(network) as Arc<dyn Connector>,
            Place::Port(_) => Arc::new(Tcp),
        }
    }

    /// Whether this node lives in memory only.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }
}

/// The end.
impl Server {
    /// Ends the node: streams with `UNAVAILABLE`, then connections, then everything that still runs.
    ///
    /// # Panics
    ///
    /// If something inside the server panicked: with that same panic.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server, which ends it at once.
    pub async fn shutdown(self) {
        self.stop();
        if let Place::Port(port) = &self.place {
            port.close();
        }
        self.node.end().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Place::Memory(network) = &self.place {
            network.leave(&self.address);
        }
        self.node.break_connections();
        self.node.scope().cancel();
        let panic = self.node.take_panic();
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("in_memory", &self.is_in_memory())
            .finish_non_exhaustive()
    }
}

/// Where an address is reached.
pub(super) fn split(address: &str) -> (String, u16) {
    address.parse::<SocketAddr>().map_or_else(
        |_| (IpAddr::from([127, 0, 0, 1]).to_string(), 0),
        |address| match address.ip() {
            // Listening everywhere is no address to be reached at.
            ip if ip.is_unspecified() => (IpAddr::from([127, 0, 0, 1]).to_string(), address.port()),
            ip => (ip.to_string(), address.port()),
        },
    )
}
