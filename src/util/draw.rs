//! Choices out of random bits, without a division and without a generator: the bits are a value that is passed in.

/// A number below `n` out of 64 random bits, and the bits that are left of them.
#[inline]
pub(crate) fn below(entropy: u64, n: usize) -> (usize, u64) {
    let product = u128::from(entropy) * (n as u128);
    #[allow(clippy::cast_possible_truncation, reason = "the high half is below `n`, the low half is what is left")]
    let halves = ((product >> 64) as usize, product as u64);
    halves
}

/// A weight below `total` out of 64 random bits; 0 if there is none below it.
#[inline]
pub(crate) fn level(entropy: u64, total: u64) -> u64 {
    #[allow(clippy::cast_possible_truncation, reason = "the high half is below `total`")]
    let level = ((u128::from(entropy) * u128::from(total)) >> 64) as u64;
    level
}

/// Other bits out of random bits, as good and as if drawn anew (the finish of `SplitMix64`, Steele et al., OOPSLA 2014).
#[inline]
pub(crate) const fn mix(entropy: u64) -> u64 {
    let z = entropy.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
