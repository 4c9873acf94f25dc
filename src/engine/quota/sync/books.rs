//! The books of one stream: under which keys its quotas are counted, and what was reported and not answered yet.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::engine::quota::sync::{Bell, Counted};
use crate::limit::shares::Shares;
use crate::model::limiter::{JoinQuota, QuotaCounter, QuotaLeft, QuotaTarget, QuotaUse};

/// The most counters of one report.
const REPORTED_AT_ONCE: usize = 1_000;
/// How long a report may be without an answer, in microseconds.
const PATIENCE: u64 = 1_000_000;

/// What is counted over one stream.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// What is to be counted, by what the limiter knows it by. Several rules may count the same.
    targets: HashMap<QuotaTarget, Vec<Arc<Counted>>>,
    /// Those of them that are counted, each with the durations and keys of its counters.
    joined: HashMap<QuotaTarget, Vec<(u32, u32)>>,
    /// Whose counter a key is, and of which duration.
    counters: HashMap<u32, (QuotaTarget, u32)>,
    /// Each report that was not answered yet, in their order: when it was made, and its keys.
    reports: VecDeque<(u64, Box<[u32]>)>,
    /// By how many microseconds the limiter's clock is ahead of ours.
    offset: i64,
    /// Rings when calls begin to use what is counted here.
    bell: Arc<Bell>,
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
            gone.for_each(|counted| self.leave(counted, now));
            // Somebody new counts under it: a limiter knows the amounts of whoever joined last.
            if stays.is_none_or(|stay| stay.iter().any(|two| !before.iter().any(|one| Arc::ptr_eq(one, two)))) {
                self.joined.remove(target);
            }
        }
        for counted in all {
            counted.with(|shares| shares.listen(&self.bell, now));
        }
        self.targets = targets;
        let Self { joined, counters, .. } = self;
        counters.retain(|key, (target, _)| joined.get(target).is_some_and(|keys| keys.iter().any(|(_, of)| of == key)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// How many targets there are.
    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// What the limiter's clock shows, as far as is known.
    pub(super) fn server_millis(&self, now: u64) -> i64 {
        now.cast_signed().saturating_add(self.offset) / 1_000
    }

    pub(super) fn counts(&self, target: &QuotaTarget) -> bool {
        self.targets.contains_key(target)
    }

    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
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

    /// A target is counted from now on, under these keys. An amount that has none is left to itself.
    pub(super) fn joined(&mut self, target: &QuotaTarget, counters: &[QuotaCounter], server_millis: i64, now: u64) {
        let Some(all) = self.targets.get(target) else { return };
        for counted in all {
            counted.with(|shares| {
                for (total, share) in shares.all() {
                    share.offset(self.offset, now);
                    if !counters.iter().any(|counter| counter.seconds == total.seconds) {
                        share.unanswered(now);
                    }
                }
            });
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
        let keys = lefts.iter().map(|left| left.counter);
        let is_answer = self.reports.front().is_some_and(|(_, reported)| reported.iter().copied().eq(keys));
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
        let (_, keys) = self.reports.pop_front().unwrap_or_default();
        self.join_anew(keys.get(lefts.len()..).unwrap_or_default(), now);
    }

    fn join_anew(&mut self, keys: &[u32], now: u64) {
        for key in keys {
            let Some((target, _)) = self.counters.remove(key) else { continue };
            self.joined.remove(&target);
            self.targets.get(&target).into_iter().flatten().for_each(|counted| self.leave(counted, now));
        }
    }

    /// What is to be reported now, by the limiter's time of each. What was reported and left without an answer is to be
    /// joined anew: it would be waited for without end.
    pub(super) fn reports(&mut self, now: u64) -> Vec<(i64, Vec<QuotaUse>)> {
        while self.reports.front().is_some_and(|(sent, _)| sent.saturating_add(PATIENCE) <= now) {
            let (_, keys) = self.reports.pop_front().unwrap_or_default();
            self.join_anew(&keys, now);
        }
        let mut by_time: BTreeMap<i64, Vec<QuotaUse>> = BTreeMap::new();
        for (target, keys) in &self.joined {
            for counted in self.targets.get(target).into_iter().flatten() {
                counted.with(|shares| {
                    for (total, share) in shares.all() {
                        // In this order: a share that makes a report waits for the answer.
                        let Some((_, counter)) = keys.iter().find(|(of, _)| *of == total.seconds) else { continue };
                        let Some(report) = share.report(now) else { continue };
                        let used = QuotaUse { counter: *counter, used: report.used, limited: report.limited };
                        by_time.entry(report.timestamp_millis).or_default().push(used);
                    }
                });
            }
        }
        let mut reports = Vec::new();
        for (time, uses) in by_time {
            for uses in uses.chunks(REPORTED_AT_ONCE) {
                self.reports.push_back((now, uses.iter().map(|used| used.counter).collect()));
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

    /// When there is something to report or to give up, if no call comes before.
    pub(super) fn next_report(&self, now: u64) -> Option<u64> {
        let overdue = self.reports.front().map(|(sent, _)| sent.saturating_add(PATIENCE));
        let counted = self.joined.keys().filter_map(|target| self.targets.get(target)).flatten();
        counted
            .filter_map(|counted| {
                counted.with(|shares| shares.all().iter().map(|(_, share)| share.next_report(now)).min())?
            })
            .chain(overdue)
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
        self.targets.values().flatten().for_each(|counted| self.leave(counted, now));
    }

    /// Leaves to itself what is counted, unless it is another limiter's by now.
    fn leave(&self, counted: &Counted, now: u64) {
        counted.with(|shares| shares.leave(&self.bell, now));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::quota::slot::Slot;
    use crate::limit::limiter::Limiter;
    use crate::model::key::ServiceKey;
    use crate::model::rule::limit::{Amount, Limit, Scope, Shared};
    use std::time::Duration;

    const SECOND: u64 = 1_000_000;
    /// What the limiter's clock shows when ours shows one second.
    const SERVER: i64 = 1_700_000_000_000;

    /// A quota of ten calls in each of these numbers of seconds, and what counts it.
    fn counted(name: &str, seconds: &[u64]) -> (Arc<Slot>, Arc<Counted>) {
        let amounts = seconds.iter().map(|of| Amount { calls: 10, within: Duration::from_secs(*of) }).collect();
        let shared = Shared { per_client: false, pass_alone: false, limiter: None };
        let limit = Limit::Quota { amounts, scope: Scope::Global(shared) };
        let slot = Slot::new(Limiter::new(&limit, Duration::ZERO, 0, 7));
        let target = QuotaTarget { service: ServiceKey::new("ns", "svc"), labels: name.into() };
        let counted = Arc::new(Counted { target, hash: 0, slot: Arc::downgrade(&slot) });
        (slot, counted)
    }

    fn left(counter: u32, left: i64) -> QuotaLeft {
        QuotaLeft { counter, left, clients: 1 }
    }

    fn counter(seconds: u32, key: u32) -> QuotaCounter {
        QuotaCounter { seconds, left: left(key, 10) }
    }

    fn take(slot: &Slot, now: u64) {
        let Limiter::Shared(shares) = &slot.limiter else { panic!() };
        shares.take(now).unwrap();
    }

    /// Books that count all of it, joined one second after time began, under keys from 1 on.
    fn joined(all: &[Arc<Counted>]) -> Books {
        let mut books = Books::default();
        books.assign(all, SECOND);
        books.set_offset(SERVER * 1_000 - SECOND.cast_signed(), SECOND);
        for (key, counted) in (1..).zip(all) {
            books.joined(&counted.target, &[counter(1, key)], SERVER, SECOND);
        }
        books
    }

    /// The counters that are reported at some time.
    fn reported(books: &mut Books, now: u64) -> Vec<u32> {
        books.reports(now).into_iter().flat_map(|(_, uses)| uses).map(|used| used.counter).collect()
    }

    #[test]
    fn who_counted_it_before_takes_nothing_from_who_counts_it_now() {
        let (slot, quota) = counted("x", &[1]);
        let mut before = joined(std::slice::from_ref(&quota));
        let mut now = joined(&[quota]);
        // It hears late that the quota is another one's, as while it waits for a limiter that is gone.
        before.lost(SECOND);
        before.assign(&[], SECOND);
        take(&slot, SECOND + 1_000);
        assert_eq!(reported(&mut now, SECOND + 100_000), [1]);
    }

    #[test]
    fn what_is_never_answered_is_joined_anew_and_forgotten() {
        let ((a, x), (b, y)) = (counted("x", &[1]), counted("y", &[1]));
        let mut books = joined(&[Arc::clone(&x), y]);
        take(&a, SECOND + 1_000);
        take(&b, SECOND + 1_000);
        let mut both = reported(&mut books, SECOND + 100_000);
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
        // An answer that leaves one of them out, again and again.
        books.left(&[left(2, 9)], SERVER + 110, SECOND + 110_000);
        for round in 2..50 {
            take(&b, round * SECOND);
            reported(&mut books, round * SECOND + 100_000);
            books.left(&[left(2, 9)], SERVER + (round - 1).cast_signed() * 1_000 + 110, round * SECOND + 110_000);
            assert!(books.reports.len() <= 3, "{}", books.reports.len());
        }
        let again: Vec<_> = books.to_join(|_| false).into_iter().map(|join| join.target).collect();
        assert!(again.contains(&x.target), "{again:?}");
    }

    #[test]
    fn an_amount_without_a_counter_is_left_to_itself_and_wakes_nobody() {
        let (slot, quota) = counted("x", &[60, 1]);
        let mut books = Books::default();
        books.assign(std::slice::from_ref(&quota), SECOND);
        books.joined(&quota.target, &[counter(60, 1), counter(1, 2)], SERVER, SECOND);
        // Somebody else counts under the same target, and it is joined again.
        let (_other, second) = counted("x", &[1]);
        books.assign(&[Arc::clone(&quota), second], SECOND);
        books.joined(&quota.target, &[counter(1, 2)], SERVER, SECOND);
        take(&slot, SECOND + 1_000);
        let now = SECOND + 100_000;
        assert!(reported(&mut books, now).iter().all(|key| *key == 2));
        assert!(books.next_report(now).is_some_and(|due| due > now), "{:?}", books.next_report(now));
    }
}
