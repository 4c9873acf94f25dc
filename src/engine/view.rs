//! One service as picks see it: the compiled view, and what stays while views come and go.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::Policy;
use crate::engine::budget::Budget;
use crate::engine::gate::Gate;
use crate::engine::inputs::{Inputs, RuleSources, Rules};
use crate::engine::leaf::Leaf;
use crate::engine::services::Marks;
use crate::error::{Error, ErrorKind, Result};
use crate::model::health::Breaker;
use crate::model::key::ServiceKey;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::Freshness;
use crate::model::subset::Base;
use crate::registry::{Entry, Pin};
use crate::routing::{Node, Surroundings};

/// A service, compiled: never changed, replaced as a whole.
#[derive(Debug)]
pub(crate) struct ServiceView {
    /// All instances with their slots; none if there is no such service.
    pub(crate) base: Option<Arc<Base>>,
    /// What it was made of.
    pub(super) inputs: Inputs,
    /// The moves of breakers that it knows of.
    pub(super) moves: u32,
    /// Of calls that do not say who makes them.
    pub(super) plain: Arc<CallerPlan>,
    /// Of the callers that were named, ordered by key.
    pub(super) callers: Box<[Arc<CallerPlan>]>,
    /// Why there is no list.
    pub(super) missing: Option<Error>,
}

/// The plan of one caller, and what it was made with, for what is made of it later.
#[derive(Debug)]
pub(crate) struct CallerPlan {
    pub(crate) caller: Option<ServiceKey>,
    pub(crate) root: Node<Leaf>,
    pub(crate) surroundings: Surroundings,
    /// The caller's own rules.
    pub(super) rules: Rules,
}

/// A service that somebody asked for.
pub(crate) struct Service {
    key: ServiceKey,
    /// Where its instances come from; none for a service that is refused for good.
    source: Option<Arc<Entry>>,
    pub(super) rules: RuleSources,
    pub(super) view: ArcSwapOption<ServiceView>,
    pub(super) policy: Arc<Policy>,
    pub(super) gate: Arc<Gate>,
    pub(super) refusals: Refusals,
    pub(super) budget: Budget,
    /// How often a breaker of it moved. A view knows of the moves before it: only while there are later ones does a pick
    /// look at breakers itself.
    pub(super) moves: AtomicU32,
    /// A breaker moved since the view was compiled, or its tables are full.
    stale: AtomicBool,
    marks: Arc<Marks>,
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
        Self {
            base: None,
            inputs: Inputs::default(),
            moves: 0,
            plain: Arc::new(CallerPlan::refused(None, error.clone())),
            callers: Box::default(),
            missing: Some(error),
        }
    }

    /// All instances, routed or not.
    ///
    /// # Errors
    /// Why there is no list: the service does not exist.
    pub(crate) fn listed(&self) -> Result<&Arc<ServiceInstances>> {
        match (&self.base, &self.missing) {
            (Some(base), _) => Ok(base.instances()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(Error::new(ErrorKind::Internal, "a view without instances is routed")),
        }
    }

    /// The plan for calls of `caller`; none if it was not compiled yet.
    #[inline]
    pub(super) fn plan(&self, caller: Option<&ServiceKey>) -> Option<&Arc<CallerPlan>> {
        let Some(caller) = caller else { return Some(&self.plain) };
        if self.plain.caller.as_ref() == Some(caller) || self.missing.is_some() {
            return Some(&self.plain);
        }
        match &*self.callers {
            [only] => (only.caller.as_ref() == Some(caller)).then_some(only),
            callers => {
                let at = callers.binary_search_by(|plan| plan.caller.as_ref().cmp(&Some(caller))).ok()?;
                callers.get(at)
            }
        }
    }
}

// === impl Service ===

impl Service {
    pub(crate) fn new(
        key: ServiceKey,
        source: Arc<Entry>,
        rules: RuleSources,
        policy: Arc<Policy>,
        gate: Arc<Gate>,
        marks: Arc<Marks>,
    ) -> Self {
        Self::build(key, Some(source), rules, policy, gate, marks)
    }

    /// A service that answers every call with `error`, and asks the control plane nothing.
    pub(crate) fn refused(key: ServiceKey, error: Error, policy: Arc<Policy>, gate: Arc<Gate>) -> Self {
        let service = Self::build(key, None, RuleSources::default(), policy, gate, Arc::default());
        service.view.store(Some(Arc::new(ServiceView::refused(error))));
        service
    }

    fn build(
        key: ServiceKey,
        source: Option<Arc<Entry>>,
        rules: RuleSources,
        policy: Arc<Policy>,
        gate: Arc<Gate>,
        marks: Arc<Marks>,
    ) -> Self {
        Self {
            refusals: Refusals::new(&key),
            key,
            source,
            rules,
            view: ArcSwapOption::empty(),
            policy,
            gate,
            budget: Budget::default(),
            moves: AtomicU32::new(0),
            stale: AtomicBool::new(false),
            marks,
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

    #[cfg(test)]
    pub(crate) fn has_view(&self) -> bool {
        self.view.load().is_some()
    }

    /// Whether calls of `caller` can be answered; if they cannot, its rules are asked for from now on.
    pub(super) fn serves(&self, caller: Option<&ServiceKey>) -> bool {
        if self.view.load().as_ref().is_some_and(|view| view.plan(caller).is_some()) {
            return true;
        }
        if let Some(caller) = caller
            && self.rules.add_caller(caller)
        {
            self.marks.name_caller();
            self.mark();
        }
        false
    }

    /// A call has waited for all of its time: what is there now has to do.
    pub(super) fn lose_patience(&self) {
        self.rules.lose_patience();
        self.mark();
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

    /// Asks the compile task to look at it.
    pub(super) fn mark(&self) {
        self.marks.mark(&self.key);
    }

    /// Moves the breaker of an instance. It acts on the next pick, and the view is compiled anew, so that routes see it.
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "breakers that trip come with circuit breaking"))]
    pub(crate) fn set_breaker(&self, id: &str, state: Breaker) -> bool {
        let view = self.view.load();
        let base = view.as_ref().and_then(|view| view.base.as_ref());
        let Some(slot) = base.and_then(|base| base.slot_of(id)) else { return false };
        slot.set_breaker(state);
        // After the breaker: a view that knows of this move has seen what it did.
        self.moves.fetch_add(1, Ordering::Release);
        self.renew();
        true
    }

    /// Has the view made anew from what it was made of.
    pub(super) fn renew(&self) {
        if !self.stale.swap(true, Ordering::AcqRel) {
            self.mark();
        }
    }

    /// Whether the view is to be made anew since the last time this was asked.
    pub(super) fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("key", &self.key).field("source", &self.source).finish_non_exhaustive()
    }
}

// === impl CallerPlan, Refusals ===

impl CallerPlan {
    pub(super) fn refused(caller: Option<ServiceKey>, error: Error) -> Self {
        let surroundings = Surroundings { caller: caller.clone(), ..Surroundings::default() };
        Self { caller, root: Node::refused(error), surroundings, rules: Rules::Unwanted }
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
