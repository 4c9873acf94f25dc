//! Streams of what changes.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::FusedStream;
use tokio_stream::Stream;

use crate::api::consumer::ConsumerApi;
use crate::error::{Error, Result};
use crate::model::key::ServiceKey;
use crate::model::namespace::Namespace;
use crate::model::service::{ServiceInstances, ServiceList};
use crate::model::snapshot::{Freshness, Update};
use crate::registry::{LocalRegistry, Watch, Watched};

/// The instances of one service, now and whenever they change.
///
/// The first item is the current list, as soon as there is one; each later one is a list again or why it is not
/// confirmed. A slow reader misses steps and never the outcome. The stream ends when the context is shut down, and after
/// its first item if the control plane would not take the name. Dropping it gives the service back to expiry.
#[must_use = "a watch does nothing unless it is polled"]
pub struct InstanceWatch(Watching<ServiceInstances>);

/// The services of one namespace, now and whenever they change. Behaves as [`InstanceWatch`] does.
#[must_use = "a watch does nothing unless it is polled"]
pub struct ServicesWatch(Watching<ServiceList>);

struct Watching<T> {
    source: WatchSource<T>,
    /// Keeps the context alive.
    _consumer: ConsumerApi,
}

enum WatchSource<T> {
    Live(Watch<T>),
    /// Nothing was asked for: told once.
    Refused(Option<Error>),
}

// === impl InstanceWatch ===

impl InstanceWatch {
    pub(crate) fn new(consumer: ConsumerApi, key: &ServiceKey) -> Self {
        Self(Watching::new(consumer, key.validate(), |registry| registry.watch_instances(key)))
    }

    /// The next update; none once the context is shut down.
    ///
    /// # Cancel safety
    /// A dropped call loses nothing: what it would have returned is there for the next one.
    pub async fn next(&mut self) -> Option<Update<ServiceInstances>> {
        self.0.next().await
    }

    /// The list that is served now, whether or not it was told already.
    #[must_use]
    pub fn current(&self) -> Option<Arc<ServiceInstances>> {
        self.0.current()
    }

    /// How fresh that list is at this moment; none before there is one.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.0.freshness()
    }
}

impl Stream for InstanceWatch {
    type Item = Update<ServiceInstances>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

impl FusedStream for InstanceWatch {
    fn is_terminated(&self) -> bool {
        self.0.is_terminated()
    }
}

impl fmt::Debug for InstanceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InstanceWatch").field(&self.0).finish()
    }
}

// === impl ServicesWatch ===

impl ServicesWatch {
    pub(crate) fn new(consumer: ConsumerApi, namespace: &Namespace) -> Self {
        Self(Watching::new(consumer, namespace.validate(), |registry| registry.watch_services(namespace)))
    }

    /// The next update; none once the context is shut down.
    ///
    /// # Cancel safety
    /// A dropped call loses nothing: what it would have returned is there for the next one.
    pub async fn next(&mut self) -> Option<Update<ServiceList>> {
        self.0.next().await
    }

    /// The list that is served now, whether or not it was told already.
    #[must_use]
    pub fn current(&self) -> Option<Arc<ServiceList>> {
        self.0.current()
    }

    /// How fresh that list is at this moment; none before there is one.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.0.freshness()
    }
}

impl Stream for ServicesWatch {
    type Item = Update<ServiceList>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

impl FusedStream for ServicesWatch {
    fn is_terminated(&self) -> bool {
        self.0.is_terminated()
    }
}

impl fmt::Debug for ServicesWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServicesWatch").field(&self.0).finish()
    }
}

// === impl Watching ===

impl<T: Watched> Watching<T> {
    fn new(consumer: ConsumerApi, named: Result<()>, watch: impl FnOnce(&LocalRegistry) -> Watch<T>) -> Self {
        let source = match named {
            Ok(()) => WatchSource::Live(watch(consumer.engine().registry())),
            Err(error) => WatchSource::Refused(Some(error)),
        };
        Self { source, _consumer: consumer }
    }

    async fn next(&mut self) -> Option<Update<T>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update<T>>> {
        match &mut self.source {
            WatchSource::Live(watch) => Pin::new(watch).poll_next(cx),
            WatchSource::Refused(error) => Poll::Ready(error.take().map(Update::Unavailable)),
        }
    }

    fn current(&self) -> Option<Arc<T>> {
        match &self.source {
            WatchSource::Live(watch) => watch.current(),
            WatchSource::Refused(_) => None,
        }
    }

    fn freshness(&self) -> Option<Freshness> {
        match &self.source {
            WatchSource::Live(watch) => watch.freshness(),
            WatchSource::Refused(_) => None,
        }
    }

    fn is_terminated(&self) -> bool {
        match &self.source {
            WatchSource::Live(watch) => watch.is_terminated(),
            WatchSource::Refused(error) => error.is_none(),
        }
    }
}

impl<T> fmt::Debug for Watching<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            WatchSource::Live(watch) => watch.fmt(f),
            WatchSource::Refused(error) => error.fmt(f),
        }
    }
}
