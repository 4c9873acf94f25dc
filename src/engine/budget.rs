//! What retries may cost, so that they never multiply an outage.

use std::sync::atomic::{AtomicU32, Ordering};

/// What retries of one service may cost: every call pays in a share of a retry, every retry takes a whole one out.
///
/// Over any number of calls there are at most [`RESERVE`](Self::RESERVE) retries more than the share of them, so an
/// outage is never multiplied. The reserve lets a service that is called rarely retry at all.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In thousandths of a retry.
    balance: AtomicU32,
}

impl Budget {
    /// How many retries a service has beyond the share of its calls.
    pub(super) const RESERVE: u32 = 10;
    const RETRY: u32 = 1000;
    const FULL: u32 = Self::RESERVE * Self::RETRY;

    /// Pays in for one call.
    pub(super) fn pay_in(&self, share: f32) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share is between 0 and 1, or no number and counts as 0"
        )]
        let part = (share * 1000.0) as u32;
        // A full one is only read, so that calls without trouble share no write.
        let pay = |balance| (part > 0 && balance < Self::FULL).then(|| u32::min(balance + part, Self::FULL));
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    /// Takes one retry out, if there is one.
    pub(super) fn take_retry(&self) -> bool {
        let take = |balance| u32::checked_sub(balance, Self::RETRY);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { balance: AtomicU32::new(Self::FULL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn retries_never_exceed_their_share_and_the_reserve(
            share in 0.0f32..=1.0, wishes in proptest::collection::vec(0u32..4, 1..400)
        ) {
            let budget = Budget::default();
            let mut retries = 0u32;
            for wish in &wishes {
                budget.pay_in(share);
                retries += (0..*wish).map(|_| u32::from(budget.take_retry())).sum::<u32>();
            }
            let calls = u32::try_from(wishes.len()).unwrap();
            let most = f64::from(share) * f64::from(calls) + f64::from(Budget::RESERVE);
            prop_assert!(f64::from(retries) <= most + 1e-3);
        }
    }

    #[test]
    fn what_is_no_number_pays_nothing() {
        let budget = Budget::default();
        while budget.take_retry() {}
        budget.pay_in(f32::NAN);
        assert!(!budget.take_retry());
    }
}
