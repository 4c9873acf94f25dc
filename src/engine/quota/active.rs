//! One rule in force, with what it has counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::OnExceed;
use crate::engine::entropy::draw;
use crate::engine::quota::Shared;
use crate::engine::quota::slot::{Combination, Slot, Slots, Table};
use crate::limit::labels::LabelText;
use crate::limit::limiter::{Clock, Limiter, Taken};
use crate::limit::plan::Planned;
use crate::limit::window::Full;
use crate::model::candidates::Values;
use crate::model::key::ServiceKey;
use crate::model::label::LabelKey;
use crate::model::rule::limit::LimitRule;

/// One rule in force. It outlives a change of its neighbours.
#[derive(Debug)]
pub(crate) struct ActiveRule {
    pub(crate) rule: Arc<LimitRule>,
    slots: Slots,
    /// Calls that passed in slots that are gone, and of the others those that were seen.
    passed: Mutex<i64>,
    limited: AtomicU64,
    queued: AtomicU64,
}

/// What rules have counted so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleUsage {
    /// The rule's id.
    pub id: Arc<str>,
    /// Its name; its id where it has none.
    pub name: Arc<str>,
    /// How many calls it let pass, those that queued included.
    pub passed: u64,
    /// How many calls it refused.
    pub limited: u64,
    /// How many calls it made wait.
    pub queued: u64,
    /// How many windows it has: one, or one for each combination of the labels that it counts apart.
    pub windows: usize,
}

/// One call, as its rules see it.
pub(crate) struct Asking<'a, 'r> {
    pub(crate) service: &'a ServiceKey,
    pub(crate) text: &'a LabelText,
    pub(crate) labels: &'a [LabelKey],
    pub(crate) values: &'a mut Values<'r>,
    pub(crate) now: u64,
}

impl ActiveRule {
    pub(crate) fn new(service: &ServiceKey, planned: &Planned, shared: &Arc<Shared>) -> Self {
        let slots = if planned.text.apart().is_empty() {
            let slot = Slot::new(limiter(&planned.rule, shared));
            shared.count_along(service, &planned.rule, &slot, || planned.text.render(&[]));
            Slots::Together(slot)
        } else {
            Slots::Apart(Table::new(Arc::clone(&shared.room), draw()))
        };
        let (passed, limited, queued) = Default::default();
        Self { rule: Arc::clone(&planned.rule), slots, passed, limited, queued }
    }

    /// Counts one call; none if there is no slot for it, and the configuration lets it pass then.
    #[inline]
    pub(crate) fn take(&self, shared: &Arc<Shared>, call: &mut Asking<'_, '_>) -> Result<Option<Taken>, Full> {
        let (now, clock) = (call.now, &*shared.clock);
        let table = match &self.slots {
            Slots::Together(slot) => return slot.limiter.take(now, clock).map(Some),
            Slots::Apart(table) => table,
        };
        let key = call.combination();
        if let Some(taken) = table.with(&key, |slot| slot.limiter.take(now, clock)) {
            return taken.map(Some);
        }
        match table.make(&key, || limiter(&self.rule, shared)) {
            Some(slot) => {
                shared.count_along(call.service, &self.rule, &slot, || call.text.render(&key.values()));
                slot.limiter.take(now, clock).map(Some)
            }
            None => match shared.options.on_exceed {
                OnExceed::Pass => Ok(None),
                OnExceed::Reject => Err(Some(shared.options.purge_interval)),
            },
        }
    }

    /// The slot that counts this call, if it was counted.
    pub(crate) fn slot(&self, call: &mut Asking<'_, '_>) -> Option<Arc<Slot>> {
        match &self.slots {
            Slots::Together(slot) => Some(Arc::clone(slot)),
            Slots::Apart(table) => table.with(&call.combination(), Arc::clone),
        }
    }

    pub(crate) fn count_limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_queued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops the slots in which nothing matters any more.
    pub(crate) fn purge(&self, clock: &impl Clock) {
        if let Slots::Apart(table) = &self.slots {
            table.purge(clock, |slot| self.sum(slot));
        }
    }

    pub(crate) fn usage(&self) -> RuleUsage {
        let windows = match &self.slots {
            Slots::Together(slot) => {
                self.sum(slot);
                1
            }
            Slots::Apart(table) => {
                table.for_each(|slot| self.sum(slot));
                table.len()
            }
        };
        RuleUsage {
            id: Arc::clone(&self.rule.id),
            name: Arc::clone(&self.rule.name),
            passed: u64::try_from(*self.passed()).unwrap_or_default(),
            limited: self.limited.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            windows,
        }
    }

    fn sum(&self, slot: &Slot) {
        // Under the lock, so that nothing is seen twice.
        let mut passed = self.passed();
        *passed += slot.newly_passed();
    }

    fn passed(&self) -> MutexGuard<'_, i64> {
        // A single number: a panic leaves nothing half done.
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_, '_> {
    /// The values of the labels that the rule counts apart. It applies to the call, so they are there.
    #[inline]
    fn combination(&mut self) -> Combination {
        let mut key = Combination::new();
        for slot in self.text.apart() {
            self.values.with(*slot, self.labels, |value| key.push(value.unwrap_or_default()));
        }
        key
    }
}

fn limiter(rule: &LimitRule, shared: &Shared) -> Limiter {
    Limiter::new(&rule.limit, shared.options.max_queuing_time, shared.clock.coarse(), draw())
}
