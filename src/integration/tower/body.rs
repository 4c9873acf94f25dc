//! The body of an answer, with which the right to be served ends.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::engine::quota::outcome::Permit;

pin_project! {
    /// The body of an answer of a [`RateLimit`](crate::RateLimit): that of the service inside, as it is, or that of a
    /// refusal.
    ///
    /// The request counts as being served until the body has ended, by its last frame or by an error, or was dropped.
    pub struct RateLimitBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Served { #[pin] body: B, permit: Option<Permit> },
        Refused { text: Bytes },
    }
}

impl<B> RateLimitBody<B> {
    pub(super) fn served(body: B, permit: Option<Permit>) -> Self {
        Self { kind: Kind::Served { body, permit } }
    }

    pub(super) fn refused(text: Bytes) -> Self {
        Self { kind: Kind::Refused { text } }
    }
}

impl<B: Body<Data = Bytes>> Body for RateLimitBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Served { mut body, permit } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
                    *permit = None;
                }
                Poll::Ready(frame)
            }
            KindProjection::Refused { text } if text.is_empty() => Poll::Ready(None),
            KindProjection::Refused { text } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Served { body, .. } => body.is_end_stream(),
            Kind::Refused { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Served { body, .. } => body.size_hint(),
            Kind::Refused { text } => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for RateLimitBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Served { body, .. } => f.debug_tuple("RateLimitBody").field(body).finish(),
            Kind::Refused { text } => f.debug_tuple("RateLimitBody").field(text).finish(),
        }
    }
}
