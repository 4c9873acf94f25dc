//! A start without a control plane: from the disk cache, without one, and with a server that comes later. And a disk
//! cache that is abused.

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

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use discovering::{A, MILLI, SECOND, asked, at, kind, listed, many, next_list, ports, stop};
use polarismesh::testing::{Rpc, Server};
use polarismesh::{
    ErrorKind, GetOneInstance, Pick, Register, RegistrationState, RuleKind, SdkContext, SdkContextBuilder, Source,
};
use support::{eventually, throughout};
use tokio::time::Instant;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn caching(server: &Server, directory: &Path) -> SdkContextBuilder {
    server.builder().set("consumer.localCache.persistDir", directory.to_str().unwrap())
}

/// The files of lists of instances, and whatever else is no file of rules.
fn files(directory: &Path) -> Vec<PathBuf> {
    let is_of_rules = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.ends_with("@routing.polaris") || name.ends_with("@nearby-route.polaris")
    };
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !is_of_rules(file));
    files.sort();
    files
}

/// A directory with the instances of A in it, and the server they came from, which is down.
async fn cached_and_down() -> (Server, tempfile::TempDir) {
    let (directory, server) = (directory(), Server::in_memory());
    server.service(A).instances(many(3));
    let context = caching(&server, directory.path()).build().unwrap();
    context.consumer().get_one_instance(A).await.unwrap();
    // What is still to be written is written before the end.
    stop(&context).await;
    assert_eq!(files(directory.path()).len(), 1);
    server.stop();
    (server, directory)
}

/// (a) A valid cache: the first call is answered from it, and says so.
async fn from_the_cache(soon: Duration) {
    let (server, directory) = cached_and_down().await;
    let context = caching(&server, directory.path()).build().unwrap();
    let began = Instant::now();
    let consumer = context.consumer();
    consumer.get_one_instance(A).await.unwrap();
    assert!(began.elapsed() < soon, "{:?}", began.elapsed());
    assert_eq!(listed(&consumer, A).await, Ok(vec![1, 2, 3]));
    let handle = consumer.service(A);
    let fresh = handle.freshness().unwrap();
    assert_eq!((fresh.source, fresh.stale), (Source::Disk, true));
    assert!(!context.state().is_ready());
    server.start();
    eventually("live", 5 * SECOND, async || handle.freshness().unwrap().source == Source::Live).await;
    assert!(!handle.freshness().unwrap().stale);
    eventually("ready", 2 * SECOND, async || context.state().is_ready()).await;
    stop(&context).await;
}

/// (b) Nothing is known: one wait that is bounded, and then everybody is told at once.
async fn from_nothing() {
    let server = Server::in_memory();
    server.service(A).instances(many(3));
    server.stop();
    let context = server.context().unwrap();
    let consumer = context.consumer();
    let began = Instant::now();
    let error = consumer.get_one_instance(A).await.unwrap_err();
    let (first, text) = (began.elapsed(), error.to_string());
    assert!(first <= 1100 * MILLI, "{first:?}");
    assert!(error.is_retryable(), "{text}");
    assert!(std::error::Error::source(&error).is_some(), "it says why: {text}");
    for _ in 0..100 {
        let began = Instant::now();
        let error = consumer.get_one_instance(A).await.unwrap_err();
        // A thousandth of a second is what is promised; a busy machine may take a thread away for longer.
        assert!(began.elapsed() < 50 * MILLI, "{:?}", began.elapsed());
        assert!(matches!(error.kind(), ErrorKind::Network | ErrorKind::Timeout), "{error}");
        assert_eq!(error.service(), Some("default/a"));
    }
    assert!(consumer.get_rule(A, RuleKind::RateLimit).await.is_err());
    server.start();
    eventually("it serves", 5 * SECOND, async || consumer.get_one_instance(A).await.is_ok()).await;
    stop(&context).await;
}

/// (c) The server comes later: all that was wanted comes true without anybody's doing.
async fn the_server_comes_later(later: Duration) {
    let server = Server::in_memory();
    server.service(A).instances(many(3));
    server.stop();
    let context = server.context().unwrap();
    let mut watch = context.consumer().watch_instances(A);
    let registration =
        context.provider().register_in_background(Register::new(("default", "own"), ("10.0.0.9", 80))).unwrap();
    throughout("it is not ready", later, async || !context.state().is_ready()).await;
    assert!(watch.current().is_none());
    server.start();
    let up = Instant::now();
    let list = async {
        loop {
            if let Some(polarismesh::Update::Current(list)) = watch.next().await {
                return ports(list.instances());
            }
        }
    };
    assert_eq!(tokio::time::timeout(5 * SECOND, list).await.unwrap(), [1, 2, 3]);
    eventually("it is registered", 5 * SECOND, async || {
        matches!(registration.state(), RegistrationState::Registered) && server.instances(("default", "own")).len() == 1
    })
    .await;
    assert!(up.elapsed() <= 5 * SECOND, "{:?}", up.elapsed());
    eventually("ready", 5 * SECOND, async || context.state().is_ready()).await;
    stop(&context).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_server_serves_from_the_cache() {
    from_the_cache(50 * MILLI).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_without_a_server_serves_from_the_cache_with_many_threads() {
    // Less than a connection may take: a busy machine may take threads away for a while.
    from_the_cache(450 * MILLI).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_server_and_without_a_cache_waits_once_and_then_fails_at_once() {
    from_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_without_a_server_and_without_a_cache_waits_once_and_then_fails_at_once_with_many_threads() {
    from_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_a_minute_later_is_found() {
    the_server_comes_later(60 * SECOND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_comes_later_is_found_with_many_threads() {
    the_server_comes_later(2 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_old_file_serves_only_when_the_server_fails() {
    let (server, directory) = cached_and_down().await;
    let old = caching(&server, directory.path()).set("consumer.localCache.persistAvailableInterval", "0s");
    let context = old.build().unwrap();
    let consumer = context.consumer();
    assert_eq!(kind(consumer.pick(A, &Pick::new())), Some(ErrorKind::NotReady));
    // The refused connection is enough to know.
    consumer.get_one_instance(A).await.unwrap();
    assert_eq!(consumer.service(A).freshness().unwrap().source, Source::Disk);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_gone_leaves_no_file() {
    let (directory, server) = (directory(), Server::in_memory());
    server.service(A).instances(many(3));
    let context = caching(&server, directory.path()).build().unwrap();
    let consumer = context.consumer();
    consumer.get_one_instance(A).await.unwrap();
    eventually("it is written", SECOND, async || files(directory.path()).len() == 1).await;
    server.service(A).delete();
    eventually("it is gone", 12 * SECOND, async || kind(consumer.get_one_instance(A).await).is_some()).await;
    eventually("and its file", SECOND, async || files(directory.path()).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn no_name_leads_out_of_the_directory() {
    let (outer, server) = (directory(), Server::in_memory());
    let inner = outer.path().join("one/cache");
    let names = ["../../escaped", "/etc/passwd", "..", ".hidden", "a/b/c", "C:/x"];
    for name in names {
        server.service(("default", name)).instance(at(1));
    }
    let context = caching(&server, &inner).build().unwrap();
    for name in names {
        context.consumer().get_one_instance(("default", name)).await.unwrap();
    }
    stop(&context).await;
    assert_eq!(files(&inner).len(), names.len());
    assert_eq!(files(outer.path()), [outer.path().join("one")]);
    assert_eq!(files(&outer.path().join("one")), [inner]);
}

/// Everything works from memory while the disk does not, and shutting down is not held up.
async fn works_from_memory(server: &Server, directory: &Path) {
    let context = caching(server, directory).build().unwrap();
    let mut watch = context.consumer().watch_instances(A);
    assert_eq!(next_list(&mut watch).await, [1, 2, 3]);
    server.service(A).instance(at(4));
    assert_eq!(next_list(&mut watch).await, [1, 2, 3, 4]);
    context.consumer().get_one_instance(A).await.unwrap();
    assert!(context.state().is_ready(), "a disk cache is no condition of being ready: {}", context.state());
    let began = Instant::now();
    stop(&context).await;
    assert!(began.elapsed() <= 4 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_a_file_is_done_without() {
    let (directory, server) = (directory(), Server::in_memory());
    server.service(A).instances(many(3));
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    works_from_memory(&server, &file).await;
    server.service(A).instances(many(3));
    works_from_memory(&server, &file.join("below")).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a directory");
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_directory_that_takes_no_files_is_done_without() {
    let server = Server::in_memory();
    server.service(A).instances(many(3));
    // Nothing can be made in it, by nobody.
    works_from_memory(&server, Path::new("/proc/self")).await;
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_directory_that_may_only_be_read_serves_and_is_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let (server, directory) = cached_and_down().await;
    let before: Vec<_> = files(directory.path()).iter().map(|file| fs::read(file).unwrap()).collect();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let context = caching(&server, directory.path()).build().unwrap();
    context.consumer().get_one_instance(A).await.unwrap();
    stop(&context).await;
    server.start();
    works_from_memory(&server, directory.path()).await;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The superuser may write all the same; then what is there is whole and new.
    let after: Vec<_> = files(directory.path()).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(after.len(), before.len());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_damaged_in_any_way_is_skipped_and_replaced() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let flip: Damage = |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        bytes
    };
    let damages: [(&str, Damage); 7] = [
        ("a flipped bit", flip),
        ("cut short", |mut bytes| bytes.drain(..bytes.len() / 2).collect()),
        ("cut at its end", |bytes| bytes[..bytes.len() - 1].to_vec()),
        ("empty", |_| Vec::new()),
        ("something else", |_| b"{\"json\": true}".to_vec()),
        ("of a later schema", |mut bytes| {
            bytes[8] = 99;
            bytes
        }),
        ("longer", |mut bytes| {
            bytes.extend([0; 100]);
            bytes
        }),
    ];
    for (what, damage) in damages {
        let (server, directory) = cached_and_down().await;
        let file = files(directory.path()).remove(0);
        fs::write(&file, damage(fs::read(&file).unwrap())).unwrap();
        let context = caching(&server, directory.path()).build().unwrap();
        let consumer = context.consumer();
        let error = consumer.get_one_instance(A).await.expect_err(what);
        assert!(error.is_retryable(), "{what}: {error}");
        server.start();
        eventually(what, 5 * SECOND, async || consumer.get_one_instance(A).await.is_ok()).await;
        stop(&context).await;
        server.stop();
        let again = caching(&server, directory.path()).build().unwrap();
        assert_eq!(listed(&again.consumer(), A).await, Ok(vec![1, 2, 3]), "{what}: a good file took its place");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_of_another_service_is_not_believed() {
    let (server, directory) = cached_and_down().await;
    let file = files(directory.path()).remove(0);
    let name = file.file_name().unwrap().to_str().unwrap().replace("@a@", "@b@");
    fs::copy(&file, directory.path().join(&name)).unwrap();
    let context = caching(&server, directory.path()).build().unwrap();
    assert!(context.consumer().get_one_instance(("default", "b")).await.is_err(), "{name}");
    context.consumer().get_one_instance(A).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_contexts_in_one_directory_leave_whole_files() {
    let (directory, server) = (directory(), Server::in_memory());
    let fast = |server: &Server| {
        let builder = caching(server, directory.path()).set("consumer.localCache.serviceRefreshInterval", "100ms");
        builder.build().unwrap()
    };
    server.service(A).instances(many(1));
    let contexts: Vec<SdkContext> = (0..2).map(|_| fast(&server)).collect();
    let mut watches: Vec<_> = contexts.iter().map(|context| context.consumer().watch_instances(A)).collect();
    for count in 2..12 {
        server.service(A).instances(many(count));
        for watch in &mut watches {
            discovering::until_list(watch, &(1..=count).collect::<Vec<_>>()).await;
        }
    }
    for context in &contexts {
        stop(context).await;
    }
    assert_eq!(files(directory.path()).len(), 1, "no temporary file stays");
    server.stop();
    let reader = fast(&server);
    assert_eq!(listed(&reader.consumer(), A).await, Ok((1..=11).collect()));
    stop(&reader).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_directory_nothing_is_written() {
    let (server, directory) = (Server::in_memory(), directory());
    server.service(A).instances(many(3));
    let off = caching(&server, directory.path()).set("consumer.localCache.persistEnable", "false").build().unwrap();
    off.consumer().get_one_instance(A).await.unwrap();
    stop(&off).await;
    assert_eq!(files(directory.path()), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_little_patience_gets_what_the_disk_has() {
    let (server, directory) = cached_and_down().await;
    server.start();
    server.on(Rpc::Discover).hang();
    let late = caching(&server, directory.path()).set("consumer.localCache.startUseFileCache", "false");
    let context = late.build().unwrap();
    let consumer = context.consumer();
    let began = Instant::now();
    let request = GetOneInstance::new("default", "a").timeout(300 * MILLI);
    consumer.get_one_instance(request).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 300, "an old list is better than an error");
    assert_eq!(consumer.service(A).freshness().unwrap().source, Source::Disk);
    assert!(asked(&server, A) >= 1);
}
