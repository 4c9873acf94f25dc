//! What happens to quotas in the background: rules that change, and windows that nobody uses any more.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::quota::Shared;
use crate::error::{Error, ErrorKind};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::util::deadline::after;

/// The shortest time between two purges, however full it is.
const PURGE_PAUSE: Duration = Duration::from_millis(100);

/// Puts rules in force as they come.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.registry.changes();
    // What changed before this listened.
    shared.services.load().values().for_each(|service| service.refresh(&shared));
    while let Some(keys) = changes.next().await {
        for key in keys.iter().filter(|key| key.kind == ResourceKind::RateLimit) {
            let service = shared.services.load().get(&key.service).cloned();
            if let Some(service) = service {
                service.refresh(&shared);
            }
        }
    }
}

/// Drops windows that count nothing that matters, and forgets services that nobody asks about.
pub(super) async fn purge(shared: Arc<Shared>) {
    let mut due = after(Instant::now(), shared.options.purge_interval);
    loop {
        tokio::select! {
            // First, so that it comes about however often it is full.
            biased;
            () = tokio::time::sleep_until(due) => {
                shared.forget_unused();
                due = after(Instant::now(), shared.options.purge_interval);
            }
            () = shared.room.full.notified() => {}
        }
        shared.services.load().values().for_each(|service| service.purge(&*shared.clock));
        shared.report();
        tokio::time::sleep(PURGE_PAUSE).await;
    }
}

impl Shared {
    /// Forgets the services that were not asked about for long, and that nobody has a handle of.
    fn forget_unused(&self) {
        let Some(expire_after) = self.options.expire_after else { return };
        let rounds = expire_after.as_millis() / self.options.purge_interval.as_millis().max(1);
        let is_unused = |service: &Arc<super::LimitedService>| {
            if service.was_used() || Arc::strong_count(service) > 1 {
                service.unused.store(0, Ordering::Relaxed);
                return false;
            }
            u128::from(service.unused.fetch_add(1, Ordering::Relaxed)) >= rounds
        };
        let unused: Vec<_> =
            self.services.load().values().filter(|service| is_unused(service)).map(|s| s.key().clone()).collect();
        if !unused.is_empty() {
            self.forget(&unused);
            self.troubles.forget(|key| key.kind == ResourceKind::RateLimit && unused.contains(&key.service));
        }
    }

    /// Takes services off the map, but for those that somebody is just taking a handle of: a handle to a service that is
    /// not in the map would never see another rule.
    fn forget(&self, keys: &[ServiceKey]) {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = super::Map::clone(&self.services.load());
        let removed: Vec<_> = keys.iter().filter_map(|key| map.remove_entry(key)).collect();
        self.services.store(Arc::new(map.clone()));
        // Whoever still looks at the map of before keeps it, and so what is in it.
        let wanted: Vec<_> = removed.into_iter().filter(|(_, service)| Arc::strong_count(service) > 1).collect();
        if !wanted.is_empty() {
            map.extend(wanted);
            self.services.store(Arc::new(map));
        }
    }

    /// Says what is wrong: rules with an expression that was given up, and windows that there is no room for.
    fn report(&self) {
        for service in self.services.load().values() {
            let trouble = service.gave_up().map(|rule| {
                let why =
                    format!("rule {rule}: a regular expression took too many steps for some call; it counted as false");
                Error::new(ErrorKind::InvalidRule, why).with_service(service.key().text())
            });
            self.troubles.set(&service.key().of(ResourceKind::RateLimit), trouble);
        }
        let full = self.room.is_full().then(|| {
            let why = format!(
                "all {} windows are in use: calls with new labels go by fallbackOnExceedWindowCount; raise \
                 provider.rateLimit.maxWindowCount, or let rules combine values",
                self.room.most()
            );
            Error::new(ErrorKind::Exhausted, why)
        });
        self.troubles.set(&ServiceKey::new("", "").of(ResourceKind::RateLimit), full);
    }
}
