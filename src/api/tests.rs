//! The consumer's side as its users see it, over a registry that is fed by hand.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::FusedStream;
use tokio_stream::Stream;

use crate::api::consumer::{ConsumerApi, GetOneInstanceFuture};
use crate::api::handle::ServiceHandle;
use crate::api::watch::{InstanceWatch, ServicesWatch};
use crate::engine::call::{Attempts, Call};
use crate::engine::fixture::{Fixture, id, key};
use crate::error::{ErrorKind, Result};
use crate::model::call::Outcome;
use crate::model::key::{ResourceKind, Revision};
use crate::model::namespace::Namespace;
use crate::model::request::instance::Pick;
use crate::model::rule_kind::RuleKind;
use crate::model::service::{ServiceInfo, ServiceList};
use crate::model::snapshot::{Answer, Resource, Source, Update};
use crate::registry::services_of;

fn consumer(fixture: &Fixture) -> ConsumerApi {
    ConsumerApi::new(fixture.engine.clone(), Arc::new(()))
}

/// What a future answers when it is polled once, with a waker that wakes nobody.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn serve_services(fixture: &Fixture) {
    let namespace = Namespace::new("default");
    let info = ServiceInfo { key: key(), metadata: crate::model::metadata::Metadata::default() };
    let list = ServiceList { namespace: namespace.clone(), revision: Revision::new("1"), services: Box::new([info]) };
    let answer = Answer::Full { resource: Resource::Services(Arc::new(list)), skipped: Vec::new() };
    fixture.answer_to(&services_of(&namespace), answer);
}

#[tokio::test(start_paused = true)]
async fn every_call_on_warm_data_is_ready_at_the_first_poll() {
    let fixture = Fixture::new();
    let consumer = consumer(&fixture);
    let _ = (consumer.get_services("default"), consumer.get_rule(key(), RuleKind::Routing));
    fixture.warm(&[("a", 1)]).await;
    serve_services(&fixture);
    fixture.serve_rules(ResourceKind::Routing, "{\"rules\":[1]}");
    let of = ("default", "a");

    assert_eq!(id(&at_once(consumer.get_one_instance(of)).unwrap()), "a");
    assert_eq!(at_once(consumer.get_instances(of)).unwrap().len(), 1);
    assert_eq!(at_once(consumer.get_healthy_instances(of)).unwrap().len(), 1);
    assert_eq!(at_once(consumer.get_all_instances(of)).unwrap().len(), 1);
    assert_eq!(at_once(consumer.get_services("default")).unwrap().len(), 1);
    assert_eq!(at_once(consumer.get_rule(key(), RuleKind::Routing)).unwrap().json(), "{\"rules\":[1]}");
    let handle = consumer.service(key());
    at_once(handle.ready()).unwrap();
    let echo = |instance: crate::model::instance::Instance| async move { Ok::<_, Infallible>(id(&instance)) };
    assert_eq!(at_once(handle.call(&Pick::new(), Attempts::up_to(2), echo)).unwrap(), "a");
    assert_eq!(id(&consumer.pick(of, &Pick::new()).unwrap()), "a");
    let mut watch = consumer.watch_instances(of);
    assert!(matches!(at_once(watch.next()), Some(Update::Current(list)) if list.len() == 1));
}

#[derive(Debug)]
struct Infallible;

impl crate::model::call::Classify for Infallible {
    fn outcome(&self) -> Outcome {
        Outcome::Cancelled
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_loads_its_service_and_shows_what_it_has() {
    let fixture = Fixture::new();
    let handle = consumer(&fixture).service(("default", "a"));
    assert_eq!(handle.pick(&Pick::new()).unwrap_err().kind(), ErrorKind::NotReady);
    assert!(handle.snapshot().is_none() && handle.freshness().is_none());
    fixture.serve(&[("a", 1)]);
    handle.ready().await.unwrap();
    assert_eq!(handle.snapshot().unwrap().len(), 1);
    tokio::time::advance(Duration::from_secs(3)).await;
    let fresh = handle.freshness().unwrap();
    assert_eq!((fresh.source, fresh.age.as_secs()), (Source::Live, 3));
    let call = handle.start_call(&Pick::new()).unwrap();
    assert_eq!(call.instance().authority(), "10.0.0.1:80");
    call.finish(Outcome::http(200));
    let mut watch = handle.watch();
    assert!(matches!(watch.next().await, Some(Update::Current(_))));
    assert_eq!(watch.current().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_a_bad_name_says_so_with_every_call() {
    let fixture = Fixture::new();
    let handle = consumer(&fixture).service(("default", "pay ments"));
    assert_eq!(handle.pick(&Pick::new()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(handle.ready().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let mut watch = handle.watch();
    assert!(!watch.is_terminated());
    let told = watch.next().await;
    assert!(
        matches!(&told, Some(Update::Unavailable(error)) if error.kind() == ErrorKind::InvalidArgument),
        "{told:?}"
    );
    assert!(watch.next().await.is_none() && watch.is_terminated() && watch.current().is_none());
    assert_eq!(fixture.wants(ResourceKind::Instances), 0);
}

#[tokio::test(start_paused = true)]
async fn watches_follow_changes_and_end_with_the_context() {
    let fixture = Fixture::new();
    let consumer = consumer(&fixture);
    let (mut instances, mut services) = (consumer.watch_instances(key()), consumer.watch_services("default"));
    fixture.serve(&[("a", 1)]);
    serve_services(&fixture);
    assert!(matches!(instances.next().await, Some(Update::Current(list)) if list.len() == 1));
    assert!(matches!(services.next().await, Some(Update::Current(list)) if list.services()[0].key() == &key()));
    fixture.serve(&[("a", 1), ("b", 1)]);
    assert!(matches!(instances.next().await, Some(Update::Current(list)) if list.len() == 2));
    fixture.scope.cancel();
    assert!(instances.next().await.is_none() && services.next().await.is_none());
    assert!(instances.is_terminated() && services.is_terminated());
}

#[tokio::test(start_paused = true)]
async fn everything_is_closed_after_the_end() {
    let fixture = Fixture::new();
    let consumer = consumer(&fixture);
    let handle = consumer.service(key());
    fixture.warm(&[("a", 1)]).await;
    let instance = handle.pick(&Pick::new()).unwrap();
    fixture.scope.cancel();
    fixture.scope.join(Duration::from_secs(1)).await.unwrap();
    let closed = Some(ErrorKind::Closed);
    let of = ("default", "a");
    assert_eq!(kind(at_once(consumer.get_one_instance(of))), closed);
    assert_eq!(kind(at_once(consumer.get_instances(of))), closed);
    assert_eq!(kind(at_once(consumer.get_healthy_instances(of))), closed);
    assert_eq!(kind(at_once(consumer.get_all_instances(of))), closed);
    assert_eq!(kind(at_once(consumer.get_services("default"))), closed);
    assert_eq!(kind(at_once(consumer.get_rule(of, RuleKind::Routing))), closed);
    assert_eq!(kind(consumer.pick(of, &Pick::new())), closed);
    assert_eq!(kind(consumer.report_call(instance.id(), Outcome::Success(0), Duration::ZERO)), closed);
    assert_eq!(kind(handle.pick(&Pick::new())), closed);
    assert_eq!(kind(handle.start_call(&Pick::new())), closed);
    assert_eq!(kind(at_once(handle.ready())), closed);
    assert_eq!(kind(consumer.service(("default", "new")).pick(&Pick::new())), closed);
}

#[test]
fn handles_futures_and_guards_go_everywhere() {
    fn everywhere<T: Send + Sync + 'static>() {}
    fn sendable<T: Send + 'static>() {}
    fn stream<T: Stream + FusedStream + Send + Unpin + 'static>() {}
    everywhere::<ConsumerApi>();
    everywhere::<ServiceHandle>();
    sendable::<Call>();
    sendable::<GetOneInstanceFuture>();
    stream::<InstanceWatch>();
    stream::<ServicesWatch>();
    assert!(size_of::<GetOneInstanceFuture>() <= 256);
}

/// The future of a retried call may be spawned, as long as the caller's own may.
#[tokio::test(start_paused = true)]
async fn a_retried_call_may_move_between_threads() {
    fn sendable<T: Send>(future: T) -> T {
        future
    }
    let fixture = Fixture::new();
    let handle = consumer(&fixture).service(key());
    fixture.serve(&[("a", 1)]);
    let send = |_| async { Ok::<_, Infallible>(()) };
    sendable(handle.call(&Pick::new(), Attempts::up_to(2), send)).await.unwrap();
}
