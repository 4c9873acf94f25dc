//! A watch: the state now, and every later outcome.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::error::Error;
use crate::model::service::{ServiceInstances, ServiceList};
use crate::model::snapshot::{Freshness, Resource, Update};
use crate::registry::entry::Pin;
use crate::registry::view::Standing;

/// What can be watched.
pub(crate) trait Watched: Sized {
    fn of(resource: &Resource) -> Option<Arc<Self>>;
}

impl Watched for ServiceInstances {
    fn of(resource: &Resource) -> Option<Arc<Self>> {
        match resource {
            Resource::Instances(instances) => Some(Arc::clone(instances)),
            _ => None,
        }
    }
}

impl Watched for ServiceList {
    fn of(resource: &Resource) -> Option<Arc<Self>> {
        match resource {
            Resource::Services(services) => Some(Arc::clone(services)),
            _ => None,
        }
    }
}

/// Watches one key, and keeps it loaded meanwhile.
///
/// The first item is the current state, as soon as there is one. A slow reader misses steps and never the outcome: of
/// contents it gets the latest, of problems the latest, and a content that it has not seen before a problem that it has
/// not seen. It ends only when the context shuts down. Dropping it releases the key.
#[must_use = "a watch does nothing unless it is polled"]
pub(crate) struct Watch<T> {
    pin: Pin,
    wakes: WatchStream<u64>,
    seen: Seen,
    ended: bool,
    _watched: PhantomData<fn() -> T>,
}

/// What was told so far.
#[derive(Debug, Default)]
struct Seen {
    contents: u64,
    troubles: u64,
    losses: u64,
}

impl<T: Watched> Watch<T> {
    pub(super) fn new(pin: Pin) -> Self {
        // Only losses from now on are news, but one that lasts is part of the current state.
        let link = pin.shared.link.view();
        let seen = Seen { losses: link.losses - u64::from(link.lost.is_some()), ..Seen::default() };
        let wakes = WatchStream::new(pin.changed());
        Self { pin, wakes, seen, ended: false, _watched: PhantomData }
    }

    /// The next update; none once the context is shut down.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing: what it would have returned is there for the next one.
    pub(crate) async fn next(&mut self) -> Option<Update<T>> {
        poll_fn(|cx| self.poll_update(cx)).await
    }

    /// The content that is served now, also when it was told already.
    pub(crate) fn current(&self) -> Option<Arc<T>> {
        self.pin.view.load().content.as_ref().and_then(T::of)
    }

    /// How fresh it is at this moment.
    pub(crate) fn freshness(&self) -> Option<Freshness> {
        self.pin.freshness(Instant::now())
    }

    /// Whether it has ended.
    pub(crate) fn is_terminated(&self) -> bool {
        self.ended
    }

    fn poll_update(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update<T>>> {
        loop {
            // Arms the waker before looking, so that a change in between is not missed.
            let woken = Pinned::new(&mut self.wakes).poll_next(cx);
            if let Some(update) = self.unseen() {
                return Poll::Ready(Some(update));
            }
            if self.ended || self.pin.shared.is_closed() {
                self.ended = true;
                return Poll::Ready(None);
            }
            match woken {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn unseen(&mut self) -> Option<Update<T>> {
        let view = self.pin.view.load();
        if view.contents > self.seen.contents {
            self.seen.contents = view.contents;
            if let Some(content) = view.content.as_ref().and_then(T::of) {
                return Some(Update::Current(content));
            }
        }
        let problem = |error: &Error| Some(Update::Unavailable(error.clone()));
        let link = self.pin.shared.link.view();
        let news = (view.troubles > self.seen.troubles, link.losses > self.seen.losses);
        self.seen.troubles = view.troubles;
        self.seen.losses = link.losses;
        match (news, &view.trouble, &view.standing, &link.lost) {
            ((true, _), Some(trouble), ..) => problem(&trouble.error),
            ((true, _), None, Standing::NotFound(error), _) => problem(error),
            // Whoever knows that the key is in trouble is not told of the link as well.
            ((_, true), None, _, Some(error)) if !self.pin.is_fixed() => problem(error),
            _ => None,
        }
    }
}

impl<T: Watched> Stream for Watch<T> {
    type Item = Update<T>;

    fn poll_next(self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update<T>>> {
        self.get_mut().poll_update(cx)
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("key", self.pin.key()).finish_non_exhaustive()
    }
}
