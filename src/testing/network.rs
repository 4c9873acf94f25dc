//! How nodes are reached: by a pipe in memory, or on a TCP port.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::util::connect::{BoxIo, Connecting, Connector};

/// As much as a socket's buffer: beyond it, writing waits for the reader.
const PIPE: usize = 64 << 10;
/// Between two tries to take the port again.
const AGAIN: Duration = Duration::from_millis(50);

/// Nodes that live in memory, by address.
#[derive(Default)]
pub(super) struct Network {
    nodes: Mutex<BTreeMap<SocketAddr, Weak<Node>>>,
}

/// A port that a node listens on.
pub(super) struct TcpPort {
    address: SocketAddr,
    closing: CancellationToken,
}

// === impl Network ===

impl Network {
    /// Gives a node an address: of the range that is meant for documentation, so that nobody else has it.
    pub(super) fn join(&self, node: &Arc<Node>) -> String {
        let mut nodes = self.lock();
        let last = nodes.keys().next_back().map_or(0, |last| match last.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        });
        let address = SocketAddr::from(([192, 0, 2, last.saturating_add(1)], 8091));
        nodes.insert(address, Arc::downgrade(node));
        address.to_string()
    }

    pub(super) fn leave(&self, address: &str) {
        if let Ok(address) = address.parse() {
            self.lock().remove(&address);
        }
    }

    fn node(&self, host: &str, port: u16) -> io::Result<Arc<Node>> {
        let ip = host.parse().map_err(|_| io::Error::new(io::ErrorKind::NotFound, format!("no such host: {host}")))?;
        let node = self.lock().get(&SocketAddr::new(ip, port)).and_then(Weak::upgrade);
        node.filter(|node| *node.accepting.borrow()).ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, Weak<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connector for Network {
    fn connect(&self, host: String, port: u16) -> Connecting<BoxIo> {
        let node = self.node(&host, port);
        Box::pin(async move {
            let node = node?;
            // A node that nobody hears does not refuse either.
            node.heard().await;
            let (client, server) = tokio::io::duplex(PIPE);
            node.serve(Box::new(server));
            Ok(Box::new(client) as BoxIo)
        })
    }

    fn resolve(&self, host: String, port: u16) -> Connecting<Vec<SocketAddr>> {
        Box::pin(async move {
            let ip =
                host.parse().map_err(|_| io::Error::new(io::ErrorKind::NotFound, format!("no such host: {host}")))?;
            Ok(vec![SocketAddr::new(ip, port)])
        })
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Network").field(&self.lock().keys().collect::<Vec<_>>()).finish()
    }
}

// === impl TcpPort ===

impl TcpPort {
    /// Listens, and serves what connects.
    pub(super) async fn open(address: &str, node: &Arc<Node>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let closing = CancellationToken::new();
        let (node, closed) = (Arc::clone(node), closing.clone());
        let scope = node.scope().clone();
        scope.spawn("listener", async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = listen(listener, address, &node) => {}
            }
        });
        Ok(Self { address, closing })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives the port back.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

async fn listen(listener: TcpListener, address: SocketAddr, node: &Arc<Node>) {
    let mut accepting = node.accepting.subscribe();
    let mut listener = Some(listener);
    loop {
        let Some(open) = &listener else {
            // Refusing means that nobody listens; afterwards the same port is taken again.
            let _ = accepting.wait_for(|accepting| *accepting).await.is_ok();
            match TcpListener::bind(address).await {
                Ok(again) => listener = Some(again),
                Err(error) => {
                    tracing::warn!(%address, %error, "the port cannot be taken again yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without it answers are merely slower.
                    let _ = stream.set_nodelay(true);
                    node.serve(Box::new(stream));
                }
                // Such as too many open files: it passes, and must not spin meanwhile.
                Err(_) => tokio::time::sleep(AGAIN).await,
            },
            () = refused(&mut accepting) => listener = None,
        }
    }
}

/// Resolves when connections are to be refused.
async fn refused(accepting: &mut watch::Receiver<bool>) {
    // The sender lives in the node, which the caller holds.
    let _ = accepting.wait_for(|accepting| !accepting).await.is_ok();
}
