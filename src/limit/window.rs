//! A sliding window: at most so many calls in any stretch of its length.
//!
//! *Problem.* A window that starts anew at each full second lets twice the amount through around its edge, and one that
//! remembers every call needs memory for each and a lock. *Choice.* Time is cut into slices, 63 of which are a little
//! longer than the window, and one counter only ever grows. A ring keeps what the counter was when each slice began, so
//! the calls of the last 64 slices, the current one included, are a subtraction: the counter less the ring's oldest.
//! Slice and counter are halves of one word, so a call is one compare-and-swap, and a refusal only reads.
//!
//! *Invariant.* In any stretch of time of the window's length no more calls pass than its amount, whatever threads do:
//! such a stretch touches no more than 64 slices. Under sustained load 63/64 of the amount pass, less a 64th by which the
//! slices are longer than they need to be: that much may the clock of a caller be late. Time only moves forward: a caller
//! with an older clock counts into the newest slice.
//!
//! Counter and slice number are 32 bits and wrap; all comparisons are of differences.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limit::micros;

/// Slices in the ring, the current one included.
const SLICES: u32 = 64;
/// The calls of so many slices are within the window.
const COVERED: u32 = SLICES - 1;

/// Counts the calls of the last stretch of a length. Times are microseconds of one clock.
#[derive(Debug)]
pub(crate) struct Window {
    amount: u32,
    /// In microseconds.
    slice: u64,
    /// The number of the newest slice, and how many calls there ever were.
    state: AtomicU64,
    /// When the first call leaves a window that was full; a hint, for those who are refused.
    free_at: AtomicU64,
    /// For each of the newest slices its number, and how many calls there were before it.
    began: [AtomicU64; SLICES as usize],
}

/// Refused, and for how long at least; `None` is for good.
pub(crate) type Full = Option<Duration>;

impl Window {
    /// A window that lets `amount` calls pass in any stretch of `length`; it begins at `now`.
    pub(crate) fn new(amount: u32, length: Duration, now: u64) -> Self {
        // A 64th longer than needed, for clocks that are late.
        let slice = micros(length).saturating_mul(65).div_ceil(64 * u64::from(COVERED)).max(1);
        let first = pack(number(now, slice), 0);
        Self {
            amount: amount.min(u32::MAX - 1),
            slice,
            state: AtomicU64::new(first),
            free_at: AtomicU64::new(0),
            // Where no slice was yet, there were no calls before it.
            began: std::array::from_fn(|_| AtomicU64::new(first)),
        }
    }

    /// Counts one call, if there is room for it.
    #[inline]
    pub(crate) fn take(&self, now: u64) -> Result<(), Full> {
        let mut state = self.at(now);
        loop {
            let (slice, calls) = unpack(state);
            let Some(before) = self.before(slice) else {
                state = self.at(now);
                continue;
            };
            if calls.wrapping_sub(before) >= self.amount {
                return Err(self.full(slice, calls, now));
            }
            let taken = pack(slice, calls.wrapping_add(1));
            match self.state.compare_exchange_weak(state, taken, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(newer) => state = newer,
            }
        }
    }

    /// Takes back a call that was counted at `then` and is not made.
    pub(crate) fn give_back(&self, then: u64) {
        let mut done = number(then, self.slice);
        // There is nothing to take back of a window that was made anew meanwhile, and below zero it would be full.
        if self.is_idle(then) {
            return;
        }
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (slice, calls) = unpack(state);
            // Slices that began since know of the call. Until the counter is put right they count one too many, and never
            // one too few.
            while is_after(slice, done) {
                done = if slice.wrapping_sub(done) > SLICES { slice.wrapping_sub(SLICES) } else { done };
                done = done.wrapping_add(1);
                self.correct(done);
            }
            let less = pack(slice, calls.wrapping_sub(1));
            if self.state.compare_exchange(state, less, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    /// How many calls there ever were, in 32 bits that wrap.
    pub(crate) fn calls(&self) -> u32 {
        unpack(self.state.load(Ordering::Relaxed)).1
    }

    /// Whether nothing was counted for the length of the window.
    pub(crate) fn is_idle(&self, now: u64) -> bool {
        let (slice, calls) = unpack(self.at(now));
        self.before(slice) == Some(calls)
    }

    /// The state at `now`: in the slice of that moment, or a newer one.
    #[inline]
    fn at(&self, now: u64) -> u64 {
        let state = self.state.load(Ordering::Acquire);
        let (slice, _) = unpack(state);
        // Cheaper than to divide: almost every call is in the slice of the one before.
        let into = now.wrapping_sub(u64::from(slice).wrapping_mul(self.slice));
        if into < self.slice { state } else { self.advance(now) }
    }

    #[cold]
    fn advance(&self, now: u64) -> u64 {
        let current = number(now, self.slice);
        let mut state = self.state.load(Ordering::Acquire);
        let mut noted = None;
        loop {
            let (slice, calls) = unpack(state);
            if !is_after(current, slice) {
                return state;
            }
            // The ring first: who sees the new slice finds what there was before it.
            noted = Some(self.note_before(current, (slice, calls), noted));
            let advanced = pack(current, calls);
            match self.state.compare_exchange(state, advanced, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return advanced,
                Err(newer) => state = newer,
            }
        }
    }

    /// Notes of all slices up to `current` how many calls there were before them; that number.
    fn note_before(&self, current: u32, (slice, calls): (u32, u32), mistaken: Option<u32>) -> u32 {
        for back in 0..current.wrapping_sub(slice).min(SLICES) {
            self.note(current.wrapping_sub(back), calls, mistaken);
        }
        calls
    }

    /// Notes how many calls there were before a slice. Of several who do so, the one that knows most is right: calls were
    /// counted into the slice before until the last moment. But who noted a number before a call was given back was
    /// `mistaken`.
    fn note(&self, slice: u32, calls: u32, mistaken: Option<u32>) {
        let newer = |noted| {
            let (of, before) = unpack(noted);
            let newer = is_after(slice, of) || (slice == of && (is_after(calls, before) || mistaken == Some(before)));
            newer.then(|| pack(slice, calls))
        };
        // Fails only if there is nothing newer to note.
        let _ = self.slot(slice).fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
    }

    /// One call less before this slice.
    fn correct(&self, slice: u32) {
        let one_less = |noted| {
            let (of, calls) = unpack(noted);
            (of == slice).then(|| pack(of, calls.wrapping_sub(1)))
        };
        // Fails only if the slot is of another slice by now.
        let _ = self.slot(slice).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
    }

    /// How many calls there were before the stretch that ends with `slice`; none if the state is newer than that.
    #[inline]
    fn before(&self, slice: u32) -> Option<u32> {
        let oldest = slice.wrapping_sub(COVERED);
        let (of, before) = unpack(self.slot(oldest).load(Ordering::Acquire));
        if of == oldest { Some(before) } else { self.before_other(slice, of, before) }
    }

    /// The slot of the oldest slice is of another one.
    #[cold]
    fn before_other(&self, slice: u32, of: u32, before: u32) -> Option<u32> {
        let next = slice.wrapping_add(1);
        if of == next {
            // Somebody is about to go on to the next slice: its stretch has begun.
            let oldest = next.wrapping_sub(COVERED);
            let (of, before) = unpack(self.slot(oldest).load(Ordering::Acquire));
            return (of == oldest || of % SLICES != oldest % SLICES).then_some(before);
        }
        // A slot that was never written: the window is younger than its length, and began empty.
        (of % SLICES != next % SLICES).then_some(before)
    }

    #[inline]
    #[allow(clippy::indexing_slicing, reason = "a remainder is within the ring")]
    fn slot(&self, slice: u32) -> &AtomicU64 {
        &self.began[(slice % SLICES) as usize]
    }

    fn full(&self, slice: u32, calls: u32, now: u64) -> Full {
        let free_at = match self.free_at.load(Ordering::Relaxed) {
            known if known > now => known,
            _ => self.search(slice, calls)?,
        };
        Some(Duration::from_micros(free_at.saturating_sub(now)))
    }

    /// When the first call that fills the window leaves it.
    #[cold]
    fn search(&self, slice: u32, calls: u32) -> Option<u64> {
        if self.amount == 0 {
            return None;
        }
        let has_room = |oldest: u32| {
            let (of, before) = unpack(self.slot(oldest).load(Ordering::Acquire));
            of == oldest && calls.wrapping_sub(before) < self.amount
        };
        let oldest = slice.wrapping_sub(COVERED);
        let later = (1..=COVERED).find(|later| has_room(oldest.wrapping_add(*later))).unwrap_or(SLICES);
        let free_at = (u64::from(slice) + u64::from(later)).saturating_mul(self.slice);
        self.free_at.store(free_at, Ordering::Relaxed);
        Some(free_at)
    }
}

#[inline]
const fn pack(slice: u32, calls: u32) -> u64 {
    (slice as u64) << 32 | calls as u64
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the halves of the word")]
const fn unpack(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

#[allow(clippy::cast_possible_truncation, reason = "numbers of slices wrap")]
const fn number(now: u64, slice: u64) -> u32 {
    (now / slice) as u32
}

/// Whether `a` comes after `b`, of numbers that wrap.
#[inline]
const fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    const SECOND: u64 = 1_000_000;

    fn window(amount: u32) -> Window {
        Window::new(amount, Duration::from_secs(1), 0)
    }

    /// The most that any stretch of `length` holds, of moments in order.
    fn densest(moments: &[u64], length: u64) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (at, moment) in moments.iter().enumerate() {
            while moment - moments[first] >= length {
                first += 1;
            }
            most = most.max(at + 1 - first);
        }
        most
    }

    #[test]
    fn the_amount_passes_at_once_and_again_when_its_calls_have_left() {
        let window = window(3);
        for now in [0, 5, 10] {
            assert_eq!(window.take(now), Ok(()));
        }
        let Err(Some(wait)) = window.take(20) else { panic!("it is full") };
        assert!((SECOND..SECOND * 21 / 20).contains(&micros(wait)), "{wait:?}");
        assert_eq!(window.take(20 + micros(wait) - 1), Err(Some(Duration::from_micros(1))));
        for _ in 0..3 {
            assert_eq!(window.take(20 + micros(wait)), Ok(()));
        }
        assert!(window.take(20 + micros(wait)).is_err());
    }

    #[test]
    fn nothing_passes_where_the_amount_is_nothing() {
        let window = window(0);
        assert_eq!(window.take(7), Err(None));
        assert_eq!(window.take(100 * SECOND), Err(None));
        assert!(window.is_idle(100 * SECOND));
    }

    #[test]
    fn there_is_no_edge_at_which_twice_the_amount_passes() {
        for edge in (0..70).map(|n| n * 16_000) {
            let window = window(100);
            let late = (0..1_000).map(|n| edge + 900_000 + n * 200);
            let passed: Vec<u64> = late.filter(|now| window.take(*now).is_ok()).collect();
            assert_eq!(densest(&passed, SECOND), 100, "from {edge}");
        }
    }

    #[test]
    fn under_sustained_load_nearly_all_of_the_amount_passes() {
        for (amount, length) in [(10, 1), (1_000, 1), (100, 10), (7, 60)] {
            let window = Window::new(amount, Duration::from_secs(length), 0);
            let (length, step) = (length * SECOND, length * SECOND / u64::from(amount) / 7);
            let passed = (0..).map(|n| n * step).take_while(|now| *now < 50 * length);
            let passed: Vec<u64> = passed.filter(|now| window.take(*now).is_ok()).collect();
            let wanted = 50 * amount as usize * 95 / 100;
            assert!(passed.len() >= wanted, "{amount} in {length}: {} of {wanted}", passed.len());
            assert_eq!(densest(&passed, length), amount as usize);
        }
    }

    #[test]
    fn a_caller_with_an_old_clock_opens_no_old_slice_again() {
        let window = window(5);
        (0..5).for_each(|_| assert_eq!(window.take(3 * SECOND), Ok(())));
        assert!(window.take(0).is_err() && window.take(3 * SECOND - 1).is_err());
        assert!(window.take(4 * SECOND + SECOND / 20).is_ok());
        (0..4).for_each(|_| assert_eq!(window.take(2 * SECOND), Ok(())));
        assert!(window.take(2 * SECOND).is_err() && window.take(4 * SECOND + SECOND / 20).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_however_much_later() {
        for later in [0, 1, 20_000, 500_000, 2 * SECOND] {
            let window = window(2);
            assert_eq!((window.take(100), window.take(100)), (Ok(()), Ok(())));
            let now = 100 + later;
            if later < SECOND {
                assert!(window.take(now).is_err(), "after {later}");
            }
            window.give_back(100);
            window.give_back(100);
            assert_eq!(window.calls(), 0);
            assert!(window.is_idle(now));
            for at in [now, now + SECOND * 3, now + SECOND * 9] {
                assert_eq!((window.take(at), window.take(at)), (Ok(()), Ok(())), "after {later}");
                assert!(window.take(at).is_err(), "after {later}");
            }
        }
    }

    #[test]
    fn slices_that_began_before_a_call_was_given_back_do_not_count_it() {
        for later in [20_000, 500_000, 900_000] {
            let window = window(2);
            assert_eq!((window.take(100), window.take(100)), (Ok(()), Ok(())));
            assert!(window.take(100 + later).is_err(), "after {later}");
            window.give_back(100);
            window.give_back(100);
            for now in (0..250).map(|n| 100 + later + n * 10_000) {
                assert_eq!(window.take(now), Ok(()), "after {later} at {now}");
                window.give_back(now);
                assert!(window.is_idle(now), "after {later} at {now}");
            }
        }
    }

    #[test]
    fn of_several_who_note_what_there_was_before_a_slice_the_one_that_knows_most_is_right() {
        let window = window(9);
        let before = |slice: u32| window.before(slice + COVERED);
        for (slice, calls, noted) in [(7, 10, 10), (7, 12, 12), (7, 11, 12), (7 + SLICES, 3, 3)] {
            window.note(slice, calls, None);
            assert_eq!(before(slice), Some(noted), "{calls} before {slice}");
        }
        window.note(7, 99, None);
        assert_eq!(before(7 + SLICES), Some(3), "an older slice says nothing any more");
    }

    #[test]
    fn a_window_is_idle_when_its_calls_have_left() {
        let window = window(9);
        assert!(window.is_idle(0));
        window.take(10).unwrap();
        assert!(!window.is_idle(SECOND / 2) && !window.is_idle(SECOND));
        assert!(window.is_idle(2 * SECOND) && window.is_idle(900 * SECOND));
    }

    #[test]
    fn numbers_that_wrap_change_nothing() {
        let start = u64::from(u32::MAX - 20) * (SECOND / 63 * 65 / 64);
        let window = Window::new(100, Duration::from_secs(1), start);
        window.state.fetch_add(u64::from(u32::MAX - 50), Ordering::Relaxed);
        for slot in &window.began {
            slot.fetch_add(u64::from(u32::MAX - 50), Ordering::Relaxed);
        }
        let passed: Vec<u64> = (0..5_000).map(|n| start + n * 1_000).filter(|now| window.take(*now).is_ok()).collect();
        assert_eq!(densest(&passed, SECOND), 100);
        assert!(passed.len() >= 475, "{}", passed.len());
    }

    #[test]
    fn two_threads_never_pass_more_together_than_one_may_alone() {
        for round in 0..20_u64 {
            let window = window(1_000);
            let clock = AtomicU64::new(round * 7_919);
            let tries = AtomicUsize::new(0);
            let passed: Vec<u64> = std::thread::scope(|scope| {
                let run = || {
                    let mut passed = Vec::new();
                    while tries.fetch_add(1, Ordering::Relaxed) < 100_000 {
                        // Both use the same clock, one of them often late by as much as clocks may be.
                        let late = if passed.len() % 3 == 0 { 15_000 } else { 0 };
                        let now = clock.fetch_add(97, Ordering::Relaxed);
                        if window.take(now.saturating_sub(late)).is_ok() {
                            passed.push(now);
                        }
                    }
                    passed
                };
                let threads = [scope.spawn(run), scope.spawn(run)];
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            let mut passed = passed;
            passed.sort_unstable();
            // Each thread may be stopped between its look at the clock and its call, which then counts later than it says.
            assert!(densest(&passed, SECOND) <= 1_002, "{}", densest(&passed, SECOND));
            assert_eq!(window.calls() as usize, passed.len());
            assert!(passed.len() >= 9_000, "9.7 windows of load: {}", passed.len());
        }
    }

    #[test]
    fn threads_that_take_and_give_back_leave_nothing_behind() {
        let window = window(10);
        std::thread::scope(|scope| {
            for thread in 0..2_u64 {
                let window = &window;
                scope.spawn(move || {
                    for n in 0..50_000 {
                        let now = n * 61 + thread;
                        if window.take(now).is_ok() {
                            window.give_back(now);
                        }
                    }
                });
            }
        });
        assert_eq!(window.calls(), 0);
        let later = 50_000 * 61 + 3 * SECOND;
        (0..10).for_each(|_| assert_eq!(window.take(later), Ok(())));
        assert!(window.take(later).is_err());
    }

    #[test]
    fn what_is_given_back_while_a_slice_begins_is_no_call_before_it() {
        let window = window(10);
        window.take(0).unwrap();
        // As `advance` does it, with somebody who gives back in the middle.
        let (stale, next) = (window.state.load(Ordering::Relaxed), window.slice);
        let noted = window.note_before(1, unpack(stale), None);
        window.give_back(0);
        let (slice, calls) = unpack(window.state.load(Ordering::Relaxed));
        window.note_before(1, (slice, calls), Some(noted));
        window.advance(next);
        assert_eq!(unpack(window.slot(1).load(Ordering::Relaxed)), (1, 0));
        for at in 1..130 {
            assert!(window.is_idle(at * next), "in slice {at}");
        }
    }

    proptest! {
        #[test]
        fn no_stretch_holds_more_than_the_amount(
            amount in 1_u32..40,
            length in 1_u64..5,
            steps in prop::collection::vec((0_u64..400_000, prop::bool::weighted(0.2), prop::bool::weighted(0.1)), 1..300),
        ) {
            let window = Window::new(amount, Duration::from_secs(length), 0);
            let mut now = 0;
            let mut passed = Vec::new();
            for (step, burst, back) in steps {
                now += if burst { step % 50 } else { step };
                // As late as clocks may be.
                let late = now.saturating_sub(step % (length * SECOND / 64));
                match window.take(late) {
                    Ok(()) if back => window.give_back(late),
                    Ok(()) => passed.push(now),
                    Err(_) => {}
                }
            }
            prop_assert!(densest(&passed, length * SECOND) <= amount as usize);
        }
    }
}
