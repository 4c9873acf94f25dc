//! A gauge: so many calls at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the calls that are under way, and all that ever were.
#[derive(Debug)]
pub(crate) struct Gauge {
    most: u32,
    /// All that ever were, in 32 bits that wrap, and those under way.
    state: AtomicU64,
}

/// One more that ever was, and one more under way.
const ENTER: u64 = (1 << 32) | 1;
const UNDER_WAY: u64 = u32::MAX as u64;

impl Gauge {
    pub(crate) fn new(most: u32) -> Self {
        Self { most, state: AtomicU64::new(0) }
    }

    /// Counts one more call, if it may be made; to be [left](Self::leave) when it is over.
    pub(crate) fn enter(&self) -> bool {
        let more = |state: u64| (state & UNDER_WAY < u64::from(self.most)).then(|| state.wrapping_add(ENTER));
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// A call is over.
    pub(crate) fn leave(&self) {
        self.state.fetch_sub(1, Ordering::AcqRel);
    }

    /// A call was not made.
    pub(crate) fn give_back(&self) {
        self.state.fetch_sub(ENTER, Ordering::AcqRel);
    }

    /// How many calls there ever were, in 32 bits that wrap.
    #[allow(clippy::cast_possible_truncation, reason = "the upper half")]
    pub(crate) fn calls(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) >> 32) as u32
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state.load(Ordering::Relaxed) & UNDER_WAY == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_be_under_way_are_and_no_more() {
        let gauge = Gauge::new(2);
        assert!(gauge.is_idle() && gauge.enter() && gauge.enter() && !gauge.enter());
        gauge.leave();
        assert!(gauge.enter() && !gauge.enter() && !gauge.is_idle());
        gauge.give_back();
        gauge.leave();
        assert!(gauge.is_idle());
        assert_eq!(gauge.calls(), 2);
        assert!(!Gauge::new(0).enter());
    }

    #[test]
    fn the_count_of_all_calls_wraps_and_touches_nothing_else() {
        let gauge = Gauge::new(1);
        gauge.state.store(u64::MAX << 32, Ordering::Relaxed);
        assert!(gauge.enter() && !gauge.enter());
        assert_eq!(gauge.calls(), 0);
        gauge.give_back();
        assert!(gauge.is_idle() && gauge.calls() == u32::MAX);
    }

    #[test]
    fn threads_never_are_more_than_may_be() {
        let gauge = Gauge::new(3);
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if gauge.enter() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            gauge.leave();
                        }
                    }
                });
            }
        });
        assert!(gauge.is_idle());
    }
}
