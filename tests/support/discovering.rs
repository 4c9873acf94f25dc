//! What the tests of the consumer's side share.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polarismesh::testing::{Call, Rpc, Server, TestInstance, instance};
use polarismesh::{
    ConsumerApi, Error, ErrorKind, Instance, InstanceWatch, Pick, ResourceKind, SdkContext, ServiceInstances,
    ServiceKey, Update,
};

/// The service that most tests are about.
pub const A: (&str, &str) = ("default", "a");
/// Another one.
pub const B: (&str, &str) = ("default", "b");

pub const MILLI: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// An instance that is told by its port.
pub fn at(port: u16) -> TestInstance {
    instance("10.0.0.1", port)
}

/// As many instances, from port 1 on.
pub fn many(count: u16) -> impl Iterator<Item = TestInstance> {
    (1..=count).map(at)
}

/// A server that has A with as many instances, and a context for it.
pub fn serving(count: u16) -> (Server, SdkContext) {
    let server = Server::in_memory();
    server.service(A).instances(many(count));
    let context = server.context().unwrap();
    (server, context)
}

#[allow(single_use_lifetimes, reason = "an `impl Trait` argument cannot leave its lifetime out yet")]
pub fn ports<'i>(list: impl IntoIterator<Item = &'i Instance>) -> Vec<u16> {
    list.into_iter().map(Instance::port).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The ports of all instances of the service, as far as the context knows.
pub async fn listed(consumer: &ConsumerApi, key: (&str, &str)) -> Result<Vec<u16>, ErrorKind> {
    consumer.get_all_instances(key).await.map(|list| ports(list.instances())).map_err(|error| error.kind())
}

/// The ports that many picks come to, once the service is loaded.
pub async fn picked(consumer: &ConsumerApi, key: (&str, &str)) -> Vec<u16> {
    consumer.get_one_instance(key).await.unwrap();
    ports(&(0..200).map(|_| consumer.pick(key, &Pick::new()).unwrap()).collect::<Vec<_>>())
}

pub fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Questions for the instances of this service.
pub fn is_about(key: (&'static str, &'static str)) -> impl Fn(&&Call) -> bool {
    let key = ServiceKey::from(key);
    move |call| call.kind() == Some(ResourceKind::Instances) && call.service().as_ref() == Some(&key)
}

/// How many questions for the instances of this service have arrived.
pub fn asked(server: &Server, key: (&'static str, &'static str)) -> usize {
    server.calls_of(Rpc::Discover).iter().filter(is_about(key)).count()
}

/// The next update, which must come within a minute and be a list: its ports.
pub async fn next_list(watch: &mut InstanceWatch) -> Vec<u16> {
    match next(watch).await {
        Update::Current(list) => ports(list.instances()),
        other => panic!("a list was expected: {other:?}"),
    }
}

/// The next update, which must come within a minute and be a problem.
pub async fn next_problem(watch: &mut InstanceWatch) -> Error {
    match next(watch).await {
        Update::Unavailable(error) => error,
        other => panic!("a problem was expected: {other:?}"),
    }
}

pub async fn next(watch: &mut InstanceWatch) -> Update<ServiceInstances> {
    let next = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    next.expect("an update within a minute").expect("the watch goes on")
}

/// Waits for the list with these ports, through whatever else is told.
pub async fn until_list(watch: &mut InstanceWatch, wanted: &[u16]) -> Arc<ServiceInstances> {
    loop {
        if let Update::Current(list) = next(watch).await
            && ports(list.instances()) == wanted
        {
            return list;
        }
    }
}

/// All that is told within this time.
pub async fn told(watch: &mut InstanceWatch, within: Duration) -> Vec<Update<ServiceInstances>> {
    let mut told = Vec::new();
    let end = tokio::time::Instant::now() + within;
    while let Ok(Some(update)) = tokio::time::timeout_at(end, watch.next()).await {
        told.push(update);
    }
    told
}

pub async fn stop(context: &SdkContext) {
    context.shutdown(Duration::from_secs(10)).await.unwrap();
}
