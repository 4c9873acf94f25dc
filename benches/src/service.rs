//! A service that is loaded, and the ways to ask for one of its instances.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use polarismesh::testing::bench::{Fed, trip};
use polarismesh::{GetOneInstance, GetOneInstanceFuture, Instance, LabelSet, ResourceKind, SdkContext};
use tokio::runtime::Runtime;

use crate::data;
use crate::rules::{self, Routing};

/// How long a service may take until its rules are in force.
const COMPILED_WITHIN: Duration = Duration::from_secs(30);

/// A context with a service of so many instances, without rules.
pub fn loaded(instances: usize, runtime: &Runtime) -> Fed {
    runtime.block_on(async {
        let fed = Fed::new().expect("a context");
        let handle = fed.context().consumer().service(data::key());
        fed.no_rules(&data::key());
        fed.answer(&data::key(), data::answer(instances, 1)).expect("an answer");
        handle.ready().await.expect("it is loaded");
        fed
    })
}

/// A context with such a service, routed like this.
pub fn routed(instances: usize, routing: &Routing, runtime: &Runtime) -> Fed {
    runtime.block_on(async {
        let [region, zone, campus] = rules::FROM;
        let builder = SdkContext::builder()
            .set("global.location.region", region)
            .set("global.location.zone", zone)
            .set("global.location.campus", campus);
        let (fed, key) = (Fed::with(builder).expect("a context"), data::key());
        let handle = fed.context().consumer().service(key.clone());
        fed.answer_of(ResourceKind::Routing, &key, rules::routing(&routing.rules)).expect("rules");
        fed.answer_of(ResourceKind::NearbyRoute, &key, rules::nearby(routing.nearby)).expect("rules");
        fed.answer(&key, data::answer(instances, 1)).expect("an answer");
        handle.ready().await.expect("it is loaded");
        if routing.broken {
            assert!(trip(&handle, &data::parts(rules::BROKEN).id, true), "the instance is there");
        }
        wait_for(&fed, &rules::groups(instances, routing)).await;
        fed
    })
}

/// Waits until calls go where the data says that they have to: to the groups of the last rule, within the zone of the
/// call, and around what is broken.
async fn wait_for(fed: &Fed, expected: &[(f64, Vec<String>)]) {
    let labels = rules::labels();
    let ids = |group: &[Instance]| group.iter().map(|instance| instance.id().as_str().to_owned()).collect();
    let by = Instant::now() + COMPILED_WITHIN;
    loop {
        let told = explain(fed, &labels).await;
        let told: Vec<(f64, Vec<String>)> = told.iter().map(|(share, group)| (*share, ids(group))).collect();
        if told == expected {
            return;
        }
        let lengths: Vec<_> = told.iter().map(|(share, group)| (share, group.len())).collect();
        assert!(Instant::now() < by, "not in force after {COMPILED_WITHIN:?}, calls go to {lengths:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Where calls with these labels go: shares, and the instances that each is picked from.
pub async fn explain(fed: &Fed, labels: &LabelSet) -> Vec<(f64, Vec<Instance>)> {
    let key = data::key();
    let request = GetOneInstance::new(key.namespace(), key.service()).labels(labels);
    let told = fed.context().router().explain(request).await.expect("it is loaded");
    told.routes.into_iter().map(|route| (route.share, route.outcome.expect("instances"))).collect()
}

pub fn end(fed: Fed, runtime: &Runtime) {
    runtime.block_on(fed.context().shutdown(Duration::from_secs(5))).expect("an end");
}

/// What a call on warm data gives without waiting.
#[inline]
pub fn at_once(future: GetOneInstanceFuture) -> Instance {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(picked) => picked.expect("an instance"),
        Poll::Pending => panic!("a pick on warm data waits"),
    }
}
