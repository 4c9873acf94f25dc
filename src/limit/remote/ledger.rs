//! What one client knows of a global amount, and how much of it it may therefore use. Owned by the sync side.

use super::period::MOST;
use crate::model::limiter::QuotaTotal;
use crate::util::draw;

/// How long others may use something before it is seen here: they report every 50 ms, and answers take their time.
const LAG: u64 = 60_000;
/// How far the rounds are apart in which a contended rest is dealt out again. Longer than [`LAG`].
const ROUND: u64 = 100_000;

/// What this client sent, and had no answer to yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) used: u64,
    pub(super) sent: u64,
}

/// How a period went, or goes so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Course {
    pub(super) own: u64,
    pub(super) others: u64,
    pub(super) left: i64,
    /// Calls of this client were refused.
    pub(super) refused: bool,
}

/// The books of one client, about the period `number`.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Ledger {
    total: QuotaTotal,
    pub(super) number: u64,
    /// When the period was opened here, which may be long after it began.
    pub(super) opened: u64,
    /// The number of a period here, less that of the limiter's.
    pub(super) shift: i64,
    /// The limiter's clock less ours, in microseconds.
    pub(super) offset: Option<i64>,
    pub(super) offset_since: u64,
    pub(super) joined: bool,
    /// What answers say of this period does not go with what was counted of it before.
    pub(super) blind: bool,
    pub(super) clients: u64,
    /// What the limiter has counted of this client's use.
    pub(super) counted: u64,
    pub(super) flight: Option<Flight>,
    /// When the last report was sent.
    pub(super) asked: u64,
    /// `left` and the others' use by the last answer of this period.
    pub(super) seen: Option<(i64, u64)>,
    pub(super) refused: bool,
    /// Refusals of periods that ended, to be reported.
    pub(super) limited: u32,
    last: Course,
    /// All together want more than there is, so each keeps to its part.
    contended: bool,
    /// What a contended period may come to here, as far as it was dealt out.
    plan: u64,
    round: u64,
    /// By how much past periods were overdrawn, to be made up for.
    debt: u64,
    /// When the others' use was looked at, and what it was.
    mark: (u64, u64),
    /// What others used of late, and in how many microseconds.
    recent: Option<(u64, u64)>,
    entropy: u64,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(total: QuotaTotal, entropy: u64) -> Self {
        Self {
            total,
            number: 0,
            opened: 0,
            shift: 0,
            offset: None,
            offset_since: 0,
            joined: false,
            blind: false,
            clients: 1,
            counted: 0,
            flight: None,
            asked: 0,
            seen: None,
            refused: false,
            limited: 0,
            last: Course::default(),
            contended: false,
            plan: 0,
            round: 0,
            debt: 0,
            mark: (0, 0),
            recent: None,
            entropy,
        }
    }

    /// All that there is in a period.
    pub(super) fn amount(&self) -> u64 {
        let clients = if self.total.per_client { self.clients } else { 1 };
        u64::from(self.total.amount).saturating_mul(clients).min(MOST)
    }

    /// What a client may use that hears nothing of the others.
    pub(super) fn alone(&self) -> u64 {
        self.amount().div_ceil(self.clients)
    }

    /// Other bits for each report and client, so that clients do not report in step.
    pub(super) fn jitter(&self) -> u64 {
        draw::mix(self.entropy ^ self.asked)
    }

    fn random(&mut self) -> u64 {
        self.entropy = draw::mix(self.entropy);
        self.entropy
    }

    /// What was used and neither counted nor sent.
    pub(super) fn unreported(&self, count: u64) -> u64 {
        let sent = self.flight.filter(|flight| flight.number == self.number).map_or(0, |flight| flight.used);
        count.saturating_sub(self.counted + sent)
    }

    /// How the period would have gone if it ended now, with so much used here.
    pub(super) fn course(&self, count: u64, refused: bool) -> Course {
        let refused = refused || self.refused;
        match self.seen {
            Some((left, others)) => {
                let left = left.saturating_sub_unsigned(count.saturating_sub(self.counted));
                Course { own: count, others, left, refused }
            }
            // Nothing was heard: the others go on as they did.
            None => Course { own: count, refused, ..self.last },
        }
    }

    /// Closes the books of a period, and opens those of `number`.
    pub(super) fn close(&mut self, course: Course, number: u64, now: u64) {
        if self.seen.is_some() {
            let overdrawn = self.debt.saturating_add_signed(course.left.saturating_neg());
            self.debt = overdrawn.min(self.amount() / 4);
        }
        // What is older than the last period tells nothing of the next one.
        self.last =
            if number == self.number + 1 { course } else { Course { left: self.last.left, ..Course::default() } };
        self.contended = self.is_tight(&self.last);
        (self.number, self.opened) = (number, now);
        (self.counted, self.round) = (0, 0);
        (self.seen, self.refused, self.blind) = (None, false, false);
        (self.mark, self.recent) = ((0, 0), None);
    }

    fn is_tight(&self, course: &Course) -> bool {
        course.refused || course.left.saturating_mul(10) < self.amount().cast_signed()
    }

    /// What may be used of a period that nothing was heard of yet, after one that went so.
    pub(super) fn opening(&mut self, last: &Course) -> u64 {
        if !self.is_tight(last) {
            let pending = part(last.others, 2 * LAG, self.total_micros());
            return self.amount().saturating_sub(pending).max(1).min(self.amount());
        }
        let amount = self.amount().saturating_sub(self.debt);
        let opening = if last.refused && last.own <= self.amount() / self.clients {
            // It wanted more, and had less than its due.
            self.fraction(amount, 1, self.clients)
        } else {
            self.portion(amount, last.own, last.others)
        };
        opening.max(1).min(self.amount())
    }

    pub(super) fn open(&mut self) -> u64 {
        let last = self.last;
        self.plan = self.opening(&last);
        self.plan
    }

    /// What may come to be used of this period in all, after an answer to what was sent when `sent` had passed of it.
    pub(super) fn deal(&mut self, count: u64, left: i64, passed: u64, sent: Option<u64>) -> u64 {
        let all = self.amount().saturating_add_signed(left.saturating_neg());
        let others = all.saturating_sub(self.counted);
        self.seen = Some((left, others));
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
            self.contended = true;
            self.plan = self.plan.min(count);
            return self.counted;
        };
        let pending = self.pending(others, passed);
        if !self.contended {
            if left.saturating_mul(8) >= self.amount() {
                return self.counted + left.saturating_sub(2 * pending);
            }
            self.contended = true;
            self.plan = count;
            self.last = Course { own: count, others, ..self.last };
        }
        let length = self.total_micros();
        let coming = self
            .pace(others, passed, length.saturating_sub(passed) + LAG)
            .min((self.last.others + self.last.others / 8).saturating_sub(others).max(pending));
        let mut planned = self.plan.saturating_sub(self.counted);
        if planned + coming > left {
            // Not all can have what they were to have, and of what is left some is used already.
            let free = left.saturating_sub(pending / 2);
            return self.counted + self.fraction(free, planned, planned + coming);
        }
        let round = sent.map_or(0, |sent| sent / ROUND);
        if round > self.round {
            self.round = round;
            let last = self.last;
            let more = self.portion(left - coming, last.own, last.others).saturating_sub(planned);
            self.plan += more;
            planned += more;
        }
        self.counted + planned
    }

    /// What others used, or will have used, by the time that an answer to it comes.
    fn pending(&mut self, others: u64, passed: u64) -> u64 {
        let (at, before) = self.mark;
        if passed >= at + ROUND {
            self.recent = Some((others.saturating_sub(before), passed - at));
            self.mark = (passed, others);
        }
        self.recent.map_or_else(|| self.pace(others, passed, LAG), |(used, micros)| part(used, LAG, micros))
    }

    /// What others use in `micros`, by what they used so far of this period and in the one before.
    fn pace(&self, others: u64, passed: u64, micros: u64) -> u64 {
        let length = self.total_micros();
        let before = length / 10;
        part(others + part(self.last.others, before, length), micros, passed + before)
    }

    /// The part of one client: half of it is the same for all, the other half goes by what each used.
    /// The parts of all sum up to the whole.
    fn portion(&mut self, whole: u64, own: u64, others: u64) -> u64 {
        let used = own + others;
        if used == 0 {
            self.fraction(whole, 1, self.clients)
        } else {
            let mine = u128::from(used) + u128::from(self.clients) * u128::from(own);
            let all = 2 * u128::from(self.clients) * u128::from(used);
            self.fraction_wide(whole, mine, all)
        }
    }

    /// A fraction of a whole, rounded up as often as it is worth: rounded down, ten clients would leave half of 20.
    fn fraction(&mut self, whole: u64, of: u64, all: u64) -> u64 {
        self.fraction_wide(whole, of.into(), all.into())
    }

    fn fraction_wide(&mut self, whole: u64, of: u128, all: u128) -> u64 {
        // Enough bits for the odds, and few enough for the product.
        let spare = (128 - all.leading_zeros()).saturating_sub(64);
        let (of, all) = (of >> spare, (all >> spare).max(1));
        let odds = u64::try_from(all).map_or(u64::MAX, |all| draw::level(self.random(), all));
        let product = u128::from(whole) * of + u128::from(odds);
        u64::try_from(product / all).unwrap_or(MOST).min(MOST)
    }

    pub(super) fn total_micros(&self) -> u64 {
        u64::from(self.total.seconds.max(1)) * 1_000_000
    }
}

/// `amount` × `of` / `whole`.
fn part(amount: u64, of: u64, whole: u64) -> u64 {
    let part = u128::from(amount) * u128::from(of) / u128::from(whole.max(1));
    u64::try_from(part).unwrap_or(MOST).min(MOST)
}
