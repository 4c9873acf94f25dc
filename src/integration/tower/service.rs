//! The service that a layer makes.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::integration::tower::body::RateLimitBody;
use crate::integration::tower::future::RateLimitFuture;
use crate::integration::tower::limits::{Asked, Limits};

/// A service whose requests are limited: see [`RateLimitLayer`](crate::RateLimitLayer).
///
/// It is ready when the service inside is, fails as that does, and is cheap to clone if that is. A request that is refused
/// never reaches the service inside.
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, limits: Arc<Limits>) -> Self {
        Self { inner, limits }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service inside, without the limits.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, R, B> Service<Request<R>> for RateLimit<S>
where
    S: Service<Request<R>, Response = Response<B>> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Response<RateLimitBody<B>>;
    type Error = S::Error;
    type Future = RateLimitFuture<S, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let (parts, body) = request.into_parts();
        match self.limits.ask(parts) {
            Asked::Granted(parts, permit) => {
                RateLimitFuture::serving(self.inner.call(Request::from_parts(parts, body)), permit)
            }
            Asked::Queued(wait) => {
                // The one that is ready is the one to call; its clone may not be.
                let clone = self.inner.clone();
                RateLimitFuture::waiting(wait, mem::replace(&mut self.inner, clone), body)
            }
            Asked::Refused(response) => RateLimitFuture::refused(response),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RateLimit");
        debug.field("inner", &self.inner).field("key", self.limits.handle.key()).finish_non_exhaustive()
    }
}
