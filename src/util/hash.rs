//! A hasher for maps of names that the application chose.
//!
//! Names of services come from the program and its configuration, not from strangers, so a fast hash without a secret is
//! the right one: a look-up by name is on the way of every pick. Folded multiplication, eight bytes at a time.

use std::hash::{BuildHasher, Hasher};

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Builds [`NameHasher`]s.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NameHash;

/// The same for names that strangers choose, such as labels of calls: nobody can tell which of them collide without
/// knowing the seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeededHash(u64);

/// Hashes short strings fast; the same on every build and machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameHasher(u64);

impl BuildHasher for NameHash {
    type Hasher = NameHasher;

    fn build_hasher(&self) -> NameHasher {
        NameHasher(MULTIPLIER)
    }
}

impl SeededHash {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for SeededHash {
    type Hasher = NameHasher;

    fn build_hasher(&self) -> NameHasher {
        NameHasher(self.0)
    }
}

impl NameHasher {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(MULTIPLIER);
        // Low and high half folded together, so that every input bit reaches every output bit.
        #[allow(clippy::cast_possible_truncation, reason = "the halves of the product are taken one by one")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.0 = folded.rotate_left(23);
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((word, tail)) = rest.split_first_chunk() {
            self.fold(u64::from_le_bytes(*word));
            rest = tail;
        }
        // Up to seven bytes: of four and more, two halves that overlap; no loop, because most names end here.
        let last = match (rest, rest.first_chunk(), rest.last_chunk()) {
            (_, Some(head), Some(tail)) => {
                u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32
            }
            ([a, b, c], ..) => u64::from(*a) | u64::from(*b) << 8 | u64::from(*c) << 16,
            ([a, b], ..) => u64::from(*a) | u64::from(*b) << 8,
            ([a], ..) => u64::from(*a),
            _ => 0,
        };
        // The length sets apart what the last word makes alike ("1111" and "11111"), and two names from one.
        self.0 = self.0.wrapping_add((bytes.len() as u64).wrapping_mul(MULTIPLIER));
        self.fold(last);
    }

    fn write_u8(&mut self, byte: u8) {
        self.fold(u64::from(byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_that_differ_little_hash_apart() {
        let names = (0..100_000).map(|n| format!("service-{n}"));
        let hashes: HashSet<u64> = names.map(|name| NameHash.hash_one(name)).collect();
        assert_eq!(hashes.len(), 100_000);
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xFFFF).collect();
        assert!(low.len() > 50_000, "the low bits index the map: {}", low.len());
    }

    #[test]
    fn the_hash_of_a_name_never_changes() {
        assert_eq!(NameHash.hash_one("default"), NameHash.hash_one(String::from("default")));
        assert_ne!(NameHash.hash_one(("a", "bc")), NameHash.hash_one(("ab", "c")));
    }
}
