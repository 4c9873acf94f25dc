//! The local registry: what the control plane said, kept so that calls never wait for it.
//!
//! *Problem.* Every call needs the newest list of instances and its rules; the control plane answers slowly, wrongly, or
//! not at all. *Choice.* One entry per resource, subscribed at its first use. One writer, fed by the discover worker,
//! swaps immutable snapshots; readers load a pointer and never wait. What an answer may do to what is served is decided
//! in one place ([`intake`]), and whether it is believed by a pure guard ([`guard`]). A copy on disk bridges a start
//! without a control plane. *Invariant.* Good data is only ever replaced by an accepted answer, never by a failure, and a
//! revision is presented only if the content that it names was taken.

mod cache;
mod cache_file;
mod changes;
mod entry;
mod expire;
mod guard;
mod health;
mod intake;
mod link;
mod map;
mod options;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::model::key::{ResourceKind, ServiceEventKey, ServiceKey};
use crate::model::namespace::Namespace;
use crate::model::service::{ServiceInstances, ServiceList};
use crate::model::snapshot::Resource;
use crate::util::deadline::after;
use crate::util::task::TaskScope;

pub(crate) use self::changes::Changes;
#[allow(unused_imports, reason = "what callers may need to name")]
pub(crate) use self::entry::{Entry, EntryState, Pin};
#[allow(unused_imports, reason = "what callers may need to name")]
pub(crate) use self::health::{KeyTrouble, RegistryHealth, TroubleKind};
pub(crate) use self::options::RegistryOptions;
pub(crate) use self::store::{Subscriptions, Writer};
#[allow(unused_imports, reason = "what callers may need to name")]
pub(crate) use self::watch::{Watch, Watched};

use self::store::Store;

/// A handle to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LocalRegistry(Arc<Store>);

impl LocalRegistry {
    /// The registry, and the writer that the discover worker feeds it through.
    pub(crate) fn new(options: RegistryOptions, scope: TaskScope) -> (Self, Arc<Writer>) {
        let RegistryOptions { expire_after, guard, cache, clock, fixed } = options;
        let store = Store::new(guard, clock, cache, fixed, scope.clone());
        if let Some(expire_after) = expire_after {
            let weak = Arc::downgrade(&store);
            scope.supervise("registry-expiry", move || expire::run(Weak::clone(&weak), expire_after));
        }
        let closes = Closes(Arc::clone(&store));
        // To its end, because it has to outlive the cancellation that it waits for.
        scope.clone().spawn_to_end("registry-close", async move {
            let _closes = closes;
            scope.cancelled().await;
        });
        let writer = Arc::new(Writer::new(Arc::clone(&store)));
        (Self(store), writer)
    }

    /// Gives it the worker. Keys that were asked for before are subscribed now.
    pub(crate) fn attach(&self, discover: impl Subscriptions) {
        self.0.attach(Box::new(discover));
    }

    /// The entry of `key`. A new one is subscribed; it expires when nobody uses it for long.
    pub(crate) fn entry(&self, key: &ServiceEventKey) -> Arc<Entry> {
        self.0.entry(key)
    }

    /// The entry of `key` if there is one. Neither subscribes nor counts as use.
    pub(crate) fn peek(&self, key: &ServiceEventKey) -> Option<Arc<Entry>> {
        self.0.entries.get(key)
    }

    /// What is served of `key`, waiting for the first answer until `deadline`.
    ///
    /// # Errors
    ///
    /// `ServiceNotFound` (instances and services; rules of such a service are empty), the server's refusal, `Timeout` with
    /// the last failure as its source, `Closed`. What is known to fail, because a caller has waited for it in vain, fails
    /// at once until something about it changes.
    ///
    /// # Cancel safety
    ///
    /// Loading goes on when the call is dropped.
    pub(crate) async fn ready(&self, key: &ServiceEventKey, deadline: Instant) -> Result<Resource> {
        let began = Instant::now();
        let entry = self.entry(key);
        if let Some(Ok(resource)) = entry.outcome() {
            return Ok(resource);
        }
        // Pinned, so that an entry that expires very soon does not do so under a caller that waits for it.
        let entry = entry.pin();
        let mut wakes = entry.changed();
        loop {
            wakes.mark_unchanged();
            if self.0.shared.is_closed() || self.0.scope.is_cancelled() {
                let error =
                    Error::new(ErrorKind::Closed, format!("discovering {}: the context is shut down", key.kind));
                return Err(error.with_service(key.service.text()));
            }
            if let Some(outcome) = entry.outcome() {
                return outcome;
            }
            if tokio::time::timeout_at(deadline, wakes.changed()).await.is_err() {
                // An old file is better than an error.
                let effect = entry.lost_patience();
                self.0.publish(&entry, effect, Instant::now());
                return entry.outcome().unwrap_or_else(|| Err(entry.timed_out(began.elapsed())));
            }
        }
    }

    /// Asks for `key` once: makes contact, and leaves nothing behind that would be asked for again.
    ///
    /// # Errors
    ///
    /// Those of [`ready`](Self::ready).
    pub(crate) async fn ask_once(&self, key: &ServiceEventKey, within: Duration) -> Result<()> {
        let answer = self.ready(key, after(Instant::now(), within)).await;
        expire::forget(&self.0, key);
        answer.map(|_| ())
    }

    /// The keys whose served data or state changes from now on.
    pub(crate) fn changes(&self) -> Changes {
        self.0.listeners.listen(self.0.shared.is_closed())
    }

    pub(crate) fn watch_instances(&self, key: &ServiceKey) -> Watch<ServiceInstances> {
        Watch::new(self.entry(&key.of(ResourceKind::Instances)).pin())
    }

    pub(crate) fn watch_services(&self, namespace: &Namespace) -> Watch<ServiceList> {
        Watch::new(self.entry(&services_of(namespace)).pin())
    }

    /// What is wrong now. Takes time linear in the number of keys.
    pub(crate) fn health(&self) -> RegistryHealth {
        self.0.health()
    }

    /// Wakes when [`health`](Self::health) may have changed; carries no data.
    pub(crate) fn watch_health(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.health.subscribe()
    }
}

/// The key of the list of services of a namespace: its service has no name.
pub(crate) fn services_of(namespace: &Namespace) -> ServiceEventKey {
    ServiceKey::new(namespace.as_str(), "").of(ResourceKind::Services)
}

/// Closes the store when the scope is cancelled, and also when its runtime goes without that.
struct Closes(Arc<Store>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}
