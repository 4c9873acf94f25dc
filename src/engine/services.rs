//! The services in use, by name.
//!
//! A look-up happens on every pick by name, an insertion once for each service: the map is copied when it changes, and
//! read without a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::engine::gate::CloseOnDrop;
use crate::engine::inputs::RuleSources;
use crate::engine::retire::Retired;
use crate::engine::view::Service;
use crate::engine::{Engine, compile};
use crate::model::key::{KeyParts, ResourceKind, ServiceEventKey, ServiceKey, ServiceKeyRef};
use crate::registry::Pin;
use crate::util::hash::NameHash;

type Map = HashMap<ServiceKey, Arc<Service>, NameHash>;

/// The services in use.
#[derive(Debug, Default)]
pub(crate) struct Services {
    map: ArcSwap<Map>,
    /// Held to change the map.
    writer: Mutex<Retired>,
    marks: Arc<Marks>,
    compiling: AtomicBool,
}

/// Which services the compile task is to look at.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    marked: Mutex<Vec<ServiceKey>>,
    notify: Notify,
    /// Whether any call or the configuration named a caller.
    callers: AtomicBool,
}

impl Marks {
    pub(crate) fn mark(&self, key: &ServiceKey) {
        lock(&self.marked).push(key.clone());
        self.notify.notify_one();
    }

    pub(crate) fn name_caller(&self) {
        self.callers.store(true, Ordering::Release);
    }

    fn callers_are_named(&self) -> bool {
        self.callers.load(Ordering::Acquire)
    }
}

impl Services {
    /// The service, if somebody asked for it before. Allocates nothing.
    #[inline]
    pub(crate) fn with<T>(&self, key: ServiceKeyRef<'_>, then: impl FnOnce(&Arc<Service>) -> T) -> Option<T> {
        self.map.load().get(&key as &dyn KeyParts).map(then)
    }

    /// Marks a service for the compile task.
    pub(super) fn mark_key(&self, key: &ServiceKey) {
        self.marks.mark(key);
    }

    pub(super) fn mark_all(&self) {
        self.map.load().keys().for_each(|key| self.marks.mark(key));
    }

    /// Marks the services whose views are made of what changed.
    pub(super) fn mark_changed(&self, key: &ServiceEventKey) {
        if !matches!(key.kind, ResourceKind::Instances | ResourceKind::Routing | ResourceKind::NearbyRoute) {
            return;
        }
        self.marks.mark(&key.service);
        // The rules of a service are also those of the calls that it makes, if anybody says who calls.
        if key.kind == ResourceKind::Routing && self.marks.callers_are_named() {
            let map = self.map.load();
            map.values().filter(|service| service.rules.are_of_caller(&key.service)).for_each(|service| service.mark());
        }
    }

    /// What is marked; once each.
    pub(super) fn take_marked(&self) -> Vec<Arc<Service>> {
        let mut marked = std::mem::take(&mut *lock(&self.marks.marked));
        marked.sort();
        marked.dedup();
        let map = self.map.load();
        marked.iter().filter_map(|key| map.get(key).cloned()).collect()
    }

    pub(super) async fn marked(&self) {
        self.marks.notify.notified().await;
    }

    pub(super) fn all(&self) -> Vec<Arc<Service>> {
        self.map.load().values().cloned().collect()
    }

    /// Forgets a service, unless another one took its place meanwhile.
    pub(super) fn remove(&self, service: &Arc<Service>) {
        self.change(|map| {
            if map.get(service.key()).is_some_and(|there| Arc::ptr_eq(there, service)) {
                map.remove(service.key());
            }
        });
    }

    /// Frees replaced maps that nobody reads any more; whether there are none left.
    pub(super) fn sweep(&self) -> bool {
        let mut retired = lock(&self.writer);
        retired.sweep();
        retired.is_empty()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        let mut retired = lock(&self.writer);
        let mut map = Map::clone(&self.map.load());
        let result = change(&mut map);
        retired.push(self.map.swap(Arc::new(map)));
        result
    }
}

impl Engine {
    /// The service of this name, asked for from now on: subscribes it if nobody did before.
    ///
    /// A name that the control plane would not take, and a context that is closed, give a service that refuses.
    pub(crate) fn service(&self, key: ServiceKeyRef<'_>) -> Arc<Service> {
        let shared = &self.0;
        if let Some(service) = shared.services.with(key, Arc::clone) {
            return service;
        }
        let key = ServiceKey::from(key);
        let (policy, gate) = (Arc::clone(&shared.policy), Arc::clone(&shared.gate));
        if let Err(error) = gate.check_scope().and_then(|()| key.validate()) {
            return Arc::new(Service::refused(key, error, policy, gate));
        }
        // Outside the lock: it takes locks of its own. Of two that race here, both get the same entry.
        let source = shared.registry.entry(&key.of(ResourceKind::Instances));
        // A list that was given to the builder has no rules: nobody is asked about it.
        let rules = if source.is_fixed() {
            RuleSources::default()
        } else {
            RuleSources::new(&key, &policy, &shared.registry, shared.api_timeout)
        };
        let marks = Arc::clone(&shared.services.marks);
        if policy.caller.is_some() {
            marks.name_caller();
        }
        let service = shared.services.change(|map| {
            let make = || Arc::new(Service::new(key.clone(), source, rules, policy, gate, marks));
            Arc::clone(map.entry(key.clone()).or_insert_with(make))
        });
        service.mark();
        self.start_compiling();
        service
    }

    /// As [`Self::service`], kept subscribed while the pin is held.
    pub(crate) fn pinned(&self, key: ServiceKeyRef<'_>) -> (Arc<Service>, Option<Pin>) {
        loop {
            let service = self.service(key);
            let Some(source) = service.source() else { return (service, None) };
            let pin = source.pin();
            if Arc::ptr_eq(pin.entry(), source) {
                return (service, Some(pin));
            }
            // The entry expired a moment ago and its successor is pinned: the service follows it.
            self.0.services.remove(&service);
        }
    }

    fn start_compiling(&self) {
        if !self.0.services.compiling.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.0);
            // Held by the supervisor, so that it falls whether or not the task ever ran, and not when it panics.
            let closes = CloseOnDrop(Arc::clone(&self.0.gate));
            self.0.scope.supervise("consumer-views", move || {
                let CloseOnDrop(_) = &closes;
                compile::run(Arc::clone(&shared))
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is changed in single steps, so a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
