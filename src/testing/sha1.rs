//! SHA-1, because the control plane names instances and numbers states with it.
//!
//! Forty lines instead of a dependency that only the test kit would need. Not for anything secret.

/// The digest of the parts one after the other, in lower-case hex.
pub(super) fn hex<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> String {
    use std::fmt::Write;

    let mut message: Vec<u8> = Vec::new();
    parts.into_iter().for_each(|part| message.extend_from_slice(part.as_ref()));
    digest(message).iter().fold(String::with_capacity(40), |mut text, word| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{word:08x}");
        text
    })
}

fn digest(mut message: Vec<u8>) -> [u32; 5] {
    let bits = (message.len() as u64).wrapping_mul(8);
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&bits.to_be_bytes());
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in message.chunks_exact(64) {
        let mix = compress(state, block);
        for (word, mixed) in state.iter_mut().zip(mix) {
            *word = word.wrapping_add(mixed);
        }
    }
    state
}

#[allow(clippy::many_single_char_names, reason = "the names of the standard")]
fn compress([mut a, mut b, mut c, mut d, mut e]: [u32; 5], block: &[u8]) -> [u32; 5] {
    let mut window: std::collections::VecDeque<u32> =
        block.chunks_exact(4).map(|bytes| bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))).collect();
    for round in 0..80 {
        let (f, k) = match round {
            0..20 => ((b & c) | (!b & d), 0x5a82_7999),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6_u32),
        };
        let at = |index: usize| window.get(index).copied().unwrap_or_default();
        let next = (at(13) ^ at(8) ^ at(2) ^ at(0)).rotate_left(1);
        let word = window.pop_front().unwrap_or_default();
        window.push_back(next);
        let mixed = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(word);
        (a, b, c, d, e) = (mixed, a, b.rotate_left(30), c, d);
    }
    [a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        assert_eq!(hex([""]), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex(["abc"]), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(["abcdbcdecdefdefgefghfghighij", "hijkijkljklmklmnlmnomnopnopq"]), {
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1"
        });
        assert_eq!(hex(["a".repeat(1_000_000)]), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    }

    #[test]
    fn every_length_around_a_block_is_padded_right() {
        // Lengths 54 to 65 of "a", digested one after the other into one value.
        let all: Vec<String> = (54..=65).map(|n| hex(["a".repeat(n)])).collect();
        assert_eq!(all[1], "c1c8bbdc22796e28c0e15163d20899b65621d65a");
        assert_eq!(all[2], "c2db330f6083854c99d4b5bfb6e8f29f201be699");
        assert_eq!(all[10], "0098ba824b5c16427bd7a1122a5a442a25ec644d");
    }

    #[test]
    fn instance_ids_are_those_of_a_server() {
        assert_eq!(hex(["shop##pay##127.0.0.1##7001"]), "1c89695779a2e01536a05219a5fe5bcbee89df86");
    }
}
