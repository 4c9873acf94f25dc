//! Watches: what is told, in which order, and when they end.

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

use std::collections::BTreeMap;
use std::time::Duration;

use discovering::{
    A, B, MILLI, SECOND, asked, at, many, next, next_list, next_problem, ports, serving, stop, told, until_list,
};
use polarismesh::testing::{Rpc, Server};
use polarismesh::{ErrorKind, InstanceChange, ServiceInstances, Update};
use support::{eventually, throughout};

#[tokio::test(start_paused = true)]
async fn the_first_item_is_the_current_list_and_an_unchanged_one_is_not_told_again() {
    let (server, context) = serving(3);
    let consumer = context.consumer();
    let mut cold = consumer.watch_instances(A);
    assert!(cold.current().is_none());
    assert_eq!(next_list(&mut cold).await, [1, 2, 3]);
    let mut warm = consumer.watch_instances(A);
    assert_eq!(ports(warm.current().unwrap().instances()), [1, 2, 3]);
    assert_eq!(next_list(&mut warm).await, [1, 2, 3]);
    server.service(A).touch();
    server.on(Rpc::Discover).new_revision();
    assert!(told(&mut cold, 20 * SECOND).await.is_empty(), "another revision of the same list is no news");
    assert!(told(&mut warm, MILLI).await.is_empty());
    server.clear_faults();
    server.service(A).instance(at(4));
    assert_eq!(next_list(&mut cold).await, [1, 2, 3, 4]);
    assert_eq!(next_list(&mut warm).await, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_within_two_polls() {
    let (server, context) = serving(1);
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    for port in 2..12 {
        throughout("it is quiet", Duration::from_millis(137 * u64::from(port)), async || true).await;
        server.service(A).instance(at(port));
        let changed = tokio::time::Instant::now();
        assert_eq!(next_list(&mut watch).await.len(), usize::from(port));
        assert!(changed.elapsed() <= Duration::from_millis(2300), "{:?}", changed.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_misses_steps_and_never_the_outcome() {
    let (server, context) = serving(1);
    let consumer = context.consumer();
    let (mut slow, mut quick) = (consumer.watch_instances(A), consumer.watch_instances(A));
    assert_eq!(next_list(&mut slow).await, [1]);
    for port in 2..=6 {
        server.service(A).instance(at(port));
        until_list(&mut quick, &(1..=port).collect::<Vec<_>>()).await;
    }
    assert_eq!(next_list(&mut slow).await, [1, 2, 3, 4, 5, 6], "latest wins");
    assert!(told(&mut slow, 10 * SECOND).await.is_empty());
    // A change that is taken back before anybody looked leaves the reader with what there is.
    server.service(A).instance(at(7));
    until_list(&mut quick, &[1, 2, 3, 4, 5, 6, 7]).await;
    server.service(A).remove("10.0.0.1", 7);
    until_list(&mut quick, &[1, 2, 3, 4, 5, 6]).await;
    let last = told(&mut slow, SECOND).await.pop().unwrap();
    assert!(matches!(last, Update::Current(list) if list.len() == 6));
}

#[tokio::test(start_paused = true)]
async fn an_unseen_list_comes_before_an_unseen_problem() {
    let (server, context) = serving(1);
    let mut watch = context.consumer().watch_instances(A);
    let mut other = context.consumer().watch_instances(A);
    next_list(&mut other).await;
    server.service(A).instance(at(2));
    next_list(&mut other).await;
    server.black_hole(true);
    next_problem(&mut other).await;
    assert_eq!(next_list(&mut watch).await, [1, 2], "the list first, though the problem is younger");
    let problem = next_problem(&mut watch).await;
    assert!(matches!(problem.kind(), ErrorKind::Timeout | ErrorKind::Network), "{problem}");
    assert!(told(&mut watch, 60 * SECOND).await.is_empty(), "one outage is told once");
    server.black_hole(false);
    server.service(A).instance(at(3));
    assert_eq!(next_list(&mut watch).await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_unsubscribes_its_key() {
    let (server, _) = serving(1);
    server.service(B).instance(at(9));
    let builder = server.builder().set("consumer.localCache.serviceExpireTime", "5s");
    let context = builder.build().unwrap();
    let consumer = context.consumer();
    let (mut kept, mut dropped) = (consumer.watch_instances(A), consumer.watch_instances(B));
    next_list(&mut kept).await;
    next_list(&mut dropped).await;
    throughout("both are polled", 60 * SECOND, async || true).await;
    let polls = asked(&server, B);
    assert!(polls >= 25, "a watched key never expires: {polls}");
    drop(dropped);
    throughout("the time of grace", 12 * SECOND, async || true).await;
    let (kept_before, gone) = (asked(&server, A), asked(&server, B));
    throughout("the other is not asked for any more", 60 * SECOND, async || asked(&server, B) == gone).await;
    assert!(asked(&server, A) >= kept_before + 25);
    // Who wants it again gets it anew.
    let mut again = consumer.watch_instances(B);
    assert_eq!(next_list(&mut again).await, [9]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_deleted_and_made_again_is_seen_to_change() {
    let (server, context) = serving(2);
    let consumer = context.consumer();
    let mut watch = consumer.watch_instances(A);
    next_list(&mut watch).await;
    server.service(A).delete();
    // Held back for three polls, and told so; then gone.
    let doubt = next_problem(&mut watch).await;
    assert_eq!(doubt.kind(), ErrorKind::Server, "{doubt}");
    assert_eq!(watch.current().unwrap().len(), 2);
    assert_eq!(next_list(&mut watch).await, [0u16; 0]);
    assert_eq!(next_problem(&mut watch).await.kind(), ErrorKind::ServiceNotFound);
    server.service(A).instances([at(5)]);
    assert_eq!(next_list(&mut watch).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_deleted_and_made_again_between_polls_is_seen_by_its_content() {
    let (server, context) = serving(2);
    let mut watch = context.consumer().watch_instances(A);
    next_list(&mut watch).await;
    server.service(A).delete();
    server.service(A).instances([at(2), at(3)]);
    assert_eq!(next_list(&mut watch).await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_service_that_is_not_there_yet_says_so_and_goes_on() {
    let (server, context) = serving(0);
    let unknown = ("default", "later");
    let mut watch = context.consumer().watch_instances(unknown);
    assert_eq!(next_problem(&mut watch).await.kind(), ErrorKind::ServiceNotFound);
    assert!(told(&mut watch, 30 * SECOND).await.is_empty(), "told once");
    server.service(unknown).instance(at(4));
    assert_eq!(next_list(&mut watch).await, [4]);
}

#[tokio::test(start_paused = true)]
async fn watches_end_at_the_shutdown_and_not_before() {
    let (server, context) = serving(1);
    let consumer = context.consumer();
    let mut watch = consumer.watch_instances(A);
    let mut services = consumer.watch_services("default");
    next_list(&mut watch).await;
    assert!(matches!(services.next().await, Some(Update::Current(list)) if list.len() == 1));
    let waiting = tokio::task::spawn(async move { watch.next().await });
    server.shutdown().await;
    throughout("it waits", 30 * SECOND, async || true).await;
    stop(&context).await;
    // The loss of the server comes first: nobody had looked.
    assert!(matches!(waiting.await.unwrap(), Some(Update::Unavailable(_))));
    while services.next().await.is_some() {}
    assert!(services.next().await.is_none());
    let mut late = consumer.watch_instances(A);
    while late.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_watch_keeps_its_context_alive() {
    let (server, context) = serving(1);
    let mut watch = context.consumer().watch_instances(A);
    drop(context);
    assert_eq!(next_list(&mut watch).await, [1]);
    server.service(A).instance(at(2));
    assert_eq!(next_list(&mut watch).await, [1, 2]);
    drop(watch);
    eventually("its connections are closed", 2 * SECOND, async || server.open_connections() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn two_contexts_of_two_servers_have_nothing_to_do_with_each_other() {
    let (one, two) = (serving(1), serving(0));
    two.0.service(A).instances([at(21), at(22)]);
    let (mut first, mut second) = (one.1.consumer().watch_instances(A), two.1.consumer().watch_instances(A));
    assert_eq!(next_list(&mut first).await, [1]);
    assert_eq!(next_list(&mut second).await, [21, 22]);
    one.0.service(A).instance(at(2));
    assert_eq!(next_list(&mut first).await, [1, 2]);
    stop(&one.1).await;
    assert!(first.next().await.is_none());
    assert!(told(&mut second, 10 * SECOND).await.is_empty());
    two.0.service(A).instance(at(23));
    assert_eq!(next_list(&mut second).await, [21, 22, 23]);
}

#[tokio::test(start_paused = true)]
async fn services_of_a_namespace_are_watched() {
    let (server, context) = serving(1);
    let mut watch = context.consumer().watch_services("default");
    let mut names = async |expected: &[&str]| loop {
        let Some(Update::Current(list)) = watch.next().await else { panic!("a list was expected") };
        let mut names: Vec<_> = list.services().iter().map(|info| info.key().service().to_owned()).collect();
        names.sort();
        if names == expected {
            return;
        }
    };
    names(&["a"]).await;
    server.service(B).create();
    names(&["a", "b"]).await;
    server.service(A).delete();
    names(&["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_fed_by_differences_is_the_list() {
    let (server, context) = serving(5);
    let mut watch = context.consumer().watch_instances(A);
    let mut pool: BTreeMap<String, u32> = BTreeMap::new();
    let mut last: Option<std::sync::Arc<ServiceInstances>> = None;
    let steps: [fn(&Server); 6] = [
        |server| drop(server.service(A).instance(at(6))),
        |server| drop(server.service(A).remove("10.0.0.1", 1)),
        |server| drop(server.service(A).edit("10.0.0.1", 2, |two| two.weight(5))),
        |server| drop(server.service(A).instances(many(9))),
        |server| drop(server.service(A).edit("10.0.0.1", 3, |three| three.healthy(false).isolated(true))),
        |server| drop(server.service(A).instances([at(4), at(8), at(20)])),
    ];
    for step in 0..=steps.len() {
        let Update::Current(list) = next(&mut watch).await else { panic!("a list was expected") };
        for change in list.diff(last.as_deref()) {
            let fits = match change {
                InstanceChange::Added(new) => pool.insert(new.authority().to_owned(), new.weight()).is_none(),
                InstanceChange::Removed(old) => pool.remove(old.authority()).is_some(),
                InstanceChange::Updated { old, new, .. } => {
                    pool.insert(new.authority().to_owned(), new.weight()) == Some(old.weight())
                }
                other => panic!("{other:?}"),
            };
            assert!(fits, "{change:?} at step {step}");
        }
        let listed = list.instances().iter().map(|i| (i.authority().to_owned(), i.weight())).collect();
        assert_eq!(pool, listed, "step {step}");
        last = Some(list);
        if let Some(change) = steps.get(step) {
            change(&server);
        }
    }
    assert_eq!(pool.len(), 3);
}
