//! Watches.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::model::snapshot::Update;

/// What a watch has to tell right now.
async fn told(watch: &mut Watch<ServiceInstances>) -> Vec<String> {
    let mut out = Vec::new();
    while let Ok(update) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
        out.push(match update {
            Some(Update::Current(list)) => ids(&list).join("+"),
            Some(Update::Unavailable(error)) => format!("!{}", error.kind()),
            None => {
                out.push("end".to_owned());
                break;
            }
        });
    }
    out
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_a_stream_that_moves_between_threads() {
    fn sent<T: tokio_stream::Stream + Send + Sync + Unpin + 'static>(stream: T) -> T {
        stream
    }
    let bench = Bench::new();
    let mut watch = sent(bench.registry.watch_instances(&key().service));
    bench.writer.apply(&key(), full("r1", &["a"]));
    let first = tokio_stream::StreamExt::next(&mut watch).await;
    assert!(matches!(first, Some(Update::Current(list)) if ids(&list) == ["a"]));
}

#[tokio::test(start_paused = true)]
async fn the_first_item_is_the_current_state() {
    let bench = Bench::new();
    let mut early = bench.registry.watch_instances(&key().service);
    assert!(told(&mut early).await.is_empty() && early.current().is_none());
    bench.writer.apply(&key(), full("r1", &["a"]));
    let mut late = bench.registry.watch_instances(&key().service);
    assert_eq!(told(&mut early).await, ["a"]);
    assert_eq!(told(&mut late).await, ["a"]);
    assert_eq!(ids(&late.current().unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_ends_on_the_final_state() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_instances(&key().service);
    for revision in ["a", "b", "c"] {
        bench.writer.apply(&key(), full(revision, &[revision]));
    }
    assert_eq!(told(&mut watch).await, ["c"]);
    bench.writer.apply(&key(), full("c2", &["c"]));
    assert!(told(&mut watch).await.is_empty(), "the same content is no news");
}

#[tokio::test(start_paused = true)]
async fn an_unseen_list_comes_before_an_unseen_problem_and_one_trouble_is_told_once() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_instances(&key().service);
    bench.writer.apply(&key(), many("r1", 10));
    bench.writer.apply(&key(), full("r2", &[]));
    let first = told(&mut watch).await;
    assert!(first[0].contains("i0009") && first[1] == "!server error" && first.len() == 2, "{first:?}");
    tokio::time::advance(SECOND).await;
    bench.writer.apply(&key(), not_found());
    bench.writer.apply(&key(), failed(ErrorKind::Server));
    bench.writer.apply(&key(), failed(ErrorKind::Network));
    assert!(told(&mut watch).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_problem_that_is_over_before_it_was_read_is_not_told() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_instances(&key().service);
    bench.writer.apply(&key(), full("r1", &["a"]));
    bench.writer.apply(&key(), failed(ErrorKind::Server));
    bench.writer.apply(&key(), Answer::Unchanged);
    assert_eq!(told(&mut watch).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_deleted_and_created_again_is_seen_both_ways() {
    let bench = Bench::with(RegistryOptions { guard: GuardPolicy::Accept, ..options() });
    let mut watch = bench.registry.watch_instances(&key().service);
    bench.writer.apply(&key(), full("r1", &["a"]));
    assert_eq!(told(&mut watch).await, ["a"]);
    bench.writer.apply(&key(), not_found());
    assert_eq!(told(&mut watch).await, ["", "!service not found"], "nothing is left, and then why");
    bench.writer.apply(&key(), not_found());
    assert!(told(&mut watch).await.is_empty());
    bench.writer.apply(&key(), full("r1", &["a"]));
    assert_eq!(told(&mut watch).await, ["a"]);
    // Both between two looks: the outcome is told although it is what was told before.
    bench.writer.apply(&key(), not_found());
    bench.writer.apply(&key(), full("r1", &["a"]));
    assert_eq!(told(&mut watch).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_comes_to_exist_without_instances_is_told() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_instances(&key().service);
    bench.writer.apply(&key(), not_found());
    assert_eq!(told(&mut watch).await, ["!service not found"]);
    bench.writer.apply(&key(), full("r1", &[]));
    assert_eq!(told(&mut watch).await, [""]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_is_told_once_and_to_a_new_watch_as_part_of_the_state() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_instances(&key().service);
    bench.up();
    bench.writer.apply(&key(), full("r1", &["a"]));
    bench.down();
    bench.down();
    assert_eq!(told(&mut watch).await, ["a", "!network failure"]);
    assert_eq!(told(&mut bench.registry.watch_instances(&key().service)).await, ["a", "!network failure"]);
    bench.up();
    assert!(told(&mut watch).await.is_empty());
    assert_eq!(told(&mut bench.registry.watch_instances(&key().service)).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_shutdown_after_what_was_unseen() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_instances(&key().service);
    bench.writer.apply(&key(), full("r1", &["a"]));
    bench.scope.cancel();
    assert_eq!(bench.scope.join(SECOND).await, Ok(()));
    assert_eq!(told(&mut watch).await, ["a", "end"]);
    assert!(watch.is_terminated());
    assert!(watch.next().await.is_none(), "it stays ended");
}

#[test]
fn a_watch_ends_when_its_runtime_goes_without_a_shutdown() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_bench, mut watch) = runtime.block_on(async {
        let bench = Bench::new();
        let watch = bench.registry.watch_instances(&key().service);
        (bench, watch)
    });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(other.block_on(watch.next()).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_services_of_a_namespace_are_watched_by_the_same_rules() {
    let bench = Bench::new();
    let mut watch = bench.registry.watch_services(&Namespace::from("default"));
    let key = services_of(&Namespace::from("default"));
    assert!(bench.asked.wants(&key));
    let list = ServiceList { namespace: "default".into(), revision: Revision::new("r"), services: Box::default() };
    bench.writer.apply(&key, Answer::Full { resource: Resource::Services(Arc::new(list)), skipped: Vec::new() });
    assert!(matches!(watch.next().await, Some(Update::Current(list)) if list.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_on_other_threads_always_end_on_the_final_state() {
    const LAST: usize = 2_000;
    let bench = Bench::new();
    bench.registry.entry(&key());
    let (readers, finished) = (TaskScope::new(Handle::current()), Arc::new(AtomicUsize::new(0)));
    for _ in 0..8 {
        let finished = Arc::clone(&finished);
        let mut watch = bench.registry.watch_instances(&key().service);
        readers.spawn("reader", async move {
            let mut last = 0;
            while last < LAST {
                if let Some(Update::Current(list)) = watch.next().await {
                    assert!(list.len() > last, "no step goes back");
                    last = list.len();
                }
            }
            finished.fetch_add(1, Ordering::SeqCst);
        });
    }
    let writer = Arc::clone(&bench.writer);
    let ids: Vec<String> = (0..LAST).map(|id| format!("{id:05}")).collect();
    readers.spawn("writer", async move {
        let all: Vec<&str> = ids.iter().map(String::as_str).collect();
        for n in (20..=LAST).step_by(20) {
            writer.apply(&key(), full(&n.to_string(), &all[..n]));
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(readers.join(Duration::from_secs(60)).await, Ok(()));
    assert_eq!(finished.load(Ordering::SeqCst), 8, "no reader panicked");
}
