//! A handle to one service.

use std::fmt;
use std::sync::Arc;

use crate::api::consumer::ConsumerApi;
use crate::api::watch::InstanceWatch;
use crate::engine::call::{Attempts, Call, CallError};
use crate::engine::view::Service;
use crate::error::Result;
use crate::model::call::Classify;
#[cfg(feature = "testing")]
use crate::model::health::Breaker;
use crate::model::instance::Instance;
use crate::model::key::ServiceKey;
use crate::model::request::instance::Pick;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::Freshness;
use crate::registry::Pin;

/// One service, looked up once and kept loaded.
///
/// Its calls fail as those of [`ConsumerApi`] do. Cheap to clone; keeps its context alive.
#[derive(Clone)]
#[must_use]
pub struct ServiceHandle {
    service: Arc<Service>,
    consumer: ConsumerApi,
    /// Shared by clones; none of a service that is refused for good.
    #[expect(dead_code, reason = "held, not read")]
    pin: Option<Arc<Pin>>,
}

impl ServiceHandle {
    pub(crate) fn new(consumer: ConsumerApi, key: &ServiceKey) -> Self {
        let (service, pin) = consumer.engine().pinned(key.as_ref());
        Self { service, consumer, pin: pin.map(Arc::new) }
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        self.service.key()
    }

    /// Picks one instance. Never waits; with the service loaded it allocates nothing and takes no lock.
    ///
    /// # Errors
    /// As [`ConsumerApi::pick`]: `NotReady` before the service is loaded, and then as
    /// [`ConsumerApi::get_one_instance`].
    #[inline]
    pub fn pick(&self, pick: &Pick<'_>) -> Result<Instance> {
        self.service.pick(pick)
    }

    /// Picks one instance and looks at it where it is: what handing it out costs is left out.
    #[cfg(feature = "testing")]
    #[inline]
    pub(crate) fn pick_with<T>(&self, pick: &Pick<'_>, look: impl FnOnce(&Instance) -> T) -> Result<T> {
        self.service.pick_with(pick, look)
    }

    /// Opens or closes the breaker of one instance.
    #[cfg(feature = "testing")]
    pub(crate) fn trip(&self, id: &str, open: bool) -> bool {
        self.service.set_breaker(id, if open { Breaker::Open } else { Breaker::Closed })
    }

    /// Picks one instance and starts a call to it, which counts as its load until it is finished or dropped.
    ///
    /// # Errors
    /// As [`pick`](Self::pick).
    pub fn start_call(&self, pick: &Pick<'_>) -> Result<Call> {
        self.service.start_call(pick)
    }

    /// Makes a call by `send`, and makes it again to another instance if it failed in a way that
    /// [allows it](Classify::is_retryable), within the bounds of `attempts`.
    ///
    /// Waits for the service to be loaded, at most for `global.api.timeout`. No instance is tried twice, and none that
    /// `pick` excludes is tried. When the time for all attempts is over, the one under way is dropped; such a time needs a
    /// tokio runtime around the caller.
    ///
    /// # Errors
    /// [`CallError`] tells a call that was never sent from one that was.
    ///
    /// # Cancel safety
    /// Dropping it drops the attempt under way, which then counts as cancelled.
    ///
    /// ```no_run
    /// # use polarismesh::{Attempts, Classify, Outcome, Pick, ServiceHandle};
    /// # #[derive(Debug)] struct Refused;
    /// # impl Classify for Refused {
    /// #     fn outcome(&self) -> Outcome { Outcome::NoAnswer }
    /// #     fn is_retryable(&self) -> bool { true }
    /// # }
    /// # async fn get(_: &str) -> Result<String, Refused> { Err(Refused) }
    /// # async fn example(payments: ServiceHandle) {
    /// let answer = payments
    ///     .call(&Pick::new(), Attempts::up_to(3), |instance| async move { get(instance.authority()).await })
    ///     .await;
    /// # let _ = answer;
    /// # }
    /// ```
    pub async fn call<T, E, F, Fut>(&self, pick: &Pick<'_>, attempts: Attempts, send: F) -> Result<T, CallError<E>>
    where
        F: FnMut(Instance) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Classify,
    {
        self.consumer.engine().call(&self.service, pick, attempts, send).await
    }

    /// Waits until the service is loaded, its rules included, at most for `global.api.timeout`.
    ///
    /// # Errors
    /// Those of [all calls](ConsumerApi#errors-of-all-calls).
    ///
    /// # Cancel safety
    /// Loading goes on when it is dropped.
    pub async fn ready(&self) -> Result<()> {
        self.consumer.engine().wait_ready(&self.service, None, None).await
    }

    /// Waits until the service is loaded for calls of `caller`, whose own rules count too, at most for
    /// `global.api.timeout`. Only the first pick that names a caller needs it.
    ///
    /// # Errors
    /// Those of [all calls](ConsumerApi#errors-of-all-calls).
    ///
    /// # Cancel safety
    /// Loading goes on when it is dropped.
    pub async fn ready_for(&self, caller: &ServiceKey) -> Result<()> {
        self.consumer.engine().wait_ready(&self.service, Some(caller), None).await
    }

    /// All instances as they are now; none before the service is loaded, or if it does not exist.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<ServiceInstances>> {
        self.service.snapshot()
    }

    /// Watches the instances.
    pub fn watch(&self) -> InstanceWatch {
        InstanceWatch::new(self.consumer.clone(), self.key())
    }

    /// How fresh the instances are at this moment; none before the service is loaded.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.service.freshness()
    }
}

impl fmt::Debug for ServiceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("service", &self.service).finish_non_exhaustive()
    }
}
