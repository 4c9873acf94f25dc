//! The disk cache, from outside.

use std::path::Path;

use super::*;
use crate::model::snapshot::Source;

fn cached(directory: &Path) -> RegistryOptions {
    RegistryOptions { cache: Some(cache_options(directory)), ..options() }
}

fn cache_options(directory: &Path) -> CacheOptions {
    CacheOptions {
        directory: directory.to_owned(),
        serve_at_start: true,
        fresh_for: Duration::from_secs(60),
        write_retries: 1,
        read_retries: 0,
        retry_interval: SECOND / 2,
    }
}

/// Runs a context that learns `answer`, up to the end of its writes.
async fn learn(directory: &Path, answer: Answer) {
    let bench = Bench::with(cached(directory));
    bench.registry.entry(&key());
    bench.writer.apply(&key(), answer);
    close(&bench).await;
}

async fn close(bench: &Bench) {
    bench.scope.cancel();
    assert_eq!(bench.scope.join(SECOND * 10).await, Ok(()));
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test(start_paused = true)]
async fn what_was_known_is_served_at_once_and_stale_until_it_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), full("r1", &["a", "b"])).await;
    assert_eq!(files(directory.path()).len(), 1);

    let bench = Bench::with(cached(directory.path()));
    bench.down();
    bench.ready(&key()).await.unwrap();
    assert_eq!(bench.ids(&key()).unwrap(), ["a", "b"]);
    let freshness = bench.registry.entry(&key()).freshness(Instant::now()).unwrap();
    assert_eq!((freshness.source, freshness.stale), (Source::Disk, true));
    assert!(bench.writer.revision(&key()).is_empty(), "a revision from disk is not presented");
    bench.up();
    assert!(bench.stale(&key()));
    assert_eq!(bench.registry.health().troubles[0].kind, TroubleKind::Unconfirmed);
    assert!(!bench.writer.apply(&key(), full("r1", &["a", "b"])));
    let freshness = bench.registry.entry(&key()).freshness(Instant::now()).unwrap();
    assert_eq!((freshness.source, freshness.stale, freshness.age), (Source::Live, false, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_is_asked_although_something_was_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), full("r1", &["a"])).await;
    let bench = Bench::with(cached(directory.path()));
    bench.ready(&key()).await.unwrap();
    while !bench.asked.wants(&key()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_file_serves_only_when_the_control_plane_fails() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), full("r1", &["a"])).await;
    let old = || {
        let cache = CacheOptions { fresh_for: Duration::ZERO, ..cache_options(directory.path()) };
        let later = std::time::UNIX_EPOCH + Duration::from_secs(1 << 33);
        RegistryOptions { cache: Some(cache), clock: WallClock::anchored(later, Instant::now()), ..options() }
    };
    // A live answer comes first: the file is not seen.
    let bench = Bench::with(old());
    let answer = async {
        tokio::time::sleep(SECOND / 2).await;
        assert!(bench.ids(&key()).is_none());
        bench.writer.apply(&key(), full("r2", &["b"]));
    };
    assert!(tokio::join!(bench.ready(&key()), answer).0.is_ok());
    assert_eq!(bench.ids(&key()).unwrap(), ["b"]);
    close(&bench).await;
    learn(directory.path(), full("r1", &["a"])).await;
    // The server fails, the link is lost, or a caller has waited in vain: it serves.
    for case in ["failed", "lost", "late"] {
        let bench = Bench::with(old());
        bench.registry.entry(&key());
        tokio::time::sleep(SECOND).await;
        match case {
            "failed" => drop(bench.writer.apply(&key(), failed(ErrorKind::Unauthorized))),
            "lost" => bench.down(),
            _ => {}
        }
        bench.ready(&key()).await.unwrap();
        assert_eq!(bench.ids(&key()).unwrap(), ["a"], "{case}");
        assert!(bench.registry.entry(&key()).freshness(Instant::now()).unwrap().age > SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_from_disk_is_guarded_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), many("r1", 10)).await;
    let bench = Bench::with(cached(directory.path()));
    bench.ready(&key()).await.unwrap();
    bench.writer.apply(&key(), not_found());
    assert_eq!(bench.ids(&key()).unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_gone_for_good_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), full("r1", &["a"])).await;
    let bench = Bench::with(RegistryOptions { guard: GuardPolicy::Accept, ..cached(directory.path()) });
    bench.ready(&key()).await.unwrap();
    bench.writer.apply(&key(), not_found());
    close(&bench).await;
    assert!(files(directory.path()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_skipped_and_replaced_by_the_next_answer() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), full("r1", &["a"])).await;
    let file = files(directory.path()).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let mut future = whole.clone();
    future[8] = 9;
    let empty: &[u8] = b"";
    for bad in [&flipped, &future, &whole[..whole.len() - 1], empty, b"not ours at all"] {
        std::fs::write(&file, bad).unwrap();
        let bench = Bench::with(cached(directory.path()));
        let began = Instant::now();
        assert_eq!(bench.ready(&key()).await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(began.elapsed(), SECOND);
        bench.writer.apply(&key(), full("r1", &["a"]));
        close(&bench).await;
        let header = 8 + 4;
        assert_eq!(std::fs::read(&file).unwrap()[..header], whole[..header]);
        assert_eq!(std::fs::read(&file).unwrap().len(), whole.len());
    }
}

#[tokio::test(start_paused = true)]
async fn the_file_of_another_key_under_our_name_is_skipped() {
    let directory = tempfile::tempdir().unwrap();
    learn(directory.path(), full("r1", &["a"])).await;
    let other = ServiceKey::new("default", "other").of(ResourceKind::Instances);
    let ours = files(directory.path()).remove(0);
    std::fs::copy(&ours, ours.with_file_name("default@other@instances.polaris")).unwrap();
    let bench = Bench::with(cached(directory.path()));
    assert_eq!(bench.ready(&other).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_written_is_said_once_and_tried_again_with_the_next_change() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("cache");
    std::fs::write(&directory, "a file stands where the directory should be").unwrap();
    let bench = Bench::with(cached(&directory));
    let mut health = bench.registry.watch_health();
    bench.registry.entry(&key());
    bench.writer.apply(&key(), full("r1", &["a"]));
    assert_eq!(bench.ids(&key()).unwrap(), ["a"], "it goes on from memory");
    while bench.registry.health().cache.is_none() {
        health.changed().await.unwrap();
    }
    assert_eq!(bench.registry.health().cache.unwrap().0.kind(), ErrorKind::CacheIo);
    std::fs::remove_file(&directory).unwrap();
    bench.registry.entry(&rule_key());
    bench.writer.apply(&rule_key(), rules("r1", "{}"));
    while bench.registry.health().cache.is_some() {
        health.changed().await.unwrap();
    }
    close(&bench).await;
    assert_eq!(files(&directory).len(), 2, "what could not be written before is written now");
    assert_eq!(files(parent.path()).len(), 1, "nothing outside of the directory");
}

#[tokio::test]
async fn two_registries_on_one_directory_never_leave_a_mixed_file() {
    let directory = tempfile::tempdir().unwrap();
    let benches = [Bench::with(cached(directory.path())), Bench::with(cached(directory.path()))];
    for bench in &benches {
        bench.registry.entry(&key());
    }
    let (ones, others): (Vec<_>, Vec<_>) = (0..500).map(|n| (format!("one{n}"), format!("other{n}"))).unzip();
    for round in 0..40 {
        for (bench, ids) in benches.iter().zip([&ones, &others]) {
            let ids: Vec<&str> = ids.iter().take(400 + round).map(String::as_str).collect();
            bench.writer.apply(&key(), full(&round.to_string(), &ids));
        }
        let reader = Bench::with(cached(directory.path()));
        if reader.ready(&key()).await.is_ok() {
            let ids = reader.ids(&key()).unwrap();
            let ours = ids.iter().filter(|id| id.starts_with("one")).count();
            assert!(ours == 0 || ours == ids.len(), "{ours} of {}", ids.len());
        }
        close(&reader).await;
    }
    for bench in &benches {
        close(bench).await;
        assert!(bench.registry.health().cache.is_none());
    }
    assert_eq!(files(directory.path()).len(), 1, "no temporary file is left");
}
