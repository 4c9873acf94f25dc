//! A quota that is shared with other clients of a limiter: one share for each amount of the rule.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limit::micros;
use crate::limit::remote::{Failover, RetryAfter, Share};
use crate::limit::window::Full;
use crate::model::limiter::QuotaTotal;
use crate::model::rule::limit::{Amount, Shared};

/// How much longer than its longest period a quota is kept that nobody asks for.
const LINGER: u64 = 1_000_000;

/// What this client may grant of the amounts of one rule.
#[derive(Debug)]
pub(crate) struct Shares {
    all: Box<[(QuotaTotal, Share)]>,
    /// All calls that passed, in 32 bits that wrap.
    passed: AtomicU32,
    limited: AtomicU32,
    /// What was asked for when it was last looked at, and since when nothing more was.
    seen: AtomicU32,
    quiet_since: AtomicU64,
    /// Whether calls used it since this was last asked.
    used: AtomicBool,
    listener: Mutex<Option<Arc<dyn Listener>>>,
}

/// Is told when calls begin to use a quota.
pub(crate) trait Listener: Send + Sync + Debug {
    fn used(&self);
}

impl Shares {
    /// The entropy must differ between clients.
    pub(crate) fn new(amounts: &[Amount], shared: &Shared, entropy: u64) -> Self {
        let failover = if shared.pass_alone { Failover::Pass } else { Failover::Local };
        let share = |amount: &Amount| {
            let seconds = u32::try_from(amount.within.as_secs()).unwrap_or(u32::MAX);
            let total = QuotaTotal { seconds, amount: amount.calls, per_client: shared.per_client };
            (total, Share::new(total, failover, entropy))
        };
        Self {
            all: amounts.iter().map(share).collect(),
            passed: AtomicU32::new(0),
            limited: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            quiet_since: AtomicU64::new(0),
            used: AtomicBool::new(false),
            listener: Mutex::default(),
        }
    }

    /// Each amount, with the share of it.
    pub(crate) fn all(&self) -> &[(QuotaTotal, Share)] {
        &self.all
    }

    /// Counts one call, if there is some of each amount for it.
    pub(crate) fn take(&self, now: u64) -> Result<(), Full> {
        if !self.used.load(Ordering::Relaxed) {
            self.tell();
        }
        for (at, (total, share)) in self.all.iter().enumerate() {
            if let Err(RetryAfter(after)) = share.take(now) {
                self.all.iter().take(at).for_each(|(_, taken)| taken.give_back(now));
                self.limited.fetch_add(1, Ordering::Relaxed);
                share.refused();
                return Err((total.amount > 0).then(|| Duration::from_micros(after)));
            }
        }
        self.passed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Has somebody told of the next use, and of each first one after it was [asked](Self::was_used) for. Whoever was told
    /// before is not any more.
    pub(crate) fn listen<L: Listener + 'static>(&self, listener: &Arc<L>, now: u64) {
        let mut told = self.listener();
        if !is(told.as_ref(), listener) {
            // What another limiter counted, this one does not know.
            self.all.iter().for_each(|(_, share)| share.unanswered(now));
            *told = Some(Arc::clone(listener) as Arc<dyn Listener>);
        }
        drop(told);
        self.used.store(false, Ordering::Release);
    }

    /// No limiter counts it any more, says `listener`; that is left unheard if somebody else listens by now.
    pub(crate) fn leave<L: Listener + 'static>(&self, listener: &Arc<L>, now: u64) {
        // Held until it is done, so that who listens next joins it afterwards.
        let told = self.listener();
        if is(told.as_ref(), listener) {
            self.all.iter().for_each(|(_, share)| share.unanswered(now));
        }
    }

    /// Whether calls used it since this was last asked.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::AcqRel)
    }

    #[cold]
    fn tell(&self) {
        if !self.used.swap(true, Ordering::AcqRel) {
            let listener = self.listener().clone();
            if let Some(listener) = listener {
                listener.used();
            }
        }
    }

    fn listener(&self) -> MutexGuard<'_, Option<Arc<dyn Listener>>> {
        // One pointer that is replaced as a whole: a panic leaves nothing half done.
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back a call that was counted at `then` and is not made.
    pub(crate) fn give_back(&self, then: u64) {
        self.all.iter().for_each(|(_, share)| share.give_back(then));
        self.passed.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many calls there ever were, in 32 bits that wrap.
    pub(crate) fn calls(&self) -> u32 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Whether nobody has asked for so long that nothing of it matters any more, as far as such looks have seen.
    pub(crate) fn is_idle(&self, now: u64) -> bool {
        let asked = self.passed.load(Ordering::Relaxed).wrapping_add(self.limited.load(Ordering::Relaxed));
        if self.seen.swap(asked, Ordering::Relaxed) != asked {
            self.quiet_since.store(now, Ordering::Relaxed);
            return false;
        }
        let longest = self.all.iter().map(|(total, _)| micros(Duration::from_secs(total.seconds.into()))).max();
        now.saturating_sub(self.quiet_since.load(Ordering::Relaxed)) > longest.unwrap_or_default() + LINGER
    }
}

fn is<L>(told: Option<&Arc<dyn Listener>>, listener: &Arc<L>) -> bool {
    told.is_some_and(|told| std::ptr::addr_eq(Arc::as_ptr(told), Arc::as_ptr(listener)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const SECOND: u64 = 1_000_000;

    #[derive(Debug, Default)]
    struct Told(AtomicUsize);

    impl Listener for Told {
        fn used(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many calls in each of these times, on its own.
    fn shares(amounts: &[(u32, u64)]) -> Shares {
        let amount = |(calls, within): &(u32, u64)| Amount { calls: *calls, within: Duration::from_secs(*within) };
        let amounts: Vec<_> = amounts.iter().map(amount).collect();
        Shares::new(&amounts, &Shared { per_client: false, pass_alone: false, limiter: None }, 1)
    }

    /// How many of nine calls pass.
    fn passes(shares: &Shares, now: u64) -> usize {
        (0..9).filter(|_| shares.take(now).is_ok()).count()
    }

    #[test]
    fn what_one_amount_refuses_the_others_do_not_count() {
        let shares = shares(&[(5, 60), (2, 1)]);
        let passed = [10, 11, 12, 13].map(|second| passes(&shares, second * SECOND));
        assert_eq!(passed, [2, 2, 1, 0]);
        assert_eq!(shares.calls(), 5);
        let Err(Some(wait)) = shares.take(14 * SECOND) else { panic!("the longer one is used up") };
        assert_eq!(wait, Duration::from_secs(46));
    }

    #[test]
    fn nothing_passes_where_the_amount_is_nothing() {
        assert_eq!(shares(&[(0, 1)]).take(SECOND), Err(None));
    }

    #[test]
    fn what_is_given_back_is_there_again_of_each_amount() {
        let shares = shares(&[(3, 60), (2, 1)]);
        assert_eq!(passes(&shares, 10 * SECOND), 2);
        shares.give_back(10 * SECOND);
        assert_eq!(shares.calls(), 1);
        assert_eq!((passes(&shares, 10 * SECOND), passes(&shares, 11 * SECOND)), (1, 1));
        assert_eq!(shares.calls(), 3);
    }

    #[test]
    fn of_each_first_use_after_it_was_asked_for_the_listener_is_told_and_the_last_one_is_it() {
        let shares = shares(&[(1, 1)]);
        passes(&shares, SECOND);
        let [one, two] = [(); 2].map(|()| Arc::new(Told::default()));
        let listens = |told: &Arc<Told>| is(shares.listener().as_ref(), told);
        assert!(!listens(&one));
        shares.listen(&one, SECOND);
        assert!(listens(&one) && !listens(&two) && !shares.was_used());
        for round in 1..4 {
            passes(&shares, SECOND);
            assert_eq!(one.0.load(Ordering::Relaxed), round, "refused calls are use, too");
            assert!(shares.was_used() && !shares.was_used());
        }
        shares.listen(&two, SECOND);
        passes(&shares, SECOND);
        assert_eq!((one.0.load(Ordering::Relaxed), two.0.load(Ordering::Relaxed)), (3, 1));
        assert!(listens(&two) && !listens(&one));
    }

    #[test]
    fn it_is_idle_when_nobody_asked_for_longer_than_its_longest_amount() {
        let shares = shares(&[(1, 60), (1, 1)]);
        passes(&shares, 10 * SECOND);
        assert!(!shares.is_idle(20 * SECOND), "the first look sees the calls");
        assert!(!shares.is_idle(81 * SECOND) && shares.is_idle(82 * SECOND));
        // A refused call is one that was asked for.
        assert!(shares.take(82 * SECOND).is_ok() && shares.take(82 * SECOND).is_err());
        assert!(!shares.is_idle(100 * SECOND) && !shares.is_idle(161 * SECOND));
        assert!(shares.take(161 * SECOND).is_ok() && !shares.is_idle(170 * SECOND) && shares.is_idle(232 * SECOND));
    }
}
