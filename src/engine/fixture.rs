//! An engine over a registry that a test feeds by hand: no control plane, no network.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::balance::{LoadBalancer, WeightedRandom};
use crate::config::{EmptyPolicy, LocalCache};
use crate::engine::location::LocationCell;
use crate::engine::view::Service;
use crate::engine::{Engine, EngineOptions, Policy};
use crate::error::{Error, ServerCode};
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::instance::Instance;
use crate::model::key::{ResourceKind, Revision, ServiceEventKey, ServiceKey};
use crate::model::location::Location;
use crate::model::request::instance::Pick;
use crate::model::rule::Compiled;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::{Answer, Resource, RuleSet};
use crate::plugin::Roster;
use crate::registry::{LocalRegistry, RegistryOptions, Subscriptions, Writer};
use crate::routing::{Chain, Isolated, Recover};
use crate::transport::discover::ResourceSink;
use crate::util::clock::WallClock;
use crate::util::task::TaskScope;

pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Fixture {
    pub(crate) engine: Engine,
    pub(crate) scope: TaskScope,
    writer: Arc<Writer>,
    wanted: Wanted,
}

/// What the control plane is asked for.
#[derive(Clone, Default)]
struct Wanted(Arc<Mutex<Vec<ServiceEventKey>>>);

impl Subscriptions for Wanted {
    fn want(&self, key: ServiceEventKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    fn forget(&self, _: &ServiceEventKey) {}
}

pub(crate) fn key() -> ServiceKey {
    ServiceKey::new("default", "a")
}

/// Instances by id and weight; each listens on `port`.
pub(crate) fn instances(list: &[(&str, u32)], port: u32) -> ServiceInstances {
    let mut builder = SnapshotBuilder::new(key());
    for (id, weight) in list {
        let parts = InstanceParts { id, host: "10.0.0.1", port, weight: *weight, ..InstanceParts::default() };
        builder.push(parts, []).unwrap();
    }
    builder.finish(Revision::new(&format!("{port} {list:?}")), [], None)
}

impl Fixture {
    /// On the current runtime.
    pub(crate) fn new() -> Self {
        Self::build(&Handle::current(), Arc::new(WeightedRandom), true, None)
    }

    pub(crate) fn build(
        runtime: &Handle,
        balancer: Arc<dyn LoadBalancer>,
        recover_all: bool,
        expire_after: Option<Duration>,
    ) -> Self {
        let routers = Chain::new(vec![
            ("isolatedRouter".into(), Arc::new(Isolated)),
            ("recoverRouter".into(), Arc::new(Recover::new(recover_all, 0.0))),
        ]);
        let policy = Policy {
            chain: routers.clone(),
            routers,
            balancers: Roster::new(vec![("weightedRandom".to_owned(), balancer)], 0),
            recover_all,
            strict_rules: false,
            caller: None,
            variables: Arc::default(),
            adjuster: None,
        };
        Self::with_policy(runtime, policy, expire_after)
    }

    /// With this policy.
    pub(crate) fn with_policy(runtime: &Handle, policy: Policy, expire_after: Option<Duration>) -> Self {
        let _entered = runtime.enter();
        let scope = TaskScope::new(runtime.clone());
        let mut config = LocalCache::default();
        config.empty_guard.policy = EmptyPolicy::Accept;
        config.service_expire_enable = expire_after.is_some();
        config.service_expire_time = expire_after.unwrap_or_default();
        let options = RegistryOptions::new(&config, WallClock::start(), Vec::new());
        let (registry, writer) = LocalRegistry::new(options, scope.clone());
        let wanted = Wanted::default();
        registry.attach(wanted.clone());
        let location = LocationCell::new(Location::default());
        let options = EngineOptions { policy, api_timeout: API_TIMEOUT };
        let engine = Engine::new(registry, scope.clone(), location, options);
        Self { engine, scope, writer, wanted }
    }

    /// The control plane answers with these instances.
    pub(crate) fn serve(&self, list: &[(&str, u32)]) {
        self.answer(ResourceKind::Instances, full(Resource::Instances(Arc::new(instances(list, 80)))));
    }

    pub(crate) fn serve_snapshot(&self, snapshot: ServiceInstances) {
        self.answer(ResourceKind::Instances, full(Resource::Instances(Arc::new(snapshot))));
    }

    pub(crate) fn serve_rules(&self, kind: ResourceKind, json: &str) {
        let rules = RuleSet {
            service: key(),
            kind,
            revision: Revision::new("1"),
            json: json.into(),
            compiled: Compiled::Unread,
        };
        self.answer(kind, full(Resource::Rules(Arc::new(rules))));
    }

    pub(crate) fn not_found(&self) {
        let answer = Answer::NotFound { code: ServerCode::new(400_301), info: "no such service".into() };
        self.answer(ResourceKind::Instances, answer);
    }

    pub(crate) fn fail(&self, error: Error) {
        self.answer(ResourceKind::Instances, Answer::Failed(error));
    }

    pub(crate) fn answer_to(&self, key: &ServiceEventKey, answer: Answer) {
        self.writer.apply(key, answer);
    }

    fn answer(&self, kind: ResourceKind, answer: Answer) {
        self.writer.apply(&key().of(kind), answer);
    }

    /// The service, asked for.
    pub(crate) fn service(&self) -> Arc<Service> {
        self.engine.service(key().as_ref())
    }

    /// The service with this list, loaded.
    pub(crate) async fn warm(&self, list: &[(&str, u32)]) -> Arc<Service> {
        let service = self.service();
        self.serve(list);
        self.engine.ready(&service, None, API_TIMEOUT).await.unwrap();
        service
    }

    /// Waits until the view satisfies `condition`.
    pub(crate) async fn until(&self, service: &Service, condition: impl Fn(&Service) -> bool) {
        let mut published = service.published();
        let reached = async {
            while !condition(service) {
                published.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the view never came");
    }

    /// How often a key was asked for.
    pub(crate) fn wants(&self, kind: ResourceKind) -> usize {
        self.wanted.0.lock().unwrap().iter().filter(|key| key.kind == kind).count()
    }
}

fn full(resource: Resource) -> Answer {
    Answer::Full { resource, skipped: Vec::new() }
}

/// The ids of many picks, each once, in order.
pub(crate) fn picked(service: &Service, pick: &Pick<'_>) -> Vec<String> {
    let mut ids: Vec<_> = (0..200).map(|_| id(&service.pick(pick).unwrap())).collect();
    ids.sort();
    ids.dedup();
    ids
}

pub(crate) fn id(instance: &Instance) -> String {
    instance.id().as_str().to_owned()
}
