//! The future of a quota: decided while it is asked for, or waiting.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::engine::quota::outcome::{Permit, QuotaError};
use crate::error::{Error, ErrorKind};
use crate::util::task::TaskScope;

type Boxed = Pin<Box<dyn Future<Output = Result<Permit, QuotaError>> + Send>>;

/// The answer to [`LimitApi::get_quota`](crate::LimitApi::get_quota): decided while it was asked for, where the rules are
/// loaded and none paces calls.
///
/// It borrows nothing, and can be polled on any executor. Dropped while it waits in the queue of a rule, it gives its place
/// back.
#[must_use = "a quota is waited for by polling only"]
pub struct GetQuotaFuture(State);

enum State {
    Done(Option<Result<Permit, QuotaError>>),
    Waiting(Boxed, TaskScope),
}

impl GetQuotaFuture {
    pub(super) fn done(result: Result<Permit, QuotaError>) -> Self {
        Self(State::Done(Some(result)))
    }

    pub(super) fn waiting(
        work: impl Future<Output = Result<Permit, QuotaError>> + Send + 'static,
        scope: TaskScope,
    ) -> Self {
        Self(State::Waiting(Box::pin(work), scope))
    }
}

// Nothing in it is ever pinned in place: what waits is boxed.
impl Unpin for GetQuotaFuture {}

impl Future for GetQuotaFuture {
    type Output = Result<Permit, QuotaError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.0 {
            State::Done(result) => {
                let again = || QuotaError::Failed(Error::new(ErrorKind::Internal, "polled again after it was ready"));
                return Poll::Ready(result.take().unwrap_or_else(|| Err(again())));
            }
            State::Waiting(work, scope) => {
                // Timers are those of the context's runtime, whatever runs the caller.
                let _entered = scope.enter();
                std::task::ready!(work.as_mut().poll(cx))
            }
        };
        self.0 = State::Done(None);
        Poll::Ready(result)
    }
}

impl fmt::Debug for GetQuotaFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Done(Some(_)) => "ready",
            State::Done(None) => "taken",
            State::Waiting(..) => "waiting",
        };
        f.debug_tuple("GetQuotaFuture").field(&state).finish()
    }
}
