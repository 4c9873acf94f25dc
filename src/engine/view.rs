//! One service as picks see it: the compiled view, and what stays while views come and go.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::balance::Selector;
use crate::engine::Policy;
use crate::engine::budget::Budget;
use crate::engine::gate::Gate;
use crate::error::{Error, ErrorKind, Result};
use crate::model::health::Breaker;
use crate::model::key::ServiceKey;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::Freshness;
use crate::model::subset::{Base, Subset};
use crate::registry::{Entry, Pin};
use crate::routing::Plan;

/// A service, compiled: never changed, replaced as a whole.
#[derive(Debug)]
pub(crate) struct ServiceView {
    /// All instances with their slots; none if there is no such service.
    pub(crate) base: Option<Arc<Base>>,
    pub(crate) plan: Plan<Leaf>,
}

/// What a request may pick from, and how.
pub(crate) struct Leaf {
    pub(crate) subset: Subset,
    pub(crate) selector: Box<dyn Selector>,
}

/// A service that somebody asked for.
pub(crate) struct Service {
    key: ServiceKey,
    /// Where its instances come from; none for a service that is refused for good.
    source: Option<Arc<Entry>>,
    pub(super) view: ArcSwapOption<ServiceView>,
    pub(super) policy: Arc<Policy>,
    pub(super) gate: Arc<Gate>,
    pub(super) refusals: Refusals,
    pub(super) budget: Budget,
    /// Whether any breaker of it was ever other than closed: until then a pick need not look at one.
    pub(super) guarded: AtomicBool,
    /// A breaker moved since the view was compiled.
    stale: AtomicBool,
    wake: watch::Sender<()>,
}

/// Refusals that a pick hands out, made ahead so that it formats nothing.
#[derive(Debug)]
pub(crate) struct Refusals {
    pub(crate) not_ready: Error,
    pub(crate) exhausted: Error,
    pub(crate) circuit_open: Error,
}

// === impl ServiceView ===

impl ServiceView {
    /// The view of a service that serves nobody.
    pub(crate) fn refused(error: Error) -> Self {
        Self { base: None, plan: Plan::Refused(error) }
    }

    /// All instances, routed or not.
    ///
    /// # Errors
    /// Why there is no list: the service does not exist.
    pub(crate) fn listed(&self) -> Result<&Arc<ServiceInstances>> {
        match (&self.base, &self.plan) {
            (Some(base), _) => Ok(base.instances()),
            (None, Plan::Refused(error)) => Err(error.clone()),
            (None, _) => Err(Error::new(ErrorKind::Internal, "a view without instances is routed")),
        }
    }
}

// === impl Service ===

impl Service {
    pub(crate) fn new(key: ServiceKey, source: Arc<Entry>, policy: Arc<Policy>, gate: Arc<Gate>) -> Self {
        Self::build(key, Some(source), policy, gate)
    }

    /// A service that answers every call with `error`, and asks the control plane nothing.
    pub(crate) fn refused(key: ServiceKey, error: Error, policy: Arc<Policy>, gate: Arc<Gate>) -> Self {
        let service = Self::build(key, None, policy, gate);
        service.view.store(Some(Arc::new(ServiceView::refused(error))));
        service
    }

    fn build(key: ServiceKey, source: Option<Arc<Entry>>, policy: Arc<Policy>, gate: Arc<Gate>) -> Self {
        Self {
            refusals: Refusals::new(&key),
            key,
            source,
            view: ArcSwapOption::empty(),
            policy,
            gate,
            budget: Budget::default(),
            guarded: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            wake: watch::Sender::new(()),
        }
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    pub(crate) fn source(&self) -> Option<&Arc<Entry>> {
        self.source.as_ref()
    }

    /// Keeps its instances subscribed while the pin is held.
    pub(crate) fn pin(&self) -> Option<Pin> {
        self.source.as_ref().map(Entry::pin)
    }

    /// Says that it is in use. No lock, and no write that threads share but the first after a sweep.
    #[inline]
    pub(super) fn touch(&self) {
        if let Some(source) = &self.source {
            source.touch();
        }
    }

    pub(crate) fn has_view(&self) -> bool {
        self.view.load().is_some()
    }

    /// The instances that are served now.
    pub(crate) fn snapshot(&self) -> Option<Arc<ServiceInstances>> {
        self.touch();
        let view = self.view.load();
        view.as_ref()?.listed().ok().cloned()
    }

    pub(crate) fn freshness(&self) -> Option<Freshness> {
        self.source.as_ref()?.freshness(Instant::now())
    }

    /// Wakes when a view was published.
    pub(super) fn published(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// Swaps the view and wakes who waits for it. The caller retires what comes back.
    pub(super) fn publish(&self, view: Option<ServiceView>) -> Option<Arc<ServiceView>> {
        let old = self.view.swap(view.map(Arc::new));
        self.wake.send_replace(());
        old
    }

    /// Moves the breaker of an instance. It acts on the next pick; whoever moves it marks the service for the compile
    /// task, so that routes see it too.
    #[cfg_attr(not(test), expect(dead_code, reason = "breakers that trip come with circuit breaking"))]
    pub(crate) fn set_breaker(&self, id: &str, state: Breaker) -> bool {
        let view = self.view.load();
        let base = view.as_ref().and_then(|view| view.base.as_ref());
        let Some(slot) = base.and_then(|base| base.slot_of(id)) else { return false };
        // Before the breaker, so that no pick that could see the state skips it.
        self.guarded.store(true, Ordering::Release);
        slot.set_breaker(state);
        self.stale.store(true, Ordering::Release);
        true
    }

    /// Whether a breaker moved since the last time this was asked.
    pub(super) fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("key", &self.key).field("source", &self.source).finish_non_exhaustive()
    }
}

// === impl Leaf, Refusals ===

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("subset", &self.subset).finish_non_exhaustive()
    }
}

impl Refusals {
    fn new(key: &ServiceKey) -> Self {
        let refuse = |kind, why: &'static str| Error::new(kind, why).with_service(key.text());
        Self {
            not_ready: refuse(ErrorKind::NotReady, "its instances are not loaded yet, and loading has been started"),
            exhausted: refuse(ErrorKind::Exhausted, "every instance that could be picked is excluded"),
            circuit_open: refuse(ErrorKind::CircuitOpen, "the breaker of every instance that is left is open"),
        }
    }
}
