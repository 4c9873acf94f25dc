//! Discovering services and picking instances.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::api::handle::ServiceHandle;
use crate::api::watch::{InstanceWatch, ServicesWatch};
use crate::engine::Engine;
use crate::engine::future::ConsumerFuture;
use crate::error::Result;
use crate::model::call::Outcome;
use crate::model::instance::{Instance, InstanceId};
use crate::model::key::{ServiceKey, ServiceKeyRef};
use crate::model::namespace::Namespace;
use crate::model::request::instance::{GetInstances, GetOneInstance, Pick};
use crate::model::rule_kind::RuleKind;
use crate::model::service::{ServiceInstances, ServiceList};
use crate::model::snapshot::{Freshness, RuleSet};

/// What [`ConsumerApi::get_one_instance`] returns.
pub type GetOneInstanceFuture = ConsumerFuture<Instance>;

/// What [`ConsumerApi::get_instances`] and [`ConsumerApi::get_healthy_instances`] return.
pub type GetInstancesFuture = ConsumerFuture<Vec<Instance>>;

/// Finds services and picks instances of them.
///
/// A service is loaded at its first use and kept up to date from then on, until nobody has used it for
/// `consumer.localCache.serviceExpireTime`. So the first call waits for the control plane, at most for the time-out, and
/// every later one is answered from memory. Cheap to clone; keeps its context alive.
///
/// # Errors of all calls
/// - `InvalidArgument`: a name that the control plane would not take, or a balancer that the context does not have,
/// - `ServiceNotFound`: the control plane does not know the service,
/// - `Timeout`, or the reason why it cannot be loaded (`Network`, `Unauthorized`, …): nothing came in time,
/// - `Closed`: the context was shut down, or its runtime is gone.
///
/// # Cancel safety
/// Dropping a future loses nothing: loading goes on, and the next call finds what came.
#[derive(Clone)]
pub struct ConsumerApi {
    engine: Engine,
    /// What keeps the context alive.
    #[expect(dead_code, reason = "held, not read")]
    context: Arc<dyn Any + Send + Sync>,
}

#[allow(single_use_lifetimes, reason = "an `impl Trait` argument cannot leave its lifetime out yet")]
impl ConsumerApi {
    pub(crate) fn new(engine: Engine, context: Arc<dyn Any + Send + Sync>) -> Self {
        Self { engine, context }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Picks one instance by routing and balancing.
    ///
    /// With the service loaded, it is picked while this is called: the future is ready and nothing is allocated.
    ///
    /// # Errors
    /// Those of [all calls](Self#errors-of-all-calls), `NoInstances` if routing leaves nobody, `Exhausted` if all that it
    /// leaves are excluded, `CircuitOpen` if the breakers of all others are open.
    pub fn get_one_instance<'a>(&self, request: impl Into<GetOneInstance<'a>>) -> GetOneInstanceFuture {
        self.engine.get_one(request.into())
    }

    /// Picks one instance and up to `replicas` others, all different: for data that is kept in several places. With a
    /// policy that hashes along a ring or a table, the others are the next ones on it, so that all clients agree on them.
    ///
    /// Fewer come back where there are fewer. Takes time linear in their number at worst.
    ///
    /// # Errors
    /// As [`get_one_instance`](Self::get_one_instance).
    pub fn get_replicas<'a>(&self, request: impl Into<GetOneInstance<'a>>, replicas: usize) -> GetInstancesFuture {
        self.engine.get_several(&request.into(), replicas)
    }

    /// The instances that routing leaves; an empty list if nobody is registered or may be picked. Where a rule shares calls
    /// among groups by weight, they are those of one group, drawn as a pick draws it. Takes time linear in their number.
    ///
    /// # Errors
    /// Those of [all calls](Self#errors-of-all-calls).
    pub fn get_instances<'a>(&self, request: impl Into<GetInstances<'a>>) -> GetInstancesFuture {
        self.engine.get_routed(&request.into())
    }

    /// The instances that can serve now, not routed: healthy, not isolated, of a weight above 0, without an open breaker.
    /// Takes time linear in the number of all.
    ///
    /// # Errors
    /// Those of [all calls](Self#errors-of-all-calls).
    pub fn get_healthy_instances<'a>(&self, request: impl Into<GetInstances<'a>>) -> GetInstancesFuture {
        self.engine.get_healthy(&request.into())
    }

    /// All instances, unhealthy and isolated ones included, with the service's revision and metadata.
    ///
    /// # Errors
    /// Those of [all calls](Self#errors-of-all-calls).
    pub fn get_all_instances<'a>(&self, request: impl Into<GetInstances<'a>>) -> ConsumerFuture<Arc<ServiceInstances>> {
        self.engine.get_all(&request.into())
    }

    /// The services of a namespace; of all namespaces if its name is empty. Waits at most for `global.api.timeout`.
    ///
    /// # Errors
    /// Those of [all calls](Self#errors-of-all-calls).
    pub fn get_services(&self, namespace: impl Into<Namespace>) -> ConsumerFuture<Arc<ServiceList>> {
        self.engine.get_services(&namespace.into())
    }

    /// The rules of one kind that concern a service, as JSON text with their revision; empty if there are none, or if
    /// there is no such service. Waits at most for `global.api.timeout`.
    ///
    /// # Errors
    /// Those of [all calls](Self#errors-of-all-calls), but for `ServiceNotFound`.
    pub fn get_rule(&self, key: impl Into<ServiceKey>, kind: RuleKind) -> ConsumerFuture<Arc<RuleSet>> {
        self.engine.get_rule(&key.into(), kind.into())
    }

    /// How fresh the rules of one kind are that [`get_rule`](Self::get_rule) answers with at this moment; none before
    /// they were asked for and came.
    #[must_use]
    pub fn rule_freshness(&self, key: impl Into<ServiceKey>, kind: RuleKind) -> Option<Freshness> {
        self.engine.rule_freshness(&key.into(), kind.into())
    }

    /// Watches the instances of a service, and keeps it loaded meanwhile.
    pub fn watch_instances(&self, key: impl Into<ServiceKey>) -> InstanceWatch {
        InstanceWatch::new(self.clone(), &key.into())
    }

    /// Watches the services of a namespace; of all namespaces if its name is empty.
    pub fn watch_services(&self, namespace: impl Into<Namespace>) -> ServicesWatch {
        ServicesWatch::new(self.clone(), &namespace.into())
    }

    /// A handle to one service, for hot and for sync callers: its name is looked up once. Starts loading the service, and
    /// keeps it loaded while the handle lives.
    ///
    /// A name that the control plane would not take is told by the calls of the handle.
    pub fn service(&self, key: impl Into<ServiceKey>) -> ServiceHandle {
        ServiceHandle::new(self.clone(), &key.into())
    }

    /// Picks one instance without waiting. With the service loaded, this allocates nothing and takes no lock.
    ///
    /// # Errors
    /// As [`get_one_instance`](Self::get_one_instance); `NotReady` if the service is not loaded yet, and loading starts.
    pub fn pick<'k>(&self, key: impl Into<ServiceKeyRef<'k>>, pick: &Pick<'_>) -> Result<Instance> {
        self.engine.pick(key.into(), pick)
    }

    /// Tells how a call went that was made without a [`Call`](crate::Call). A report of an instance that has left
    /// meanwhile is taken and has no effect.
    ///
    /// # Errors
    /// `NotFound` if the instance's service is not loaded in this context, `Closed`.
    pub fn report_call(&self, instance: &InstanceId, outcome: Outcome, delay: Duration) -> Result<()> {
        self.engine.report_call(instance, outcome, delay)
    }
}

impl fmt::Debug for ConsumerApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerApi").finish_non_exhaustive()
    }
}
