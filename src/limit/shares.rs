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
    pub(crate) fn listen(&self, listener: Arc<dyn Listener>) {
        *self.listener() = Some(listener);
        self.used.store(false, Ordering::Release);
    }

    /// No limiter counts it any more, says `listener`; that is left unheard if somebody else listens by now.
    pub(crate) fn leave<L: Listener + 'static>(&self, listener: &Arc<L>, now: u64) {
        // Held until it is done, so that who listens next joins it afterwards.
        let told = self.listener();
        if told.as_ref().is_some_and(|told| std::ptr::addr_eq(Arc::as_ptr(told), Arc::as_ptr(listener))) {
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
