//! The books of one stream: under which keys its quotas are counted, and what was reported and not answered yet.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::engine::quota::sync::Counted;
use crate::limit::shares::Shares;
use crate::model::limiter::{JoinQuota, QuotaCounter, QuotaLeft, QuotaTarget, QuotaUse};

/// The most counters of one report.
const REPORTED_AT_ONCE: usize = 1_000;

/// What is counted over one stream.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// What is to be counted, by what the limiter knows it by. Several rules may count the same.
    targets: HashMap<QuotaTarget, Vec<Arc<Counted>>>,
    /// Those of them that are counted, each with the durations and keys of its counters.
    joined: HashMap<QuotaTarget, Vec<(u32, u32)>>,
    /// Whose counter a key is, and of which duration.
    counters: HashMap<u32, (QuotaTarget, u32)>,
    /// The keys of each report that was not answered yet, in their order.
    reports: VecDeque<Box<[u32]>>,
    /// By how many microseconds the limiter's clock is ahead of ours.
    offset: i64,
}

impl Books {
    /// Takes over what is to be counted from now on. What is not any more is left to itself.
    pub(super) fn assign(&mut self, all: &[Arc<Counted>], now: u64) {
        let mut targets: HashMap<QuotaTarget, Vec<Arc<Counted>>> = HashMap::new();
        for counted in all {
            targets.entry(counted.target.clone()).or_default().push(Arc::clone(counted));
        }
        for (target, before) in &self.targets {
            let stays = targets.get(target);
            let gone =
                before.iter().filter(|one| !stays.is_some_and(|stay| stay.iter().any(|two| Arc::ptr_eq(one, two))));
            gone.for_each(|counted| leave(counted, now));
            // Somebody new counts under it: a limiter knows the amounts of whoever joined last.
            if stays.is_none_or(|stay| stay.iter().any(|two| !before.iter().any(|one| Arc::ptr_eq(one, two)))) {
                self.joined.remove(target);
            }
        }
        self.targets = targets;
        let Self { joined, counters, .. } = self;
        counters.retain(|key, (target, _)| joined.get(target).is_some_and(|keys| keys.iter().any(|(_, of)| of == key)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// What is to be joined and is not.
    pub(super) fn to_join(&self, but: impl Fn(&QuotaTarget) -> bool) -> Vec<JoinQuota> {
        let open = self.targets.iter().filter(|(target, _)| !self.joined.contains_key(*target) && !but(target));
        open.map(|(target, counted)| {
            let totals = counted.iter().filter_map(|counted| {
                counted.with(|shares| shares.all().iter().map(|(total, _)| *total).collect::<Vec<_>>())
            });
            // Of two for the same duration the limiter keeps one; the last, so that all clients agree on it.
            let mut totals: Vec<_> = totals.flatten().collect();
            totals.sort_by_key(|total| (total.seconds, total.amount));
            JoinQuota { target: target.clone(), totals }
        })
        .filter(|join| !join.totals.is_empty())
        .collect()
    }

    /// A target is counted from now on, under these keys.
    pub(super) fn joined(&mut self, target: &QuotaTarget, counters: &[QuotaCounter], server_millis: i64, now: u64) {
        if !self.targets.contains_key(target) {
            return;
        }
        for counted in self.targets.get(target).into_iter().flatten() {
            counted.with(|shares| shares.all().iter().for_each(|(_, share)| share.offset(self.offset, now)));
        }
        let keys = counters.iter().map(|counter| (counter.seconds, counter.left.counter)).collect();
        self.joined.insert(target.clone(), keys);
        for counter in counters {
            self.counters.insert(counter.left.counter, (target.clone(), counter.seconds));
            self.answer(counter.left, server_millis, now);
        }
    }

    /// What is left of some counters: the answer to a report, or told unasked.
    pub(super) fn left(&mut self, lefts: &[QuotaLeft], server_millis: i64, now: u64) {
        let is_answer =
            self.reports.front().is_some_and(|keys| keys.iter().copied().eq(lefts.iter().map(|left| left.counter)));
        if is_answer {
            self.reports.pop_front();
        }
        for left in lefts {
            self.answer(*left, server_millis, now);
        }
    }

    /// A report was refused at the counter behind those that are `lefts`: it and those after it are to be joined anew.
    pub(super) fn refused(&mut self, lefts: &[QuotaLeft], server_millis: i64, now: u64) {
        for left in lefts {
            self.answer(*left, server_millis, now);
        }
        let keys = self.reports.pop_front().unwrap_or_default();
        for key in keys.iter().skip(lefts.len()) {
            let Some((target, _)) = self.counters.remove(key) else { continue };
            self.joined.remove(&target);
            self.targets.get(&target).into_iter().flatten().for_each(|counted| leave(counted, now));
        }
    }

    /// What is to be reported now, by the limiter's time of each.
    pub(super) fn reports(&mut self, now: u64) -> Vec<(i64, Vec<QuotaUse>)> {
        let mut by_time: BTreeMap<i64, Vec<QuotaUse>> = BTreeMap::new();
        for (target, keys) in &self.joined {
            for counted in self.targets.get(target).into_iter().flatten() {
                counted.with(|shares| {
                    for (total, share) in shares.all() {
                        let key = keys.iter().find(|(seconds, _)| *seconds == total.seconds);
                        let (Some((_, counter)), Some(report)) = (key, share.report(now)) else { continue };
                        let used = QuotaUse { counter: *counter, used: report.used, limited: report.limited };
                        by_time.entry(report.timestamp_millis).or_default().push(used);
                    }
                });
            }
        }
        let mut reports = Vec::new();
        for (time, uses) in by_time {
            for uses in uses.chunks(REPORTED_AT_ONCE) {
                self.reports.push_back(uses.iter().map(|used| used.counter).collect());
                reports.push((time, uses.to_vec()));
            }
        }
        reports
    }

    /// Whether calls used any of it since this was last asked.
    pub(super) fn was_used(&self) -> bool {
        let all = self.targets.values().flatten();
        all.filter(|counted| counted.with(Shares::was_used) == Some(true)).count() > 0
    }

    /// When there is something to report, if no call comes before.
    pub(super) fn next_report(&self, now: u64) -> Option<u64> {
        let counted = self.joined.keys().filter_map(|target| self.targets.get(target)).flatten();
        counted
            .filter_map(|counted| {
                counted.with(|shares| shares.all().iter().map(|(_, share)| share.next_report(now)).min())?
            })
            .min()
    }

    /// The limiter's clock is ahead of ours by so many microseconds.
    pub(super) fn set_offset(&mut self, micros: i64, now: u64) {
        self.offset = micros;
        for counted in self.targets.values().flatten() {
            counted.with(|shares| shares.all().iter().for_each(|(_, share)| share.offset(micros, now)));
        }
    }

    /// The stream is over: everything is left to itself until it is joined again.
    pub(super) fn lost(&mut self, now: u64) {
        self.joined.clear();
        self.counters.clear();
        self.reports.clear();
        self.targets.values().flatten().for_each(|counted| leave(counted, now));
    }

    fn answer(&self, left: QuotaLeft, server_millis: i64, now: u64) {
        let Some((target, seconds)) = self.counters.get(&left.counter) else { return };
        for counted in self.targets.get(target).into_iter().flatten() {
            counted.with(|shares| {
                let of = shares.all().iter().filter(|(total, _)| total.seconds == *seconds);
                of.for_each(|(_, share)| share.answered(left, server_millis, now));
            });
        }
    }
}

fn leave(counted: &Counted, now: u64) {
    counted.with(|shares| shares.all().iter().for_each(|(_, share)| share.unanswered(now)));
}
