//! Who is alive: beats, and the checks that miss them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::behaviour::{Behaviour, Release};
use super::store::{InstanceKey, State};

/// Beats of instances nobody knows are accepted this often before they are refused.
const FREE_BEATS: u32 = 4;

/// Beats and what is due to be checked.
#[derive(Debug, Default)]
pub(super) struct Health {
    watched: BTreeMap<InstanceKey, Watched>,
    /// The next check of each, soonest first.
    due: BTreeSet<(Instant, InstanceKey)>,
    /// Beats of unknown instances by id.
    strangers: BTreeMap<String, u32>,
}

#[derive(Debug)]
struct Watched {
    ttl: u32,
    last_beat: Option<Instant>,
    next: Instant,
}

/// What a beat is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    Taken,
    Unknown,
    /// Its health is not checked.
    Disabled,
}

/// What a check found to be otherwise than stored.
#[derive(Debug)]
struct Verdict {
    key: InstanceKey,
    healthy: bool,
    last_beat: Option<Instant>,
}

// === impl Health ===

impl Health {
    /// Watches an instance with this TTL, or no longer.
    pub(super) fn watch(&mut self, key: &InstanceKey, ttl: Option<u32>, behaviour: &Behaviour, now: Instant) {
        let before = self.forget(key);
        let Some(ttl) = ttl else { return };
        // Who registers again keeps its beats and its place: a checker does not start over.
        let (last_beat, next) = match before {
            Some(before) if before.ttl == ttl => (before.last_beat, before.next),
            Some(before) => (before.last_beat, now + behaviour.check_every(ttl)),
            None => (None, now + behaviour.check_every(ttl)),
        };
        self.due.insert((next, key.clone()));
        self.watched.insert(key.clone(), Watched { ttl, last_beat, next });
    }

    fn forget(&mut self, key: &InstanceKey) -> Option<Watched> {
        let watched = self.watched.remove(key)?;
        self.due.remove(&(watched.next, key.clone()));
        Some(watched)
    }

    /// The instance has come into sight, or gone out of it: its free beats start anew.
    pub(super) fn seen(&mut self, id: &str) {
        self.strangers.remove(id);
    }

    /// When the next check is due.
    pub(super) fn next_check(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn verdicts(&mut self, behaviour: &Behaviour, now: Instant) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.due.pop_first() else { break };
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            let patience = behaviour.patience(watched.ttl);
            let healthy = watched.last_beat.is_some_and(|beat| now < beat + patience);
            watched.next = now + behaviour.check_every(watched.ttl);
            self.due.insert((watched.next, key.clone()));
            verdicts.push(Verdict { key, healthy, last_beat: watched.last_beat });
        }
        verdicts
    }
}

/// How many unknown ids are counted at most.
const MAX_STRANGERS: usize = 100_000;

// === impl State ===

impl State {
    /// Takes a beat of the instance with this id.
    pub(super) fn beat(&mut self, id: &str, now: Instant) -> Beat {
        let legacy = self.behaviour.release == Release::V1_14;
        let Some((key, _)) = self.seen_instance(id) else {
            if self.health.strangers.len() >= MAX_STRANGERS {
                // A plane for development runs for days: rather than grow, it forgets whom it has counted.
                self.health.strangers.clear();
            }
            let beats = self.health.strangers.entry(id.to_owned()).or_default();
            *beats = beats.saturating_add(1);
            return if legacy || *beats > FREE_BEATS { Beat::Unknown } else { Beat::Taken };
        };
        match self.health.watched.get_mut(&key) {
            Some(watched) => watched.last_beat = Some(now),
            None if legacy => return Beat::Disabled,
            None => {}
        }
        Beat::Taken
    }

    /// Checks whoever is due.
    pub(super) fn check_health(&mut self, now: Instant) {
        for verdict in self.health.verdicts(&self.behaviour, now) {
            if self.behaviour.health_checks {
                self.judge(&verdict, now);
            }
        }
    }

    fn judge(&mut self, verdict: &Verdict, now: Instant) {
        let Some(row) = self.instances.seen().get(&verdict.key) else {
            if !self.instances.stored().contains_key(&verdict.key) {
                self.health.forget(&verdict.key);
            }
            return;
        };
        if row.message.healthy.unwrap_or(true) == verdict.healthy {
            return;
        }
        let last = verdict.last_beat.map_or(0, |beat| self.clock.unix_millis(beat) / 1000).to_string();
        let (revision, mtime) = (self.revision(), self.timestamp(now));
        self.instances.amend(&verdict.key, |row| {
            let message = &mut row.message;
            message.healthy = Some(verdict.healthy);
            message.revision = Some(revision.clone());
            message.mtime = Some(mtime.clone());
            if verdict.healthy {
                message.metadata.remove("internal-lastheartbeat");
            } else {
                message.metadata.insert("internal-lastheartbeat".to_owned(), last.clone());
            }
            row.changed = now;
        });
        self.forget_answers(&verdict.key.0);
    }
}
