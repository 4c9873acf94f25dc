//! One counter: its windows, its clients, and how much it has for them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;
use super::{LimitCounter, Moment};
use crate::model::key::ServiceKey;
use crate::pb::metric;

/// How long a client that left still counts; on a real limiter something between 5 and 15 s.
const STAYS: Duration = Duration::from_secs(10);

/// What a counter counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) service: ServiceKey,
    pub(super) labels: String,
    /// Of a window.
    pub(super) seconds: u32,
}

#[derive(Debug)]
pub(super) struct Counter {
    pub(super) identity: Identity,
    /// Without its mode.
    amount: u32,
    /// The amount is that of each client.
    divided: bool,
    window: Window,
    /// Client ids, and since when those are gone that left.
    members: BTreeMap<String, Option<Instant>>,
    /// Those who share it were told that nothing is left. As on a real limiter, a new window alone does not change that:
    /// only a report that leaves something does.
    told: bool,
    touched: Instant,
    patience: Duration,
    total_used: u64,
    total_ignored: u64,
    total_limited: u64,
}

/// How a client joins a counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) total: &'a metric::QuotaTotal,
    /// In how many steps its window slides; decided by whoever comes first.
    pub(super) slides: u32,
    /// How long it may lie idle.
    pub(super) patience: Duration,
}

impl Counter {
    pub(super) fn new(identity: Identity, terms: Terms<'_>, now: Moment) -> Self {
        Self {
            window: Window::new(identity.seconds, terms.slides),
            identity,
            amount: 0,
            divided: false,
            members: BTreeMap::new(),
            told: false,
            touched: now.at,
            patience: terms.patience,
            total_used: 0,
            total_ignored: 0,
            total_limited: 0,
        }
    }

    /// A client joins, on terms that are those of everybody from now on. Whoever is `gone` already counts like one that
    /// has just left.
    pub(super) fn join(&mut self, client: &str, gone: bool, terms: Terms<'_>, now: Moment) {
        self.amount = terms.total.max_amount;
        self.divided = terms.total.mode == metric::QuotaMode::Divide as i32;
        self.patience = terms.patience;
        self.touched = now.at;
        self.members.insert(client.to_owned(), gone.then_some(now.at));
    }

    pub(super) fn leave(&mut self, client: &str, at: Instant) {
        if let Some(left) = self.members.get_mut(client) {
            *left = Some(at);
        }
    }

    /// Lets those go who left long enough ago.
    pub(super) fn settle(&mut self, at: Instant) {
        self.members.retain(|_, left| left.is_none_or(|left| at < left + STAYS));
    }

    /// Whether it has been idle for too long at `at`.
    pub(super) fn has_expired(&self, at: Instant) -> bool {
        at.saturating_duration_since(self.touched) > self.patience
    }

    /// Counts a report; whether all others have to hear of what is left.
    pub(super) fn report(&mut self, quota: &metric::QuotaSum, reported: i64, now: Moment) -> bool {
        self.touched = now.at;
        let counted = self.window.add(quota.used, reported, now.wall);
        let total = if counted { &mut self.total_used } else { &mut self.total_ignored };
        *total += u64::from(quota.used);
        self.total_limited += u64::from(quota.limited);
        if quota.used == 0 && quota.limited == 0 {
            return false;
        }
        let spent = self.left(now.wall) <= 0;
        let push = spent && !self.told;
        self.told = spent;
        push
    }

    /// How much is left; less than nothing where more was used than there was.
    pub(super) fn left(&self, wall: i64) -> i64 {
        self.max() - i64::try_from(self.window.used(wall)).unwrap_or(i64::MAX)
    }

    pub(super) fn clients(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Who is here, without those that left.
    pub(super) fn present(&self) -> impl Iterator<Item = &str> {
        self.members.iter().filter(|(_, left)| left.is_none()).map(|(id, _)| id.as_str())
    }

    pub(super) fn shown(&self, key: u32, wall: i64) -> LimitCounter {
        LimitCounter {
            service: self.identity.service.clone(),
            labels: self.identity.labels.clone(),
            duration: Duration::from_secs(self.identity.seconds.into()),
            key,
            max: self.max(),
            left: self.left(wall),
            clients: self.members.len(),
            used: self.window.used(wall),
            total_used: self.total_used,
            total_ignored: self.total_ignored,
            total_limited: self.total_limited,
        }
    }

    fn max(&self) -> i64 {
        let shares = if self.divided { i64::from(self.clients()) } else { 1 };
        shares * i64::from(self.amount)
    }
}
