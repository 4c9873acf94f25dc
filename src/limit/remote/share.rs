//! One client's share of a global amount: the counters that calls touch, and what reports and answers do to them.

use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ledger::{Flight, Ledger};
use super::period::{MOST, Periods, Word};
use crate::model::limiter::{QuotaLeft, QuotaTotal};
use crate::util::draw;

/// What to do while no limiter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failover {
    /// Each client keeps to an equal part.
    Local,
    /// Everything passes.
    Pass,
}

/// How many microseconds to wait until there is something again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryAfter(pub(crate) u64);

/// What to tell the limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) used: u32,
    pub(crate) limited: u32,
    /// By the limiter's clock.
    pub(crate) timestamp_millis: i64,
}

/// One amount of one global window, as one client sees it. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Share {
    /// What was granted in the current period.
    used: AtomicU64,
    /// No period later than the current one can begin before then.
    until: AtomicU64,
    /// What may be granted in the period of this word.
    cap: AtomicU64,
    /// What may be granted in a later period, before anything is heard of it.
    opening: AtomicU64,
    /// When to stop waiting for an answer; 0 without a limiter.
    overdue: AtomicU64,
    /// What may be granted in a period from then on.
    fallback: AtomicU64,
    periods: Periods,
    /// What was granted in the period before the current one.
    before: AtomicU64,
    limited: AtomicU32,
    failover: Failover,
    ledger: Mutex<Ledger>,
}

/// What clocks may differ by without a reason to doubt them: stale times, and answers that wait to be read.
const SLACK: i64 = 20_000;
/// A change of the limiter's clock that is more than an adjustment.
const JUMP: u64 = 100_000;
/// What has nothing to report asks this often, at least.
const IDLE: u64 = 10_000_000;

// === impl Share ===

impl Share {
    /// A share that is on its own until the first answer. The entropy must differ between clients.
    pub(crate) fn new(total: QuotaTotal, failover: Failover, entropy: u64) -> Self {
        let ledger = Ledger::new(total, entropy);
        let share = Self {
            used: AtomicU64::new(0),
            until: AtomicU64::new(0),
            cap: AtomicU64::new(0),
            opening: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
            fallback: AtomicU64::new(0),
            periods: Periods::new(ledger.total_micros()),
            before: AtomicU64::new(0),
            limited: AtomicU32::new(0),
            failover,
            ledger: Mutex::new(ledger),
        };
        share.set_fallback(&share.ledger());
        share
    }

    /// Takes one, if there is one.
    #[inline]
    pub(crate) fn take(&self, now: u64) -> Result<(), RetryAfter> {
        self.take_in(now).map(|_| ())
    }

    /// Takes one; the word of the period that counts it.
    #[inline]
    pub(super) fn take_in(&self, now: u64) -> Result<Word, RetryAfter> {
        let mut seen = self.used.load(Ordering::Relaxed);
        loop {
            let word = self.current(seen, now);
            if word.count() >= self.allowed(word, now) {
                return Err(self.retry_after(word, now));
            }
            match self.used.compare_exchange_weak(seen, word.0 + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    if !word.is_beside(Word(seen)) {
                        self.before.store(seen, Ordering::Relaxed);
                    }
                    return Ok(word);
                }
                Err(other) => seen = other,
            }
        }
    }

    /// Undoes a take of `then`, unless its period ended.
    pub(crate) fn give_back(&self, then: u64) {
        let period = Word::new(self.periods.at(then), 0);
        let undo = |seen| (Word(seen).is_beside(period) && Word(seen).count() > 0).then(|| seen - 1);
        // A period that ended is closed: there is nothing to give back to.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, undo);
    }

    /// Counts a call that was refused.
    pub(crate) fn refused(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// The limiter's clock is ahead of ours by so much.
    pub(crate) fn offset(&self, micros: i64, now: u64) {
        let mut ledger = self.ledger();
        self.roll(&mut ledger, now);
        self.set_offset(&mut ledger, micros, now);
        self.roll(&mut ledger, now);
    }

    /// When [`report`](Self::report) has something to say, if nothing changes until then.
    pub(crate) fn next_report(&self, now: u64) -> u64 {
        let mut ledger = self.ledger();
        let count = self.roll(&mut ledger, now);
        self.due(&ledger, count)
    }

    /// What to send now, if it is time to. It is in flight until an answer comes.
    pub(crate) fn report(&self, now: u64) -> Option<Reported> {
        let mut ledger = self.ledger();
        let count = self.roll(&mut ledger, now);
        if now < self.due(&ledger, count) {
            return None;
        }
        let used = ledger.unreported(count).min(u32::MAX.into());
        let limited = self.limited.swap(0, Ordering::Relaxed);
        ledger.refused |= limited > 0;
        let limited = limited.saturating_add(mem::take(&mut ledger.limited));
        ledger.flight = Some(Flight { number: ledger.number, used, sent: now });
        ledger.asked = now;
        self.overdue.store(now + self.periods.length.min(1_000_000), Ordering::Relaxed);
        // A thread with a later clock, or the limiter itself, may have opened the period before it is due by ours.
        let at = now.max(self.periods.start_of(ledger.number));
        let server = at.cast_signed().saturating_add(ledger.offset.unwrap_or(0));
        Some(Reported {
            used: u32::try_from(used).unwrap_or(u32::MAX),
            limited,
            timestamp_millis: server.div_euclid(1000),
        })
    }

    /// The limiter answered, or told by itself, at that time of its clock.
    pub(crate) fn answered(&self, left: QuotaLeft, server_millis: i64, now: u64) {
        let mut ledger = self.ledger();
        let flight = ledger.flight.take();
        ledger.clients = u64::from(left.clients.max(1));
        self.roll(&mut ledger, now);
        let server = server_millis.saturating_mul(1000);
        self.doubt_offset(&mut ledger, server, flight, now);
        let number = server.div_euclid(self.periods.length.cast_signed()).saturating_add(ledger.shift);
        let number = u64::try_from(number).unwrap_or(0);
        if number == ledger.number + 1 {
            self.turn(number, number);
        }
        let count = self.roll(&mut ledger, now);
        let rejoined = !mem::replace(&mut ledger.joined, true);
        if rejoined {
            // The period was opened without knowing who shares it.
            ledger.opened = now;
            self.cap.store(Word::new(ledger.number, ledger.open()).0, Ordering::Relaxed);
        }
        // Of another period it counted nothing: only how many clients there are holds.
        if number == ledger.number && !ledger.blind {
            if rejoined {
                // Of what was sent to it, or to the one before it, it may have forgotten some.
                let known = ledger.amount().saturating_add_signed(left.left.saturating_neg());
                ledger.counted = ledger.counted.min(known);
            }
            if let Some(flight) = flight.filter(|flight| flight.number == number) {
                ledger.counted += flight.used;
            }
            let start = self.periods.start_of(number);
            let sent = flight.map(|flight| flight.sent.saturating_sub(start.max(ledger.opened)));
            let cap = ledger.deal(count, left.left, now.saturating_sub(start), sent);
            self.cap.store(Word::new(number, cap).0, Ordering::Relaxed);
            let course = ledger.course(count, self.limited.load(Ordering::Relaxed) > 0);
            self.opening.store(ledger.opening(&course), Ordering::Relaxed);
        }
        self.set_fallback(&ledger);
        self.overdue.store(u64::MAX, Ordering::Relaxed);
    }

    /// The limiter is gone, with what was in flight. Until it answers again, this client is on its own.
    pub(crate) fn unanswered(&self, now: u64) {
        let mut ledger = self.ledger();
        self.roll(&mut ledger, now);
        if let Some(flight) = ledger.flight.take().filter(|flight| flight.number == ledger.number) {
            ledger.counted += flight.used;
        }
        ledger.joined = false;
        self.overdue.store(0, Ordering::Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The word to count in.
    #[inline]
    fn current(&self, seen: u64, now: u64) -> Word {
        let word = Word(seen);
        if now < self.until.load(Ordering::Relaxed) { word } else { word.or_later(self.periods.at(now)) }
    }

    /// What may be granted in the period of `word`.
    #[inline]
    fn allowed(&self, word: Word, now: u64) -> u64 {
        if now >= self.overdue.load(Ordering::Relaxed) {
            return self.fallback.load(Ordering::Relaxed);
        }
        let cap = Word(self.cap.load(Ordering::Relaxed));
        if cap.is_beside(word) { cap.count() } else { self.opening.load(Ordering::Relaxed) }
    }

    #[cold]
    fn retry_after(&self, word: Word, now: u64) -> RetryAfter {
        let number = word.number_near(self.periods.at(now));
        RetryAfter(self.periods.end_of(number).saturating_sub(now).max(1))
    }

    fn set_fallback(&self, ledger: &Ledger) {
        let fallback = if self.failover == Failover::Pass { MOST } else { ledger.alone() };
        self.fallback.store(fallback, Ordering::Relaxed);
    }

    /// Opens the period of that number if it is later than the current one.
    fn turn(&self, number: u64, near: u64) -> (u64, u64) {
        let mut seen = self.used.load(Ordering::Relaxed);
        loop {
            let word = Word(seen).or_later(number);
            if word.0 == seen {
                return (word.number_near(near), word.count());
            }
            match self.used.compare_exchange_weak(seen, word.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => self.before.store(seen, Ordering::Relaxed),
                Err(other) => {
                    seen = other;
                    continue;
                }
            }
            return (number, 0);
        }
    }

    /// Brings the books up to the current period; what was used in it.
    fn roll(&self, ledger: &mut Ledger, now: u64) -> u64 {
        let at = self.periods.at(now);
        let (number, count) = self.turn(at, at);
        if number > ledger.number {
            let before = Word(self.before.load(Ordering::Relaxed));
            let known = before.is_beside(Word::new(ledger.number, 0));
            let own = if known { before.count() } else { ledger.counted };
            let limited = self.limited.swap(0, Ordering::Relaxed);
            ledger.limited = ledger.limited.saturating_add(limited);
            let course = ledger.course(own, limited > 0);
            ledger.close(course, number, now);
            self.cap.store(Word::new(number, ledger.open()).0, Ordering::Relaxed);
            self.until.store(self.periods.end_of(number), Ordering::Relaxed);
        }
        count
    }

    fn due(&self, ledger: &Ledger, count: u64) -> u64 {
        if !ledger.joined || ledger.flight.is_some() {
            return u64::MAX;
        }
        if ledger.blind {
            return self.periods.end_of(ledger.number);
        }
        let left = ledger.seen.map_or(1, |(left, _)| left);
        let unreported = ledger.unreported(count) > 0;
        let wanting = left > 0 && self.limited.load(Ordering::Relaxed) > 0;
        let jitter = ledger.jitter();
        if unreported && left.saturating_mul(8) < ledger.amount().cast_signed() {
            return ledger.asked + 10_000;
        }
        if unreported || wanting {
            return ledger.asked + 30_000 + draw::level(jitter, 20_000);
        }
        // The end of a period tells what to expect of the next one.
        let length = self.periods.length;
        let late = self.periods.end_of(ledger.number).saturating_sub(length / 50 + draw::level(jitter, length / 50));
        let late = if ledger.asked + length / 20 > late { late + length } else { late };
        late.min(ledger.asked + IDLE)
    }

    /// An answer was given between the question and now, which bounds what the limiter's clock can be.
    fn doubt_offset(&self, ledger: &mut Ledger, server: i64, flight: Option<Flight>, now: u64) {
        let least = server.saturating_sub_unsigned(now);
        let offset = match (ledger.offset, flight) {
            (None, _) => least,
            // An answer that was under way when the clock was set tells of the clock before.
            (Some(offset), Some(flight)) if flight.sent >= ledger.offset_since => {
                let most = server.saturating_sub_unsigned(flight.sent);
                let likely = offset.clamp(least.saturating_sub(SLACK), most.saturating_add(SLACK).max(least));
                if likely == offset {
                    return;
                }
                offset.clamp(least, most.max(least))
            }
            _ => return,
        };
        self.set_offset(ledger, offset, now);
    }

    fn set_offset(&self, ledger: &mut Ledger, offset: i64, now: u64) {
        let length = self.periods.length.cast_signed();
        let server = now.cast_signed().saturating_add(offset);
        let phase = server.rem_euclid(length);
        let theirs = server.div_euclid(length);
        let current = ledger.number.cast_signed();
        let step = ledger.offset.map_or(0, |before| before.abs_diff(offset));
        let mut number = current;
        if ledger.offset.is_some() && step < self.periods.length {
            number = theirs.saturating_add(ledger.shift);
            // Numbers never go back. A step back across the beginning of the period is waited for, if it is small.
            let behind = (current - number).saturating_mul(length) - phase;
            if behind > length / 4 {
                number = current;
            }
        }
        // After a jump the limiter counts anew, and the current period goes on until the next one begins by the new
        // clock: what it had is not had twice, and nobody waits for longer than a period.
        ledger.blind |= step > JUMP;
        let number = number.max(1);
        (ledger.offset, ledger.offset_since) = (Some(offset), now);
        ledger.shift = number.saturating_sub(theirs);
        self.periods.place(now, number.cast_unsigned(), phase.cast_unsigned());
        self.until.store(self.periods.end_of(ledger.number), Ordering::Relaxed);
    }
}
