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
use crate::util::alone::Alone;

/// One rule in force. It outlives a change of its neighbours.
#[derive(Debug)]
pub(crate) struct ActiveRule {
    pub(crate) rule: Arc<LimitRule>,
    slots: Slots,
    /// Calls that passed in slots that are gone, and of the others those that were seen.
    passed: Mutex<i64>,
    /// Apart from what every check reads.
    limited: Alone<AtomicU64>,
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

/// How a rule counts a call that it lets pass.
pub(crate) enum Counting {
    Counted,
    /// There is no slot for the call, and the configuration lets it pass then.
    Uncounted,
    /// It has this place in the queue.
    Placed(u64),
    /// It is under way here until it is over.
    Entered(Arc<Slot>),
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

    /// Counts one call.
    #[inline]
    pub(crate) fn take(&self, shared: &Arc<Shared>, call: &mut Asking<'_, '_>) -> Result<Counting, Full> {
        let (now, clock) = (call.now, &*shared.clock);
        let take = |slot: &Arc<Slot>| {
            Ok(match slot.limiter.take(now, clock)? {
                Taken::Counted(_) => Counting::Counted,
                Taken::Placed(place) => Counting::Placed(place),
                // Whoever enters a slot leaves that one, whatever the table has by then.
                Taken::Entered => Counting::Entered(Arc::clone(slot)),
            })
        };
        let table = match &self.slots {
            Slots::Together(slot) => return take(slot),
            Slots::Apart(table) => table,
        };
        let key = call.combination(table);
        if let Some(taken) = table.with(&key, take) {
            return taken;
        }
        match table.make(&key, || limiter(&self.rule, shared)) {
            Some(slot) => {
                shared.count_along(call.service, &self.rule, &slot, || call.text.render(&key.values()));
                take(&slot)
            }
            None => match shared.options.on_exceed {
                OnExceed::Pass => Ok(Counting::Uncounted),
                OnExceed::Reject => Err(Some(shared.options.purge_interval)),
            },
        }
    }

    /// The slot that counts this call, if it was counted.
    pub(crate) fn slot(&self, call: &mut Asking<'_, '_>) -> Option<Arc<Slot>> {
        match &self.slots {
            Slots::Together(slot) => Some(Arc::clone(slot)),
            Slots::Apart(table) => table.with(&call.combination(table), Arc::clone),
        }
    }

    pub(crate) fn count_limited(&self) {
        self.limited.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_queued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops the slots in which nothing matters any more.
    pub(crate) fn purge(&self, clock: &impl Clock) {
        if let Slots::Apart(table) = &self.slots {
            table.purge(clock, |slot| self.sum(slot));
        }
        // Slots count in 32 bits: they would wrap unseen where nobody asks for the usage.
        self.sum_all();
    }

    pub(crate) fn usage(&self) -> RuleUsage {
        self.sum_all();
        let windows = match &self.slots {
            Slots::Together(_) => 1,
            Slots::Apart(table) => table.len(),
        };
        RuleUsage {
            id: Arc::clone(&self.rule.id),
            name: Arc::clone(&self.rule.name),
            passed: u64::try_from(*self.passed()).unwrap_or_default(),
            limited: self.limited.0.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
            windows,
        }
    }

    fn sum_all(&self) {
        match &self.slots {
            Slots::Together(slot) => self.sum(slot),
            Slots::Apart(table) => table.for_each(|slot| self.sum(slot)),
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
    fn combination(&mut self, table: &Table) -> Combination {
        let mut key = table.combination();
        for slot in self.text.apart() {
            self.values.with(*slot, self.labels, |value| key.push(value.unwrap_or_default()));
        }
        key
    }
}

fn limiter(rule: &LimitRule, shared: &Shared) -> Limiter {
    Limiter::new(&rule.limit, shared.options.max_queuing_time, shared.clock.coarse(), draw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::compiled;
    use serde_json::json;

    struct Still;

    impl Clock for Still {
        fn coarse(&self) -> u64 {
            1
        }

        fn exact(&self) -> u64 {
            1_000
        }
    }

    #[test]
    fn calls_are_summed_up_also_where_nobody_asks_for_the_usage() {
        let amounts = json!([{"id": "x", "type": "LOCAL", "amounts": [{"maxAmount": 3, "validDuration": "1s"}]}]);
        let (rules, _) = compiled::limit(&ServiceKey::new("ns", "svc"), &amounts);
        let rule = Arc::clone(&rules.rules[0]);
        let slot = Slot::new(Limiter::new(&rule.limit, std::time::Duration::ZERO, 0, 0));
        let (passed, limited, queued) = Default::default();
        let active = ActiveRule { rule, slots: Slots::Together(Arc::clone(&slot)), passed, limited, queued };
        (0..2).for_each(|_| assert!(slot.limiter.take(1, &Still).is_ok()));
        active.purge(&Still);
        assert_eq!((*active.passed(), slot.newly_passed()), (2, 0));
    }
}
