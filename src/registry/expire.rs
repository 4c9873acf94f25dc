//! Forgets what nobody uses, so that a gateway which once saw a service does not ask for it for ever.
//!
//! Never forgotten: what is pinned (watched, or held by a handle), the control plane's own services, fixed services.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::key::ServiceEventKey;
use crate::registry::entry::Entry;
use crate::registry::store::Store;

/// The namespace of the control plane's own services: without them the next server would not be found.
const SYSTEM_NAMESPACE: &str = "Polaris";

/// An idle entry goes at most this share of its time too late.
const SWEEPS: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Sweeps until the store is gone.
pub(super) async fn run(store: Weak<Store>, expire_after: Duration) {
    let pause = (expire_after / SWEEPS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    loop {
        tokio::time::sleep(pause).await;
        let Some(store) = store.upgrade() else { return };
        sweep(&store, expire_after, Instant::now());
    }
}

pub(super) fn sweep(store: &Arc<Store>, expire_after: Duration, now: Instant) {
    take_out(store, |entry| {
        entry.is_idle(expire_after, now)
            && entry.key().service.namespace() != SYSTEM_NAMESPACE
            && !store.is_fixed(entry.key())
            && entry.evict()
    });
}

/// Forgets one key now, unless somebody holds it.
pub(super) fn forget(store: &Arc<Store>, key: &ServiceEventKey) {
    take_out(store, |entry| entry.key() == key && !store.is_fixed(key) && entry.evict());
}

fn take_out(store: &Arc<Store>, doomed: impl Fn(&Entry) -> bool) {
    // Under the lock of the map: nobody can ask for the key anew between its removal and the farewell.
    store.entries.remove(doomed, |entry| {
        store.forget(entry.key());
        // Whoever made something of it can let it go.
        entry.wake();
        store.listeners.tell(entry.key());
        tracing::debug!(key = %entry.key(), "was not used for long and is not watched any more");
    });
}
