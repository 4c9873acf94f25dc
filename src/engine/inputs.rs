//! What a view is made of: where each part comes from, and whether all of it is there yet.
//!
//! Instances and rules are asked for together. A view waits for the rules as long as a call waits for anything, so that
//! the first pick follows them; but rules that cannot be had never take the instances away, unless that is wished for
//! (`strictRules`).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Policy;
use crate::error::{Error, ErrorKind};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::model::location::Location;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::{Resource, RuleSet};
use crate::registry::{Entry, EntryState, LocalRegistry, Pin};
use crate::util::deadline::after;

/// The router that follows rules, and the one that follows locations.
const BY_RULES: &str = "ruleBasedRouter";
const NEARBY: &str = "nearbyBasedRouter";
/// The most callers of one service that are told apart; of more, the one that came first is asked for anew.
const CALLERS: usize = 1024;

/// Where the rules of a service come from.
#[derive(Default)]
pub(crate) struct RuleSources {
    inbound: Option<Pin>,
    nearby: Option<Pin>,
    /// The rules of the caller that the configuration names.
    own: Option<Pin>,
    /// When they were asked for.
    asked: Option<Instant>,
    /// When a call last had waited for all of its time: what was asked for before is not waited for any more.
    impatient: Mutex<Option<Instant>>,
    callers: Mutex<Vec<CallerSource>>,
    /// How long a view waits for them.
    patience: Duration,
    /// What asks for the rules of callers; none where no router wants them.
    asks: Option<LocalRegistry>,
}

/// A caller that calls named.
#[derive(Clone)]
pub(super) struct CallerSource {
    pub(super) key: ServiceKey,
    outbound: Option<Arc<Pin>>,
    asked: Option<Instant>,
}

/// The parts of a view.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    pub(super) instances: Option<Arc<ServiceInstances>>,
    pub(super) inbound: Rules,
    pub(super) nearby: Rules,
    pub(super) own: Rules,
    pub(super) location: Arc<Location>,
    pub(super) weights: Option<Arc<[u32]>>,
}

/// Rules of one kind, as they are there.
#[derive(Debug, Clone, Default)]
pub(crate) enum Rules {
    /// Nobody wants them.
    #[default]
    Unwanted,
    There(Arc<RuleSet>),
    /// They cannot be had.
    Missing(Error),
    /// They are on their way, and worth waiting for until then.
    Awaited(Instant),
}

// === impl RuleSources ===

impl RuleSources {
    /// Asks for what the routers of `policy` follow.
    pub(super) fn new(key: &ServiceKey, policy: &Policy, registry: &LocalRegistry, patience: Duration) -> Self {
        let pin = |service: &ServiceKey, kind| registry.entry(&service.of(kind)).pin();
        let by_rules = policy.chain.has(BY_RULES);
        Self {
            inbound: by_rules.then(|| pin(key, ResourceKind::Routing)),
            nearby: policy.chain.has(NEARBY).then(|| pin(key, ResourceKind::NearbyRoute)),
            own: policy.caller.as_ref().filter(|_| by_rules).map(|caller| pin(caller, ResourceKind::Routing)),
            asked: Some(Instant::now()),
            impatient: Mutex::default(),
            callers: Mutex::default(),
            patience,
            asks: by_rules.then(|| registry.clone()),
        }
    }

    /// Asks for the rules of a caller; whether it is a new one.
    pub(super) fn add_caller(&self, caller: &ServiceKey) -> bool {
        let mut callers = self.lock();
        if callers.iter().any(|known| known.key == *caller) {
            return false;
        }
        if callers.len() >= CALLERS {
            callers.remove(0);
        }
        let outbound = self.asks.as_ref().filter(|_| caller.validate().is_ok());
        callers.push(CallerSource {
            key: caller.clone(),
            outbound: outbound.map(|registry| Arc::new(registry.entry(&caller.of(ResourceKind::Routing)).pin())),
            asked: Some(Instant::now()),
        });
        true
    }

    /// A call has waited for all of its time: what is there now has to do.
    pub(super) fn lose_patience(&self) {
        *self.impatient.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the rules of this caller count for a view.
    pub(super) fn are_of_caller(&self, caller: &ServiceKey) -> bool {
        let is = |pin: &Pin| pin.entry().key().service == *caller;
        self.own.iter().any(is) || self.lock().iter().filter_map(|known| known.outbound.as_deref()).any(is)
    }

    pub(super) fn inbound(&self) -> Rules {
        self.read(self.inbound.as_ref(), self.asked)
    }

    pub(super) fn nearby(&self) -> Rules {
        self.read(self.nearby.as_ref(), self.asked)
    }

    pub(super) fn own(&self) -> Rules {
        self.read(self.own.as_ref(), self.asked)
    }

    /// The callers, ordered by key, each with its rules.
    pub(super) fn callers(&self) -> Vec<(ServiceKey, Rules)> {
        let mut callers = self.lock().clone();
        callers.sort_by(|a, b| a.key.cmp(&b.key));
        let read = |caller: CallerSource| (caller.key, self.read(caller.outbound.as_deref(), caller.asked));
        callers.into_iter().map(read).collect()
    }

    fn read(&self, pin: Option<&Pin>, asked: Option<Instant>) -> Rules {
        let Some(entry) = pin.map(Pin::entry) else { return Rules::Unwanted };
        match (entry.served(), entry.state()) {
            (Some(Resource::Rules(rules)), _) => Rules::There(rules),
            (_, EntryState::Loading) => match asked.and_then(|asked| self.worth_waiting(asked)) {
                Some(until) => Rules::Awaited(until),
                None => Rules::Missing(late(entry)),
            },
            (_, EntryState::Failed(error) | EntryState::NotFound(error)) => Rules::Missing(error),
            (_, EntryState::Ready) => Rules::Missing(late(entry)),
        }
    }

    /// Until when to wait for what was asked for then, if it is worth waiting at all.
    fn worth_waiting(&self, asked: Instant) -> Option<Instant> {
        let lost = *self.impatient.lock().unwrap_or_else(PoisonError::into_inner);
        let until = after(asked, self.patience);
        (Instant::now() < until && lost.is_none_or(|lost| lost < asked)).then_some(until)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<CallerSource>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late(entry: &Entry) -> Error {
    let error = Error::new(ErrorKind::Timeout, format!("{} did not come in time", entry.key().kind));
    error.with_service(entry.key().service.text())
}

impl fmt::Debug for RuleSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSources").field("asked", &self.asked).finish_non_exhaustive()
    }
}

// === impl Inputs ===

impl Inputs {
    /// Whether what all callers have in common is the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        let same_list = match (&self.instances, &other.instances) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_list
            && self.inbound.same(&other.inbound)
            && self.nearby.same(&other.nearby)
            && self.location == other.location
            && self.weights == other.weights
    }

    /// The first moment at which it is complete, if it is not.
    pub(super) fn awaited(&self) -> Option<Instant> {
        [&self.inbound, &self.nearby, &self.own].into_iter().filter_map(Rules::awaited).min()
    }
}

// === impl Rules ===

impl Rules {
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::There(a), Self::There(b)) => Arc::ptr_eq(a, b),
            // Without rules it is the same, whatever the reason; the reason is seen in the state.
            (Self::There(_), _) | (_, Self::There(_)) => false,
            _ => true,
        }
    }

    pub(super) fn awaited(&self) -> Option<Instant> {
        match self {
            Self::Awaited(until) => Some(*until),
            _ => None,
        }
    }

    pub(super) fn there(&self) -> Option<&RuleSet> {
        match self {
            Self::There(rules) => Some(rules),
            _ => None,
        }
    }

    pub(super) fn missing(&self) -> Option<&Error> {
        match self {
            Self::Missing(error) => Some(error),
            _ => None,
        }
    }
}
