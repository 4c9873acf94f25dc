//! What a call waits for when a service is not loaded yet.
//!
//! A warm call is answered while it is made, and its future is ready. A cold one owns its request, waits under one
//! deadline for the list and for the view that is made of it, and shares the subscription with all others that wait.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::view::Service;
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::Instance;
use crate::model::key::{Namespace, ResourceKind, ServiceEventKey, ServiceKey, ServiceKeyRef};
use crate::model::request::instance::{GetInstances, GetOneInstance, Pick};
use crate::model::service::{ServiceInstances, ServiceList};
use crate::model::snapshot::{Resource, RuleSet};
use crate::registry::{Pin as EntryPin, services_of};
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
    fn done(result: Result<T>) -> Self {
        Self(State::Done(Some(result)))
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

impl Engine {
    /// Picks one instance while it is called, if the service is loaded.
    pub(crate) fn get_one(&self, request: GetOneInstance<'_>) -> ConsumerFuture<Instance> {
        let warm = self.0.services.with(request.key(), |service| service.try_pick(&request.pick()));
        if let Some(Some(result)) = warm {
            return ConsumerFuture::done(result);
        }
        let pinned = self.pinned(request.key());
        let within = request.deadline().unwrap_or(self.0.api_timeout);
        let request = request.into_owned();
        self.read_when_ready(pinned, within, move |service| service.try_pick(&request.pick()))
    }

    pub(crate) fn get_routed(&self, request: &GetInstances<'_>) -> ConsumerFuture<Vec<Instance>> {
        self.read(request, |service| service.routed(&Pick::new()))
    }

    pub(crate) fn get_healthy(&self, request: &GetInstances<'_>) -> ConsumerFuture<Vec<Instance>> {
        self.read(request, Service::healthy)
    }

    pub(crate) fn get_all(&self, request: &GetInstances<'_>) -> ConsumerFuture<Arc<ServiceInstances>> {
        self.read(request, |service| service.on_view(|view| view.listed().cloned()))
    }

    pub(crate) fn get_services(&self, namespace: &Namespace) -> ConsumerFuture<Arc<ServiceList>> {
        if let Err(error) = namespace.validate() {
            return ConsumerFuture::done(Err(error));
        }
        let key = services_of(namespace);
        self.get_resource(key, |resource| match resource {
            Resource::Services(services) => Some(services),
            Resource::Instances(_) | Resource::Rules(_) => None,
        })
    }

    pub(crate) fn get_rule(&self, key: &ServiceKey, kind: ResourceKind) -> ConsumerFuture<Arc<RuleSet>> {
        if let Err(error) = key.validate() {
            return ConsumerFuture::done(Err(error));
        }
        self.get_resource(key.of(kind), |resource| match resource {
            Resource::Rules(rules) => Some(rules),
            Resource::Instances(_) | Resource::Services(_) => None,
        })
    }

    /// Picks one instance without waiting; `NotReady` if the service is not loaded, and loading starts.
    #[inline]
    pub(crate) fn pick(&self, key: ServiceKeyRef<'_>, pick: &Pick<'_>) -> Result<Instance> {
        let warm = self.0.services.with(key, |service| service.pick(pick));
        warm.unwrap_or_else(|| self.service(key).pick(pick))
    }

    /// Waits until `service` is loaded, at most for the time-out of calls.
    pub(crate) fn wait_ready(&self, service: Arc<Service>) -> ConsumerFuture<()> {
        let read = |service: &Service| service.on_view(|view| view.listed().map(|_| ()));
        match read(&service) {
            Some(result) => ConsumerFuture::done(result),
            None => {
                let pin = service.pin();
                self.read_when_ready((service, pin), self.0.api_timeout, read)
            }
        }
    }

    /// Waits until `service` has a view, at most `within`.
    ///
    /// # Errors
    /// `ServiceNotFound`, the refusal of the control plane, `Timeout` with the last failure, `Closed`.
    pub(crate) async fn ready(&self, service: &Service, within: Duration) -> Result<()> {
        self.0.gate.check_scope()?;
        let Some(source) = service.source() else { return Ok(()) };
        let began = Instant::now();
        let deadline = began + within;
        let loaded = async {
            let mut published = service.published();
            if service.has_view() {
                return Ok(());
            }
            self.0.registry.ready(source.key(), deadline).await?;
            while !service.has_view() {
                // The sender lives in the service, so this ends by a view or by the deadline.
                if tokio::time::timeout_at(deadline, published.changed()).await.is_err() {
                    let error = Error::new(ErrorKind::Timeout, "its instances came too late to be routed in time");
                    return Err(error.with_service(service.key().text()).with_elapsed(began.elapsed()));
                }
            }
            Ok(())
        };
        // The gate goes first: when a runtime ends, it shuts before timers are lost.
        tokio::select! {
            biased;
            closed = self.0.gate.shut_down() => Err(closed),
            loaded = loaded => loaded,
        }
    }

    /// Answers from a loaded service at once, or waits for it.
    fn read<T: Send + 'static>(
        &self,
        request: &GetInstances<'_>,
        read: impl Fn(&Service) -> Option<Result<T>> + Send + 'static,
    ) -> ConsumerFuture<T> {
        if let Some(Some(result)) = self.0.services.with(request.key(), |service| read(service)) {
            return ConsumerFuture::done(result);
        }
        let within = request.deadline().unwrap_or(self.0.api_timeout);
        self.read_when_ready(self.pinned(request.key()), within, read)
    }

    fn read_when_ready<T: Send + 'static>(
        &self,
        (service, pin): (Arc<Service>, Option<EntryPin>),
        within: Duration,
        read: impl Fn(&Service) -> Option<Result<T>> + Send + 'static,
    ) -> ConsumerFuture<T> {
        let engine = self.clone();
        let work = async move {
            // So that it does not expire under who waits for it.
            let _pin = pin;
            engine.ready(&service, within).await?;
            read(&service).unwrap_or_else(|| Err(service.refusals.not_ready.clone()))
        };
        ConsumerFuture(State::Waiting { work: Box::pin(work), scope: self.0.scope.clone() })
    }

    fn get_resource<T: Send + 'static>(
        &self,
        key: ServiceEventKey,
        take: impl Fn(Resource) -> Option<Arc<T>> + Send + 'static,
    ) -> ConsumerFuture<Arc<T>>
    where
        Arc<T>: Send,
    {
        if let Err(closed) = self.0.gate.check_scope() {
            return ConsumerFuture::done(Err(closed));
        }
        if let Some(served) = self.0.registry.entry(&key).served().and_then(&take) {
            return ConsumerFuture::done(Ok(served));
        }
        let (engine, within) = (self.clone(), self.0.api_timeout);
        let work = async move {
            let deadline = Instant::now() + within;
            let resource = tokio::select! {
                biased;
                closed = engine.0.gate.shut_down() => return Err(closed),
                resource = engine.0.registry.ready(&key, deadline) => resource?,
            };
            take(resource).ok_or_else(|| Error::new(ErrorKind::Internal, format!("{key}: an answer of another kind")))
        };
        ConsumerFuture(State::Waiting { work: Box::pin(work), scope: self.0.scope.clone() })
    }
}
