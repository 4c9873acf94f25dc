//! What changes about an instance while its snapshot stays: the state of its breaker, and its load.
//!
//! A [`Slot`] lives as long as its instance is listed, across snapshots, and is written by those who make calls. What is
//! compiled ahead sees breakers as plain data, in a [`HealthView`] taken at one moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use crate::model::call::Outcome;
use crate::model::instance::Instance;

/// How many answers the average of an instance follows: each moves it by one part in this many, the first of all by a
/// part in their number.
const SMOOTHING: u8 = 8;

/// The state of an instance's circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaker {
    /// Calls pass.
    Closed = 0,
    /// A few calls pass, to find out.
    HalfOpen = 1,
    /// No call passes.
    Open = 2,
}

/// The load that this client puts on an instance, as balancers see it. Other clients' calls are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    pub(crate) in_flight: u32,
    /// In microseconds; 0 is unknown.
    pub(crate) micros: u32,
}

/// The cells of one instance: one breaker byte, and its load.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    in_flight: AtomicU32,
    /// In microseconds; 0 is unknown.
    latency: AtomicU32,
    /// How many answers the average was made from, up to [`SMOOTHING`].
    answers: AtomicU8,
    breaker: AtomicU8,
}

/// Health by the control plane and by breakers, as plain data of one moment.
///
/// Breakers that are not closed are few: only they are listed, by the instance's position in its snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthView {
    tripped: Vec<(u32, Breaker)>,
}

// === impl Load ===

impl Load {
    /// How many calls to the instance are under way: started and not yet finished, reported or dropped. Calls that are
    /// not told of (picks without [`start_call`](crate::ServiceHandle::start_call) or a report) are not counted.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// How long calls took of late, to the microsecond; none before the first answer.
    ///
    /// It is the mean of the first eight answers, and from then on each moves it by an eighth of the difference.
    /// Successes and time-outs count; failures do not, because one that fails fast would look fast.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        (self.micros > 0).then(|| Duration::from_micros(self.micros.into()))
    }
}

// === impl Slot ===

impl Slot {
    pub(crate) fn breaker(&self) -> Breaker {
        match self.breaker.load(Ordering::Relaxed) {
            0 => Breaker::Closed,
            1 => Breaker::HalfOpen,
            _ => Breaker::Open,
        }
    }

    pub(crate) fn set_breaker(&self, state: Breaker) {
        self.breaker.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn load(&self) -> Load {
        // A count below zero (a call that was told to end twice) is none, and no four thousand million.
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        Load {
            in_flight: if in_flight > i32::MAX.cast_unsigned() { 0 } else { in_flight },
            micros: self.latency.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes the end of a call into the average. Only what an instance took its time for counts: a refused connection or
    /// a quick failure must not make its instance look fast.
    pub(crate) fn record(&self, outcome: Outcome, delay: Duration) {
        if !matches!(outcome, Outcome::Success(_) | Outcome::Timeout) {
            return;
        }
        // Not read-modify-writes: of two reports in the same instant one may be lost, which an average bears.
        let before = self.answers.load(Ordering::Relaxed);
        if before < SMOOTHING {
            self.answers.store(before + 1, Ordering::Relaxed);
        }
        let part = u32::from(SMOOTHING.min(before + 1));
        let sample = u32::try_from(delay.as_micros()).unwrap_or(u32::MAX).max(1);
        let old = self.latency.load(Ordering::Relaxed);
        let new = if sample >= old { old + (sample - old) / part } else { old - (old - sample).div_ceil(part) };
        self.latency.store(new.max(1), Ordering::Relaxed);
    }
}

// === impl HealthView ===

impl HealthView {
    /// The breakers of instances in the order of their positions.
    pub(crate) fn of(slots: &[Arc<Slot>]) -> Self {
        let states = slots.iter().map(|slot| slot.breaker());
        let tripped = (0..).zip(states).filter(|(_, state)| *state != Breaker::Closed);
        Self { tripped: tripped.collect() }
    }

    /// Whether no breaker is open or half open.
    pub(crate) fn all_closed(&self) -> bool {
        self.tripped.is_empty()
    }

    pub(crate) fn breaker(&self, position: u32) -> Breaker {
        match self.tripped.binary_search_by_key(&position, |(at, _)| *at) {
            Ok(found) => self.tripped.get(found).map_or(Breaker::Closed, |(_, state)| *state),
            Err(_) => Breaker::Closed,
        }
    }

    /// Whether the instance at `position` may take calls: healthy for the control plane, and its breaker not open.
    pub(crate) fn may_serve(&self, position: u32, instance: &Instance) -> bool {
        instance.is_healthy() && self.breaker(position) != Breaker::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_what_calls_take_and_ignores_what_says_nothing_of_it() {
        let slot = Slot::default();
        assert_eq!(slot.load().latency(), None);
        for (outcome, millis, average) in
            [(Outcome::Success(200), 8, 8), (Outcome::Timeout, 16, 12), (Outcome::Success(200), 6, 10)]
        {
            slot.record(outcome, Duration::from_millis(millis));
            assert_eq!(slot.load().latency(), Some(Duration::from_millis(average)), "the mean of the first ones");
        }
        for ignored in
            [Outcome::Failure(500), Outcome::NoAnswer, Outcome::Cancelled, Outcome::Rejected, Outcome::FlowControl]
        {
            slot.record(ignored, Duration::ZERO);
        }
        assert_eq!(slot.load().latency(), Some(Duration::from_millis(10)));
        (0..5).for_each(|_| slot.record(Outcome::Success(200), Duration::from_millis(10)));
        slot.record(Outcome::Success(200), Duration::from_millis(18));
        assert_eq!(slot.load().latency(), Some(Duration::from_millis(11)), "an eighth, once there are eight");
        (0..200).for_each(|_| slot.record(Outcome::Success(0), Duration::ZERO));
        assert_eq!(slot.load().latency(), Some(Duration::from_micros(1)), "falls to the bottom, and stays known");
    }

    #[test]
    fn a_count_below_zero_is_none() {
        let slot = Slot::default();
        slot.leave();
        assert_eq!(slot.load().in_flight, 0);
        (0..3).for_each(|_| slot.enter());
        assert_eq!(slot.load().in_flight, 2, "and is made up for");
    }

    #[test]
    fn a_view_lists_tripped_breakers_by_position() {
        let slots: Vec<_> = (0..5).map(|_| Arc::new(Slot::default())).collect();
        slots[1].set_breaker(Breaker::Open);
        slots[4].set_breaker(Breaker::HalfOpen);
        let view = HealthView::of(&slots);
        slots[0].set_breaker(Breaker::Open);
        let states: Vec<_> = (0..5).map(|at| view.breaker(at)).collect();
        let (closed, open, half) = (Breaker::Closed, Breaker::Open, Breaker::HalfOpen);
        assert_eq!(states, [closed, open, closed, closed, half], "as of the moment it was taken");
    }

    #[test]
    fn a_slot_is_three_words_of_four_bytes() {
        assert!(size_of::<Slot>() <= 12);
    }
}
