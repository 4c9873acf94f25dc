//! What is wrong with routing and limits, beside what is wrong with their data: told once as it begins, and seen in the state until it
//! ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::model::key::ServiceEventKey;

/// The troubles of one engine, each by the resource that it is about.
#[derive(Debug)]
pub(crate) struct Troubles {
    now: Mutex<BTreeMap<ServiceEventKey, (Error, Instant)>>,
    wake: watch::Sender<u64>,
}

impl Troubles {
    /// Sets what is wrong with a resource, or that nothing is.
    pub(super) fn set(&self, key: &ServiceEventKey, trouble: Option<Error>) {
        let mut now = self.lock();
        match (trouble, now.get(key)) {
            (Some(error), Some((known, _))) if known.to_string() == error.to_string() => return,
            (Some(error), known) => {
                let since = known.map_or_else(Instant::now, |(_, since)| *since);
                tracing::warn!(service = %key.service, kind = %key.kind, %error, "not all is followed that should be");
                now.insert(key.clone(), (error, since));
            }
            (None, Some(_)) => {
                tracing::info!(service = %key.service, kind = %key.kind, "all is followed again that should be");
                now.remove(key);
            }
            (None, None) => return,
        }
        drop(now);
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Forgets what was wrong with a service that is not in use any more.
    pub(super) fn forget(&self, of: impl Fn(&ServiceEventKey) -> bool) {
        self.lock().retain(|key, _| !of(key));
    }

    pub(crate) fn list(&self) -> Vec<(ServiceEventKey, Error, Instant)> {
        self.lock().iter().map(|(key, (error, since))| (key.clone(), error.clone(), *since)).collect()
    }

    /// Wakes when the list changed; carries no data.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceEventKey, (Error, Instant)>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Troubles {
    fn default() -> Self {
        Self { now: Mutex::default(), wake: watch::Sender::new(0) }
    }
}
