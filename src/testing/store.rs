//! What the control plane knows.
//!
//! One lock around everything: a test kit wants every answer to be one consistent view, and no lock is ever held while
//! something is awaited. Every access first lets the writes be seen that are due.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::access::Access;
use super::behaviour::Behaviour;
use super::health::Health;
use super::rules::Rule;
use super::sha1;
use super::table::Table;
use crate::model::key::{ResourceKind, ServiceKey};
use crate::pb::v1;
use crate::util::clock::WallClock;

/// The state of one control plane, shared by its nodes.
#[derive(Debug)]
pub(super) struct Store {
    state: Mutex<State>,
    /// Counts accesses that may have changed something: wakes whoever waits for a condition.
    changed: watch::Sender<u64>,
    /// The next health check is due at another time than before.
    checks: Arc<Notify>,
}

/// Everything under the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) behaviour: Behaviour,
    pub(super) access: Access,
    pub(super) health: Health,
    /// What the server knows of machines, by host.
    pub(super) locations: BTreeMap<String, v1::Location>,
    pub(super) namespaces: Table<String, v1::Namespace>,
    pub(super) services: Table<ServiceKey, ServiceRow>,
    pub(super) instances: Table<InstanceKey, InstanceRow>,
    pub(super) rules: Table<(ResourceKind, String), Rule>,
    pub(super) contracts: BTreeMap<String, v1::ServiceContract>,
    /// Clients that reported themselves with an id, and when they last did.
    pub(super) clients: BTreeMap<String, Instant>,
    /// Registrations that are being gathered, by id, and until when.
    pub(super) gathering: BTreeMap<String, Instant>,
    pub(super) clock: WallClock,
    /// Encoded lists of instances by asked service: a list of thousands is not built anew for every poll.
    pub(super) answers: BTreeMap<ServiceKey, Arc<super::discover::InstanceAnswer>>,
    /// What was first told of services without instances.
    pub(super) first_told: BTreeMap<ServiceKey, Arc<super::discover::InstanceAnswer>>,
    /// Where the instances are that clients see.
    ids: HashMap<String, InstanceKey>,
    /// How many nodes there ever were.
    nodes: u8,
    revisions: Revisions,
}

/// The service, and the id in it.
pub(super) type InstanceKey = (ServiceKey, String);

#[derive(Debug, Clone, Default)]
pub(super) struct ServiceRow {
    /// Without its revision of instances; `revision` is that of the service itself.
    pub(super) message: v1::Service,
    pub(super) alias_of: Option<ServiceKey>,
}

#[derive(Debug, Clone)]
pub(super) struct InstanceRow {
    pub(super) message: v1::Instance,
    /// When the store last took a change of it.
    pub(super) changed: Instant,
    /// The control plane's own: always alive.
    pub(super) own: bool,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.checks.notify_one();
    }
}

/// Names for states, never the same twice, also not in two control planes.
#[derive(Debug)]
struct Revisions {
    seed: u64,
    count: u64,
}

// === impl Store ===

impl Store {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::new()), changed: watch::Sender::new(0), checks: Arc::default() }
    }

    /// Runs `work` on what is known at this moment, and wakes who waits for a change.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let done = self.read(work);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        done
    }

    /// Runs `work`, which changes nothing that anybody waits for.
    pub(super) fn read<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        // A panic in here is passed on when the server ends; until then the state is as good as it was.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next_check = state.health.next_check();
        state.settle(now);
        let done = work(&mut state, now);
        state.settle(now);
        if state.health.next_check() != next_check {
            self.checks.notify_one();
        }
        done
    }

    /// Checks the health of instances when it is due, as long as anybody holds the store.
    pub(super) async fn check_health(store: Weak<Self>) {
        loop {
            let Some(held) = store.upgrade() else { return };
            let next = held.read(|state, _| state.health.next_check());
            let checks = Arc::clone(&held.checks);
            drop(held);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => store.upgrade().iter().for_each(|store| store.with(State::check_health)),
                () = checks.notified() => {}
            }
        }
    }

    /// Wakes after every access.
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

// === impl State ===

impl State {
    fn new() -> Self {
        let mut state = Self {
            behaviour: Behaviour::default(),
            access: Access::default(),
            health: Health::default(),
            locations: BTreeMap::new(),
            namespaces: Table::default(),
            services: Table::default(),
            instances: Table::default(),
            rules: Table::default(),
            contracts: BTreeMap::new(),
            clients: BTreeMap::new(),
            gathering: BTreeMap::new(),
            clock: WallClock::start(),
            answers: BTreeMap::new(),
            first_told: BTreeMap::new(),
            ids: HashMap::new(),
            nodes: 0,
            revisions: Revisions { seed: rand::random(), count: 0 },
        };
        state.found(Instant::now());
        state
    }

    /// Forgets everything that was written, as a server does whose store is gone. How it behaves stays.
    pub(super) fn wipe(&mut self, now: Instant) {
        let own: Vec<_> = self
            .instances
            .stored()
            .iter()
            .filter(|(_, row)| row.own)
            .map(|(key, row)| (key.clone(), row.message.clone()))
            .collect();
        self.health = Health::default();
        self.namespaces = Table::default();
        self.services = Table::default();
        self.instances = Table::default();
        self.rules = Table::default();
        self.contracts.clear();
        self.clients.clear();
        self.answers.clear();
        self.first_told.clear();
        self.ids.clear();
        self.found(now);
        // The servers register themselves again.
        for (key, message) in own {
            self.put_instance(key, message, true, now);
        }
    }

    /// What every control plane starts with.
    fn found(&mut self, now: Instant) {
        for name in ["default", "Polaris"] {
            self.put_namespace(v1::Namespace { name: Some(name.to_owned()), ..Default::default() }, now, now);
        }
    }

    fn settle(&mut self, now: Instant) {
        self.namespaces.settle(now);
        self.rules.settle(now);
        if !self.services.settle(now).is_empty() {
            // Aliases and exports tie services together, so none of the lists is beyond doubt.
            self.answers.clear();
        }
        for key in self.instances.settle(now) {
            self.forget_answers(&key.0);
            self.health.seen(&key.1);
            if self.instances.seen().contains_key(&key) {
                self.ids.insert(key.1.clone(), key);
            } else if self.ids.get(&key.1) == Some(&key) {
                self.ids.remove(&key.1);
            }
        }
    }

    /// The lists that show instances of `service` are built anew.
    pub(super) fn forget_answers(&mut self, service: &ServiceKey) {
        self.answers.retain(|_, answer| !answer.shows(service));
    }

    /// A revision or an id that was never used before.
    pub(super) fn revision(&mut self) -> String {
        let count = self.count();
        let mut name = sha1::hex([self.revisions.seed.to_be_bytes(), count.to_be_bytes()]);
        name.truncate(32);
        name
    }

    /// An id that was never used before and is greater than all before it.
    pub(super) fn ascending(&mut self) -> String {
        let (count, mut name) = (self.count(), self.revision());
        name.truncate(16);
        format!("{count:016x}{name}")
    }

    /// A greater number every time.
    pub(super) fn count(&mut self) -> u64 {
        self.revisions.count += 1;
        self.revisions.count
    }

    /// The number of another node, from 1 to 254.
    pub(super) fn next_node(&mut self) -> u8 {
        self.nodes = self.nodes % 254 + 1;
        self.nodes
    }

    /// When a write of now is seen.
    pub(super) fn visible_at(&self, now: Instant) -> Instant {
        now + self.behaviour.visible_after
    }

    /// `2026-11-21 00:07:08`, as the server writes times.
    pub(super) fn timestamp(&self, now: Instant) -> String {
        civil(self.clock.unix_millis(now) / 1000)
    }

    pub(super) fn put_namespace(&mut self, message: v1::Namespace, now: Instant, at: Instant) {
        let stamp = self.timestamp(now);
        let ctime = message.ctime.clone().unwrap_or_else(|| stamp.clone());
        let message = v1::Namespace { ctime: Some(ctime), mtime: Some(stamp), ..message };
        self.namespaces.put(message.name.clone().unwrap_or_default(), message, at);
    }

    /// Stores a service, with a new revision; its namespace appears if need be.
    pub(super) fn put_service(&mut self, key: &ServiceKey, mut row: ServiceRow, now: Instant) {
        let (at, stamp) = (self.visible_at(now), self.timestamp(now));
        if !self.namespaces.stored().contains_key(key.namespace()) {
            let namespace = v1::Namespace { name: Some(key.namespace().to_owned()), ..Default::default() };
            self.put_namespace(namespace, now, at);
        }
        let before = self.services.stored().get(key).map(|row| row.message.clone());
        let message = &mut row.message;
        message.namespace = Some(key.namespace().to_owned());
        message.name = Some(key.service().to_owned());
        message.ctime = before.as_ref().and_then(|before| before.ctime.clone()).or_else(|| Some(stamp.clone()));
        message.mtime = Some(stamp);
        message.id = before.and_then(|before| before.id).or_else(|| Some(self.revision()));
        message.revision = Some(self.revision());
        for text in [&mut message.business, &mut message.department, &mut message.comment, &mut message.owners] {
            text.get_or_insert_default();
        }
        self.services.put(key.clone(), row, at);
    }

    /// Stores an instance as given, with a new revision; its service appears if need be.
    pub(super) fn put_instance(&mut self, key: InstanceKey, mut message: v1::Instance, own: bool, now: Instant) {
        if !self.services.stored().contains_key(&key.0) {
            let owners = Some("Polaris".to_owned());
            let message = v1::Service { owners, ..Default::default() };
            self.put_service(&key.0, ServiceRow { message, alias_of: None }, now);
        }
        let stamp = self.timestamp(now);
        let before = self.instances.stored().get(&key);
        message.ctime = before.and_then(|row| row.message.ctime.clone()).or_else(|| Some(stamp.clone()));
        message.mtime = Some(stamp);
        message.revision = Some(self.revision());
        self.health.watch(&key, ttl(&message).filter(|_| !own), &self.behaviour, now);
        let at = self.visible_at(now);
        self.instances.put(key, InstanceRow { message, changed: now, own }, at);
    }

    /// The instance of this id, among those that clients see.
    pub(super) fn seen_instance(&self, id: &str) -> Option<(InstanceKey, Arc<InstanceRow>)> {
        let key = self.ids.get(id)?;
        self.instances.seen().get(key).map(|row| (key.clone(), Arc::clone(row)))
    }

    /// The service behind an alias, or the service itself; among those that clients see.
    pub(super) fn resolve(&self, key: &ServiceKey) -> Option<(ServiceKey, Arc<ServiceRow>)> {
        let row = self.services.seen().get(key)?;
        match &row.alias_of {
            Some(source) => self.services.seen().get(source).map(|row| (source.clone(), Arc::clone(row))),
            None => Some((key.clone(), Arc::clone(row))),
        }
    }

    /// The instances of a service that clients see, by id.
    pub(super) fn seen_instances(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<InstanceRow>> {
        of_service(self.instances.seen(), service).map(|(_, row)| row)
    }
}

/// The part of a table of instances that belongs to one service.
pub(super) fn of_service<'a>(
    rows: &'a BTreeMap<InstanceKey, Arc<InstanceRow>>,
    service: &ServiceKey,
) -> impl Iterator<Item = (&'a InstanceKey, &'a Arc<InstanceRow>)> {
    let of = service.clone();
    rows.range((service.clone(), String::new())..).take_while(move |((service, _), _)| *service == of)
}

/// The TTL of an instance whose health is checked.
pub(super) fn ttl(message: &v1::Instance) -> Option<u32> {
    message.health_check.as_ref()?.heartbeat.as_ref().map(|beat| beat.ttl.unwrap_or_default())
}

/// Seconds since the epoch as date and time of UTC.
fn civil(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Days since 0000-03-01, in eras of 400 years: leap days then fall on the end of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_server_writes_them() {
        assert_eq!(civil(0), "1970-01-01 00:00:00");
        assert_eq!(civil(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(civil(1_795_219_633), "2026-11-21 00:07:13");
    }

    #[tokio::test(start_paused = true)]
    async fn revisions_are_never_used_twice_not_even_by_two_control_planes() {
        let (one, two) = (Store::new(), Store::new());
        let all: std::collections::BTreeSet<String> =
            (0..50).flat_map(|_| [&one, &two].map(|store| store.with(|state, _| state.revision()))).collect();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|revision| revision.len() == 32));
    }
}
