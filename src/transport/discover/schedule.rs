//! Which key is asked for when. Pure: time and randomness are arguments, and nothing here knows of streams.
//!
//! The server never pushes: every key is asked for again and again, over one stream, and answers come in the order of
//! the questions. A key is in one place at a time:
//!
//! ```text
//!             want                     answered, or backed off
//!   (none) ---------> cold ----.   .--------------------------> polled (due at)
//!                               v  |                               |
//!                             asked <------------------------------'
//!   kinds that the server does not serve, or that are being probed: parked
//! ```
//!
//! Cold keys, which somebody waits for, go before polls. At most 64 questions are outstanding. Whatever happens to the
//! stream, every wanted key stays in exactly one place, and so it is asked for in the end.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::model::key::{ResourceKind, ServiceEventKey};
use crate::transport::discover::capability::Capabilities;
use crate::transport::discover::slot::{Place, Slot, period};
use crate::util::hash::NameHash;

/// Questions without an answer, at most.
pub(super) const MAX_OUTSTANDING: usize = 64;
/// How long a key that changed is polled more often.
const FAST_FOR: Duration = Duration::from_secs(30);
/// How many keys are polled more often at a time: a bound on the extra load.
const MAX_FAST: usize = 32;

/// How often in a row a stream may end over a key before the key is held back.
const STRIKES: u32 = 2;

/// The rhythm of the questions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How often each key is asked for.
    pub(super) refresh: Duration,
    /// How long the next answer may take.
    pub(super) answer: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for the key.
    Ask(ServiceEventKey),
    /// Ask whether the server serves the kind.
    Probe(ResourceKind),
    /// Tell the sink that the server does not serve the key's kind.
    Unsupported(ServiceEventKey),
}

/// What an answer belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    Key(ServiceEventKey),
    /// Nobody wants it any more.
    Forgotten,
    Probe(ResourceKind),
}

/// What an answer means for the rhythm of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server knows the answer.
    Known { changed: bool },
    /// The server asks to slow down.
    Throttled,
    /// Asking again soon would not help: malformed, unauthorized, unreadable.
    Refused,
    /// The server is in trouble.
    Fault,
}

/// How a stream came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// We left it, with every question answered.
    Left,
    /// The connection failed, or nothing was heard in time.
    Lost,
    /// The server ended it over a question: some do so over a single key, again and again.
    Ended,
}

/// All keys and where they stand.
#[derive(Debug)]
pub(super) struct Schedule {
    pace: Pace,
    ids: HashMap<ServiceEventKey, u64, NameHash>,
    slots: HashMap<u64, Slot>,
    next_id: u64,
    cold: VecDeque<u64>,
    polls: BTreeSet<(Instant, u64)>,
    outstanding: VecDeque<Asked>,
    /// When the server last gave a sign, or was first asked after having answered all.
    heard: Option<Instant>,
    fast: HashSet<u64>,
    capabilities: Capabilities,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Key(u64),
    Probe(ResourceKind),
}

impl Schedule {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            ids: HashMap::default(),
            slots: HashMap::new(),
            next_id: 0,
            cold: VecDeque::new(),
            polls: BTreeSet::new(),
            outstanding: VecDeque::new(),
            heard: None,
            fast: HashSet::new(),
            capabilities: Capabilities::default(),
        }
    }

    pub(super) fn wants(&self, key: &ServiceEventKey) -> bool {
        self.ids.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Starts asking for `key`.
    pub(super) fn want(&mut self, key: ServiceEventKey) {
        if self.ids.contains_key(&key) {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(key.clone(), id);
        self.slots.insert(id, Slot::new(key));
        self.cold.push_back(id);
    }

    /// Stops asking for `key`. An answer that is on its way will be dropped.
    pub(super) fn forget(&mut self, key: &ServiceEventKey) {
        let Some(id) = self.ids.remove(key) else { return };
        let Some(slot) = self.slots.remove(&id) else { return };
        self.fast.remove(&id);
        self.leave(slot.place, id);
    }

    /// The next thing to do now, if any; a question counts as asked.
    pub(super) fn next(&mut self, now: Instant) -> Option<Step> {
        while self.outstanding.len() < MAX_OUTSTANDING {
            let id = self.take_due(now)?;
            let slot = self.slots.get_mut(&id)?;
            let kind = slot.key.kind;
            match self.capabilities.of(kind) {
                Some(true) => {
                    slot.place = Place::Asked;
                    let key = slot.key.clone();
                    self.ask(Asked::Key(id), now);
                    return Some(Step::Ask(key));
                }
                Some(false) => {
                    slot.place = Place::Parked;
                    return Some(Step::Unsupported(slot.key.clone()));
                }
                None => {
                    slot.place = Place::Parked;
                    if self.capabilities.probing(kind) {
                        self.ask(Asked::Probe(kind), now);
                        return Some(Step::Probe(kind));
                    }
                }
            }
        }
        None
    }

    /// When [`Schedule::next`] has something again, unless an answer comes before.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        if !self.cold.is_empty() {
            return Some(now);
        }
        self.polls.first().map(|(at, _)| *at)
    }

    /// When the stream counts as dead: the oldest question has been waiting for too long since the server's last sign.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let heard = self.heard?;
        (!self.outstanding.is_empty()).then(|| heard + self.pace.answer)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// The question that the next answer belongs to; `None` if nothing was asked.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Question> {
        let asked = self.outstanding.pop_front()?;
        self.heard = Some(now);
        let id = match asked {
            Asked::Probe(kind) => return Some(Question::Probe(kind)),
            Asked::Key(id) => id,
        };
        // Due at once, until it is settled: an answer that nobody can use must not lose the key.
        self.poll_at(id, now);
        Some(self.slots.get(&id).map_or(Question::Forgotten, |slot| Question::Key(slot.key.clone())))
    }

    /// Sets when an answered key is asked for again.
    pub(super) fn settle(&mut self, key: &ServiceEventKey, verdict: Verdict, now: Instant, rng: &mut impl Rng) {
        let Some(id) = self.ids.get(key).copied() else { return };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.fast_until.is_some_and(|until| now >= until) {
            slot.fast_until = None;
            self.fast.remove(&id);
        }
        let delay = match verdict {
            Verdict::Known { changed } => {
                let first = !std::mem::replace(&mut slot.known, true);
                slot.backoff = None;
                slot.strikes = 0;
                if changed && !first && (self.fast.contains(&id) || self.fast.len() < MAX_FAST) {
                    slot.fast_until = Some(now + FAST_FOR);
                    self.fast.insert(id);
                }
                period(self.pace.refresh, slot.fast_until.is_some(), first, rng)
            }
            Verdict::Throttled => Duration::from_secs(1) + slot.back_off(Duration::from_secs(1), 30, rng),
            Verdict::Refused => slot.back_off(Duration::from_secs(20), 60, rng),
            Verdict::Fault => slot.back_off(Duration::from_millis(500), 30, rng),
        };
        self.poll_at(id, now + delay);
    }

    /// The server answered a probe. The keys that it does not serve after all.
    pub(super) fn probed(&mut self, kind: ResourceKind, served: bool) -> Vec<ServiceEventKey> {
        self.capabilities.learn(kind, served);
        let mut parked: Vec<u64> = self.parked(|parked| parked == kind).collect();
        parked.sort_unstable();
        if !served {
            return parked.iter().filter_map(|id| self.slots.get(id)).map(|slot| slot.key.clone()).collect();
        }
        for id in parked {
            self.unpark(id);
        }
        Vec::new()
    }

    /// The server does not serve the kind of `key`, which was just answered.
    pub(super) fn unsupported(&mut self, key: &ServiceEventKey) {
        self.capabilities.learn(key.kind, false);
        let Some(id) = self.ids.get(key).copied() else { return };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.strikes = 0;
        let place = std::mem::replace(&mut slot.place, Place::Parked);
        self.leave(place, id);
    }

    /// A stream to `server` is about to be opened: what it serves is found out anew.
    pub(super) fn connected(&mut self, server: &str) {
        self.capabilities.connected(server);
        let parked: Vec<u64> = self.parked(|_| true).collect();
        for id in parked {
            self.unpark(id);
        }
    }

    /// The stream is gone. Unless it was left in peace, every key is due again: whatever changed meanwhile is news. The
    /// key that the stream seems to die over, if there is one; it is held back.
    pub(super) fn disconnected(&mut self, end: StreamEnd, now: Instant, rng: &mut impl Rng) -> Option<ServiceEventKey> {
        let asked = std::mem::take(&mut self.outstanding);
        self.heard = None;
        if end == StreamEnd::Left {
            return None;
        }
        let polled: Vec<(Instant, u64)> = std::mem::take(&mut self.polls).into_iter().collect();
        for (at, id) in polled {
            let held_back = self.slots.get(&id).is_some_and(|slot| slot.strikes >= STRIKES);
            self.poll_at(id, if held_back { at } else { now });
        }
        for asked in &asked {
            if let Asked::Key(id) = asked {
                self.make_due(*id, now);
            }
        }
        let suspect = asked.front().copied().filter(|_| end == StreamEnd::Ended)?;
        self.suspect(suspect, now, rng)
    }

    fn suspect(&mut self, asked: Asked, now: Instant, rng: &mut impl Rng) -> Option<ServiceEventKey> {
        let id = match asked {
            Asked::Key(id) => id,
            Asked::Probe(kind) => {
                self.capabilities.blame(kind);
                return None;
            }
        };
        let slot = self.slots.get_mut(&id)?;
        slot.strikes += 1;
        if slot.strikes < STRIKES {
            return None;
        }
        let delay = slot.back_off(Duration::from_secs(1), 30, rng);
        let key = slot.key.clone();
        self.poll_at(id, now + delay);
        Some(key)
    }

    fn ask(&mut self, asked: Asked, now: Instant) {
        if self.outstanding.is_empty() {
            self.heard = Some(now);
        }
        self.outstanding.push_back(asked);
    }

    /// Takes the first cold key, else the poll that is most overdue.
    fn take_due(&mut self, now: Instant) -> Option<u64> {
        if let Some(id) = self.cold.pop_front() {
            return Some(id);
        }
        let (at, id) = self.polls.first().copied()?;
        if at > now {
            return None;
        }
        self.polls.pop_first();
        Some(id)
    }

    fn poll_at(&mut self, id: u64, at: Instant) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let place = std::mem::replace(&mut slot.place, Place::Polled(at));
        self.leave(place, id);
        self.polls.insert((at, id));
    }

    /// Takes a key out of the queue of a place that it was in.
    fn leave(&mut self, place: Place, id: u64) {
        match place {
            Place::Polled(at) => {
                self.polls.remove(&(at, id));
            }
            Place::Cold => self.cold.retain(|cold| *cold != id),
            Place::Asked | Place::Parked => {}
        }
    }

    fn make_due(&mut self, id: u64, now: Instant) {
        match self.slots.get_mut(&id) {
            Some(slot) if !slot.known => {
                slot.place = Place::Cold;
                self.cold.push_back(id);
            }
            Some(_) => self.poll_at(id, now),
            None => {}
        }
    }

    /// A parked key goes first in line again, as if it were new: nobody knows yet what it is on this server.
    fn unpark(&mut self, id: u64) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.place = Place::Cold;
            self.cold.push_back(id);
        }
    }

    fn parked(&self, kind: impl Fn(ResourceKind) -> bool) -> impl Iterator<Item = u64> {
        self.slots.iter().filter(move |(_, slot)| slot.place == Place::Parked && kind(slot.key.kind)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
#[path = "schedule_test.rs"]
mod tests;
