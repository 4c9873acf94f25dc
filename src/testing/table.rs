//! Rows that are written now and seen later.
//!
//! A real server reads its store once a second, so clients see a write a while after it was acknowledged, and some
//! writes never. A table therefore keeps both: what is stored, and what clients are told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

/// One kind of row by key.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    stored: BTreeMap<K, Arc<V>>,
    seen: BTreeMap<K, Arc<V>>,
    coming: VecDeque<Coming<K, V>>,
}

#[derive(Debug)]
struct Coming<K, V> {
    at: Instant,
    key: K,
    row: Option<Arc<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { stored: BTreeMap::new(), seen: BTreeMap::new(), coming: VecDeque::new() }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// Stores a row that is seen from `at` on.
    pub(super) fn put(&mut self, key: K, row: V, at: Instant) {
        let row = Arc::new(row);
        self.stored.insert(key.clone(), Arc::clone(&row));
        self.announce(key, Some(row), at);
    }

    /// Takes a row away; from `at` on it is not seen any more.
    pub(super) fn remove(&mut self, key: &K, at: Instant) -> bool {
        let there = self.stored.remove(key).is_some();
        self.announce(key.clone(), None, at);
        there
    }

    /// Takes a row away and lets nobody see it.
    pub(super) fn remove_unseen(&mut self, key: &K) {
        self.stored.remove(key);
    }

    /// Changes what is seen of a row now, and what is stored if it still is.
    pub(super) fn amend(&mut self, key: &K, change: impl Fn(&mut V))
    where
        V: Clone,
    {
        let newer = self.coming.iter_mut().filter(|coming| coming.key == *key).filter_map(|coming| coming.row.as_mut());
        for row in self.seen.get_mut(key).into_iter().chain(self.stored.get_mut(key)).chain(newer) {
            change(Arc::make_mut(row));
        }
    }

    /// Lets what is due at `now` be seen; the keys whose rows changed.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<K> {
        let mut changed = Vec::new();
        while self.coming.front().is_some_and(|coming| coming.at <= now) {
            let Some(Coming { key, row, .. }) = self.coming.pop_front() else { break };
            match row {
                Some(row) => self.seen.insert(key.clone(), row),
                None => self.seen.remove(&key),
            };
            changed.push(key);
        }
        changed
    }

    pub(super) fn stored(&self) -> &BTreeMap<K, Arc<V>> {
        &self.stored
    }

    pub(super) fn seen(&self) -> &BTreeMap<K, Arc<V>> {
        &self.seen
    }

    fn announce(&mut self, key: K, row: Option<Arc<V>>, at: Instant) {
        // A shorter delay set in between must not let a later write overtake an earlier one.
        let at = self.coming.back().map_or(at, |last| last.at.max(at));
        self.coming.push_back(Coming { at, key, row });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_seen_when_it_is_due_and_in_order() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut table = Table::default();
        table.put("a", 1, now + second);
        table.put("a", 2, now);
        assert_eq!((table.settle(now), table.seen().len(), *table.stored()["a"]), (vec![], 0, 2));
        assert_eq!(table.settle(now + second), ["a", "a"]);
        assert_eq!(*table.seen()["a"], 2);
        table.remove_unseen(&"a");
        assert_eq!((table.settle(now + second), table.seen().len(), table.stored().len()), (vec![], 1, 0));
        table.amend(&"a", |row| *row = 3);
        assert_eq!(*table.seen()["a"], 3);
        assert!(!table.remove(&"a", now + second));
        assert_eq!((table.settle(now + second), table.seen().len()), (vec!["a"], 0));
    }
}
