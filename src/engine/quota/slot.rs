//! Where calls are counted: one place for all calls of a rule, or one for each combination of the labels that the rule
//! counts apart.
//!
//! *Problem.* Values of labels are strangers': there may be a million of them, and a check must not wait for a lock to
//! find its own. *Choice.* A table that is read without one, with as many slots as all rules of a context may have together;
//! what is not used any more is dropped from outside. *Invariant.* There are never more slots than allowed, and none is
//! dropped while what it counted matters.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use papaya::{Equivalent, HashMap};
use tokio::sync::Notify;

use crate::limit::limiter::{Clock, Limiter};
use crate::util::hash::{NameHasher, SeededHash};

/// Ends each value in a key: no text has this byte.
const END: u8 = 0xFF;
/// Bytes of a key that is not allocated.
const SHORT: usize = 96;

/// One place where calls are counted.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) limiter: Limiter,
    /// How many of its calls are in the sum of its rule already.
    summed: AtomicU32,
    /// It was taken out of its table. Its memory may stay for long: tables free in batches, and only when they are changed.
    dropped: AtomicBool,
}

/// The slots of one rule.
#[derive(Debug)]
pub(crate) enum Slots {
    Together(Arc<Slot>),
    Apart(Table),
}

/// One for each combination of values.
pub(crate) struct Table {
    slots: HashMap<Key, Arc<Slot>, Ready>,
    hash: SeededHash,
    room: Arc<Room>,
}

/// How many slots there may be, of all tables of a context.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    taken: AtomicUsize,
    /// Told when there is no room left.
    pub(crate) full: Notify,
}

/// A combination of values that has a slot.
struct Key {
    hash: u64,
    bytes: Box<[u8]>,
}

/// Passes on a hash that is there already.
#[derive(Debug, Clone, Copy, Default)]
struct Ready(u64);

/// A combination of values, to be looked up.
pub(crate) struct Combination {
    /// Of the values as they come: to read them again from here, where they were only just written, takes longer.
    hash: NameHasher,
    short: [u8; SHORT],
    len: usize,
    long: Vec<u8>,
}

// === impl Slot ===

impl Slot {
    pub(crate) fn new(limiter: Limiter) -> Arc<Self> {
        Arc::new(Self { limiter, summed: AtomicU32::new(0), dropped: AtomicBool::new(false) })
    }

    /// Whether no call can find it any more.
    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many calls passed since the last time that this was asked; fewer than none if some were given back.
    pub(crate) fn newly_passed(&self) -> i64 {
        let calls = self.limiter.calls();
        let before = self.summed.swap(calls, Ordering::Relaxed);
        i64::from(calls.wrapping_sub(before).cast_signed())
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new(room: Arc<Room>, seed: u64) -> Self {
        Self { slots: HashMap::with_hasher(Ready::default()), hash: SeededHash::new(seed), room }
    }

    /// A combination to be looked up here, without values yet.
    #[inline]
    pub(crate) fn combination(&self) -> Combination {
        Combination { hash: self.hash.build_hasher(), short: [0; SHORT], len: 0, long: Vec::new() }
    }

    /// What `then` says of the slot of this combination, if there is one.
    #[inline]
    pub(crate) fn with<T>(&self, key: &Combination, then: impl FnOnce(&Arc<Slot>) -> T) -> Option<T> {
        self.slots.pin().get(key).map(then)
    }

    /// The slot of this combination, made if there is room for it.
    #[cold]
    pub(crate) fn make(&self, key: &Combination, make: impl FnOnce() -> Limiter) -> Option<Arc<Slot>> {
        if !self.room.enter() {
            return None;
        }
        let (made, slots) = (Slot::new(make()), self.slots.pin());
        let there = slots.get_or_insert(key.to_key(), Arc::clone(&made));
        if !Arc::ptr_eq(there, &made) {
            self.room.leave(1);
        }
        Some(Arc::clone(there))
    }

    /// Drops the slots in which nothing matters any more; `gone` is told of each.
    pub(crate) fn purge(&self, clock: &impl Clock, gone: impl Fn(&Slot)) {
        let (now, slots) = (clock.coarse(), self.slots.pin());
        for (key, slot) in &slots {
            // Not `retain`: it may ask about a slot again that is moved meanwhile, and each has one place to give back.
            let is_idle = |slot: &Slot| slot.limiter.is_idle(now, clock);
            if is_idle(slot) && matches!(slots.remove_if(key, |_, slot| is_idle(slot)), Ok(Some(_))) {
                slot.dropped.store(true, Ordering::Relaxed);
                gone(slot);
                self.room.leave(1);
            }
        }
    }

    pub(crate) fn for_each(&self, mut then: impl FnMut(&Slot)) {
        self.slots.pin().iter().for_each(|(_, slot)| then(slot));
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.room.leave(self.slots.len());
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

// === impl Room ===

impl Room {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0), full: Notify::new() }
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.taken() >= self.most
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    fn enter(&self) -> bool {
        let more = |taken: usize| (taken < self.most).then_some(taken + 1);
        let entered = self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok();
        if !entered {
            self.full.notify_one();
        }
        entered
    }

    fn leave(&self, slots: usize) {
        self.taken.fetch_sub(slots, Ordering::AcqRel);
    }
}

// === impl Combination ===

impl Combination {
    #[inline]
    pub(crate) fn push(&mut self, value: &str) {
        self.hash.write(value.as_bytes());
        let end = self.len + value.len();
        match self.short.get_mut(self.len..=end) {
            Some(place) if self.long.is_empty() => {
                if let Some((last, text)) = place.split_last_mut() {
                    text.copy_from_slice(value.as_bytes());
                    *last = END;
                }
                self.len = end + 1;
            }
            _ => self.push_long(value),
        }
    }

    #[cold]
    fn push_long(&mut self, value: &str) {
        if self.long.is_empty() {
            self.long.extend_from_slice(self.short.get(..self.len).unwrap_or_default());
        }
        self.long.extend_from_slice(value.as_bytes());
        self.long.push(END);
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        if self.long.is_empty() { self.short.get(..self.len).unwrap_or_default() } else { &self.long }
    }

    fn to_key(&self) -> Key {
        Key { hash: self.hash.finish(), bytes: self.bytes().into() }
    }

    /// The values that were pushed.
    pub(crate) fn values(&self) -> Vec<&str> {
        let ended = self.bytes().split_inclusive(|byte| *byte == END);
        ended.filter_map(|value| str::from_utf8(value.split_last()?.1).ok()).collect()
    }
}

impl Hash for Combination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash.finish());
    }
}

impl Equivalent<Key> for Combination {
    fn equivalent(&self, key: &Key) -> bool {
        self.hash.finish() == key.hash && *self.bytes() == *key.bytes
    }
}

// === impl Key ===

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes == other.bytes
    }
}

impl Eq for Key {}

// === impl Ready ===

impl BuildHasher for Ready {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Ready {
    fn write(&mut self, _: &[u8]) {
        debug_assert!(false, "only hashes are written");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rule::limit::Limit;
    use proptest::prelude::*;
    use std::time::Duration;

    struct Still;

    impl Clock for Still {
        fn coarse(&self) -> u64 {
            1
        }

        fn exact(&self) -> u64 {
            1_000
        }
    }

    fn combination(values: &[&str]) -> Combination {
        of(&Table::new(Arc::new(Room::new(1)), 7), values)
    }

    fn of(table: &Table, values: &[&str]) -> Combination {
        let mut combination = table.combination();
        for value in values {
            combination.push(value);
        }
        combination
    }

    fn gauge() -> Limiter {
        Limiter::new(&Limit::Concurrent(1), Duration::ZERO, 0, 0)
    }

    #[test]
    fn there_are_never_more_slots_than_there_is_room_for() {
        let room = Arc::new(Room::new(3));
        let (a, b) = (Table::new(Arc::clone(&room), 1), Table::new(Arc::clone(&room), 2));
        let made = |table: &Table, name: &str| table.make(&of(table, &[name]), gauge).is_some();
        assert!(made(&a, "1") && made(&a, "2") && made(&b, "1"));
        assert!(!made(&a, "3") && room.is_full() && room.taken() == 3);
        a.with(&of(&a, &["2"]), |slot| slot.limiter.take(1, &Still).unwrap()).unwrap();
        a.purge(&Still, |_| {});
        assert_eq!((a.len(), room.taken()), (1, 2), "what is under way stays");
        assert!(made(&a, "2") && made(&a, "3"));
        drop(a);
        assert_eq!(room.taken(), 1);
        drop(b);
        assert_eq!(room.taken(), 0);
    }

    #[test]
    fn threads_that_make_the_same_slot_get_one() {
        let room = Arc::new(Room::new(1_000));
        let table = Table::new(Arc::clone(&room), 1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..200 {
                        let key = of(&table, &[&n.to_string()]);
                        let found = table.with(&key, Arc::clone);
                        assert!(found.or_else(|| table.make(&key, gauge)).is_some());
                    }
                });
            }
        });
        assert_eq!((table.len(), room.taken()), (200, 200));
    }

    proptest! {
        #[test]
        fn combinations_are_equal_where_all_values_are(
            a in prop::collection::vec("\\PC{0,60}", 0..4),
            b in prop::collection::vec("[ab|:]{0,2}", 0..4),
            c in prop::collection::vec("[ab|:]{0,2}", 0..4),
        ) {
            let values: Vec<_> = a.iter().map(String::as_str).collect();
            let whole = combination(&values);
            prop_assert_eq!(whole.values(), values);
            let (x, y): (Vec<_>, Vec<_>) = (b.iter().map(String::as_str).collect(), c.iter().map(String::as_str).collect());
            prop_assert_eq!(combination(&x).bytes() == combination(&y).bytes(), b == c);
        }
    }
}
