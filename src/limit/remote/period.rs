//! Periods of the limiter's clock, by number, and the count of one of them in one word.

use std::sync::atomic::{AtomicI64, Ordering};

/// Bits of a word that count; the others hold the low bits of a period's number.
const COUNT_BITS: u32 = 36;

/// The most that a word can count.
pub(super) const MOST: u64 = (1 << COUNT_BITS) - 1;

/// The count of one period. One word, so that nobody sees the count of one period under the number of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

/// Where periods begin and end.
///
/// They are numbered from the origin on, which moves with the limiter's clock. The numbers only mean something here.
#[derive(Debug)]
pub(super) struct Periods {
    /// In microseconds.
    pub(super) length: u64,
    /// 2^64 / `length`: a call multiplies, because a division would take longer than all else that it does.
    reciprocal: u64,
    origin: AtomicI64,
}

// === impl Word ===

impl Word {
    pub(super) fn new(number: u64, count: u64) -> Self {
        Self(number << COUNT_BITS | count.min(MOST))
    }

    pub(super) fn count(self) -> u64 {
        self.0 & MOST
    }

    /// Whether both are of one period.
    pub(super) fn is_beside(self, other: Self) -> bool {
        (self.0 ^ other.0) >> COUNT_BITS == 0
    }

    /// Itself, or the empty count of the period of that number if that is a later one.
    #[inline]
    pub(super) fn or_later(self, number: u64) -> Self {
        let fresh = Self::new(number, 0);
        if fresh.ahead_of(self) > 0 { fresh } else { self }
    }

    /// The number of its period, which is near `number`.
    pub(super) fn number_near(self, number: u64) -> u64 {
        number.wrapping_sub((Self::new(number, 0).ahead_of(self) >> COUNT_BITS).cast_unsigned())
    }

    /// How far its number is ahead of another one's, in the high bits. Numbers may wrap around.
    fn ahead_of(self, other: Self) -> i64 {
        (self.0 & !MOST).wrapping_sub(other.0 & !MOST).cast_signed()
    }
}

// === impl Periods ===

impl Periods {
    pub(super) fn new(length: u64) -> Self {
        Self { length, reciprocal: u64::MAX / length, origin: AtomicI64::new(0) }
    }

    /// The number of the period that `now` is in.
    #[inline]
    pub(super) fn at(&self, now: u64) -> u64 {
        let from_origin = self.since_origin(now);
        #[allow(clippy::cast_possible_truncation, reason = "the high half is less than what was multiplied")]
        let number = ((u128::from(from_origin) * u128::from(self.reciprocal)) >> 64) as u64;
        // The reciprocal was rounded down.
        if from_origin - number * self.length >= self.length { number + 1 } else { number }
    }

    /// When a period begins, by the clock of `now`.
    pub(super) fn start_of(&self, number: u64) -> u64 {
        (number * self.length).saturating_add_signed(self.origin.load(Ordering::Relaxed).saturating_neg())
    }

    pub(super) fn end_of(&self, number: u64) -> u64 {
        self.start_of(number + 1)
    }

    /// Lets `now` be so far in the period of that number.
    pub(super) fn place(&self, now: u64, number: u64, phase: u64) {
        let from_origin = (number * self.length + phase).cast_signed();
        self.origin.store(from_origin.saturating_sub_unsigned(now), Ordering::Relaxed);
    }

    #[inline]
    fn since_origin(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.origin.load(Ordering::Relaxed))
    }
}
