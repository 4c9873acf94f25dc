//! Murmur3: the hash by which a mixed fleet agrees on who serves a key.
//!
//! Both forms are those of Austin Appleby's reference (`MurmurHash3.cpp`, public domain): 32 bits for x86, and the first
//! half of 128 bits for x64. Neither is of use against strangers who choose keys to collide.

/// The first 64 of the 128 bits of murmur3 for x64.
pub(crate) fn x64(bytes: &[u8], seed: u32) -> u64 {
    const C1: u64 = 0x87C3_7B91_1142_53D5;
    const C2: u64 = 0x4CF5_AD43_2745_937F;
    let scramble1 = |word: u64| word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let scramble2 = |word: u64| word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);

    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let mut rest = bytes;
    while let Some((block, tail)) = rest.split_first_chunk::<16>() {
        let block = u128::from_le_bytes(*block);
        h1 ^= scramble1(low(block));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52DC_E729);
        h2 ^= scramble2(low(block >> 64));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5AB5);
        rest = tail;
    }
    // What is left fills a block up with zeros, and zeros scramble to nothing.
    let (first, second) = rest.split_at(rest.len().min(8));
    h2 ^= scramble2(up_to_eight(second));
    h1 ^= scramble1(up_to_eight(first));

    let length = bytes.len() as u64;
    (h1, h2) = (h1 ^ length, h2 ^ length);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    // The second half of the 128 bits would be the sum of this and the mixed `h2`.
    mix64(h1).wrapping_add(mix64(h2))
}

/// The 32 bits of murmur3 for x86.
pub(crate) fn x86_32(bytes: &[u8], seed: u32) -> u32 {
    let scramble = |word: u32| word.wrapping_mul(0xCC9E_2D51).rotate_left(15).wrapping_mul(0x1B87_3593);

    let mut hash = seed;
    let mut rest = bytes;
    while let Some((word, tail)) = rest.split_first_chunk::<4>() {
        hash ^= scramble(u32::from_le_bytes(*word));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64);
        rest = tail;
    }
    hash ^= scramble(low32(up_to_eight(rest)));

    // The algorithm takes the length modulo 2^32.
    mix32(hash ^ low32(bytes.len() as u64))
}

/// Lets every bit of the input reach every bit of the result; the finalizer of murmur3.
pub(crate) const fn mix64(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let word = (word ^ (word >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    word ^ (word >> 33)
}

const fn mix32(word: u32) -> u32 {
    let word = (word ^ (word >> 16)).wrapping_mul(0x85EB_CA6B);
    let word = (word ^ (word >> 13)).wrapping_mul(0xC2B2_AE35);
    word ^ (word >> 16)
}

/// At most eight bytes as a little-endian number, without a loop.
#[inline]
fn up_to_eight(bytes: &[u8]) -> u64 {
    if let Some(all) = bytes.first_chunk() {
        return u64::from_le_bytes(*all);
    }
    if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        // Two halves that overlap, where they are alike.
        let (head, tail) = (u32::from_le_bytes(*head), u32::from_le_bytes(*tail));
        return u64::from(head) | u64::from(tail) << (8 * (bytes.len() - 4));
    }
    match bytes {
        [a, b, c] => u64::from(*a) | u64::from(*b) << 8 | u64::from(*c) << 16,
        [a, b] => u64::from(*a) | u64::from(*b) << 8,
        [a] => u64::from(*a),
        _ => 0,
    }
}

#[inline]
fn low32(word: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    let half = word as u32;
    half
}

#[inline]
fn low(block: u128) -> u64 {
    #[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    let half = block as u64;
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What polaris-go answers for 43 inputs of all lengths modulo 16.
    const GOLDEN: &str = include_str!("../../tests/golden/polaris-go/hash.json");

    #[test]
    fn hashes_are_those_of_polaris_go() {
        let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let hex = case["hex"].as_str().unwrap();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            let expected = |name: &str| u64::from_str_radix(case[name].as_str().unwrap(), 16).unwrap();
            assert_eq!(x64(&bytes, 0), expected("murmur3_64_seed0"), "{hex}");
            assert_eq!(x64(&bytes, 1), expected("murmur3_64_seed1"), "{hex}");
            assert_eq!(u64::from(x86_32(&bytes, 16)), expected("murmur3_32_seed16"), "{hex}");
        }
    }

    #[test]
    fn the_last_bytes_are_read_in_order_whatever_their_number() {
        let bytes = [1u8, 2, 3, 4, 5, 6, 7, 8];
        for count in 0..=8 {
            let expected = bytes[..count].iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            assert_eq!(up_to_eight(&bytes[..count]), expected, "{count}");
        }
    }

    #[test]
    fn an_empty_key_hashes_to_zero_without_a_seed() {
        assert_eq!((x64(b"", 0), x86_32(b"", 0)), (0, 0));
    }
}
