//! The future of an answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::engine::quota::outcome::Permit;
use crate::integration::tower::body::RateLimitBody;
use crate::integration::tower::limits::Wait;

pin_project! {
    /// The answer of a [`RateLimit`](crate::RateLimit): that of the service inside, or a refusal.
    ///
    /// # Cancel safety
    /// Dropped while the request waits for its turn, it gives its place back; while it waits for the rules, it has taken
    /// nothing. Dropped while the request is served, it drops the future of the service inside, and the request does not
    /// count as being served any more.
    #[must_use = "a request is served by polling only"]
    pub struct RateLimitFuture<S, R>
    where
        S: Service<Request<R>>,
    {
        #[pin]
        state: State<S, R, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, R, F> {
        Serving { #[pin] answer: F, permit: Option<Permit> },
        /// With the service that is ready for the request, until it takes both.
        Waiting { wait: Wait, inner: Option<(S, R)> },
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<S: Service<Request<R>>, R> RateLimitFuture<S, R> {
    pub(super) fn serving(answer: S::Future, permit: Permit) -> Self {
        Self { state: State::Serving { answer, permit: Some(permit) } }
    }

    pub(super) fn waiting(wait: Wait, service: S, body: R) -> Self {
        Self { state: State::Waiting { wait, inner: Some((service, body)) } }
    }

    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }
}

impl<S, R, B> Future for RateLimitFuture<S, R>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    type Output = Result<Response<RateLimitBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Serving { answer, permit } => {
                    let answer = ready!(answer.poll(cx));
                    // Of a failure there is no body: the request is over.
                    let permit = permit.take();
                    return Poll::Ready(
                        answer.map(|response| response.map(|body| RateLimitBody::served(body, permit))),
                    );
                }
                StateProjection::Waiting { wait, inner } => match (ready!(wait.as_mut().poll(cx)), inner.take()) {
                    (Ok((parts, permit)), Some((mut service, body))) => {
                        let answer = service.call(Request::from_parts(parts, body));
                        State::Serving { answer, permit: Some(permit) }
                    }
                    (Err(response), _) => State::Refused { response: Some(response) },
                    // Nothing is taken before the wait is over, and then it is another state.
                    (Ok(_), None) => State::Refused { response: None },
                },
                StateProjection::Refused { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map(RateLimitBody::refused))),
                    // Polled again after it was ready.
                    None => return Poll::Pending,
                },
            };
            state.set(next);
        }
    }
}

impl<S: Service<Request<R>>, R> fmt::Debug for RateLimitFuture<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Serving { .. } => "serving",
            State::Waiting { .. } => "waiting",
            State::Refused { .. } => "refused",
        };
        f.debug_tuple("RateLimitFuture").field(&state).finish()
    }
}
