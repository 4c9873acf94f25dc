//! Calls: a guard around each, and retries elsewhere within a budget.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::view::Service;
use crate::error::{Error, ErrorKind, Result};
use crate::model::call::{Classify, Outcome};
use crate::model::health::Slot;
use crate::model::instance::{Instance, InstanceId};
use crate::model::request::instance::Pick;
use crate::util::deadline::after;

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
            Some(Ok(()))
        })
    }
}

impl Engine {
    /// Calls `send` with one instance after the other until it succeeds or must not be tried again.
    pub(crate) async fn call<T, E, F, Fut>(
        &self,
        service: &Arc<Service>,
        pick: &Pick<'_>,
        attempts: Attempts,
        mut send: F,
    ) -> Result<T, CallError<E>>
    where
        F: FnMut(Instance) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Classify,
    {
        let deadline = attempts.overall.map(|within| after(Instant::now(), within));
        if !service.serves(pick.caller) {
            self.wait_ready(service, pick.caller, attempts.overall).await.map_err(CallError::NotSent)?;
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
            let attempted = send(instance.clone());
            let result = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, attempted).await,
                None => Ok(attempted.await),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::budget::Budget;
    use crate::engine::fixture::{API_TIMEOUT, Fixture, id, key};
    use crate::model::health::Load;
    use crate::model::request::tried::Tried;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug, PartialEq)]
    struct Broken {
        retryable: bool,
    }

    impl Classify for Broken {
        fn outcome(&self) -> Outcome {
            Outcome::NoAnswer
        }

        fn is_retryable(&self) -> bool {
            self.retryable
        }
    }

    const ANY: &Pick<'static> = &Pick::new();
    const RETRYABLE: Broken = Broken { retryable: true };

    fn load(service: &Service, id: &str) -> Load {
        let view = service.view.load();
        view.as_ref().unwrap().base.as_ref().unwrap().slot_of(id).unwrap().load()
    }

    fn total_in_flight(service: &Service) -> u32 {
        service.snapshot().unwrap().instances().iter().map(|i| load(service, i.id().as_str()).in_flight).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_load_until_it_ends_and_tells_how_long_it_took() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1)]).await;
        let (first, second) = (service.start_call(ANY).unwrap(), service.start_call(ANY).unwrap());
        assert_eq!(load(&service, "a").in_flight, 2);
        tokio::time::advance(Duration::from_millis(20)).await;
        first.finish(Outcome::http(200));
        assert_eq!(load(&service, "a").latency(), Some(Duration::from_millis(20)));
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(second);
        let left = load(&service, "a");
        assert_eq!((left.in_flight, left.latency()), (0, Some(Duration::from_millis(20))), "dropped: no verdict");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_go_elsewhere_and_only_where_they_are_allowed() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1), ("c", 1)]).await;
        let mut tried = Tried::default();
        tried.insert(&InstanceId::new(key(), "b"));
        let pick = Pick::new().exclude(&tried);
        let seen = Mutex::new(Vec::new());
        let send = |retryable| {
            let seen = &seen;
            move |instance: Instance| {
                seen.lock().unwrap().push(id(&instance));
                async move { Err::<(), _>(Broken { retryable }) }
            }
        };
        let once = fixture.engine.call(&service, &pick, Attempts::up_to(5), send(false)).await;
        assert!(matches!(once, Err(CallError::Failed { error: Broken { retryable: false }, attempts: 1 })), "{once:?}");
        seen.lock().unwrap().clear();
        let all = fixture.engine.call(&service, &pick, Attempts::up_to(5), send(true)).await;
        assert!(matches!(all, Err(CallError::Failed { error: RETRYABLE, attempts: 2 })), "nobody is left: {all:?}");
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        assert_eq!((seen, total_in_flight(&service)), (vec!["a".to_owned(), "c".to_owned()], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_succeeds_at_last_returns_its_value() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1)]).await;
        let mut left = 1;
        let result = fixture.engine.call(&service, ANY, Attempts::up_to(2), |instance| {
            let fails = std::mem::take(&mut left) > 0;
            async move { if fails { Err(RETRYABLE) } else { Ok(id(&instance)) } }
        });
        assert!(["a", "b"].contains(&result.await.unwrap().as_str()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_sent_says_so() {
        let fixture = Fixture::new();
        let service = fixture.service();
        let send = |_: Instance| async { Ok::<(), Broken>(()) };
        let cold = fixture.engine.call(&service, ANY, Attempts::up_to(3), send).await;
        let Err(CallError::NotSent(error)) = cold else { panic!("{cold:?}") };
        assert_eq!(error.kind(), ErrorKind::Timeout);
        fixture.serve(&[]);
        fixture.engine.ready(&service, None, API_TIMEOUT).await.unwrap();
        let empty = fixture.engine.call(&service, ANY, Attempts::up_to(3), send).await;
        let Err(CallError::NotSent(error)) = empty else { panic!("{empty:?}") };
        assert_eq!(error.kind(), ErrorKind::NoInstances);
    }

    #[tokio::test(start_paused = true)]
    async fn the_overall_time_ends_the_attempt_under_way() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1)]).await;
        let attempts = Attempts::up_to(3).overall(Duration::from_millis(100));
        let mut first = true;
        let began = Instant::now();
        let result = fixture.engine.call(&service, ANY, attempts, |_| {
            let quick = std::mem::take(&mut first);
            async move {
                tokio::time::sleep(Duration::from_millis(if quick { 30 } else { 3000 })).await;
                Err::<(), _>(RETRYABLE)
            }
        });
        let result = result.await;
        let Err(CallError::TimedOut { error, attempts: 2 }) = result else { panic!("{result:?}") };
        assert_eq!((error.kind(), error.attempts(), began.elapsed().as_millis()), (ErrorKind::Timeout, Some(2), 100));
        assert_eq!(total_in_flight(&service), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_is_no_load_any_more() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1)]).await;
        let call = fixture
            .engine
            .call(&service, ANY, Attempts::up_to(1), |_| async { std::future::pending::<Result<(), Broken>>().await });
        assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
        assert_eq!(load(&service, "a"), Load::default());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_multiplied_by_the_budget_and_no_more() {
        const CALLS: u32 = 1000;
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1), ("c", 1)]).await;
        let sent = AtomicU32::new(0);
        for _ in 0..CALLS {
            let attempts = Attempts::up_to(3).budget(0.1);
            let result = fixture.engine.call(&service, ANY, attempts, |_| {
                sent.fetch_add(1, Ordering::Relaxed);
                async { Err::<(), _>(RETRYABLE) }
            });
            assert!(result.await.is_err());
        }
        // The reserve is full at first, so the share of the first call is lost.
        let most = CALLS + CALLS / 10 + Budget::RESERVE;
        assert!((most - 1..=most).contains(&sent.load(Ordering::Relaxed)), "{sent:?} of {most}");
    }

    #[test]
    fn shares_out_of_range_are_brought_into_it() {
        assert_eq!(Attempts::up_to(0).budget(7.0), Attempts::up_to(1).budget(1.0));
        assert_eq!(Attempts::up_to(1).budget(-1.0), Attempts::up_to(1).budget(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_reaches_its_instance_or_says_why_not() {
        let fixture = Fixture::new();
        let report = |id: &str| {
            let id = InstanceId::new(key(), id);
            fixture.engine.report_call(&id, Outcome::Success(0), Duration::from_millis(4))
        };
        assert_eq!(report("a").unwrap_err().kind(), ErrorKind::NotFound);
        let service = fixture.warm(&[("a", 1)]).await;
        report("a").unwrap();
        report("gone").unwrap();
        assert_eq!(load(&service, "a").latency(), Some(Duration::from_millis(4)));
        fixture.engine.close();
        assert_eq!(report("a").unwrap_err().kind(), ErrorKind::Closed);
    }
}
