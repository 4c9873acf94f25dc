//! The control plane over gRPC; what leaves this module is model types and [`Error`](crate::error::Error) only.
//!
//! Problem: connections break, servers vanish, stall and refuse, and nothing above should have to know. Choice: one plain
//! channel per server with our own rotation and our own deadlines (HTTP/2 pings make a stock Polaris server hang up, and
//! tonic's balancer keeps calling dead servers), unary calls that retry elsewhere inside one deadline, and one worker
//! that keeps all discovery on one stream. Invariant: nothing waits for the network without a deadline, nothing is dialled
//! before it is needed, and closing ends everything.

mod auth;
mod clusters;
mod dial;
pub(crate) mod discover;
mod endpoint;
pub(crate) mod limiter;
#[cfg(test)]
mod limiter_test;
mod naming;
mod pool;
mod rpc;
#[cfg(test)]
mod rpc_test;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod scripted_limiter;
mod tls;
#[cfg(all(test, any(feature = "tls-ring", feature = "tls-aws-lc")))]
mod tls_test;
mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::clusters::Cluster;
pub use self::tls::Tls;
pub use self::token::TokenSource;

use self::auth::Auth;
use self::clusters::Clusters;
use self::discover::{DiscoverHandle, ResourceSink};
use self::pool::{Pool, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::model::server::ServerAddr;
use crate::util::connect::Connector;
use crate::util::host;
use crate::util::task::TaskScope;

/// All that the transport has to be told.
#[derive(Debug, Clone)]
pub(crate) struct TransportOptions {
    /// The configured servers, of all clusters until others are found.
    pub(crate) addresses: Vec<ServerAddr>,
    /// Bounds a dial: resolving, TCP, TLS, the server's first byte.
    pub(crate) connect_timeout: Duration,
    /// Bounds the wait for the next answer of a stream, and a single try of a call.
    pub(crate) message_timeout: Duration,
    /// How often a call is tried again, beyond the first time.
    pub(crate) max_retries: u32,
    /// The base of the back-off between tries on one server.
    pub(crate) retry_interval: Duration,
    /// How long a server is kept, give or take a tenth; zero keeps it.
    pub(crate) switch_interval: Duration,
    /// The base of the back-off between streams.
    pub(crate) reconnect_base: Duration,
    /// How long an unused connection or stream is kept.
    pub(crate) idle_timeout: Duration,
    /// The largest answer that is read, in bytes.
    pub(crate) max_message_size: usize,
    /// How often every resource is polled.
    pub(crate) refresh_interval: Duration,
    pub(crate) token: TokenSource,
    /// What this host calls itself where an address is asked for; that of the connection where there is none.
    pub(crate) bind_ip: Option<IpAddr>,
    /// How to speak to the addresses with `tls`; the default where there is none.
    pub(crate) tls: Option<Tls>,
    pub(crate) connector: Arc<dyn Connector>,
}

/// The way to the control plane. Clones share its connections; it dials nothing before the first call.
#[derive(Debug, Clone)]
pub(crate) struct Transport(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: TransportOptions,
    clusters: Arc<Clusters>,
    auth: Arc<Auth>,
    pool: Pool,
}

impl Transport {
    /// Fails with `InvalidConfig` where TLS is asked for and cannot be had.
    pub(crate) fn new(options: TransportOptions, scope: &TaskScope) -> Result<Self> {
        if options.speaks_tls() {
            options.tls.clone().unwrap_or_default().check()?;
        }
        let settings = Settings {
            connector: Arc::clone(&options.connector),
            connect_timeout: options.connect_timeout,
            idle_timeout: options.idle_timeout,
            tls: options.tls.clone().unwrap_or_default(),
        };
        let clusters = Arc::new(Clusters::new(&options.addresses, options.switch_interval));
        let auth = Arc::new(Auth::new(options.token.clone(), scope.clone()));
        let pool = Pool::new(Arc::new(settings), scope.child());
        Ok(Self(Arc::new(Inner { options, clusters, auth, pool })))
    }

    /// Replaces the servers of a cluster by those found through discovery; an empty list goes back to the configured
    /// ones. Streams move over without losing an answer. Where TLS is spoken to the configured servers, it is spoken to
    /// the found ones as well: a token never leaves in the clear because a server was found rather than configured.
    pub(crate) fn set_servers(&self, cluster: Cluster, mut servers: Vec<ServerAddr>) {
        if self.0.options.speaks_tls() {
            for server in &mut servers {
                server.tls = true;
            }
        }
        self.0.clusters.set(cluster, servers);
    }

    /// Starts a worker that keeps `sink` fed with what its handle wants. It ends with the scope, and with the last handle;
    /// a sink that owns a handle is only freed by the scope.
    pub(crate) fn discover(&self, sink: Arc<dyn ResourceSink>) -> DiscoverHandle {
        discover::start(&self.0, sink)
    }

    /// The address of this host that reaches a server. Neither sends anything nor needs the server to be up.
    pub(crate) async fn local_address(&self, within: Duration) -> Result<IpAddr> {
        self.0.address_towards(&self.0.pick(Cluster::Discover)?, within).await
    }

    /// Ends all connections and streams, for good. A twin is closed by itself.
    pub(crate) fn close(&self) {
        self.0.pool.close();
    }

    /// The same servers and token, with connections of its own on another runtime.
    pub(crate) fn on_scope(&self, scope: &TaskScope) -> Self {
        let Inner { options, clusters, auth, pool } = &*self.0;
        Self(Arc::new(Inner {
            options: options.clone(),
            clusters: Arc::clone(clusters),
            auth: Arc::clone(auth),
            pool: pool.twin(scope.child()),
        }))
    }
}

impl TransportOptions {
    fn speaks_tls(&self) -> bool {
        self.tls.is_some() || self.addresses.iter().any(|server| server.tls)
    }
}

impl Inner {
    fn pick(&self, cluster: Cluster) -> Result<ServerAddr> {
        self.clusters.current(cluster, Instant::now()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "no server is configured: set global.serverConnector.addresses")
        })
    }

    /// The address of this host that reaches `server`.
    async fn address_towards(&self, server: &ServerAddr, within: Duration) -> Result<IpAddr> {
        let started = Instant::now();
        let resolve = self.options.connector.resolve(server.host.to_string(), server.port);
        let why = match tokio::time::timeout(within, resolve).await {
            Ok(Ok(addresses)) => {
                match addresses.into_iter().map(host::address_towards).find_map(std::result::Result::ok) {
                    Some(address) => return Ok(address),
                    None => "this host has no address that reaches the server".to_owned(),
                }
            }
            Ok(Err(error)) => format!("the server's name cannot be resolved: {error}"),
            Err(_) => "the server's name was not resolved in time".to_owned(),
        };
        Err(Error::new(ErrorKind::Network, why).with_address(server.to_string()).with_elapsed(started.elapsed()))
    }
}
