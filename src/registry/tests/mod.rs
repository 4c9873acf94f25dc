//! The registry as its callers and the discover worker see it, on a paused clock.

mod disk;
mod expiry;
mod sequences;
mod serving;
mod watching;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::*;
use crate::error::ServerCode;
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::key::Revision;
use crate::model::snapshot::{Answer, RuleSet};
use crate::registry::cache::CacheOptions;
use crate::registry::guard::GuardPolicy;
use crate::transport::discover::{LinkState, ResourceSink};
use crate::util::clock::WallClock;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const WINDOW: Duration = Duration::from_secs(6);

/// A registry whose control plane is the test.
pub(super) struct Bench {
    pub(super) registry: LocalRegistry,
    pub(super) writer: Arc<Writer>,
    pub(super) scope: TaskScope,
    pub(super) asked: Recorder,
}

/// The keys that are wanted now.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<BTreeSet<ServiceEventKey>>>);

impl Recorder {
    pub(super) fn wants(&self, key: &ServiceEventKey) -> bool {
        self.0.lock().unwrap().contains(key)
    }
}

impl Subscriptions for Recorder {
    fn want(&self, key: ServiceEventKey) {
        self.0.lock().unwrap().insert(key);
    }

    fn forget(&self, key: &ServiceEventKey) {
        self.0.lock().unwrap().remove(key);
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    pub(super) fn with(options: RegistryOptions) -> Self {
        let scope = TaskScope::new(Handle::current());
        let (registry, writer) = LocalRegistry::new(options, scope.clone());
        let asked = Recorder::default();
        registry.attach(asked.clone());
        Self { registry, writer, scope, asked }
    }

    pub(super) fn up(&self) {
        self.writer.link(LinkState::Up { server: "10.0.0.1:8091".into() });
    }

    pub(super) fn down(&self) {
        let error = Error::new(ErrorKind::Network, "connection refused").with_address("10.0.0.1:8091");
        self.writer.link(LinkState::Down { server: Some("10.0.0.1:8091".into()), error });
    }

    /// Waits for a second. Borrows nothing, so that it can be joined with what the control plane does meanwhile.
    pub(super) fn ready(&self, key: &ServiceEventKey) -> impl Future<Output = Result<Resource>> + use<> {
        self.ready_within(key, SECOND)
    }

    pub(super) fn ready_within(
        &self,
        key: &ServiceEventKey,
        within: Duration,
    ) -> impl Future<Output = Result<Resource>> + use<> {
        let (registry, key, deadline) = (self.registry.clone(), key.clone(), Instant::now() + within);
        async move { registry.ready(&key, deadline).await }
    }

    /// The ids that are served.
    pub(super) fn ids(&self, key: &ServiceEventKey) -> Option<Vec<String>> {
        match self.registry.peek(key)?.served()? {
            Resource::Instances(list) => Some(ids(&list)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn stale(&self, key: &ServiceEventKey) -> bool {
        self.registry.entry(key).freshness(Instant::now()).unwrap().stale
    }
}

pub(super) fn options() -> RegistryOptions {
    RegistryOptions {
        expire_after: None,
        guard: GuardPolicy::Guard { window: WINDOW, shrink_percent: 80 },
        cache: None,
        clock: WallClock::start(),
        fixed: Vec::new(),
    }
}

pub(super) fn key() -> ServiceEventKey {
    ServiceKey::new("default", "pay").of(ResourceKind::Instances)
}

pub(super) fn rule_key() -> ServiceEventKey {
    ServiceKey::new("default", "pay").of(ResourceKind::Routing)
}

pub(super) fn ids(list: &ServiceInstances) -> Vec<String> {
    list.instances().iter().map(|instance| instance.id().as_str().to_owned()).collect()
}

pub(super) fn instances(revision: &str, ids: &[&str]) -> ServiceInstances {
    let mut builder = SnapshotBuilder::new(key().service);
    for id in ids {
        builder
            .push(InstanceParts { id, host: "10.0.0.7", port: 80, ..InstanceParts::default() }, [("k", "v")])
            .unwrap();
    }
    builder.finish(Revision::new(revision), [], None)
}

pub(super) fn full(revision: &str, ids: &[&str]) -> Answer {
    Answer::Full { resource: Resource::Instances(Arc::new(instances(revision, ids))), skipped: Vec::new() }
}

/// A list of `n` instances.
pub(super) fn many(revision: &str, n: usize) -> Answer {
    let ids: Vec<String> = (0..n).map(|id| format!("i{id:04}")).collect();
    full(revision, &ids.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(super) fn rules(revision: &str, json: &str) -> Answer {
    let mut rules = RuleSet::empty(rule_key().service, ResourceKind::Routing);
    rules.revision = Revision::new(revision);
    rules.json = json.into();
    Answer::Full { resource: Resource::Rules(Arc::new(rules)), skipped: Vec::new() }
}

pub(super) fn not_found() -> Answer {
    Answer::NotFound { code: ServerCode::NOT_FOUND_SERVICE, info: "not found service".to_owned() }
}

pub(super) fn failed(kind: ErrorKind) -> Answer {
    Answer::Failed(Error::new(kind, "discovering instances").with_service("default/pay"))
}
