//! Calls: a guard around each, and retries elsewhere within a budget.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::view::Service;
use crate::error::{Error, ErrorKind, Result};
use crate::model::call::{Classify, Outcome};
use crate::model::health::Slot;
use crate::model::instance::{Instance, InstanceId};
use crate::model::request::instance::Pick;

/// One call under way to one instance.
///
/// From its start to its end it counts as load of the instance. [`finish`](Self::finish) says how it ended; a call that
/// is dropped counts as cancelled, which says nothing about the instance.
#[must_use = "a call that is dropped at once counts as cancelled"]
pub struct Call {
    instance: Instance,
    slot: Arc<Slot>,
    started: Instant,
}

/// How often a call may be tried, and for how long.
///
/// ```
/// use polarismesh::Attempts;
/// use std::time::Duration;
///
/// let attempts = Attempts::up_to(3).overall(Duration::from_millis(500)).budget(0.1);
/// # let _ = attempts;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct Attempts {
    most: u32,
    overall: Option<Duration>,
    budget: f32,
}

/// Why a call that may be tried several times has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError<E> {
    /// No instance could be picked: nothing was sent.
    NotSent(Error),
    /// It was tried, and this is how the last try failed.
    #[non_exhaustive]
    Failed {
        /// The error of the last try.
        error: E,
        /// How many tries there were.
        attempts: u32,
    },
    /// The time for all tries together was over while one was under way. Whether that one had an effect is not known.
    #[non_exhaustive]
    TimedOut {
        /// Names the service, the time and the number of tries.
        error: Error,
        /// How many tries there were, the last one included.
        attempts: u32,
    },
}

/// What retries of one service may cost: every call pays in a share of a retry, every retry takes a whole one out.
///
/// Over any number of calls there are at most [`RESERVE`](Self::RESERVE) retries more than the share of them, so an
/// outage is never multiplied. The reserve lets a service that is called rarely retry at all.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In thousandths of a retry.
    balance: AtomicU32,
}

// === impl Call ===

impl Call {
    /// The instance that was picked.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Ends the call.
    pub fn finish(self, outcome: Outcome) {
        self.slot.record(outcome, self.started.elapsed());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.slot.leave();
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("instance", &self.instance).finish_non_exhaustive()
    }
}

// === impl Attempts ===

impl Attempts {
    /// At most `most` tries, the first included, each on another instance; 0 counts as 1. No time limit for all of them
    /// together, and a budget of 0.2.
    pub const fn up_to(most: u32) -> Self {
        Self { most: if most == 0 { 1 } else { most }, overall: None, budget: 0.2 }
    }

    /// The time for all tries together, waiting for the service to be loaded included.
    pub const fn overall(mut self, within: Duration) -> Self {
        self.overall = Some(within);
        self
    }

    /// The share of calls to the service that may be retries: 0.2 allows one retry for five calls, and ten more as a
    /// reserve. All callers of one service share its budget. Below 0 counts as 0, above 1 as 1.
    pub const fn budget(mut self, share: f32) -> Self {
        self.budget = share.clamp(0.0, 1.0);
        self
    }
}

// === impl CallError ===

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(_) => f.write_str("not sent: no instance could be picked"),
            Self::Failed { attempts, .. } => write!(f, "failed after {attempts} attempts"),
            Self::TimedOut { attempts, .. } => write!(f, "out of time in attempt {attempts}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for CallError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotSent(error) | Self::TimedOut { error, .. } => Some(error),
            Self::Failed { error, .. } => Some(error),
        }
    }
}

// === impl Budget ===

impl Budget {
    /// How many retries a service has beyond the share of its calls.
    const RESERVE: u32 = 10;
    const RETRY: u32 = 1000;
    const FULL: u32 = Self::RESERVE * Self::RETRY;

    fn pay_in(&self, share: f32) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is between 0 and 1")]
        let part = (share * Self::RETRY as f32) as u32;
        // A full one is only read, so that calls without trouble share no write.
        let pay = |balance| (part > 0 && balance < Self::FULL).then(|| u32::min(balance + part, Self::FULL));
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    fn take_retry(&self) -> bool {
        let take = |balance| u32::checked_sub(balance, Self::RETRY);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { balance: AtomicU32::new(Self::FULL) }
    }
}

// === flows ===

impl Service {
    /// Picks an instance and counts a call to it.
    pub(crate) fn start_call(&self, pick: &Pick<'_>) -> Result<Call> {
        let (instance, slot) = self.pick_with_slot(pick)?;
        slot.enter();
        Ok(Call { instance, slot, started: Instant::now() })
    }

    /// Takes in how a call went that was not made under a guard; whether its instance is still listed.
    fn report(&self, id: &InstanceId, outcome: Outcome, delay: Duration) -> Option<Result<()>> {
        self.on_view(|view| {
            // An instance may leave while it is called: its report has nowhere to go, and nobody is to blame.
            if let Some(slot) = view.base.as_ref().and_then(|base| base.slot_of(id.as_str())) {
                slot.record(outcome, delay);
            }
            Ok(())
        })
    }
}

impl Engine {
    /// Calls `send` with one instance after the other until it succeeds or must not be tried again.
    pub(crate) async fn call<T, E, F, Fut>(
        &self,
        service: &Service,
        pick: &Pick<'_>,
        attempts: Attempts,
        mut send: F,
    ) -> Result<T, CallError<E>>
    where
        F: FnMut(Instance) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Classify,
    {
        let deadline = attempts.overall.map(|within| Instant::now() + within);
        if !service.has_view() {
            let within = attempts.overall.unwrap_or(self.0.api_timeout).min(self.0.api_timeout);
            self.ready(service, within).await.map_err(CallError::NotSent)?;
        }
        service.budget.pay_in(attempts.budget);
        let mut tried = pick.exclude.cloned().unwrap_or_default();
        let mut last = None;
        let mut attempt = 1;
        loop {
            let call = match service.start_call(&Pick { exclude: Some(&tried), ..*pick }) {
                Ok(call) => call,
                Err(error) => return Err(no_more(error, last, attempt - 1)),
            };
            let instance = call.instance().clone();
            let sent = send(instance.clone());
            let result = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, sent).await,
                None => Ok(sent.await),
            };
            let error = match result {
                Ok(Ok(value)) => {
                    call.finish(Outcome::Success(0));
                    return Ok(value);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    call.finish(Outcome::Timeout);
                    return Err(out_of_time(service, attempts.overall, attempt));
                }
            };
            call.finish(error.outcome());
            let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
            let again = attempt < attempts.most && error.is_retryable() && in_time && service.budget.take_retry();
            if !again {
                return Err(CallError::Failed { error, attempts: attempt });
            }
            tried.insert(instance.id());
            last = Some(error);
            attempt += 1;
        }
    }

    pub(crate) fn report_call(&self, id: &InstanceId, outcome: Outcome, delay: Duration) -> Result<()> {
        let known = self.0.services.with(id.service().as_ref(), |service| service.report(id, outcome, delay));
        known.flatten().unwrap_or_else(|| {
            self.0.gate.check_scope()?;
            let context = "a call to a service that was never picked from here, or is not loaded";
            Err(Error::new(ErrorKind::NotFound, context).with_service(id.service().text()))
        })
    }
}

/// When there is nobody left to try, the last failure tells more than that there is nobody left.
fn no_more<E>(refused: Error, last: Option<E>, attempts: u32) -> CallError<E> {
    match last {
        Some(error) => CallError::Failed { error, attempts },
        None => CallError::NotSent(refused),
    }
}

fn out_of_time<E>(service: &Service, overall: Option<Duration>, attempts: u32) -> CallError<E> {
    let error = Error::new(ErrorKind::Timeout, "the time for all attempts of the call is over")
        .with_service(service.key().text())
        .with_attempts(attempts)
        .with_elapsed(overall.unwrap_or_default());
    CallError::TimedOut { error, attempts }
}
