//! What is to be kept fed: a set that handles change and the worker catches up with.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::key::ServiceEventKey;

/// Says which keys are wanted. Clones share the set; the worker ends with the last of them.
#[derive(Clone)]
pub(crate) struct DiscoverHandle(Arc<Owner>);

/// Closes the set when the last handle goes. The worker holds the set only, so it does not keep itself alive.
struct Owner(Arc<Desired>);

/// The set, and what changed in it since the worker last looked.
#[derive(Debug, Default)]
pub(super) struct Desired {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// With the order in which they were wanted first.
    wanted: HashMap<ServiceEventKey, u64>,
    next: u64,
    /// What the worker knows of `wanted`.
    told: HashMap<ServiceEventKey, u64>,
    /// Keys that were added or removed, in that order; what became of them says `wanted`.
    touched: Vec<ServiceEventKey>,
    closed: bool,
}

/// A change that the worker takes over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Want(ServiceEventKey),
    Forget(ServiceEventKey),
}

pub(super) fn pair() -> (DiscoverHandle, Arc<Desired>) {
    let desired = Arc::new(Desired::default());
    (DiscoverHandle(Arc::new(Owner(Arc::clone(&desired)))), desired)
}

// === impl DiscoverHandle ===

impl DiscoverHandle {
    /// Keeps `key` fed until it is forgotten.
    pub(crate) fn want(&self, key: ServiceEventKey) {
        let desired = &self.0.0;
        let mut state = desired.lock();
        if !state.wanted.contains_key(&key) {
            let order = state.next;
            state.next += 1;
            state.wanted.insert(key.clone(), order);
            state.touch(key);
            drop(state);
            desired.changed.notify_one();
        }
    }

    /// Feeds `key` no longer. An answer that is on its way is dropped.
    pub(crate) fn forget(&self, key: &ServiceEventKey) {
        let desired = &self.0.0;
        let mut state = desired.lock();
        if state.wanted.remove(key).is_some() {
            state.touch(key.clone());
            drop(state);
            desired.changed.notify_one();
        }
    }
}

impl fmt::Debug for DiscoverHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoverHandle").field("wanted", &self.0.0.lock().wanted.len()).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

// === impl Desired ===

impl Desired {
    /// Everything that is wanted, in that order, for a worker that starts.
    pub(super) fn all(&self) -> Vec<ServiceEventKey> {
        let mut state = self.lock();
        state.touched.clear();
        let State { wanted, told, .. } = &mut *state;
        told.clone_from(wanted);
        let mut wanted: Vec<_> = state.wanted.iter().map(|(key, order)| (*order, key.clone())).collect();
        wanted.sort_unstable();
        wanted.into_iter().map(|(_, key)| key).collect()
    }

    /// What changed since the last look. A key that was forgotten and is wanted again is both: whoever wants it now waits
    /// for an answer of his own.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut state = self.lock();
        let State { wanted, told, touched, .. } = &mut *state;
        let mut changes = Vec::new();
        for key in std::mem::take(touched) {
            let now = wanted.get(&key).copied();
            let before = match now {
                Some(order) => told.insert(key.clone(), order),
                None => told.remove(&key),
            };
            if before == now {
                continue;
            }
            if before.is_some() {
                changes.push(Change::Forget(key.clone()));
            }
            if now.is_some() {
                changes.push(Change::Want(key));
            }
        }
        changes
    }

    /// Whether all handles are gone.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for a change. Cancel safe: a change that nobody waited for is kept.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, key: ServiceEventKey) {
        // A key that flips while the worker is busy must not grow the list without bound.
        if self.touched.len() > 2 * self.wanted.len() + 64 {
            let mut seen = HashSet::new();
            self.touched.retain(|key| seen.insert(key.clone()));
        }
        self.touched.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::{ResourceKind, ServiceKey};

    fn key(name: &str) -> ServiceEventKey {
        ServiceKey::new("default", name).of(ResourceKind::Instances)
    }

    #[test]
    fn changes_come_once_and_say_what_holds_now() {
        let (handle, desired) = pair();
        handle.want(key("a"));
        handle.want(key("a"));
        handle.want(key("b"));
        handle.forget(&key("b"));
        handle.forget(&key("never"));
        assert_eq!(desired.changes(), [Change::Want(key("a"))]);
        assert!(desired.changes().is_empty());
        assert_eq!(desired.all(), [key("a")]);
        handle.forget(&key("a"));
        assert_eq!(desired.changes(), [Change::Forget(key("a"))]);
    }

    #[test]
    fn a_key_that_was_forgotten_and_is_wanted_again_is_told_as_both() {
        let (handle, desired) = pair();
        handle.want(key("a"));
        assert_eq!(desired.changes().len(), 1);
        handle.forget(&key("a"));
        handle.want(key("a"));
        assert_eq!(desired.changes(), [Change::Forget(key("a")), Change::Want(key("a"))]);
        assert!(desired.changes().is_empty());
    }

    #[test]
    fn a_key_that_flips_does_not_grow_the_list_without_bound() {
        let (handle, desired) = pair();
        for _ in 0..10_000 {
            handle.want(key("a"));
            handle.forget(&key("a"));
        }
        assert!(desired.changes().len() < 200);
    }

    #[test]
    fn the_last_handle_closes_the_set() {
        let (handle, desired) = pair();
        let other = handle.clone();
        drop(handle);
        assert!(!desired.is_closed());
        drop(other);
        assert!(desired.is_closed());
    }
}
