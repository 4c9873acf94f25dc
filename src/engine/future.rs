//! Futures of calls that are mostly decided while they are made: an answer, or a boxed wait for one.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{Error, ErrorKind, Result};
use crate::util::task::TaskScope;

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The answer of a consumer call: ready when the data is loaded, else waiting under one deadline.
///
/// It borrows nothing, and can be polled on any executor. Dropping it loses nothing: loading goes on, and the next call
/// finds what came.
#[must_use = "what was not ready yet is waited for by polling only"]
pub struct ConsumerFuture<T>(Answer<T>);

/// What such futures are made of.
pub(super) enum Answer<T, E = Error> {
    Done(Option<Result<T, E>>),
    Waiting { work: Boxed<T, E>, scope: TaskScope },
}

// === impl ConsumerFuture ===

impl<T> ConsumerFuture<T> {
    pub(super) fn done(result: Result<T>) -> Self {
        Self(Answer::done(result))
    }

    pub(super) fn waiting(work: impl Future<Output = Result<T>> + Send + 'static, scope: TaskScope) -> Self {
        Self(Answer::waiting(work, scope))
    }
}

// Nothing in it is ever pinned in place: what waits is boxed.
impl<T> Unpin for ConsumerFuture<T> {}

impl<T> Future for ConsumerFuture<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        self.0.poll(cx, |error| error)
    }
}

impl<T> fmt::Debug for ConsumerFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConsumerFuture").field(&self.0.state()).finish()
    }
}

// === impl Answer ===

impl<T, E> Answer<T, E> {
    pub(super) fn done(result: Result<T, E>) -> Self {
        Self::Done(Some(result))
    }

    pub(super) fn waiting(work: impl Future<Output = Result<T, E>> + Send + 'static, scope: TaskScope) -> Self {
        Self::Waiting { work: Box::pin(work), scope }
    }

    /// The answer, once; then `again` of an error that says so.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, again: impl FnOnce(Error) -> E) -> Poll<Result<T, E>> {
        let result = match self {
            Self::Done(result) => result
                .take()
                .unwrap_or_else(|| Err(again(Error::new(ErrorKind::Internal, "polled again after it was ready")))),
            Self::Waiting { work, scope } => {
                // Timers are those of the context's runtime, whatever runs the caller.
                let _entered = scope.enter();
                ready!(work.as_mut().poll(cx))
            }
        };
        *self = Self::Done(None);
        Poll::Ready(result)
    }

    pub(super) fn state(&self) -> &'static str {
        match self {
            Self::Done(Some(_)) => "ready",
            Self::Done(None) => "taken",
            Self::Waiting { .. } => "waiting",
        }
    }
}
