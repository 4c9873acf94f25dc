//! What one rule lets pass, of calls that are counted together.

use std::time::Duration;

use crate::limit::gauge::Gauge;
use crate::limit::pace::Pace;
use crate::limit::shares::Shares;
use crate::limit::window::{Full, Window};
use crate::model::rule::limit::{Amount, Limit, Scope};

/// One limit, with what it has counted.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of this kind, and each is in an allocation of its own")]
pub(crate) enum Limiter {
    /// Of the one amount that most rules have: here, so that a call follows no further pointer.
    Window(Window),
    /// A window for each of several amounts, the longest first.
    Windows(Box<[Window]>),
    Shared(Shares),
    Paced(Pace),
    Concurrent(Gauge),
}

/// What a call took, to be given back if the call is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was counted at that moment, in microseconds.
    Counted(u64),
    /// It was given that moment, in nanoseconds: now, or a later one.
    Placed(u64),
    /// It is under way until it is over.
    Entered,
}

/// The time, as limits need it. All of it is of one monotonic clock.
pub(crate) trait Clock {
    /// In microseconds; may be late by a 64th of a second.
    fn coarse(&self) -> u64;
    /// In nanoseconds, exactly.
    fn exact(&self) -> u64;
}

impl Limiter {
    /// Nothing counted yet. `longest_wait` is that of rules that say none; `entropy` differs between clients.
    pub(crate) fn new(limit: &Limit, longest_wait: Duration, now: u64, entropy: u64) -> Self {
        match limit {
            Limit::Quota { amounts, scope: Scope::Local } => {
                let window = |amount: &Amount| Window::new(amount.calls, amount.within, now);
                match &**amounts {
                    [amount] => Self::Window(window(amount)),
                    amounts => Self::Windows(amounts.iter().map(window).collect()),
                }
            }
            Limit::Quota { amounts, scope: Scope::Global(shared) } => {
                Self::Shared(Shares::new(amounts, shared, entropy))
            }
            Limit::Paced { interval, longest_wait: own } => {
                Self::Paced(Pace::new(*interval, own.unwrap_or(longest_wait)))
            }
            Limit::Concurrent(most) => Self::Concurrent(Gauge::new(*most)),
        }
    }

    /// Counts one call of `now`, if it may be made.
    #[inline]
    pub(crate) fn take(&self, now: u64, clock: &impl Clock) -> Result<Taken, Full> {
        match self {
            Self::Window(window) => window.take(now).map(|()| Taken::Counted(now)),
            Self::Windows(windows) => take_all(windows, now).map(|()| Taken::Counted(now)),
            Self::Shared(shares) => shares.take(now).map(|()| Taken::Counted(now)),
            Self::Paced(pace) => pace.take(clock.exact()).map(Taken::Placed),
            Self::Concurrent(gauge) => {
                if gauge.enter() {
                    Ok(Taken::Entered)
                } else {
                    Err(Some(Duration::ZERO))
                }
            }
        }
    }

    /// Takes back what a call took that is not made.
    pub(crate) fn give_back(&self, taken: Taken) {
        match (self, taken) {
            (Self::Window(window), Taken::Counted(then)) => window.give_back(then),
            (Self::Windows(windows), Taken::Counted(then)) => windows.iter().for_each(|window| window.give_back(then)),
            (Self::Shared(shares), Taken::Counted(then)) => shares.give_back(then),
            (Self::Paced(pace), Taken::Placed(place)) => pace.give_back(place),
            (Self::Concurrent(gauge), Taken::Entered) => gauge.give_back(),
            _ => {}
        }
    }

    /// A call that [entered](Taken::Entered) is over.
    pub(crate) fn leave(&self) {
        if let Self::Concurrent(gauge) = self {
            gauge.leave();
        }
    }

    /// How many calls passed, in 32 bits that wrap.
    pub(crate) fn calls(&self) -> u32 {
        match self {
            Self::Window(window) => window.calls(),
            Self::Windows(windows) => windows.first().map(Window::calls).unwrap_or_default(),
            Self::Shared(shares) => shares.calls(),
            Self::Paced(pace) => pace.calls(),
            Self::Concurrent(gauge) => gauge.calls(),
        }
    }

    /// Whether nothing that it counts matters any more: a new one would do the same.
    pub(crate) fn is_idle(&self, now: u64, clock: &impl Clock) -> bool {
        match self {
            Self::Window(window) => window.is_idle(now),
            Self::Windows(windows) => windows.iter().all(|window| window.is_idle(now)),
            Self::Shared(shares) => shares.is_idle(now),
            Self::Paced(pace) => pace.is_idle(clock.exact()),
            Self::Concurrent(gauge) => gauge.is_idle(),
        }
    }
}

/// All or none.
fn take_all(windows: &[Window], now: u64) -> Result<(), Full> {
    for (at, window) in windows.iter().enumerate() {
        if let Err(full) = window.take(now) {
            windows.iter().take(at).for_each(|taken| taken.give_back(now));
            return Err(full);
        }
    }
    Ok(())
}
