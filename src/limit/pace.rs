//! A pace: calls at equal distances, of which those that come early queue.
//!
//! Where the queue ends is one number: the moment that the next call gets. A call that comes later than that gets now.
//! Nothing waits here: a call is told its moment. Whoever gives up a place at the end of the queue moves the end back; a
//! place further ahead is kept for the next one who comes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limit::window::Full;

/// Lets calls pass at equal distances. Moments are nanoseconds of one clock.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The distance in nanoseconds; none refuses all.
    interval: Option<u64>,
    longest_wait: u64,
    next: AtomicU64,
    /// Places that were given up while others queued behind them.
    free: Mutex<Vec<u64>>,
    has_free: AtomicBool,
    calls: AtomicU32,
}

impl Pace {
    pub(crate) fn new(interval: Option<Duration>, longest_wait: Duration) -> Self {
        Self {
            interval: interval.map(nanos),
            longest_wait: nanos(longest_wait),
            next: AtomicU64::new(0),
            free: Mutex::default(),
            has_free: AtomicBool::new(false),
            calls: AtomicU32::new(0),
        }
    }

    /// The moment at which a call of `now` may be made: `now`, or a later one.
    pub(crate) fn take(&self, now: u64) -> Result<u64, Full> {
        let Some(interval) = self.interval else { return Err(None) };
        let latest = now.saturating_add(self.longest_wait);
        if let Some(place) = self.given_up(now) {
            self.calls.fetch_add(1, Ordering::Relaxed);
            return Ok(place);
        }
        let mut next = self.next.load(Ordering::Acquire);
        loop {
            let place = next.max(now);
            if place > latest {
                return Err(Some(Duration::from_nanos(place - latest)));
            }
            let after = place.saturating_add(interval);
            match self.next.compare_exchange_weak(next, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                    return Ok(place);
                }
                Err(newer) => next = newer,
            }
        }
    }

    /// Gives up the place of a call that is not made.
    pub(crate) fn give_back(&self, place: u64) {
        let Some(interval) = self.interval else { return };
        self.calls.fetch_sub(1, Ordering::Relaxed);
        let end = place.saturating_add(interval);
        if self.next.compare_exchange(end, place, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            self.free().push(place);
            self.has_free.store(true, Ordering::Release);
        }
    }

    /// How many calls there ever were, in 32 bits that wrap.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether the next call may be made at once.
    pub(crate) fn is_idle(&self, now: u64) -> bool {
        self.next.load(Ordering::Relaxed) <= now
    }

    /// The first place that was given up and is still to come.
    fn given_up(&self, now: u64) -> Option<u64> {
        if !self.has_free.load(Ordering::Acquire) {
            return None;
        }
        let mut free = self.free();
        free.retain(|place| *place >= now);
        let first = free.iter().enumerate().min_by_key(|(_, place)| **place).map(|(at, _)| at);
        let place = first.map(|at| free.swap_remove(at));
        self.has_free.store(!free.is_empty(), Ordering::Release);
        place
    }

    fn free(&self) -> MutexGuard<'_, Vec<u64>> {
        // The list is changed in single steps, so a panic leaves nothing half done.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLI: u64 = 1_000_000;

    /// Ten a second, and half a second of patience.
    fn pace() -> Pace {
        Pace::new(Some(Duration::from_millis(100)), Duration::from_millis(500))
    }

    #[test]
    fn calls_pass_at_equal_distances_and_refusals_say_when_to_come_again() {
        let pace = pace();
        let places: Vec<_> = (0..6).map(|_| pace.take(7 * MILLI)).collect();
        let expected: Vec<_> = (0..6).map(|n| Ok((7 + n * 100) * MILLI)).collect();
        assert_eq!(places, expected);
        assert_eq!(pace.take(7 * MILLI), Err(Some(Duration::from_millis(100))));
        assert_eq!(pace.take(107 * MILLI), Ok(607 * MILLI));
        assert_eq!(pace.take(5_000 * MILLI), Ok(5_000 * MILLI));
        assert_eq!(pace.calls(), 8);
    }

    #[test]
    fn a_pace_of_nothing_refuses_all() {
        assert_eq!(Pace::new(None, Duration::from_secs(9)).take(5), Err(None));
    }

    #[test]
    fn without_patience_only_calls_in_time_pass() {
        let pace = Pace::new(Some(Duration::from_millis(100)), Duration::ZERO);
        assert_eq!(pace.take(0), Ok(0));
        assert_eq!(pace.take(40 * MILLI), Err(Some(Duration::from_millis(60))));
        assert_eq!(pace.take(100 * MILLI), Ok(100 * MILLI));
    }

    #[test]
    fn a_place_that_is_given_up_is_the_next_ones() {
        let pace = pace();
        let places: Vec<_> = (0..4).map(|_| pace.take(0).unwrap()).collect();
        // The last moves the end back, one in the middle waits for somebody.
        pace.give_back(places[3]);
        assert_eq!(pace.take(0), Ok(places[3]));
        pace.give_back(places[1]);
        pace.give_back(places[2]);
        assert_eq!((pace.take(0), pace.take(0), pace.take(0)), (Ok(places[1]), Ok(places[2]), Ok(400 * MILLI)));
        pace.give_back(places[1]);
        assert_eq!(pace.take(150 * MILLI), Ok(500 * MILLI), "its time is over");
        assert_eq!(pace.calls(), 5);
    }

    #[test]
    fn it_is_idle_when_nobody_queues() {
        let pace = pace();
        assert!(pace.is_idle(0));
        let _ = pace.take(0);
        assert!(!pace.is_idle(99 * MILLI) && pace.is_idle(100 * MILLI));
    }

    proptest! {
        #[test]
        fn no_two_calls_are_closer_than_the_distance(
            steps in prop::collection::vec((0_u64..300, any::<bool>()), 1..100),
        ) {
            let pace = pace();
            let mut now = 0;
            let mut places = Vec::new();
            for (step, back) in steps {
                now += step * MILLI / 4;
                match pace.take(now) {
                    Ok(place) if back && place > now => pace.give_back(place),
                    Ok(place) => places.push(place),
                    Err(_) => {}
                }
            }
            places.sort_unstable();
            prop_assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 100 * MILLI), "{:?}", places);
        }
    }
}
