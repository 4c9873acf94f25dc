//! The store behind all handles, and the one writer that fills it.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::key::{ResourceKind, Revision, ServiceEventKey, ServiceKey};
use crate::model::service::ServiceInstances;
use crate::model::snapshot::{Answer, Resource};
use crate::registry::cache::{Cache, CacheOptions};
use crate::registry::changes::Listeners;
use crate::registry::entry::Entry;
use crate::registry::guard::GuardPolicy;
use crate::registry::intake::{Edge, Effect, Save};
use crate::registry::link::{self, Link};
use crate::registry::map::EntryMap;
use crate::registry::view::{View, empty};
use crate::transport::discover::{DiscoverHandle, LinkState, ResourceSink};
use crate::util::clock::WallClock;
use crate::util::task::TaskScope;

/// Where wishes go: which keys the control plane is to be asked for. Neither call blocks.
pub(crate) trait Subscriptions: Send + Sync + 'static {
    fn want(&self, key: ServiceEventKey);
    fn forget(&self, key: &ServiceEventKey);
}

impl Subscriptions for DiscoverHandle {
    fn want(&self, key: ServiceEventKey) {
        Self::want(self, key);
    }

    fn forget(&self, key: &ServiceEventKey) {
        Self::forget(self, key);
    }
}

/// Everything that the handles share.
pub(crate) struct Store {
    pub(super) entries: EntryMap,
    pub(super) shared: Arc<Shared>,
    pub(super) cache: Option<Cache>,
    pub(super) scope: TaskScope,
    guard: GuardPolicy,
    /// Services that no control plane is asked for; their rules are empty.
    fixed: HashSet<ServiceKey>,
    discover: OnceLock<Box<dyn Subscriptions>>,
    pub(super) listeners: Listeners,
    pub(super) health: watch::Sender<u64>,
    this: Weak<Self>,
}

/// What entries need of the store, also after its end.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) clock: WallClock,
    pub(super) link: Link,
    pub(super) closed: AtomicBool,
    began: Instant,
}

/// Fills the store. There is one, and the discover worker has it.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Store>);

impl Shared {
    pub(super) fn new(clock: WallClock) -> Self {
        let now = Instant::now();
        Self { clock, link: Link::new(now), closed: AtomicBool::new(false), began: now }
    }

    /// The moment as entries keep it.
    pub(super) fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

// === impl Store ===

impl Store {
    pub(super) fn new(
        guard: GuardPolicy,
        clock: WallClock,
        cache: Option<CacheOptions>,
        fixed: Vec<ServiceInstances>,
        scope: TaskScope,
    ) -> Arc<Self> {
        let health = watch::Sender::new(0);
        let cache = cache.map(|options| Cache::start(options, &scope, health.clone()));
        let store = Arc::new_cyclic(|this| Self {
            entries: EntryMap::new(),
            shared: Arc::new(Shared::new(clock)),
            cache,
            scope,
            guard,
            fixed: fixed.iter().map(|instances| instances.key().clone()).collect(),
            discover: OnceLock::new(),
            listeners: Listeners::default(),
            health,
            this: Weak::clone(this),
        });
        for instances in fixed {
            let key = instances.key().of(ResourceKind::Instances);
            let resource = Resource::Instances(Arc::new(instances));
            store.entries.get_or_insert(&key, || store.make(&key, View::fixed(resource)));
        }
        store
    }

    /// The entry of `key`: made, loaded from disk and subscribed if it is new.
    pub(super) fn entry(&self, key: &ServiceEventKey) -> Arc<Entry> {
        let (entry, new) = self.entries.get_or_insert(key, || self.make(key, self.first_view(key)));
        if new && !self.is_fixed(key) {
            match (&self.cache, self.this.upgrade()) {
                (Some(_), Some(this)) => this.load_then_subscribe(Arc::clone(&entry)),
                _ => self.subscribe(&entry),
            }
        }
        entry.touch();
        entry
    }

    pub(super) fn attach(&self, discover: Box<dyn Subscriptions>) {
        if self.discover.set(discover).is_err() {
            tracing::error!("a second discover worker was given to one registry; the first one stays");
            return;
        }
        self.entries.for_each(|entry| {
            if entry.wanted.load(Ordering::Acquire) {
                self.subscribe(entry);
            }
        });
    }

    /// Asks the control plane for the entry's key, if it is still in the store. Asking twice is asking once.
    pub(super) fn subscribe(&self, entry: &Entry) {
        self.entries.locked(entry, || {
            entry.wanted.store(true, Ordering::Release);
            if let Some(discover) = self.discover.get() {
                discover.want(entry.key().clone());
            }
        });
    }

    pub(super) fn forget(&self, key: &ServiceEventKey) {
        if let Some(discover) = self.discover.get() {
            discover.forget(key);
        }
    }

    pub(super) fn is_fixed(&self, key: &ServiceEventKey) -> bool {
        key.kind != ResourceKind::Services && self.fixed.contains(&key.service)
    }

    /// Makes the effect of an answer seen, once the entry's lock is free again.
    pub(super) fn publish(&self, entry: &Entry, effect: Effect, now: Instant) -> bool {
        if effect.changed {
            entry.wake();
            self.listeners.tell(entry.key());
            self.bump_health();
        }
        if let (Some(save), Some(cache)) = (effect.save, &self.cache) {
            let written = self.shared.clock.unix_millis(now);
            match save {
                Save::Write(resource) => cache.write(entry.key().clone(), resource, written),
                Save::Remove => cache.remove(entry.key().clone()),
            }
        }
        if let Some(edge) = effect.edge {
            log(entry.key(), edge);
        }
        effect.news
    }

    pub(super) fn bump_health(&self) {
        self.health.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Nothing changes any more: wakes everyone who waits, to say so.
    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.entries.for_each(|entry| entry.wake());
        self.listeners.close();
        self.bump_health();
    }

    fn make(&self, key: &ServiceEventKey, view: View) -> Arc<Entry> {
        Arc::new(Entry::new(key.clone(), view, Arc::clone(&self.shared), Weak::clone(&self.this)))
    }

    fn first_view(&self, key: &ServiceEventKey) -> View {
        if self.is_fixed(key) { View::fixed(empty(key)) } else { View::loading() }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("guard", &self.guard).finish_non_exhaustive()
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self(store)
    }
}

impl ResourceSink for Writer {
    fn revision(&self, key: &ServiceEventKey) -> Revision {
        self.0.entries.get(key).map(|entry| entry.revision()).unwrap_or_default()
    }

    fn apply(&self, key: &ServiceEventKey, answer: Answer) -> bool {
        // An answer to a key that expired meanwhile is nobody's.
        let Some(entry) = self.0.entries.get(key).filter(|_| !self.0.is_fixed(key)) else { return false };
        let now = Instant::now();
        let effect = entry.take(answer, self.0.guard, now);
        self.0.publish(&entry, effect, now)
    }

    fn link(&self, state: LinkState) {
        let now = Instant::now();
        let edge = self.0.shared.link.set(state.clone(), now);
        match edge {
            None => return,
            Some(link::Edge::Otherwise) => {}
            Some(link::Edge::Up) => self.0.entries.for_each(|entry| entry.given_up.store(false, Ordering::Relaxed)),
            Some(link::Edge::Restored) => {
                tracing::info!(link = ?state, "the control plane is reached again");
                self.0.entries.for_each(|entry| entry.given_up.store(false, Ordering::Relaxed));
            }
            Some(link::Edge::Lost) => {
                tracing::warn!(link = ?state, "the control plane is not reached; what is known stays in force");
                self.0.entries.for_each(|entry| {
                    let effect = entry.lost();
                    self.0.publish(entry, effect, now);
                    entry.wake();
                });
            }
        }
        self.0.bump_health();
    }
}

fn log(key: &ServiceEventKey, edge: Edge) {
    match edge {
        Edge::Failed(error) => tracing::warn!(%key, %error, "cannot be discovered; what is known stays in force"),
        Edge::Doubted(error) => tracing::warn!(%key, %error, "an answer is held back"),
        Edge::Recovered => tracing::info!(%key, "the newest answer is served again"),
        Edge::Gone => tracing::info!(%key, "the service is not there any more"),
        Edge::Skipped(items) => tracing::warn!(%key, ?items, "some items cannot be understood and are left out"),
    }
}
