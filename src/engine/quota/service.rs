//! One service whose calls are limited: the rules in force, and what they decide about a call.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use crate::config::OnUnknown;
use crate::engine::quota::Shared;
use crate::engine::quota::active::{ActiveRule, Asking, Counting, RuleUsage};
use crate::engine::quota::outcome::{Decision, Limited, Permit, Place, Ticket};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::limiter::{Clock, Taken};
use crate::limit::plan::Plan;
use crate::model::candidates::{Values, Walk};
use crate::model::key::ServiceKey;
use crate::model::request::quota::Quota;
use crate::model::rule::limit::{Limit, LimitRule, Scope};
use crate::model::snapshot::{Resource, RuleSet};
use crate::registry::{EntryState, Pin};

/// How many moments of paced rules are kept without allocating, should the call be refused after all.
const PLACES: usize = 4;

/// A service that quotas were asked of.
pub(crate) struct LimitedService {
    key: ServiceKey,
    /// Keeps its rules subscribed; none of a service that is refused for good.
    source: Option<Pin>,
    refused: Option<Error>,
    in_force: ArcSwapOption<InForce>,
    /// Held to change what is in force.
    changing: Mutex<()>,
    not_ready: Error,
    /// A call has waited for the rules in vain: the next ones do not.
    waited_in_vain: AtomicBool,
    used: AtomicBool,
    /// How many purges have found it unused.
    pub(super) unused: AtomicU32,
}

/// The rules in force: never changed, replaced as a whole.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) service: ServiceKey,
    plan: Plan,
    rules: Box<[Arc<ActiveRule>]>,
    /// Whether the time of each call is to be exact: a few that count into an old slice would be a part of what may pass.
    exact: bool,
    /// What they were made of; none where the service does not exist.
    source: Option<Arc<RuleSet>>,
}

/// Moments that a call was given by paced rules, each with the number of its rule.
struct Places {
    few: [(usize, u64); PLACES],
    more: Vec<(usize, u64)>,
    len: usize,
    /// The rules that had no slot for the call.
    uncounted: Vec<usize>,
}

// === impl LimitedService ===

impl LimitedService {
    pub(super) fn new(key: ServiceKey, source: Pin) -> Self {
        Self::build(key, Some(source), None)
    }

    /// A service of which every quota is refused with `error`.
    pub(super) fn refused(key: ServiceKey, error: Error) -> Self {
        Self::build(key, None, Some(error))
    }

    fn build(key: ServiceKey, source: Option<Pin>, refused: Option<Error>) -> Self {
        let not_ready = Error::new(ErrorKind::NotReady, "the rate-limit rules are not loaded yet");
        let not_ready = not_ready.with_service(key.text());
        Self {
            key,
            source,
            refused,
            in_force: ArcSwapOption::empty(),
            changing: Mutex::new(()),
            not_ready,
            waited_in_vain: AtomicBool::new(false),
            used: AtomicBool::new(true),
            unused: AtomicU32::new(0),
        }
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    pub(super) fn source(&self) -> Option<&Pin> {
        self.source.as_ref()
    }

    pub(super) fn refusal(&self) -> Option<&Error> {
        self.refused.as_ref()
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.in_force.load().is_some()
    }

    /// Whether a call is to wait for the rules: one that does so in vain is enough, until they come.
    pub(super) fn is_worth_waiting(&self) -> bool {
        !self.waited_in_vain.load(Ordering::Relaxed)
    }

    pub(super) fn has_waited_in_vain(&self) {
        self.waited_in_vain.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked since the last time that this was.
    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// What the rules decide about a call; none before they are loaded.
    #[inline]
    pub(super) fn decide(&self, shared: &Arc<Shared>, quota: &Quota<'_>) -> Option<Decision> {
        // Read before it is written, so that threads share the line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        let in_force = self.in_force.load();
        let rules = in_force.as_deref()?;
        if rules.plan.is_empty() {
            return Some(Decision::Granted(Permit::new()));
        }
        let now = if rules.exact { shared.clock.micros() } else { shared.clock.coarse() };
        let mut values = Values::new(Some(quota));
        rules.plan.tell(&mut values, quota);
        let (mut permit, mut places, mut walk, mut taken) = (Permit::new(), Places::new(), Walk::default(), false);
        while let Some(at) = rules.plan.next(&mut values, &mut walk) {
            let Some(active) = rules.rules.get(at) else { break };
            match rules.asking(at, &mut values, now).map(|mut call| active.take(shared, &mut call)) {
                Some(Ok(Counting::Counted)) => {}
                Some(Ok(Counting::Uncounted)) => places.uncounted.push(at),
                Some(Ok(Counting::Placed(place))) => places.push(at, place),
                Some(Ok(Counting::Entered(slot))) => permit.enter(slot),
                Some(Err(retry_after)) => {
                    active.count_limited();
                    if taken {
                        rules.give_back(&mut values, now, at, permit, &places);
                    }
                    return Some(Decision::Limited(Limited { rules: in_force, at, retry_after }));
                }
                None => break,
            }
            taken = true;
        }
        if places.len == 0 || places.latest() <= shared.clock.exact() {
            return Some(Decision::Granted(permit));
        }
        Some(Decision::Wait(rules.queue(shared, &mut values, now, permit, &places)))
    }

    /// What becomes of a call while the rules are not known.
    #[cold]
    pub(super) fn undecided(&self, on_unknown: OnUnknown, error: Option<Error>) -> Result<Decision> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let error = error.unwrap_or_else(|| match self.source.as_ref().map(|source| source.entry().state()) {
            Some(EntryState::Failed(error)) => error,
            _ => self.not_ready.clone(),
        });
        match on_unknown {
            OnUnknown::Admit => Ok(Decision::Granted(Permit::unknown_because(error))),
            OnUnknown::Reject => Err(error),
        }
    }

    /// Puts the rules that are there now in force; those that did not change go on as they are.
    pub(super) fn refresh(&self, shared: &Arc<Shared>) {
        let Some(source) = &self.source else { return };
        // Nothing is left half done by a panic: what is in force is swapped as a whole.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = match (source.entry().served(), source.entry().state()) {
            (Some(Resource::Rules(rules)), _) => Some(rules),
            (_, EntryState::NotFound(_)) => None,
            _ => return,
        };
        let old = self.in_force.load_full();
        let same = old.as_ref().is_some_and(|old| match (&old.source, &rules) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        });
        if !same {
            let new = InForce::new(&self.key, rules, old.as_deref(), shared);
            self.in_force.store(Some(Arc::new(new)));
        }
    }

    pub(crate) fn usage(&self) -> Vec<RuleUsage> {
        let in_force = self.in_force.load();
        in_force.as_ref().map(|rules| rules.rules.iter().map(|rule| rule.usage()).collect()).unwrap_or_default()
    }

    pub(super) fn purge(&self, clock: &impl Clock) {
        if let Some(rules) = self.in_force.load_full() {
            rules.rules.iter().for_each(|rule| rule.purge(clock));
        }
    }

    /// The name of a rule with an expression that was given up for some call.
    pub(super) fn gave_up(&self) -> Option<Arc<str>> {
        let in_force = self.in_force.load();
        let rules = in_force.as_ref()?.source.as_ref()?.limit()?;
        rules.gave_up().map(|rule| Arc::clone(&rule.name))
    }
}

impl fmt::Debug for LimitedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedService").field("key", &self.key).finish_non_exhaustive()
    }
}

// === impl InForce ===

impl InForce {
    fn new(service: &ServiceKey, source: Option<Arc<RuleSet>>, old: Option<&Self>, shared: &Arc<Shared>) -> Self {
        let limits = source.as_ref().and_then(|source| source.limit());
        let plan = limits.map(|rules| Plan::new(rules, &shared.options.variables)).unwrap_or_default();
        let rules = plan.rules().iter().map(|planned| {
            let kept = old.and_then(|old| old.rules.iter().find(|active| active.rule.is_same(&planned.rule)));
            kept.cloned().unwrap_or_else(|| Arc::new(ActiveRule::new(service, planned, shared)))
        });
        let rules = rules.collect();
        let amounts = limits.iter().flat_map(|rules| &rules.rules).filter_map(|rule| match &rule.limit {
            Limit::Quota { amounts, scope: Scope::Local } => amounts.iter().map(|amount| amount.calls).min(),
            _ => None,
        });
        let exact = amounts.min().is_some_and(|least| least < shared.coarse_from);
        Self { service: service.clone(), plan, rules, exact, source }
    }

    pub(super) fn rule(&self, at: usize) -> Option<&LimitRule> {
        self.rules.get(at).map(|active| &*active.rule)
    }

    #[inline]
    fn asking<'a, 'r>(&'a self, at: usize, values: &'a mut Values<'r>, now: u64) -> Option<Asking<'a, 'r>> {
        let text = &self.plan.rules().get(at)?.text;
        Some(Asking { service: &self.service, text, labels: self.plan.slots(), values, now })
    }

    /// What each rule before `until` took of this call, in their order; but for where it is under way, which its permit
    /// knows.
    fn taken(
        &self,
        values: &mut Values<'_>,
        now: u64,
        until: usize,
        places: &Places,
        mut then: impl FnMut(usize, &mut Asking<'_, '_>, Taken),
    ) {
        let mut walk = Walk::default();
        while let Some(at) = self.plan.next(values, &mut walk).filter(|at| *at < until) {
            let taken = match self.rules.get(at).map(|active| &active.rule.limit) {
                Some(Limit::Quota { .. }) if !places.uncounted.contains(&at) => Taken::Counted(now),
                Some(Limit::Paced { .. }) => match places.of(at) {
                    Some(place) => Taken::Placed(place),
                    None => continue,
                },
                _ => continue,
            };
            let Some(mut call) = self.asking(at, values, now) else { return };
            then(at, &mut call, taken);
        }
    }

    /// Takes back what the rules before `until` took of a call that is not made.
    #[cold]
    fn give_back(&self, values: &mut Values<'_>, now: u64, until: usize, permit: Permit, places: &Places) {
        permit.revoke();
        self.taken(values, now, until, places, |at, call, taken| {
            if let Some(slot) = self.rules.get(at).and_then(|active| active.slot(call)) {
                slot.limiter.give_back(taken);
            }
        });
    }

    /// The place in the queue of a call that all rules let pass, but not yet.
    #[cold]
    fn queue(
        &self,
        shared: &Arc<Shared>,
        values: &mut Values<'_>,
        now: u64,
        permit: Permit,
        places: &Places,
    ) -> Ticket {
        // The ticket has all of it from now on.
        let mut all: Vec<_> = permit.hand_over().map(|slot| (slot, Taken::Entered)).collect();
        self.taken(values, now, usize::MAX, places, |at, call, taken| {
            let Some(active) = self.rules.get(at) else { return };
            if matches!(taken, Taken::Placed(place) if place == places.latest()) {
                active.count_queued();
            }
            all.extend(active.slot(call).map(|slot| (slot, taken)));
        });
        Ticket::new(Place { at: shared.clock.instant(places.latest()), taken: all, scope: shared.scope.clone() })
    }
}

// === impl Places ===

impl Places {
    const fn new() -> Self {
        Self { few: [(0, 0); PLACES], more: Vec::new(), len: 0, uncounted: Vec::new() }
    }

    fn push(&mut self, rule: usize, place: u64) {
        match self.few.get_mut(self.len) {
            Some(free) => *free = (rule, place),
            None => self.more.push((rule, place)),
        }
        self.len += 1;
    }

    fn all(&self) -> impl Iterator<Item = (usize, u64)> {
        self.few.iter().take(self.len).chain(&self.more).copied()
    }

    fn of(&self, rule: usize) -> Option<u64> {
        self.all().find(|(of, _)| *of == rule).map(|(_, place)| place)
    }

    fn latest(&self) -> u64 {
        self.all().map(|(_, place)| place).max().unwrap_or_default()
    }
}
