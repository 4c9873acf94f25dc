//! Quotas that are shared with other clients: agreed with limiters, beside the calls.
//!
//! *Problem.* A limiter counts for all clients, but no call may wait for it; limiters come and go, forget what they counted,
//! and each rule may name others. *Choice.* Whoever makes a slot of a GLOBAL rule leaves it here and goes on with the share
//! that a client has on its own. A task for each service of limiters deals the slots out to its nodes by the hash of
//! what they count, as polaris-go does, so that all clients meet at the same node ([`cluster`]). A task for each node keeps
//! one stream, joins the slots' quotas, reports use and hands the answers to the shares ([`node`], [`books`]).
//! *Invariant.* Whatever happens to limiters, a share decides at once and within its bounds; the tasks only tell it more.

mod books;
mod cluster;
mod node;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use self::cluster::Cluster;
use crate::engine::quota::Shared;
use crate::engine::quota::slot::Slot;
use crate::limit::labels::node_hash;
use crate::limit::limiter::Limiter;
use crate::limit::shares::{Listener, Shares};
use crate::model::key::ServiceKey;
use crate::model::limiter::QuotaTarget;
use crate::model::rule::limit::{Limit, LimitRule, Scope};

/// The services of limiters that quotas are shared by.
#[derive(Debug, Default)]
pub(super) struct Clusters(Mutex<HashMap<Named, Arc<Cluster>>>);

/// Where limiters are to be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Named {
    /// At the addresses of the configuration.
    Given,
    /// Where this service is registered.
    Service(ServiceKey),
}

/// A slot that is counted along, until its rule or its labels are forgotten.
#[derive(Debug)]
struct Counted {
    target: QuotaTarget,
    /// Which node counts it.
    hash: u64,
    slot: Weak<Slot>,
}

/// Wakes the task of a node when calls begin to use a quota that it counts.
#[derive(Debug, Default)]
struct Bell(Notify);

impl Shared {
    /// Has the calls of a slot counted by a limiter as well, if its rule says so. `text` tells what they have in common.
    pub(super) fn count_along(
        self: &Arc<Self>,
        service: &ServiceKey,
        rule: &LimitRule,
        slot: &Arc<Slot>,
        text: impl FnOnce() -> String,
    ) {
        let Limit::Quota { scope: Scope::Global(global), .. } = &rule.limit else { return };
        let labels = text();
        let hash = node_hash(service.namespace(), service.service(), &labels);
        let target = QuotaTarget { service: service.clone(), labels: labels.into() };
        let counted = Counted { target, hash, slot: Arc::downgrade(slot) };
        // Given addresses go before the service of a rule, as in polaris-java: who gives them cannot reach the service.
        let named = if self.options.limiter_addresses.is_empty() {
            Named::Service(global.limiter.clone().unwrap_or_else(|| self.options.limiter.clone()))
        } else {
            Named::Given
        };
        let cluster = Arc::clone(self.clusters.lock().entry(named.clone()).or_default());
        cluster.add(counted);
        if cluster.starts() {
            let shared = Arc::clone(self);
            self.scope.supervise("quota-limiters", move || {
                cluster::run(Arc::clone(&shared), named.clone(), Arc::clone(&cluster))
            });
        }
    }
}

impl Clusters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Named, Arc<Cluster>>> {
        // The map is changed by single inserts: a panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Counted ===

impl Counted {
    /// What `then` says of its shares; none once it is forgotten.
    fn with<T>(&self, then: impl FnOnce(&Shares) -> T) -> Option<T> {
        let slot = self.slot.upgrade().filter(|slot| !slot.is_dropped())?;
        match &slot.limiter {
            Limiter::Shared(shares) => Some(then(shares)),
            _ => None,
        }
    }

    fn is_forgotten(&self) -> bool {
        self.slot.upgrade().is_none_or(|slot| slot.is_dropped())
    }
}

// === impl Bell ===

impl Bell {
    /// Waits until it has rung since the last time that it was waited for.
    async fn rung(&self) {
        self.0.notified().await;
    }
}

impl Listener for Bell {
    fn used(&self) {
        self.0.notify_one();
    }
}
