//! The clock of limits: cheap where there are many calls, exact where there are few.
//!
//! *Problem.* To read the machine's clock costs more than all the rest of a check, and windows need to know the time only
//! to a 64th of their length. *Choice.* While calls are many, a task writes the time down every other millisecond, and a
//! check reads what is written. It starts when calls are many and ends when they are few, so an idle process does not
//! tick. *Invariant.* If the task is starved, no more than fifteen checks of a thread use an old time: every sixteenth
//! reads the clock itself, and if the task is behind, all do so until it has caught up. Rules with amounts so small that
//! this would matter have the clock read for each call.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::limit::limiter::Clock;
use crate::util::alone::Alone;
use crate::util::task::TaskScope;

/// How often the time is written down.
const TICK: Duration = Duration::from_millis(2);
/// Every how many ticks it is asked whether it is still worth it.
const TICKS: u32 = 64;
/// One check in so many reads the clock itself.
const SAMPLED: u8 = 16;
/// From how many checks in `TICKS` on it is worth it; as many checks that read the clock, within as long, start it.
const WORTH: u32 = 512;
/// By how much the task may be behind, in microseconds.
const BEHIND: u64 = 6_000;

/// How many calls may be told an old time before that is noticed: up to so many of each thread that can run.
pub(super) fn told_old() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::from(SAMPLED - 1).saturating_mul(u32::try_from(threads).unwrap_or(u32::MAX))
}

thread_local! {
    static CHECKS: Cell<u8> = const { Cell::new(0) };
}

/// The clock of one context. Its times are microseconds since it was made.
#[derive(Debug)]
pub(crate) struct QuotaClock {
    origin: Instant,
    /// What is written down; zero while nothing is.
    written: AtomicU64,
    ticking: AtomicBool,
    /// Reads of the machine's clock since `since`. Every thread counts here, and every check reads what is `written`.
    reads: Alone<AtomicU32>,
    since: AtomicU64,
    /// Where the task runs; none: every check reads the clock.
    scope: Option<TaskScope>,
    this: Weak<Self>,
}

impl QuotaClock {
    /// A clock whose task runs in `scope`.
    pub(crate) fn new(scope: Option<TaskScope>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            // Never zero, which stands for nothing; and not so young that a clock could be late before it began.
            origin: Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now),
            written: AtomicU64::new(0),
            ticking: AtomicBool::new(false),
            reads: Alone::default(),
            since: AtomicU64::new(0),
            scope,
            this: Weak::clone(this),
        })
    }

    /// The moment of a time in nanoseconds.
    pub(crate) fn instant(&self, nanos: u64) -> Instant {
        self.origin + Duration::from_nanos(nanos)
    }

    /// The time of a moment, in microseconds.
    pub(crate) fn micros_at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    /// The time in microseconds, exactly.
    pub(crate) fn micros(&self) -> u64 {
        self.exact() / 1_000
    }

    #[cold]
    fn read(&self, written: u64) -> u64 {
        let now = self.micros();
        let reads = self.reads.0.fetch_add(1, Ordering::Relaxed);
        if written == 0 {
            self.consider(now, reads);
        } else if now.saturating_sub(written) > BEHIND {
            // The task is starved: its time is not used before it has written a newer one.
            let _ = self.written.compare_exchange(written, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        now
    }

    /// Starts the task if there were many reads in a short time.
    fn consider(&self, now: u64, reads: u32) {
        let since = self.since.load(Ordering::Relaxed);
        if now.saturating_sub(since) > u64::from(TICKS) * 2_000 {
            self.since.store(now, Ordering::Relaxed);
            self.reads.0.store(0, Ordering::Relaxed);
        } else if reads >= WORTH && !self.ticking.load(Ordering::Relaxed) {
            self.start();
        }
    }

    fn start(&self) {
        let (Some(scope), Some(this)) = (&self.scope, self.this.upgrade()) else { return };
        if !self.ticking.swap(true, Ordering::AcqRel) {
            let stops = Stops(this);
            scope.spawn("quota-clock", async move { stops.0.tick().await });
        }
    }

    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.reads.0.store(0, Ordering::Relaxed);
            for _ in 0..TICKS {
                interval.tick().await;
                self.written.store(self.micros(), Ordering::Relaxed);
            }
            if self.reads.0.load(Ordering::Relaxed) < WORTH / u32::from(SAMPLED) {
                return;
            }
        }
    }
}

impl Clock for QuotaClock {
    #[inline]
    fn coarse(&self) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        let checks = CHECKS.get().wrapping_add(1);
        CHECKS.set(checks);
        if written != 0 && !checks.is_multiple_of(SAMPLED) { written } else { self.read(written) }
    }

    fn exact(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whatever ends the task: from then on every check reads the clock, and may start it again.
struct Stops(Arc<QuotaClock>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.written.store(0, Ordering::Relaxed);
        self.0.ticking.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Handle;

    fn reads_many(clock: &QuotaClock) {
        (0..2 * WORTH).for_each(|_| assert!(clock.coarse() > 0));
    }

    #[tokio::test(start_paused = true)]
    async fn few_checks_read_the_clock_and_start_nothing() {
        let scope = TaskScope::new(Handle::current());
        let clock = QuotaClock::new(Some(scope.clone()));
        for _ in 0..2 * WORTH {
            assert_eq!(clock.coarse(), clock.micros());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(scope.alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_checks_are_told_what_is_written_and_when_they_end_so_does_the_task() {
        let scope = TaskScope::new(Handle::current());
        let clock = QuotaClock::new(Some(scope.clone()));
        reads_many(&clock);
        assert_eq!(scope.alive(), ["quota-clock"]);
        for _ in 0..200 {
            tokio::time::sleep(TICK).await;
            let (coarse, exact) = (clock.coarse(), clock.micros());
            assert!(coarse <= exact && exact - coarse <= 2_000, "{coarse} {exact}");
            reads_many(&clock);
        }
        tokio::time::sleep(3 * TICKS * TICK).await;
        assert!(scope.alive().is_empty());
        assert_eq!(clock.coarse(), clock.micros());
    }

    #[tokio::test(start_paused = true)]
    async fn a_starved_task_is_noticed_within_sixteen_checks() {
        let scope = TaskScope::new(Handle::current());
        let clock = QuotaClock::new(Some(scope));
        reads_many(&clock);
        tokio::time::sleep(TICK).await;
        // Time passes and the task does not run: nothing here awaits.
        let written = clock.written.load(Ordering::Relaxed);
        clock.written.store(written - BEHIND - 1, Ordering::Relaxed);
        let late = (0..100).filter(|_| clock.micros() - clock.coarse() > BEHIND).count();
        assert!(late < usize::from(SAMPLED), "{late}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_scope_every_check_reads_the_clock() {
        let clock = QuotaClock::new(None);
        reads_many(&clock);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.coarse(), clock.micros());
        assert_eq!(clock.instant(clock.exact()), Instant::now());
    }
}
