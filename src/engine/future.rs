//! The future of a consumer call: an answer, or a boxed wait for one.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{Error, ErrorKind, Result};
use crate::util::task::TaskScope;

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The answer of a consumer call: ready when the data is loaded, else waiting under one deadline.
///
/// It borrows nothing, and can be polled on any executor. Dropping it loses nothing: loading goes on, and the next call
/// finds what came.
#[must_use = "what was not ready yet is waited for by polling only"]
pub struct ConsumerFuture<T>(State<T>);

enum State<T> {
    Done(Option<Result<T>>),
    Waiting { work: Boxed<T>, scope: TaskScope },
}

impl<T> ConsumerFuture<T> {
    pub(super) fn done(result: Result<T>) -> Self {
        Self(State::Done(Some(result)))
    }

    pub(super) fn waiting(work: impl Future<Output = Result<T>> + Send + 'static, scope: TaskScope) -> Self {
        Self(State::Waiting { work: Box::pin(work), scope })
    }
}

// Nothing in it is ever pinned in place: what waits is boxed.
impl<T> Unpin for ConsumerFuture<T> {}

impl<T> Future for ConsumerFuture<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let result = match &mut self.0 {
            State::Done(result) => {
                let again = || Err(Error::new(ErrorKind::Internal, "polled again after it was ready"));
                return Poll::Ready(result.take().unwrap_or_else(again));
            }
            State::Waiting { work, scope } => {
                // Deadlines are timers of the context's runtime, whatever runs the caller.
                let _entered = scope.enter();
                std::task::ready!(work.as_mut().poll(cx))
            }
        };
        self.0 = State::Done(None);
        Poll::Ready(result)
    }
}

impl<T> fmt::Debug for ConsumerFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Done(Some(_)) => "ready",
            State::Done(None) => "taken",
            State::Waiting { .. } => "waiting",
        };
        f.debug_tuple("ConsumerFuture").field(&state).finish()
    }
}
