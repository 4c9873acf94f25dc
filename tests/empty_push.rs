//! Answers that take instances away: held back, believed at once, or never, as the configuration says.

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

mod support;

#[path = "support/discovering.rs"]
mod discovering;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use discovering::{A, kind, many, next_list, next_problem, stop, told};
use polarismesh::testing::{Fault, Rpc, Server};
use polarismesh::{ErrorKind, InstanceWatch, Pick, ResourceKind, SdkContext, ServiceHandle, Update};
use support::{eventually, throughout};

/// Ten instances that are watched under one policy. `second` is how long a second lasts here.
struct Cached {
    server: Server,
    context: SdkContext,
    handle: ServiceHandle,
    watch: InstanceWatch,
    second: Duration,
}

impl Cached {
    async fn under(policy: &str, second: Duration) -> Self {
        let server = Server::in_memory();
        server.service(A).instances(many(10));
        let millis = |of: Duration| format!("{}ms", of.as_millis());
        let context = server
            .builder()
            .set("consumer.localCache.serviceRefreshInterval", millis(2 * second))
            .set("consumer.localCache.emptyGuard.policy", policy)
            .set("consumer.localCache.emptyGuard.maxAge", millis(30 * second))
            .build()
            .unwrap();
        let handle = context.consumer().service(A);
        handle.ready().await.unwrap();
        let mut watch = handle.watch();
        next_list(&mut watch).await;
        Self { server, context, handle, watch, second }
    }

    fn len(&self) -> usize {
        self.handle.snapshot().map_or(0, |list| list.len())
    }

    fn stale(&self) -> bool {
        self.handle.freshness().unwrap().stale
    }

    fn picks(&self) -> Option<ErrorKind> {
        kind(self.handle.pick(&Pick::new()))
    }

    /// What a reader who is always there is told: lengths of lists, and problems.
    fn listen(&self) -> Arc<Mutex<Vec<Result<usize, ErrorKind>>>> {
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let (theirs, mut watch) = (Arc::clone(&heard), self.handle.watch());
        tokio::task::spawn(async move {
            while let Some(update) = watch.next().await {
                theirs.lock().unwrap().push(match update {
                    Update::Current(list) => Ok(list.len()),
                    Update::Unavailable(error) => Err(error.kind()),
                    other => panic!("{other:?}"),
                });
            }
        });
        heard
    }

    fn on(&self) -> polarismesh::testing::On<'_> {
        self.server.on(Rpc::Discover).kind(ResourceKind::Instances).times(1)
    }

    async fn met(&self, fault: &Fault) {
        eventually("the answer was given", 5 * self.second, async || fault.hits() == 1).await;
    }

    async fn keeps_ten(&self, within: Duration) {
        throughout("the ten serve", within, async || self.len() == 10 && self.picks().is_none()).await;
    }
}

/// (a) One empty list, then "not found", then an error: faults of a server, not of the service.
async fn three_bad_answers(policy: &str, second: Duration) {
    let cached = Cached::under(policy, second).await;
    let heard = cached.listen();
    for bad in [cached.on().empty(), cached.on().not_found(), cached.on().answer(500_000)] {
        cached.met(&bad).await;
        if policy == "accept" {
            continue;
        }
        eventually("it is marked", second, async || cached.stale()).await;
        assert_eq!((cached.len(), cached.picks()), (10, None));
    }
    eventually("good answers end it", 10 * second, async || !cached.stale() && cached.len() == 10).await;
    let heard = heard.lock().unwrap().clone();
    if policy == "accept" {
        let lists: Vec<_> = heard.iter().filter_map(|event| event.as_ref().ok()).collect();
        assert!(lists.starts_with(&[&10, &0]) && lists.ends_with(&[&10]), "{heard:?}");
    } else {
        assert_eq!(heard, [Ok(10), Err(ErrorKind::Server)], "one event");
    }
    stop(&cached.context).await;
}

/// (b) The service really has nobody any more.
async fn scaled_to_zero(policy: &str, second: Duration) {
    let mut cached = Cached::under(policy, second).await;
    cached.server.service(A).instances([]);
    let held = match policy {
        "accept" => Duration::ZERO,
        "guard" => 5 * second,
        _ => 20 * second,
    };
    cached.keeps_ten(held).await;
    if policy != "accept" {
        assert_eq!(next_problem(&mut cached.watch).await.kind(), ErrorKind::Server);
        assert!(cached.stale());
    }
    let patience = if policy == "keepLast" { 15 * second } else { 5 * second }.max(Duration::from_secs(5));
    eventually("it is believed", patience, async || cached.picks() == Some(ErrorKind::NoInstances)).await;
    assert_eq!(next_list(&mut cached.watch).await, [0u16; 0]);
    assert!(!cached.stale());
    let consumer = cached.context.consumer();
    assert_eq!(kind(consumer.get_one_instance(A).await), Some(ErrorKind::NoInstances));
    // From nothing on, everything is good news.
    cached.server.service(A).instances(many(2));
    assert_eq!(next_list(&mut cached.watch).await, [1, 2]);
    stop(&cached.context).await;
}

/// (c) Nine of ten vanish in one answer; in the first case they come back, in the second they do not.
async fn nine_of_ten_vanish(policy: &str, second: Duration) {
    let mut cached = Cached::under(policy, second).await;
    cached.server.service(A).instances(many(1));
    if policy != "guard" {
        // Only the guard judges the size of a list that is not empty.
        assert_eq!(next_list(&mut cached.watch).await, [1]);
        stop(&cached.context).await;
        return;
    }
    assert_eq!(next_problem(&mut cached.watch).await.kind(), ErrorKind::Server);
    cached.keeps_ten(3 * second).await;
    cached.server.service(A).instances(many(10));
    eventually("the doubt is over", 5 * second, async || !cached.stale()).await;
    assert!(told(&mut cached.watch, 8 * second).await.is_empty(), "nothing had changed");
    cached.server.service(A).instances(many(1));
    next_problem(&mut cached.watch).await;
    assert_eq!(next_list(&mut cached.watch).await, [1], "believed when it stays");
    eventually("and picked from", second, async || cached.len() == 1).await;
    assert!(!cached.stale());
    stop(&cached.context).await;
}

/// A second of the paused clock, and one of a real clock.
const PAUSED: Duration = Duration::from_secs(1);
const REAL: Duration = Duration::from_millis(100);

macro_rules! on_both_flavours {
    ($($name:ident, $name_threads:ident: $body:ident($policy:literal);)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            $body($policy, PAUSED).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name_threads() {
            $body($policy, REAL).await;
        }
    )*};
}

on_both_flavours! {
    bad_answers_take_nothing_from_a_guarded_list, bad_answers_guard_threads: three_bad_answers("guard");
    bad_answers_take_nothing_from_a_list_that_is_kept, bad_answers_keep_threads: three_bad_answers("keepLast");
    bad_answers_are_served_where_all_are_accepted, bad_answers_accept_threads: three_bad_answers("accept");
    scaling_to_zero_comes_late_but_surely_to_a_guarded_list, zero_guard_threads: scaled_to_zero("guard");
    scaling_to_zero_comes_with_age_to_a_list_that_is_kept, zero_keep_threads: scaled_to_zero("keepLast");
    scaling_to_zero_comes_at_once_where_all_is_accepted, zero_accept_threads: scaled_to_zero("accept");
    a_sudden_loss_is_held_back_by_the_guard, loss_guard_threads: nine_of_ten_vanish("guard");
    a_sudden_loss_is_served_where_only_empty_lists_are_kept_off, loss_keep_threads: nine_of_ten_vanish("keepLast");
    a_sudden_loss_is_served_where_all_is_accepted, loss_accept_threads: nine_of_ten_vanish("accept");
}
