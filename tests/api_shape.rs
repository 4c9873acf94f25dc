//! What callers may rely on at compile time: handles that go anywhere, small futures and errors, types without surprises.

use std::fmt::Debug;
use std::future::Future;

use polarismesh::{
    Call, ConsumerApi, ContextState, Error, GetOneInstance, GetOneInstanceFuture, Instance, InstanceId, InstanceWatch,
    ProviderApi, RateLimit, RateLimitBody, RateLimitFuture, RateLimitLayer, Register, Registration, RegistrationWatch,
    SdkContext, SdkContextBuilder, ServiceHandle, ServiceInstances, ServiceKey, ServicesWatch, ShutdownError,
    StateWatch, Update,
};
use tokio_stream::Stream;

fn handle<T: Clone + Debug + Send + Sync + 'static>() {}
fn movable<T: Debug + Send + 'static>() {}
fn stream<T: Stream + Debug + Send + Unpin + 'static>() {}
fn error<T: std::error::Error + Clone + Send + Sync + 'static>() {}
fn sendable<F: Future + Send + 'static>(_: &F) {}
fn sendable_borrowing<F: Future + Send>(_: &F) {}

type Answer = Result<http::Response<String>, std::io::Error>;
/// A service of which nothing is known but what the layer needs.
type Inner = tower::util::ServiceFn<fn(http::Request<String>) -> std::future::Ready<Answer>>;

#[test]
fn handles_are_cheap_to_share() {
    handle::<SdkContext>();
    handle::<ConsumerApi>();
    handle::<ProviderApi>();
    handle::<ServiceHandle>();
    handle::<Registration>();
    handle::<Instance>();
    handle::<InstanceId>();
    handle::<ServiceKey>();
    handle::<ContextState>();
    handle::<Register>();
    handle::<GetOneInstance<'static>>();
    handle::<Update<ServiceInstances>>();
    handle::<RateLimitLayer>();
    handle::<RateLimit<Inner>>();
    movable::<RateLimitFuture<Inner, String>>();
    movable::<RateLimitBody<String>>();
    movable::<Call>();
    movable::<SdkContextBuilder>();
    error::<Error>();
    error::<ShutdownError>();
}

#[test]
fn watches_are_streams_that_go_anywhere() {
    stream::<InstanceWatch>();
    stream::<ServicesWatch>();
    stream::<RegistrationWatch>();
    stream::<StateWatch>();
}

#[test]
fn what_a_call_returns_is_small() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Instance>(), size_of::<usize>());
    assert_eq!(size_of::<polarismesh::Result<Instance>>(), 2 * size_of::<usize>());
    assert!(size_of::<GetOneInstanceFuture>() <= 256, "{}", size_of::<GetOneInstanceFuture>());
}

/// Never runs: its body is the assertion.
#[allow(dead_code, reason = "checked by compiling")]
fn futures_are_send(context: &SdkContext, registration: Registration) {
    let (consumer, provider) = (context.consumer(), context.provider());
    sendable(&consumer.get_one_instance(("a", "b")));
    let name = String::from("borrowed");
    // What the request borrows is not in the future.
    let future = consumer.get_one_instance((name.as_str(), name.as_str()));
    drop(name);
    sendable(&future);
    sendable_borrowing(&consumer.get_all_instances(("a", "b")));
    sendable_borrowing(&provider.register(Register::new(("a", "b"), 1)));
    sendable_borrowing(&registration.deregister());
    sendable_borrowing(&context.ready(std::time::Duration::ZERO));
    sendable_borrowing(&context.shutdown(std::time::Duration::ZERO));
    sendable(&registration.deregister_when(async {}));
}
