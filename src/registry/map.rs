//! Key → entry: copied on write, read without a lock.
//!
//! Keys change rarely and are read all the time. Copying is by shard, so that a start with thousands of services does
//! not copy thousands of keys for each of them. Whoever needs "still the entry of its key" to hold while doing something
//! short does it under the shard's write lock, by [`EntryMap::locked`].

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::model::key::ServiceEventKey;
use crate::registry::entry::Entry;
use crate::util::hash::NameHash;

const SHARDS: usize = 64;

type Entries = HashMap<ServiceEventKey, Arc<Entry>, NameHash>;

pub(super) struct EntryMap {
    shards: [Shard; SHARDS],
}

#[derive(Default)]
struct Shard {
    entries: ArcSwap<Entries>,
    write: Mutex<()>,
}

impl EntryMap {
    pub(super) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()) }
    }

    pub(super) fn get(&self, key: &ServiceEventKey) -> Option<Arc<Entry>> {
        self.shard(key).entries.load().get(key).cloned()
    }

    /// The entry of `key`, made if there is none; and whether it was made.
    pub(super) fn get_or_insert(&self, key: &ServiceEventKey, make: impl FnOnce() -> Arc<Entry>) -> (Arc<Entry>, bool) {
        if let Some(entry) = self.get(key) {
            return (entry, false);
        }
        let shard = self.shard(key);
        let _write = shard.lock();
        if let Some(entry) = shard.entries.load().get(key) {
            return (Arc::clone(entry), false);
        }
        let entry = make();
        let mut entries = Entries::clone(&shard.entries.load());
        entries.insert(key.clone(), Arc::clone(&entry));
        shard.entries.store(Arc::new(entries));
        (entry, true)
    }

    /// Takes out every entry that `doomed` names, and calls `gone` for each while nobody can make it anew.
    pub(super) fn remove(&self, doomed: impl Fn(&Entry) -> bool, gone: impl Fn(&Entry)) {
        for shard in &self.shards {
            let _write = shard.lock();
            let old = shard.entries.load_full();
            let out: Vec<_> = old.values().filter(|entry| doomed(entry)).collect();
            if out.is_empty() {
                continue;
            }
            let mut entries = Entries::clone(&old);
            for entry in &out {
                entries.remove(entry.key());
            }
            shard.entries.store(Arc::new(entries));
            for entry in out {
                gone(entry);
            }
        }
    }

    /// Calls `then` if `entry` is the entry of its key, and keeps it so meanwhile.
    pub(super) fn locked(&self, entry: &Entry, then: impl FnOnce()) {
        let shard = self.shard(entry.key());
        let _write = shard.lock();
        if shard.entries.load().get(entry.key()).is_some_and(|current| std::ptr::eq(&raw const **current, entry)) {
            then();
        }
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(&Arc<Entry>)) {
        for shard in &self.shards {
            shard.entries.load_full().values().for_each(&mut f);
        }
    }

    #[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "the remainder is below the length")]
    fn shard(&self, key: &ServiceEventKey) -> &Shard {
        // The map inside a shard indexes by the low bits and tags by the top ones; these are neither.
        &self.shards[(NameHash.hash_one(key) >> 40) as usize % SHARDS]
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data, only the order of writers.
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::{ResourceKind, ServiceKey};
    use crate::registry::store::Shared;
    use crate::registry::view::View;
    use crate::util::clock::WallClock;
    use std::sync::Weak;

    #[tokio::test(start_paused = true)]
    async fn keys_spread_over_the_shards_and_are_all_found() {
        let (map, shared) = (EntryMap::new(), Arc::new(Shared::new(WallClock::start())));
        let keys: Vec<_> = (0..6_400)
            .map(|n| ServiceKey::new("default", format!("service-{}", n / 2)))
            .enumerate()
            .map(|(n, service)| service.of(if n % 2 == 0 { ResourceKind::Instances } else { ResourceKind::Routing }))
            .collect();
        for key in &keys {
            let make = || Arc::new(Entry::new(key.clone(), View::loading(), Arc::clone(&shared), Weak::new()));
            assert!(map.get_or_insert(key, make).1);
            assert!(!map.get_or_insert(key, make).1);
        }
        assert!(keys.iter().all(|key| map.get(key).is_some_and(|entry| entry.key() == key)));
        let largest = map.shards.iter().map(|shard| shard.entries.load().len()).max();
        assert!(largest.is_some_and(|n| n < 200), "{largest:?} of 100 on average");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_entry_of_its_key_is_acted_upon() {
        let (map, shared) = (EntryMap::new(), Arc::new(Shared::new(WallClock::start())));
        let key = ServiceKey::new("default", "a").of(ResourceKind::Instances);
        let make = || Arc::new(Entry::new(key.clone(), View::loading(), Arc::clone(&shared), Weak::new()));
        let (first, _) = map.get_or_insert(&key, make);
        map.remove(|_| true, |gone| assert!(std::ptr::eq(gone, &raw const *first)));
        let (second, _) = map.get_or_insert(&key, make);
        let mut acted = 0;
        map.locked(&first, || acted += 1);
        map.locked(&second, || acted += 10);
        assert_eq!(acted, 10);
    }
}
