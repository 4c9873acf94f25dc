//! The future of a quota: decided while it is asked for, or waiting.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::engine::future::Answer;
use crate::engine::quota::outcome::{Permit, QuotaError};
use crate::util::task::TaskScope;

/// The answer to [`LimitApi::get_quota`](crate::LimitApi::get_quota): decided while it was asked for, where the rules are
/// loaded and none paces calls.
///
/// It borrows nothing, and can be polled on any executor. Dropped while it waits in the queue of a rule, it gives its place
/// back.
#[must_use = "a quota is waited for by polling only"]
pub struct GetQuotaFuture(Answer<Permit, QuotaError>);

impl GetQuotaFuture {
    pub(super) fn done(result: Result<Permit, QuotaError>) -> Self {
        Self(Answer::done(result))
    }

    pub(super) fn waiting(
        work: impl Future<Output = Result<Permit, QuotaError>> + Send + 'static,
        scope: TaskScope,
    ) -> Self {
        Self(Answer::waiting(work, scope))
    }
}

// Nothing in it is ever pinned in place: what waits is boxed.
impl Unpin for GetQuotaFuture {}

impl Future for GetQuotaFuture {
    type Output = Result<Permit, QuotaError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, QuotaError::Failed)
    }
}

impl fmt::Debug for GetQuotaFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GetQuotaFuture").field(&self.0.state()).finish()
    }
}
