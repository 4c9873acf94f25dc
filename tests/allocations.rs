//! A pick or a check of a quota on warm data allocates nothing and is ready at once. One test, so that nobody else's work is counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![allow(
    dropping_references,
    clippy::disallowed_methods,
    clippy::items_after_statements,
    clippy::similar_names,
    clippy::unchecked_time_subtraction,
    reason = "a test spawns what it needs to be concurrent, and reads as a story"
)]

#[path = "support/discovering.rs"]
mod discovering;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use discovering::{A, serving};
use polarismesh::testing::{Server, bench, instance};
use polarismesh::{
    Attempts, Classify, Decision, GetOneInstance, GetQuota, LabelSet, Location, Outcome, Pick, Quota, ResourceKind,
    RuleKind, ServiceKey, Tried,
};
use serde_json::json;

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "the trait of allocators is unsafe; every call goes to the system's as it came")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations a thousand rounds of `work` make on this thread, after one that warms up.
fn allocations<T>(mut work: impl FnMut() -> T) -> u64 {
    drop(work());
    let before = COUNT.get();
    for _ in 0..1000 {
        drop(std::hint::black_box(work()));
    }
    COUNT.get() - before
}

/// What a future answers when it is polled once, with a waker that wakes nobody.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

#[derive(Debug)]
struct Never;

impl Classify for Never {
    fn outcome(&self) -> Outcome {
        Outcome::Cancelled
    }
}

/// The same for picks that rules, metadata and places have a say in, by every policy.
async fn picks_that_are_routed() {
    let server = Server::in_memory();
    let zone = |n: u16| Location::new("r", format!("z{}", n % 3), "");
    let listed = |n: u16| instance("10.0.0.1", n).metadata("version", format!("v{}", n % 2)).location(&zone(n));
    server.service(A).instances((1..=300).map(listed)).metadata("internal-enable-nearby", "true");
    let source = |key: &str, value_type: &str, kind: &str, value: &str| {
        json!([{"namespace": "*", "service": "*", "arguments": [{"type": "HEADER", "key": key,
            "value": {"type": kind, "value": value, "value_type": value_type}}]}])
    };
    for (n, (sources, label)) in [
        (source("uid", "TEXT", "EXACT", "7"), json!({"value": "v1"})),
        (source("uid", "TEXT", "REGEX", "^8+$"), json!({"value": "v1"})),
        (source("uid", "TEXT", "IN", "9,10"), json!({"value": "v0"})),
        (source("want", "PARAMETER", "EXACT", ""), json!({"value": "$header.want", "value_type": "PARAMETER"})),
    ]
    .into_iter()
    .enumerate()
    {
        let groups = [20, 80]
            .map(|weight| json!({"namespace": "*", "service": "*", "weight": weight, "labels": {"version": label}}));
        let config = json!({"rules": [{"name": "s", "sources": sources, "destinations": groups}]});
        let rule = json!({"name": format!("r{n}"), "priority": n, "enable": true, "routing_config": config});
        server.rule(ResourceKind::Routing, rule).unwrap();
    }
    let context =
        server.builder().set("global.location.region", "r").set("global.location.zone", "z1").build().unwrap();
    let (consumer, web) = (context.consumer(), ServiceKey::new("default", "web"));
    consumer.get_one_instance(GetOneInstance::new(A.0, A.1).caller(&web)).await.unwrap();
    let handle = consumer.service(A);
    assert!(bench::trip(&handle, handle.pick(&Pick::new()).unwrap().id().as_str(), true));

    for (what, labels) in [
        ("exact", LabelSet::new().header("uid", "7")),
        ("expression", LabelSet::new().header("uid", "888")),
        ("list", LabelSet::new().header("uid", "9")),
        ("looked up", LabelSet::new().header("want", "v0")),
        ("no rule", LabelSet::new().header("uid", "1")),
    ] {
        let pick = &Pick::new().labels(&labels).caller(&web).metadata(&[("zone", "z1")]);
        assert_eq!(allocations(|| handle.pick(pick).unwrap()), 0, "{what}");
        assert_eq!(allocations(|| consumer.pick(A, pick).unwrap()), 0, "{what}, by name");
        let request = || GetOneInstance::new(A.0, A.1).labels(&labels).caller(&web).hash_key(b"k".as_slice());
        assert_eq!(allocations(|| at_once(consumer.get_one_instance(request())).unwrap()), 0, "{what}, as a future");
    }
    for policy in [
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
        let pick = &Pick::new().balancer(policy).hash_key(b"key").include_broken().nearby();
        assert_eq!(allocations(|| handle.pick(pick).unwrap()), 0, "{policy}");
    }
}

/// Requests through the layer that limits them, by a rule that none of them breaks.
async fn requests_that_are_limited() {
    struct Done;

    impl http_body::Body for Done {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
            Poll::Ready(None)
        }
    }

    let server = Server::in_memory();
    let argument = json!({"type": "METHOD", "key": "", "value": {"type": "EXACT", "value": "GET"}});
    let rule = json!({"name": "many", "namespace": A.0, "service": A.1, "type": "LOCAL", "resource": "CONCURRENCY",
        "method": {"type": "EXACT", "value": "/"}, "arguments": [argument], "amounts": [{"maxAmount": 9, "validDuration": "1s"}]});
    server.rule(RuleKind::RateLimit, rule).unwrap();
    let context = server.context().unwrap();
    let handle = context.limiter().service(A);
    handle.ready().await.unwrap();
    let inner = tower::service_fn(|_: http::Request<()>| {
        std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(Done)))
    });
    let mut service = tower::Layer::layer(&handle.layer(), inner);
    let mut serve = || at_once(tower::Service::call(&mut service, http::Request::new(()))).unwrap();
    assert_eq!(allocations(&mut serve), 0, "through the layer");
    let ten: Vec<_> = (0..10).map(|_| serve().status().as_u16()).collect();
    assert_eq!(ten, [200; 10], "answers that are dropped do not count");
    let held: Vec<_> = (0..10).map(|_| serve()).collect();
    assert_eq!(held[9].status().as_u16(), 429, "the rule applies");
}

/// The same for quotas that pass and that refuse, of calls that are counted together and apart, by few rules and by many.
async fn quotas_that_are_checked() {
    let text = |kind: &str, value: &str| json!({"type": kind, "value": value});
    let arguments = |kind: &str, values: [&str; 2]| {
        json!([{"type": "HEADER", "key": "uid", "value": text(kind, values[0])},
            {"type": "QUERY", "key": "region", "value": text("EXACT", values[1])}])
    };
    let (exact, any, regex) =
        (arguments("EXACT", ["7", "east"]), arguments("EXACT", ["*", "*"]), arguments("REGEX", ["^[0-9]+$", "*"]));
    let (many, first, second) = (1_000_000, 0, 1);
    let labels = LabelSet::new().header("uid", "7").query("region", "east");
    for others in [0, 10] {
        let server = Server::in_memory();
        let add = |name: &str, method: &str, arguments: &serde_json::Value, calls: u32, resource: &str, order: u32| {
            let rule = json!({"name": name, "namespace": A.0, "service": A.1, "type": "LOCAL", "resource": resource,
                "action": "REJECT", "priority": order, "method": text("EXACT", method), "arguments": arguments,
                "amounts": [{"maxAmount": calls, "validDuration": "1s"}]});
            server.rule(ResourceKind::RateLimit, rule).unwrap();
        };
        // Holds for every call, and takes back what it counted of those that another rule refuses.
        add("at once", "*", &json!([]), many, "CONCURRENCY", first);
        for (method, arguments, calls) in [
            ("/together", &exact, many),
            ("/together/full", &exact, 1),
            ("/apart", &any, many),
            ("/apart/full", &any, 1),
            ("/apart/regex", &regex, many),
        ] {
            add(method, method, arguments, calls, "QPS", second);
        }
        (0..others).for_each(|n| add(&format!("o{n}"), &format!("/other/{n}"), &exact, many, "QPS", second));
        let context = server.context().unwrap();
        let (limiter, handle) = (context.limiter(), context.limiter().service(A));
        handle.ready().await.unwrap();
        assert_eq!(handle.usage().len(), 6 + others);
        for method in ["/together", "/together/full", "/apart", "/apart/full", "/apart/regex"] {
            let quota = &Quota::new().method(method).labels(&labels);
            drop(handle.check(quota).unwrap());
            let refused = method.ends_with("full");
            assert_eq!(matches!(handle.check(quota).unwrap(), Decision::Limited(_)), refused, "{method}");
            let request = || GetQuota::new(A.0, A.1).method(method).labels(&labels);
            assert_eq!(allocations(|| handle.check(quota).unwrap()), 0, "{method}");
            assert_eq!(allocations(|| limiter.check(&request()).unwrap()), 0, "{method}, by name");
            assert_eq!(allocations(|| at_once(limiter.get_quota(request()))), 0, "{method}, as a future");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn warm_picks_allocate_nothing_and_every_warm_call_is_ready_at_the_first_poll() {
    let (_server, context) = serving(1000);
    let consumer = context.consumer();
    let handle = consumer.service(A);
    handle.ready().await.unwrap();
    consumer.get_services("default").await.unwrap();
    consumer.get_rule(A, RuleKind::Routing).await.unwrap();
    let mut tried = Tried::default();
    tried.insert(handle.pick(&Pick::new()).unwrap().id());
    let any = &Pick::new();
    let excluding = &Pick::new().exclude(&tried).balancer("weightedRandom");

    assert!(allocations(|| vec![1]) >= 1000, "the counter counts");
    assert_eq!(allocations(|| consumer.pick(A, any).unwrap()), 0, "by name");
    assert_eq!(allocations(|| consumer.pick(A, excluding).unwrap()), 0, "by name, with all there is to say");
    assert_eq!(allocations(|| handle.pick(any).unwrap()), 0, "by handle");
    assert_eq!(allocations(|| handle.pick(excluding).unwrap()), 0, "by handle, with all there is to say");
    assert_eq!(allocations(|| at_once(consumer.get_one_instance(A)).unwrap()), 0, "as a future");
    let request = || GetOneInstance::new("default", "a").exclude(&tried).balancer("weightedRandom");
    assert_eq!(allocations(|| at_once(consumer.get_one_instance(request())).unwrap()), 0, "as a future, in full");
    assert_eq!(allocations(|| handle.start_call(any).unwrap().finish(Outcome::http(200))), 0, "with a guard");
    assert_eq!(allocations(|| handle.freshness().unwrap()), 0, "freshness");
    let none = &Pick::new().balancer("weightedRandom");
    assert_eq!(
        allocations(|| at_once(handle.call(none, Attempts::up_to(3), async |_| Ok::<_, Never>(())))),
        0,
        "a call"
    );
    // A refusal that was made ahead costs nothing either.
    let cold = consumer.service(("default", "cold"));
    assert_eq!(allocations(|| cold.pick(any).unwrap_err()), 0, "not ready");

    picks_that_are_routed().await;
    quotas_that_are_checked().await;
    requests_that_are_limited().await;

    at_once(consumer.get_instances(A)).unwrap();
    at_once(consumer.get_healthy_instances(A)).unwrap();
    at_once(consumer.get_all_instances(A)).unwrap();
    at_once(consumer.get_services("default")).unwrap();
    at_once(consumer.get_rule(A, RuleKind::Routing)).unwrap();
    at_once(handle.ready()).unwrap();
    assert!(at_once(consumer.watch_instances(A).next()).is_some());
    assert!(size_of_val(&consumer.get_one_instance(A)) <= 256);
}
