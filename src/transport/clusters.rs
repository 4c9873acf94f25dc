//! The server lists of the system clusters, shared by calls, streams and twins.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::server::ServerAddr;
use crate::transport::endpoint::Servers;

/// What servers are for. Each cluster has the configured servers until its own are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cluster {
    /// Discovery, registration, the report of this client.
    Discover,
    /// Heartbeats.
    HealthCheck,
    /// The config centre.
    Config,
}

/// The clusters, each behind a lock that is held for a look-up.
#[derive(Debug)]
pub(crate) struct Clusters {
    discover: Listed,
    health_check: Listed,
    config: Listed,
}

#[derive(Debug)]
struct Listed {
    servers: Mutex<Servers>,
    /// Counts replacements of the list, to wake who waits on a stream.
    replaced: watch::Sender<u64>,
}

impl Clusters {
    pub(crate) fn new(addresses: &[ServerAddr], switch_interval: Duration) -> Self {
        let listed = || Listed {
            servers: Mutex::new(Servers::new(addresses.to_vec(), switch_interval)),
            replaced: watch::Sender::new(0),
        };
        Self { discover: listed(), health_check: listed(), config: listed() }
    }

    pub(crate) fn set(&self, cluster: Cluster, servers: Vec<ServerAddr>) {
        if self.lock(cluster).set(servers) {
            self.of(cluster).replaced.send_modify(|count| *count += 1);
        }
    }

    /// Wakes when the list of the cluster was replaced.
    pub(crate) fn replaced(&self, cluster: Cluster) -> watch::Receiver<u64> {
        self.of(cluster).replaced.subscribe()
    }

    pub(crate) fn current(&self, cluster: Cluster, now: Instant) -> Option<ServerAddr> {
        self.lock(cluster).current(now, &mut rand::rng())
    }

    /// See [`Servers::beside`].
    pub(crate) fn beside(&self, cluster: Cluster, avoid: &[ServerAddr], now: Instant) -> Option<ServerAddr> {
        self.lock(cluster).beside(avoid, now, &mut rand::rng())
    }

    /// See [`Servers::epoch`]; a switch that is due is made.
    pub(crate) fn epoch(&self, cluster: Cluster, now: Instant) -> u64 {
        let mut servers = self.lock(cluster);
        servers.current(now, &mut rand::rng());
        servers.epoch()
    }

    pub(crate) fn next_switch(&self, cluster: Cluster) -> Option<Instant> {
        self.lock(cluster).next_switch()
    }

    pub(crate) fn failed(&self, cluster: Cluster, server: &ServerAddr, now: Instant) {
        self.lock(cluster).failed(server, now);
    }

    pub(crate) fn succeeded(&self, cluster: Cluster, server: &ServerAddr) {
        self.lock(cluster).succeeded(server);
    }

    pub(crate) fn has_alternative(&self, cluster: Cluster, server: &ServerAddr, now: Instant) -> bool {
        self.lock(cluster).has_alternative(server, now)
    }

    /// Whether there is more than one server.
    pub(crate) fn has_several(&self, cluster: Cluster) -> bool {
        self.lock(cluster).len() > 1
    }

    fn of(&self, cluster: Cluster) -> &Listed {
        match cluster {
            Cluster::Discover => &self.discover,
            Cluster::HealthCheck => &self.health_check,
            Cluster::Config => &self.config,
        }
    }

    fn lock(&self, cluster: Cluster) -> MutexGuard<'_, Servers> {
        self.of(cluster).servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
