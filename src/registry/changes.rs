//! Which keys changed: a set that is collected until it is read, so that a slow reader costs memory by keys, not by
//! changes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::model::key::ServiceEventKey;
use crate::util::hash::NameHash;

/// The keys whose data or state changed since the last look.
#[derive(Debug)]
pub(crate) struct Changes(Arc<Queue>);

/// Hands changes to everyone who listens.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<Vec<Weak<Queue>>>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    keys: HashSet<ServiceEventKey, NameHash>,
    closed: bool,
}

impl Changes {
    /// The keys that changed since the last call, at least one; none once the context is shut down.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing: the keys are there for the next one.
    pub(crate) async fn next(&mut self) -> Option<Vec<ServiceEventKey>> {
        loop {
            {
                let mut state = self.0.lock();
                if !state.keys.is_empty() {
                    return Some(state.keys.drain().collect());
                }
                if state.closed {
                    return None;
                }
            }
            // One reader: a change between the look and the wait has left its permit.
            self.0.notify.notified().await;
        }
    }
}

impl Listeners {
    pub(super) fn listen(&self, closed: bool) -> Changes {
        let queue = Arc::new(Queue::default());
        queue.lock().closed = closed;
        self.lock().push(Arc::downgrade(&queue));
        Changes(queue)
    }

    pub(super) fn tell(&self, key: &ServiceEventKey) {
        self.each(|state| {
            state.keys.insert(key.clone());
        });
    }

    pub(super) fn close(&self) {
        self.each(|state| state.closed = true);
    }

    fn each(&self, mut change: impl FnMut(&mut State)) {
        self.lock().retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            change(&mut queue.lock());
            queue.notify.notify_one();
            true
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Queue>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::{ResourceKind, ServiceKey};

    fn key(name: &str) -> ServiceEventKey {
        ServiceKey::new("default", name).of(ResourceKind::Instances)
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_of_one_key_are_one_and_the_end_comes_after_them() {
        let listeners = Listeners::default();
        let mut changes = listeners.listen(false);
        for name in ["a", "b", "a", "a"] {
            listeners.tell(&key(name));
        }
        listeners.close();
        let mut keys = changes.next().await.unwrap();
        keys.sort();
        assert_eq!(keys, [key("a"), key("b")]);
        assert_eq!(changes.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_is_gone_is_forgotten() {
        let listeners = Listeners::default();
        drop(listeners.listen(false));
        listeners.tell(&key("a"));
        assert!(listeners.lock().is_empty());
    }
}
