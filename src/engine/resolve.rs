//! What a call waits for when a service is not loaded yet.
//!
//! A warm call is answered while it is made, and its future is ready. A cold one owns its request, waits under one
//! deadline for the list and for the view that is made of it, and shares the subscription with all others that wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::future::ConsumerFuture;
use crate::engine::view::Service;
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::Instance;
use crate::model::key::{ResourceKind, ServiceEventKey, ServiceKey, ServiceKeyRef};
use crate::model::namespace::Namespace;
use crate::model::request::instance::{GetInstances, GetOneInstance, Pick};
use crate::model::service::{ServiceInstances, ServiceList};
use crate::model::snapshot::{Freshness, Resource, RuleSet};
use crate::registry::services_of;
use crate::util::deadline::after;

/// How much longer than its deadline a call may take when a list came just in time for it.
const COMPILING: Duration = Duration::from_millis(50);

impl Engine {
    /// Picks one instance while it is called, if the service is loaded.
    pub(crate) fn get_one(&self, request: GetOneInstance<'_>) -> ConsumerFuture<Instance> {
        let warm = self.0.services.with(request.key(), |service| service.try_pick(&request.pick()));
        if let Some(Some(result)) = warm {
            return ConsumerFuture::done(result);
        }
        self.read_later(request.into_owned(), Service::try_pick)
    }

    /// Picks one instance and up to `more` others.
    pub(crate) fn get_several(&self, request: &GetOneInstance<'_>, more: usize) -> ConsumerFuture<Vec<Instance>> {
        self.read(request, move |service, pick| service.pick_several(pick, more))
    }

    pub(crate) fn get_routed(&self, request: &GetInstances<'_>) -> ConsumerFuture<Vec<Instance>> {
        self.read(request.as_one(), Service::routed)
    }

    pub(crate) fn get_healthy(&self, request: &GetInstances<'_>) -> ConsumerFuture<Vec<Instance>> {
        self.read(request.as_one(), |service, _| service.healthy())
    }

    pub(crate) fn get_all(&self, request: &GetInstances<'_>) -> ConsumerFuture<Arc<ServiceInstances>> {
        self.read(request.as_one(), |service, _| service.on_view(|view| Some(view.listed().cloned())))
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

    /// How fresh the rules are; asks for nothing.
    pub(crate) fn rule_freshness(&self, key: &ServiceKey, kind: ResourceKind) -> Option<Freshness> {
        self.0.registry.peek(&key.of(kind))?.freshness(Instant::now())
    }

    /// Picks one instance without waiting; `NotReady` if the service is not loaded, and loading starts.
    #[inline]
    pub(crate) fn pick(&self, key: ServiceKeyRef<'_>, pick: &Pick<'_>) -> Result<Instance> {
        let warm = self.0.services.with(key, |service| service.pick(pick));
        warm.unwrap_or_else(|| self.service(key).pick(pick))
    }

    /// Waits until `service` is loaded for calls of `caller`, at most for the time-out of calls or for `most`.
    pub(crate) fn wait_ready(
        &self,
        service: &Arc<Service>,
        caller: Option<&ServiceKey>,
        most: Option<Duration>,
    ) -> ConsumerFuture<()> {
        let loaded = |service: &Service, caller: Option<&ServiceKey>| {
            service.on_view(|view| view.plan(caller).map(|_| view.listed().map(|_| ())))
        };
        if let Some(result) = loaded(service, caller) {
            return ConsumerFuture::done(result);
        }
        let within = most.unwrap_or(self.0.api_timeout).min(self.0.api_timeout);
        let (engine, service, pin, caller) = (self.clone(), Arc::clone(service), service.pin(), caller.cloned());
        let work = async move {
            let _pin = pin;
            engine.ready(&service, caller.as_ref(), within).await?;
            loaded(&service, caller.as_ref()).unwrap_or_else(|| Err(service.not_ready(&Pick::new())))
        };
        ConsumerFuture::waiting(work, self.0.scope.clone())
    }

    /// Waits until `service` has a view for calls of `caller`, at most `within`.
    ///
    /// # Errors
    /// `ServiceNotFound`, the refusal of the control plane, `Timeout` with the last failure, `Closed`.
    pub(crate) async fn ready(&self, service: &Service, caller: Option<&ServiceKey>, within: Duration) -> Result<()> {
        self.0.gate.check_scope()?;
        let Some(source) = service.source() else { return Ok(()) };
        let began = Instant::now();
        let deadline = after(began, within);
        let loaded = async {
            let mut published = service.published();
            if service.serves(caller) {
                return Ok(());
            }
            match self.0.registry.ready(source.key(), deadline).await {
                // The gate shuts in the same moment, and knows why.
                Err(error) if error.kind() == ErrorKind::Closed => return Err(self.0.gate.shut_down().await),
                loaded => loaded?,
            };
            // The sender lives in the service, so each wait ends by a view or by the deadline.
            while !service.serves(caller) && tokio::time::timeout_at(deadline, published.changed()).await.is_ok() {}
            if service.serves(caller) {
                return Ok(());
            }
            // The instances are there and the rules are not: this call goes on without them, as do those that follow. What
            // came at the last moment, such as an old file, is worth the moment that it takes to compile it.
            service.lose_patience();
            let deadline = Instant::now() + COMPILING;
            while !service.serves(caller) {
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
    pub(super) fn read<T: Send + 'static>(
        &self,
        request: &GetOneInstance<'_>,
        read: impl Fn(&Service, &Pick<'_>) -> Option<Result<T>> + Send + 'static,
    ) -> ConsumerFuture<T> {
        let now = self.0.services.with(request.key(), |service| read(service, &request.pick()));
        match now {
            Some(Some(result)) => ConsumerFuture::done(result),
            _ => self.read_later(request.clone().into_owned(), read),
        }
    }

    /// Answers once the service is loaded for what `request` says.
    fn read_later<T: Send + 'static>(
        &self,
        request: GetOneInstance<'static>,
        read: impl Fn(&Service, &Pick<'_>) -> Option<Result<T>> + Send + 'static,
    ) -> ConsumerFuture<T> {
        let (engine, within) = (self.clone(), request.deadline().unwrap_or(self.0.api_timeout));
        let (service, pin) = self.pinned(request.key());
        // Before anybody waits, so that instances and rules are asked for together.
        service.serves(request.pick().caller);
        let work = async move {
            // So that it does not expire under who waits for it.
            let _pin = pin;
            let pick = request.pick();
            engine.ready(&service, pick.caller, within).await?;
            read(&service, &pick).unwrap_or_else(|| Err(service.not_ready(&pick)))
        };
        ConsumerFuture::waiting(work, self.0.scope.clone())
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
            let deadline = after(Instant::now(), within);
            let resource = tokio::select! {
                biased;
                closed = engine.0.gate.shut_down() => return Err(closed),
                resource = engine.0.registry.ready(&key, deadline) => resource?,
            };
            take(resource).ok_or_else(|| Error::new(ErrorKind::Internal, format!("{key}: an answer of another kind")))
        };
        ConsumerFuture::waiting(work, self.0.scope.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixture::{API_TIMEOUT, Fixture, id, key};
    use crate::model::request::tried::Tried;
    use std::pin::Pin;
    use std::task::{Context, Poll, Wake, Waker};

    fn one() -> GetOneInstance<'static> {
        GetOneInstance::new("default", "a")
    }

    /// Lets the tasks of the context run until they wait.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_cold_callers_share_one_subscription_and_get_the_same_answer() {
        let fixture = Fixture::new();
        let mut waiting: Vec<_> = (0..100).map(|_| fixture.engine.get_one(one())).collect();
        for call in &mut waiting {
            assert!(Pin::new(call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        settle().await;
        fixture.serve(&[("x", 1)]);
        for call in waiting {
            assert_eq!(id(&call.await.unwrap()), "x");
        }
        assert_eq!(fixture.wants(ResourceKind::Instances), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_that_of_the_request_or_of_the_configuration() {
        for (request, within) in [(one(), API_TIMEOUT), (one().timeout(API_TIMEOUT * 3), API_TIMEOUT * 3)] {
            let fixture = Fixture::new();
            let began = Instant::now();
            let error = fixture.engine.get_one(request).await.unwrap_err();
            assert_eq!((error.kind(), error.service()), (ErrorKind::Timeout, Some("default/a")));
            assert_eq!(began.elapsed().as_millis(), within.as_millis());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_the_control_plane_are_told_at_once() {
        let fixture = Fixture::new();
        let call = fixture.engine.get_one(one());
        fixture.fail(Error::new(ErrorKind::Unauthorized, "bad token"));
        let began = Instant::now();
        assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Unauthorized);
        fixture.not_found();
        let error = fixture.engine.get_all(&("default", "a").into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
        assert!(began.elapsed() < API_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_no_server_takes_is_refused_and_not_asked_for() {
        let fixture = Fixture::new();
        let error = fixture.engine.get_one(GetOneInstance::new("default", "pay ments")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let error = fixture.engine.get_rule(&ServiceKey::new("", "a"), ResourceKind::Routing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(
            fixture.engine.get_services(&Namespace::new("ä")).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        assert_eq!(fixture.wants(ResourceKind::Instances) + fixture.wants(ResourceKind::Routing), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_wait_are_told_when_the_context_closes_and_so_are_later_ones() {
        let fixture = Fixture::new();
        let began = Instant::now();
        let call = fixture.engine.get_one(one());
        let rule = fixture.engine.get_rule(&key(), ResourceKind::Routing);
        let ((), picked, rules) = tokio::join!(async { fixture.engine.close() }, call, rule);
        assert_eq!(picked.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(rules.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(fixture.engine.get_one(one()).await.unwrap_err().kind(), ErrorKind::Closed);
        let other = GetOneInstance::new("default", "never asked for");
        assert_eq!(fixture.engine.get_one(other).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_after_the_scope_was_cancelled_is_closed_even_if_nothing_ever_ran() {
        let fixture = Fixture::new();
        fixture.scope.cancel();
        assert_eq!(fixture.engine.get_one(one()).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(fixture.engine.pick(key().as_ref(), &Pick::new()).unwrap_err().kind(), ErrorKind::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sync_pick_of_a_cold_service_is_not_ready_and_starts_loading() {
        let fixture = Fixture::new();
        assert_eq!(fixture.engine.pick(key().as_ref(), &Pick::new()).unwrap_err().kind(), ErrorKind::NotReady);
        assert_eq!(fixture.wants(ResourceKind::Instances), 1);
        fixture.serve(&[("x", 1)]);
        fixture.engine.wait_ready(&fixture.service(), None, None).await.unwrap();
        assert_eq!(id(&fixture.engine.pick(key().as_ref(), &Pick::new()).unwrap()), "x");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cold_call_keeps_what_it_was_asked() {
        let fixture = Fixture::new();
        let mut tried = Tried::default();
        tried.insert(&crate::model::instance::InstanceId::new(key(), "x"));
        let call = fixture.engine.get_one(one().exclude(&tried));
        drop(tried);
        fixture.serve(&[("x", 100), ("y", 1)]);
        assert_eq!(id(&call.await.unwrap()), "y");
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_waited_for_and_then_ready() {
        let fixture = Fixture::new();
        let call = fixture.engine.get_rule(&key(), ResourceKind::RateLimit);
        fixture.serve_rules(ResourceKind::RateLimit, r#"{"rules":[]}"#);
        assert_eq!(call.await.unwrap().json(), r#"{"rules":[]}"#);
        let none = fixture.engine.get_rule(&key(), ResourceKind::Routing);
        let answer = crate::model::snapshot::Answer::Unsupported;
        fixture.answer_to(&key().of(ResourceKind::Routing), answer);
        assert!(none.await.unwrap().is_empty());
    }

    /// Wakes the thread that waits in [`block`].
    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// The smallest executor there is.
    fn block<T>(mut future: ConsumerFuture<T>) -> Result<T> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn a_caller_without_a_runtime_waits_as_everybody_does() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let balancer = Arc::new(crate::balance::WeightedRandom);
        let fixture = Fixture::build(runtime.handle(), balancer, true, None);
        let late = block(fixture.engine.get_one(one().timeout(Duration::from_millis(20)))).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
        let call = fixture.engine.get_one(one());
        fixture.serve(&[("x", 1)]);
        assert_eq!(id(&block(call).unwrap()), "x");
    }

    #[test]
    fn a_caller_that_waits_is_told_when_the_runtime_goes() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let balancer = Arc::new(crate::balance::WeightedRandom);
        let fixture = Fixture::build(runtime.handle(), balancer, true, None);
        let service = fixture.service();
        let mut call = fixture.engine.get_one(one().timeout(Duration::from_secs(3600)));
        assert!(Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let waiting = std::thread::spawn(move || block(call));
        runtime.shutdown_timeout(Duration::from_secs(10));
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("runtime"), "{error}");
        assert!(!service.has_view());
    }
}
