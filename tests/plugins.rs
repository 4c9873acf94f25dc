//! Routers, filters, balancers and weights of users take part where the configuration names them, and do no harm when they
//! fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may panic"
)]

mod support;

#[path = "support/discovering.rs"]
mod discovering;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use discovering::{A, SECOND, at, kind, many, ports, serving};
use polarismesh::testing::{Server, criteria, instance, keyed_criteria, loaded_subset, route_request, subset};
use polarismesh::{
    Chooser, Criteria, Dependence, Error, ErrorKind, GetOneInstance, Instance, LabelKind, LabelSet, Load, LoadBalancer,
    Pick, Result, RouteFilter, RouteRequest, Routed, SdkContext, Selector, ServiceHandle, ServiceRouter, Subset,
    Surroundings, WeightAdjuster,
};
use support::eventually;

const CHAIN: &str = "consumer.serviceRouter.chain";

async fn ready(context: &SdkContext) -> ServiceHandle {
    let handle = context.consumer().service(A);
    handle.ready().await.unwrap();
    handle
}

fn picked(handle: &ServiceHandle, pick: &Pick<'_>) -> Vec<u16> {
    ports(&(0..200).map(|_| handle.pick(pick).unwrap()).collect::<Vec<_>>())
}

/// Parts instances into two halves by their port; the header `half` says which one, `1` or `2`.
#[derive(Debug)]
struct Halves {
    compiled: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct ByHeader;

impl ServiceRouter for Halves {
    fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let half = |odd: u16| {
            let half = subset.filter(|instance| instance.port() % 2 == odd);
            half.ok_or_else(|| Error::plugin(ErrorKind::RouteMismatch, "that half is empty"))
        };
        Ok(Routed::fork(ByHeader, [Ok(subset.clone()), half(1), half(0)]))
    }
}

impl Chooser for ByHeader {
    fn choose(&self, request: &RouteRequest<'_>) -> Result<usize> {
        Ok(request.label(LabelKind::Header, "half").and_then(|half| half.parse().ok()).unwrap_or(0))
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_that_compiles_and_chooses_is_compiled_once_and_asked_each_time() {
    let server = Server::in_memory();
    server.service(A).instances(many(5));
    let compiled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&compiled);
    let context = server
        .builder()
        .service_router("halves", move |_| Ok(Arc::new(Halves { compiled: Arc::clone(&count) })))
        .set(CHAIN, "halves, ruleBasedRouter")
        .build()
        .unwrap();
    let handle = ready(&context).await;
    let half = |text: &str| LabelSet::new().header("half", text);
    assert_eq!(picked(&handle, &Pick::new()), [1, 2, 3, 4, 5]);
    assert_eq!(picked(&handle, &Pick::new().labels(&half("1"))), [1, 3, 5]);
    assert_eq!(picked(&handle, &Pick::new().labels(&half("2"))), [2, 4]);
    assert_eq!(compiled.load(Ordering::Relaxed), 1);
    let beyond = handle.pick(&Pick::new().labels(&half("7"))).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Plugin);
    server.service(A).instances([at(1), at(3)]);
    eventually("a branch has nobody", 7 * SECOND, async || {
        kind(handle.pick(&Pick::new().labels(&half("2")))) == Some(ErrorKind::RouteMismatch)
    })
    .await;
    let told = context.router().explain(GetOneInstance::new(A.0, A.1).labels(half("1"))).await.unwrap();
    assert_eq!(&*told.routes[0].steps[1].router, "halves", "{told}");
}

/// Leaves the instances of the tenant that a header names.
#[derive(Debug)]
struct OfTenant {
    asked: Arc<AtomicUsize>,
}

impl RouteFilter for OfTenant {
    fn depends_on(&self) -> Vec<Dependence> {
        vec![Dependence::Label(LabelKind::Header, "tenant".into())]
    }

    fn keep(&self, instance: &Instance, values: &[Option<&str>]) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        values[0].is_none_or(|tenant| instance.metadata().get("tenant") == Some(tenant))
    }
}

#[derive(Debug)]
struct Tenants(Arc<AtomicUsize>);

impl ServiceRouter for Tenants {
    fn compile(&self, _: &Subset, _: &Surroundings) -> Result<Routed> {
        Ok(Routed::filter(OfTenant { asked: Arc::clone(&self.0) }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_that_only_filters_is_asked_once_for_each_value_that_it_depends_on() {
    let server = Server::in_memory();
    server.service(A).instances((1..=6).map(|port| at(port).metadata("tenant", (port % 3).to_string())));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let builder = server.builder().service_router("tenants", move |_| Ok(Arc::new(Tenants(Arc::clone(&count)))));
    let handle = ready(&builder.set(CHAIN, "tenants").build().unwrap()).await;
    for round in 0..3 {
        for tenant in 0..3_u16 {
            let labels = LabelSet::new().header("tenant", tenant.to_string()).header("trace", format!("{round}"));
            let expected: Vec<u16> = (1..=6).filter(|port| port % 3 == tenant).collect();
            assert_eq!(picked(&handle, &Pick::new().labels(&labels)), expected);
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3 * 6, "once for each of three values");
    let nobody = LabelSet::new().header("tenant", "9");
    assert_eq!(kind(handle.pick(&Pick::new().labels(&nobody))), Some(ErrorKind::RouteMismatch));
}

/// Panics on command.
#[derive(Debug)]
struct Moody(Arc<AtomicBool>);

impl ServiceRouter for Moody {
    fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
        assert!(!self.0.load(Ordering::Relaxed), "not today");
        Ok(Routed::alike(subset.clone()))
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_router_panics_what_was_compiled_before_stays_in_use_and_the_state_says_so() {
    let server = Server::in_memory();
    server.service(A).instances(many(2));
    let moody = Arc::new(AtomicBool::new(false));
    let mood = Arc::clone(&moody);
    let builder = server.builder().service_router("moody", move |_| Ok(Arc::new(Moody(Arc::clone(&mood)))));
    let context = builder.set(CHAIN, "moody").build().unwrap();
    let handle = ready(&context).await;
    moody.store(true, Ordering::Relaxed);
    server.service(A).instance(at(3));
    eventually("it is told", 5 * SECOND, async || context.state().to_string().contains("not today")).await;
    assert_eq!(picked(&handle, &Pick::new()), [1, 2]);
    moody.store(false, Ordering::Relaxed);
    server.service(A).instance(at(4));
    eventually("it is well again", 5 * SECOND, async || picked(&handle, &Pick::new()) == [1, 2, 3, 4]).await;
    assert!(context.state().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_router_that_panics_from_the_start_refuses_picks_and_nothing_else() {
    let server = Server::in_memory();
    server.service(A).instances(many(2));
    let builder = server.builder().service_router("moody", |_| Ok(Arc::new(Moody(Arc::new(AtomicBool::new(true))))));
    let context = builder.set(CHAIN, "moody").build().unwrap();
    let error = context.consumer().get_one_instance(A).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Plugin);
    assert!(error.to_string().contains("moody panicked"), "{error}");
    assert_eq!(context.consumer().get_all_instances(A).await.unwrap().len(), 2);
}

/// The instance with the fewest calls of two, by the caller's own count.
#[derive(Debug)]
struct Quieter;

impl LoadBalancer for Quieter {
    fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(Self))
    }
}

impl Selector for Quieter {
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
        let (a, b) = criteria.two_of(subset.len());
        let calls = |index| subset.load(index).map_or(0, |load| load.in_flight());
        if calls(a) <= calls(b) { a } else { b }
    }
}

#[tokio::test(start_paused = true)]
async fn a_balancer_is_the_default_where_it_is_configured_and_else_one_by_name() {
    let server = Server::in_memory();
    server.service(A).instances(many(2));
    let quieter = || server.builder().load_balancer("quieter", |_| Ok(Arc::new(Quieter)));
    let by_name = ready(&quieter().build().unwrap()).await;
    let default = ready(&quieter().set("consumer.loadbalancer.type", "quieter").build().unwrap()).await;
    for (handle, pick) in [(by_name, Pick::new().balancer("quieter")), (default, Pick::new())] {
        let mut calls: Vec<_> = (0..100).map(|_| handle.start_call(&pick).unwrap()).collect();
        let first = calls.iter().filter(|call| call.instance().port() == 1).count();
        assert_eq!(first, 50, "two of two: always the one with fewer calls");
        calls.clear();
    }
    let error = server.builder().set("consumer.loadbalancer.type", "quieter").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[derive(Debug)]
struct Panics;

impl LoadBalancer for Panics {
    fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
        Ok(Box::new(Self))
    }
}

impl Selector for Panics {
    fn select(&self, _: &Subset, _: &Criteria<'_>) -> usize {
        panic!("in a pick")
    }
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_panics_fails_the_pick_that_named_it() {
    let server = Server::in_memory();
    server.service(A).instances(many(2));
    let builder = server.builder().load_balancer("panics", |_| Ok(Arc::new(Panics)));
    let handle = ready(&builder.build().unwrap()).await;
    assert_eq!(kind(handle.pick(&Pick::new().balancer("panics"))), Some(ErrorKind::Plugin));
    assert!(handle.pick(&Pick::new()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn every_built_in_policy_is_there_by_name() {
    let (_server, context) = serving(5);
    let handle = ready(&context).await;
    for name in [
        "weightedRandom",
        "weightedRoundRobin",
        "ringHash",
        "maglev",
        "hash",
        "l5cst",
        "leastConnection",
        "shortestResponseTime",
        "powerOfTwo",
    ] {
        let hashes = ["ringHash", "maglev", "hash", "l5cst"].contains(&name);
        let keys: Vec<_> = (0..100).map(|n: u32| n.to_string()).collect();
        let pick = |key: &str| handle.pick(&Pick::new().balancer(name).hash_key(key.as_bytes())).unwrap().port();
        let chosen: Vec<_> = keys.iter().map(|key| pick(key)).collect();
        assert!(ports_of(&chosen).len() >= 4, "{name}: {chosen:?}");
        if hashes {
            assert_eq!(chosen, keys.iter().map(|key| pick(key)).collect::<Vec<_>>(), "{name}");
        }
    }
    let error = handle.pick(&Pick::new().balancer("roundabout")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("roundabout") && error.to_string().contains("maglev"), "{error}");
}

fn ports_of(chosen: &[u16]) -> Vec<u16> {
    let mut ports = chosen.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[tokio::test(start_paused = true)]
async fn replicas_are_different_instances_and_the_same_for_the_same_key() {
    let (_server, context) = serving(5);
    let request = || GetOneInstance::new(A.0, A.1).balancer("ringHash").hash_key(b"order-7".as_slice());
    let consumer = context.consumer();
    let three = consumer.get_replicas(request(), 2).await.unwrap();
    assert_eq!((three.len(), ports(&three).len()), (3, 3));
    assert_eq!(consumer.get_replicas(request(), 2).await.unwrap(), three);
    assert_eq!(consumer.get_one_instance(request()).await.unwrap(), three[0]);
    assert_eq!(ports(&consumer.get_replicas(request(), 100).await.unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(consumer.get_replicas(A, 1).await.unwrap().len(), 2, "whatever the policy");
}

/// Gives one port a weight of its own.
#[derive(Debug)]
struct Dial(Arc<AtomicU32>);

impl WeightAdjuster for Dial {
    fn weight(&self, instance: &Instance, _: Load) -> u32 {
        if instance.port() == 1 { self.0.load(Ordering::Relaxed) } else { instance.weight() }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(500)
    }
}

#[tokio::test(start_paused = true)]
async fn adjusted_weights_are_followed_within_their_interval() {
    let server = Server::in_memory();
    server.service(A).instances(many(2));
    let dial = Arc::new(AtomicU32::new(0));
    let handle = ready(&server.builder().weight_adjuster(Dial(Arc::clone(&dial))).build().unwrap()).await;
    assert_eq!(picked(&handle, &Pick::new()), [2]);
    dial.store(300, Ordering::Relaxed);
    eventually("it takes calls", SECOND, async || picked(&handle, &Pick::new()) == [1, 2]).await;
    let first = (0..4000).filter(|_| handle.pick(&Pick::new()).unwrap().port() == 1).count();
    // 3,000 expected; the bounds are six standard deviations away.
    assert!((2835..=3165).contains(&first), "{first} of 4,000");
    let round_robin = Pick::new().balancer("weightedRoundRobin");
    let cycle: Vec<_> = (0..8).map(|_| handle.pick(&round_robin).unwrap().port()).collect();
    assert_eq!(cycle.iter().filter(|port| **port == 1).count(), 6, "{cycle:?}");
}

#[test]
fn the_kit_tests_plug_ins_without_a_context() {
    let given = subset([instance("10.0.0.2", 80).weight(7), instance("10.0.0.1", 80)]).unwrap();
    assert_eq!((given.len().get(), given.instance(1).unwrap().weight()), (2, 7));
    let chosen = Quieter.prepare(&given).unwrap().select(&given, &criteria(7));
    assert!(chosen < 2);
    let loads = [(instance("10.0.0.1", 80), 3, None), (instance("10.0.0.2", 80), 0, Some(Duration::from_millis(5)))];
    let given = loaded_subset(loads).unwrap();
    assert_eq!(given.load(1).unwrap().latency(), Some(Duration::from_millis(5)));
    assert_eq!(Quieter.prepare(&given).unwrap().select(&given, &criteria(7)), 1, "the first is busy");
    assert_ne!(keyed_criteria(b"a").hash(), keyed_criteria(b"b").hash());
    let labels = LabelSet::new().header("half", "2");
    let pick = Pick::new().labels(&labels);
    assert_eq!(ByHeader.choose(&route_request(&pick, 0)).unwrap(), 2);
    assert_eq!(kind(subset([])), Some(ErrorKind::InvalidArgument));
    let compiled = Halves { compiled: Arc::default() }.compile(&given, &Surroundings::default());
    assert!(compiled.is_ok());
}
