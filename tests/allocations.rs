//! A pick on warm data allocates nothing and is ready at once. One test, so that nobody else's work is counted.

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
use polarismesh::{Attempts, Classify, GetOneInstance, Outcome, Pick, RuleKind, Tried};

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

    at_once(consumer.get_instances(A)).unwrap();
    at_once(consumer.get_healthy_instances(A)).unwrap();
    at_once(consumer.get_all_instances(A)).unwrap();
    at_once(consumer.get_services("default")).unwrap();
    at_once(consumer.get_rule(A, RuleKind::Routing)).unwrap();
    at_once(handle.ready()).unwrap();
    assert!(at_once(consumer.watch_instances(A).next()).is_some());
    assert!(size_of_val(&consumer.get_one_instance(A)) <= 256);
}
