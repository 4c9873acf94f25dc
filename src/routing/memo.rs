//! What is worked out on first use and kept: by exact key, bounded, and read without a lock.
//!
//! Some decisions depend on values that only calls bring: wanted metadata, a label that a rule copies into its
//! destination. What follows from such a value takes time linear in the number of instances, so it is worked out once for
//! each value. A table is only ever added to, and dropped with the view it belongs to: so a reader holds references
//! without a guard, and finds an entry in a few steps. Whoever is first makes the entry and others wait for that one.

use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::util::hash::NameHash;

/// The most entries of one table.
pub(crate) const CAPACITY: usize = 1024;
/// How much all entries of one table may weigh. It stands against the case that many of them are large: a subset of a
/// hundred thousand instances takes more than a megabyte.
const BUDGET: usize = 4_000_000;
/// Slots of each level; a level is allocated when the one before is crowded.
const LEVELS: [usize; 3] = [16, 128, 2048];
/// How far an entry may be from where its hash points to.
const REACH: usize = 8;

/// A table of values by keys.
#[derive(Debug)]
pub(crate) struct Memo<V> {
    levels: [OnceLock<Level<V>>; LEVELS.len()],
    /// Held while an entry is made.
    taken: Mutex<Taken>,
}

/// Slots of entries, each set once.
type Level<V> = Box<[OnceLock<Entry<V>>]>;

/// How much of a table is taken.
#[derive(Debug, Default)]
struct Taken {
    entries: usize,
    weight: usize,
}

#[derive(Debug)]
struct Entry<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
}

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Found<'m, V> {
    Kept(&'m V),
    /// The table is full: made for this once.
    Made(V),
}

/// Writes a key, part by part; the same parts for the same request, and others for another.
pub(crate) trait Key {
    fn write(&self, part: &mut dyn FnMut(&[u8]));
}

impl<V> Memo<V> {
    /// The value of `key`, made by `make` with its weight if this is the first time that it is asked for.
    pub(crate) fn get_or_make(&self, key: &impl Key, make: impl FnOnce() -> (V, usize)) -> Found<'_, V> {
        let hash = hash(key);
        match self.find(hash, key) {
            Some(value) => Found::Kept(value),
            None => self.add(hash, key, make),
        }
    }

    #[inline]
    fn find(&self, hash: u64, key: &impl Key) -> Option<&V> {
        for level in &self.levels {
            let slots = level.get()?;
            for slot in reach(slots, hash) {
                match slot.get() {
                    Some(entry) if entry.hash == hash && entry.is(key) => return Some(&entry.value),
                    Some(_) => {}
                    // Entries take the first free slot that they reach and never leave it: behind a free one there is none.
                    None => return None,
                }
            }
        }
        None
    }

    #[cold]
    fn add(&self, hash: u64, key: &impl Key, make: impl FnOnce() -> (V, usize)) -> Found<'_, V> {
        // A panic in `make` leaves the table as it was.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = self.find(hash, key) {
            return Found::Kept(value);
        }
        let (value, weight) = make();
        // One that is too heavy for an empty table is kept all the same: nothing is gained by making it each time.
        if taken.entries >= CAPACITY || (taken.entries > 0 && taken.weight + weight > BUDGET) {
            return Found::Made(value);
        }
        for (level, size) in self.levels.iter().zip(LEVELS) {
            let slots = level.get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
            if let Some(free) = reach(slots, hash).find(|slot| slot.get().is_none()) {
                taken.entries += 1;
                taken.weight += weight;
                let entry = Entry { hash, key: bytes(key), value };
                return Found::Kept(&free.get_or_init(|| entry).value);
            }
        }
        Found::Made(value)
    }

    /// Whether it has so many entries that others are not kept.
    #[cfg(test)]
    pub(crate) fn is_full(&self) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).entries >= CAPACITY
    }
}

impl<V> Default for Memo<V> {
    fn default() -> Self {
        Self { levels: [const { OnceLock::new() }; LEVELS.len()], taken: Mutex::default() }
    }
}

impl<V> Entry<V> {
    /// Whether its key is this one, without building it.
    fn is(&self, key: &impl Key) -> bool {
        let mut rest = Some(&*self.key);
        key.write(&mut |part| rest = rest.and_then(|rest| rest.strip_prefix(part)));
        rest.is_some_and(<[u8]>::is_empty)
    }
}

/// The slots that an entry of this hash may be in, in the order in which they are tried.
fn reach<T>(slots: &[T], hash: u64) -> impl Iterator<Item = &T> {
    let (start, _) = crate::util::draw::below(hash, slots.len());
    slots.iter().cycle().skip(start).take(REACH)
}

fn hash(key: &impl Key) -> u64 {
    let mut hasher = NameHash.build_hasher();
    key.write(&mut |part| hasher.write(part));
    hasher.finish()
}

fn bytes(key: &impl Key) -> Box<[u8]> {
    let mut bytes = Vec::new();
    key.write(&mut |part| bytes.extend_from_slice(part));
    bytes.into()
}

/// Writes a text so that no two sequences of texts look alike.
pub(crate) fn write_text(text: Option<&str>, part: &mut dyn FnMut(&[u8])) {
    // An absent text is no empty one.
    let length = text.map_or(u64::MAX, |text| text.len() as u64);
    part(&length.to_le_bytes());
    part(text.unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::HashMap;

    struct Texts<'a>(&'a [Option<String>]);

    impl Key for Texts<'_> {
        fn write(&self, part: &mut dyn FnMut(&[u8])) {
            self.0.iter().for_each(|text| write_text(text.as_deref(), part));
        }
    }

    fn key(text: &str) -> [Option<String>; 1] {
        [Some(text.to_owned())]
    }

    proptest! {
        #[test]
        fn every_key_keeps_its_own_value(keys in proptest::collection::vec(
            proptest::collection::vec(proptest::option::of("[ab]{0,3}"), 0..3), 1..60
        )) {
            let memo = Memo::default();
            let mut model = HashMap::new();
            for (n, key) in keys.iter().enumerate() {
                let expected = *model.entry(key.clone()).or_insert(n);
                let Found::Kept(found) = memo.get_or_make(&Texts(key), || (n, 1)) else { panic!("there is room") };
                prop_assert_eq!(*found, expected);
            }
        }
    }

    #[test]
    fn a_full_table_makes_values_for_once_and_keeps_what_it_has() {
        let memo = Memo::default();
        let made = Cell::new(0);
        let mut ask = |n: usize| {
            matches!(
                memo.get_or_make(&Texts(&key(&n.to_string())), || {
                    made.set(made.get() + 1);
                    (n, 1)
                }),
                Found::Kept(kept) if *kept == n
            )
        };
        let kept = (0..2 * CAPACITY).filter(|n| ask(*n)).count();
        assert!(kept > CAPACITY * 9 / 10 && kept <= CAPACITY, "{kept}");
        assert!(memo.is_full() || kept < CAPACITY);
        let before = made.get();
        assert!((0..CAPACITY / 2).all(&mut ask));
        assert_eq!(made.get(), before, "what is kept is not made again");
    }

    #[test]
    fn heavy_values_are_kept_as_far_as_the_budget_goes() {
        let memo = Memo::default();
        let keeps = |n: usize, weight: usize| {
            matches!(memo.get_or_make(&Texts(&key(&n.to_string())), || (n, weight)), Found::Kept(_))
        };
        assert!(keeps(0, 2 * BUDGET), "the first, whatever it weighs");
        assert!(!keeps(1, 1) && keeps(0, 1), "and then no more");
    }

    #[test]
    fn of_many_that_ask_at_once_one_makes_and_all_get_the_same() {
        let memo = Memo::default();
        let made = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..100 {
                        let make = || (made.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 1);
                        memo.get_or_make(&Texts(&key(&n.to_string())), make);
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 100);
    }
}
