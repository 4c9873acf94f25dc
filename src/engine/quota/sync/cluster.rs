//! One service of limiters: which of its nodes counts what.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::balance::{Criteria, LoadBalancer, Maglev, Selector};
use crate::config::ServerAddress;
use crate::engine::cluster::speaks_grpc;
use crate::engine::quota::Shared;
use crate::engine::quota::sync::{Counted, Named, node};
use crate::error::{Error, ErrorKind, Result};
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::key::{ResourceKind, Revision, ServiceEventKey, ServiceKey};
use crate::model::server::ServerAddr;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::Update;
use crate::model::subset::{Base, Subset};
use crate::registry::Watch;

/// How often what is forgotten is looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two rounds of dealing, each of which looks at everything: new labels may come by the thousand.
const PAUSE: Duration = Duration::from_millis(10);

/// One service of limiters.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// What is to be counted.
    all: Mutex<Vec<Arc<Counted>>>,
    notify: Notify,
    started: AtomicBool,
    /// The nodes that are not reached, and why.
    failing: Mutex<HashMap<ServerAddr, Error>>,
}

/// What a node counts. Its task ends when this is dropped.
type Assigned = watch::Sender<Arc<[Arc<Counted>]>>;

/// The nodes that are there, and how quotas are dealt out to them.
struct Nodes {
    subset: Subset,
    table: Box<dyn Selector>,
    tls: HashMap<String, bool>,
}

impl Cluster {
    pub(super) fn add(&self, counted: Counted) {
        self.all().push(Arc::new(counted));
        self.notify.notify_one();
    }

    /// Whether its task is to be started, which is once.
    pub(super) fn starts(&self) -> bool {
        !self.started.swap(true, Ordering::AcqRel)
    }

    /// Notes whether a node is reached; the trouble of the whole, if there is one.
    pub(super) fn note(&self, server: &ServerAddr, failed: Option<Error>) -> Option<Error> {
        // Single inserts and removals: a panic cannot leave it half changed.
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            // The first reason stays: each try fails in a way of its own, and would be told as news.
            Some(error) => drop(failing.entry(server.clone()).or_insert(error)),
            None => drop(failing.remove(server)),
        }
        failing.values().next().cloned()
    }

    /// What is to be counted and not forgotten.
    fn alive(&self) -> Vec<Arc<Counted>> {
        let mut all = self.all();
        all.retain(|counted| !counted.is_forgotten());
        all.clone()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Counted>>> {
        // Single additions and removals: a panic cannot leave it half changed.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deals what is added out to the nodes, and again whenever these change.
pub(super) async fn run(shared: Arc<Shared>, named: Named, cluster: Arc<Cluster>) {
    let trouble = trouble_key(&shared, &named);
    let (mut watch, mut nodes) = match &named {
        Named::Service(service) => (Some(shared.registry.watch_instances(service)), None),
        Named::Given => (None, given(&shared.options.limiter_addresses)),
    };
    let mut assigned: HashMap<ServerAddr, Assigned> = HashMap::new();
    loop {
        tokio::select! {
            () = cluster.notify.notified() => {}
            found = next(&mut watch) => match found {
                Ok(Some(found)) => {
                    if nodes.replace(found).is_none() {
                        shared.troubles.set(&trouble, None);
                    }
                }
                Err(error) if nodes.is_none() => shared.troubles.set(&trouble, Some(error)),
                Ok(None) if nodes.is_none() => shared.troubles.set(&trouble, Some(alone(nobody()))),
                // Who cannot be reached any more is still better than nobody: no limiters take none away.
                Ok(None) | Err(_) => {}
            },
            () = tokio::time::sleep(SWEEP) => {}
        }
        let Some(nodes) = &nodes else { continue };
        let mut dealt: HashMap<ServerAddr, Vec<Arc<Counted>>> = HashMap::new();
        for counted in cluster.alive() {
            dealt.entry(nodes.of(counted.hash)).or_default().push(counted);
        }
        // A task that is gone, which only a panic can bring about, is made anew.
        assigned.retain(|server, told| dealt.contains_key(server) && !told.is_closed());
        for (server, counted) in dealt {
            let same = |now: &Arc<[Arc<Counted>]>| {
                now.len() == counted.len() && now.iter().zip(&counted).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let assigned = assigned.entry(server.clone()).or_insert_with(|| {
                let (assigned, told) = watch::channel(Arc::default());
                let (shared, cluster, trouble) = (Arc::clone(&shared), Arc::clone(&cluster), trouble.clone());
                let scope = shared.scope.clone();
                scope.spawn("quota-limiter", async move {
                    node::Node::new(shared, cluster, server, trouble).run(told).await;
                });
                assigned
            });
            if !same(&assigned.borrow()) {
                assigned.send_replace(counted.into());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Under which the state tells that limiters are not reached.
fn trouble_key(shared: &Shared, named: &Named) -> ServiceEventKey {
    let service = match named {
        Named::Service(service) => service,
        Named::Given => &shared.options.limiter,
    };
    service.of(ResourceKind::RateLimit)
}

/// The nodes that are found next. Without a watch there are never others.
async fn next(watch: &mut Option<Watch<ServiceInstances>>) -> Result<Option<Nodes>> {
    let Some(watch) = watch else { return std::future::pending().await };
    match watch.next().await {
        Some(Update::Current(instances)) => {
            let usable = |base: &Arc<Base>| {
                Subset::whole(base)?.filter(|i| i.is_healthy() && !i.is_isolated() && speaks_grpc(i))
            };
            let base = Arc::new(Base::new(instances, Vec::new()));
            usable(&base).map(|subset| Nodes::new(subset, HashMap::new())).transpose()
        }
        Some(Update::Unavailable(error)) => Err(error),
        None => std::future::pending().await,
    }
}

fn given(addresses: &[ServerAddress]) -> Option<Nodes> {
    let mut builder = SnapshotBuilder::new(ServiceKey::new("", ""));
    for address in addresses {
        let parts = InstanceParts { host: address.host(), port: address.port().into(), ..InstanceParts::default() };
        // An address has a host and a port.
        builder.push(parts, []).ok()?;
    }
    let tls = addresses.iter().map(|address| (address.authority(), address.is_tls())).collect();
    let instances = Arc::new(builder.finish(Revision::default(), [], None));
    let subset = Subset::whole(&Arc::new(Base::new(instances, Vec::new())))?;
    Nodes::new(subset, tls).ok()
}

impl Nodes {
    fn new(subset: Subset, tls: HashMap<String, bool>) -> Result<Self> {
        let table = Maglev::default().prepare(&subset)?;
        Ok(Self { subset, table, tls })
    }

    /// The node that counts what has this hash: the same for all clients that know the same nodes.
    fn of(&self, hash: u64) -> ServerAddr {
        let at = self.table.select(&self.subset, &Criteria::new(0).with_hash_value(hash));
        let Some(instance) = self.subset.instance(at) else { return ServerAddr::new("", 0, false) };
        let tls = self.tls.get(instance.authority()).copied().unwrap_or_default();
        ServerAddr::new(instance.host(), instance.port(), tls)
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("nodes", &self.subset.len()).finish_non_exhaustive()
    }
}

fn nobody() -> Error {
    Error::new(ErrorKind::NoInstances, "no instance of limiters is healthy, not isolated and speaks gRPC")
}

/// Why limits are those of this process alone.
pub(super) fn alone(error: Error) -> Error {
    let why = format!("limiters are not reached, so shared quotas go by the fail-over of their rules: {error}");
    Error::new(ErrorKind::Network, why).with_source(error)
}
