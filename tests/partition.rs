//! What changes while the client is cut off arrives when it is not any more, and nothing else does.

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
use std::future::pending;
use std::time::Duration;

use discovering::{at, ports, stop};
use polarismesh::testing::{Rpc, Server};
use polarismesh::{InstanceWatch, Update};
use support::{eventually, throughout};
use tokio::time::Instant;

const SERVICES: u16 = 50;
const CHANGED: std::ops::Range<u16> = 0..10;
const VANISHED: std::ops::Range<u16> = 10..13;

fn name(n: u16) -> String {
    format!("s{n}")
}

/// What one watch was told: how many lists, and the last one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    lists: u32,
    last: Vec<u16>,
    generation: u32,
}

/// Follows one service, and never sees its generation, which is the weight of its instances, go back.
async fn follow(mut watch: InstanceWatch, seen: tokio::sync::watch::Sender<Seen>) {
    while let Some(update) = watch.next().await {
        let Update::Current(list) = update else { continue };
        seen.send_modify(|seen| {
            seen.lists += 1;
            seen.last = ports(list.instances());
            if let Some(first) = list.instances().first() {
                assert!(first.weight() >= seen.generation, "{} went back", list.key());
                seen.generation = first.weight();
            }
        });
    }
    pending::<()>().await;
}

/// `second` is how long a second lasts here: a real clock has less time than a paused one.
async fn change_during_partition(second: Duration, cut_off: u32) {
    // A paused clock counts; on a real one a busy machine may take threads away, and only the outcome is judged.
    let patience = second.max(Duration::from_secs(1));
    let server = Server::in_memory();
    for n in 0..SERVICES {
        server.service(("default", name(n).as_str())).instances([at(1).weight(1), at(2).weight(1)]);
    }
    let millis = |of: Duration| format!("{}ms", of.as_millis());
    let context = server
        .builder()
        .set("consumer.localCache.serviceRefreshInterval", millis(2 * second))
        .set("global.serverConnector.messageTimeout", millis(5 * second))
        .set("global.serverConnector.connectTimeout", millis(second / 2))
        .set("global.serverConnector.reconnectInterval", millis(second / 2))
        .build()
        .unwrap();
    let consumer = context.consumer();
    let mut watchers = BTreeMap::new();
    for n in 0..SERVICES {
        let seen = tokio::sync::watch::Sender::new(Seen::default());
        watchers.insert(n, seen.subscribe());
        tokio::task::spawn(follow(consumer.watch_instances(("default", name(n).as_str())), seen));
    }
    let all = |check: &dyn Fn(u16, &Seen) -> bool| watchers.iter().all(|(n, seen)| check(*n, &seen.borrow()));
    eventually("all are loaded", 10 * patience, async || all(&|_, seen| seen.last == [1, 2])).await;

    server.black_hole(true);
    for generation in 2..5 {
        throughout("nobody hears of it", second * cut_off / 3, async || all(&|_, seen| seen.lists == 1)).await;
        for n in CHANGED {
            let port = u16::try_from(generation).unwrap() + 10;
            server
                .service(("default", name(n).as_str()))
                .instances([at(1).weight(generation), at(port).weight(generation)]);
        }
    }
    for n in VANISHED {
        server.service(("default", name(n).as_str())).delete();
    }
    let dying = server.on(Rpc::Discover).times(2).close_midway();
    server.black_hole(false);
    eventually("two reconnects died", 10 * patience, async || dying.hits() == 2).await;

    let healed = Instant::now();
    eventually("what changed is seen", 3 * patience, async || {
        all(&|n, seen| !CHANGED.contains(&n) || seen.last == [1, 14])
    })
    .await;
    assert!(all(&|n, seen| !CHANGED.contains(&n) || (seen.lists == 2 && seen.generation == 4)));
    // What vanished is believed after three polls; until then its last list serves.
    assert!(all(&|n, seen| !VANISHED.contains(&n) || seen.last == [1, 2]));
    eventually("what vanished is gone", 10 * patience, async || {
        all(&|n, seen| !VANISHED.contains(&n) || seen.last.is_empty())
    })
    .await;
    assert!(healed.elapsed() >= 5 * second, "but not before the window is over: {:?}", healed.elapsed());
    throughout("and that is all", 5 * second, async || {
        all(&|n, seen| seen.lists == if CHANGED.contains(&n) || VANISHED.contains(&n) { 2 } else { 1 })
    })
    .await;
    eventually("all is well", 10 * second, async || context.state().is_ready()).await;
    stop(&context).await;
}

#[tokio::test(start_paused = true)]
async fn what_changed_during_a_partition_is_seen_after_it_and_nothing_else() {
    change_during_partition(Duration::from_secs(1), 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changed_during_a_partition_is_seen_after_it_and_nothing_else_with_many_threads() {
    change_during_partition(Duration::from_millis(150), 24).await;
}
