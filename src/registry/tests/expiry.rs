//! What is forgotten, and what never is.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const IDLE: Duration = Duration::from_secs(80);

fn bench() -> Bench {
    Bench::with(RegistryOptions { expire_after: Some(IDLE), ..options() })
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_uses_is_forgotten_and_comes_back_with_its_next_use() {
    let bench = bench();
    let entry = bench.registry.entry(&key());
    bench.writer.apply(&key(), full("r1", &["a"]));
    let mut changes = bench.registry.changes();
    tokio::time::sleep(IDLE / 2).await;
    bench.registry.entry(&key()).touch();
    tokio::time::sleep(IDLE * 3 / 4).await;
    assert!(bench.registry.peek(&key()).is_some(), "it was used in between");
    tokio::time::sleep(IDLE).await;
    assert!(bench.registry.peek(&key()).is_none() && !bench.asked.wants(&key()));
    assert_eq!(changes.next().await, Some(vec![key()]), "whoever made something of it is told");
    assert!(entry.has_expired());
    assert!(!bench.writer.apply(&key(), full("r2", &["b"])), "an answer that was under way is nobody's");
    assert!(bench.writer.revision(&key()).is_empty());
    bench.registry.entry(&key());
    assert!(bench.asked.wants(&key()) && bench.ids(&key()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_unsubscribes_its_key_and_a_held_one_does_not() {
    let bench = bench();
    let watch = bench.registry.watch_instances(&key().service);
    tokio::time::sleep(IDLE * 5).await;
    assert!(bench.asked.wants(&key()));
    drop(watch);
    tokio::time::sleep(IDLE / 2).await;
    assert!(bench.asked.wants(&key()), "it was in use until just now");
    tokio::time::sleep(IDLE).await;
    assert!(!bench.asked.wants(&key()));
}

#[tokio::test(start_paused = true)]
async fn the_control_planes_own_services_and_fixed_ones_are_never_forgotten() {
    let bench =
        Bench::with(RegistryOptions { expire_after: Some(IDLE), fixed: vec![instances("", &["x"])], ..options() });
    let system = ServiceKey::new("Polaris", "polaris.checker").of(ResourceKind::Instances);
    bench.registry.entry(&system);
    bench.registry.entry(&key());
    tokio::time::sleep(IDLE * 5).await;
    assert!(bench.asked.wants(&system) && bench.ids(&key()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pin_of_an_entry_that_expired_pins_its_successor() {
    let bench = bench();
    let old = bench.registry.entry(&key());
    tokio::time::sleep(IDLE * 2).await;
    assert!(bench.registry.peek(&key()).is_none());
    let pin = old.pin();
    assert!(!Arc::ptr_eq(&old, pin.entry()));
    assert!(Arc::ptr_eq(&bench.registry.peek(&key()).unwrap(), pin.entry()) && bench.asked.wants(&key()));
    let second = pin.clone();
    drop(pin);
    tokio::time::sleep(IDLE * 3).await;
    assert!(bench.asked.wants(&key()), "the clone pins as well");
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_longer_than_the_expiry_is_not_forgotten() {
    let bench = bench();
    let answer = async {
        tokio::time::sleep(IDLE * 4).await;
        bench.writer.apply(&key(), full("r1", &["a"]));
    };
    let (ready, ()) = tokio::join!(bench.ready_within(&key(), IDLE * 5), answer);
    assert!(ready.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pinning_and_expiring_at_the_same_time_never_leaves_a_watch_on_a_dead_entry() {
    let bench = Bench::new();
    let (pinners, finished) = (TaskScope::new(Handle::current()), Arc::new(AtomicUsize::new(0)));
    for _ in 0..3 {
        let (registry, finished) = (bench.registry.clone(), Arc::clone(&finished));
        pinners.spawn("pinner", async move {
            for _ in 0..20_000 {
                let pin = registry.entry(&key()).pin();
                let live = registry.peek(&key());
                assert!(live.is_some_and(|live| Arc::ptr_eq(&live, pin.entry())), "a pinned entry is the live one");
            }
            finished.fetch_add(1, Ordering::SeqCst);
        });
    }
    let (store, sweepers) = (Arc::clone(&bench.registry.0), TaskScope::new(Handle::current()));
    sweepers.spawn("sweeper", async move {
        loop {
            // Everything that is not pinned counts as idle.
            expire::sweep(&store, Duration::ZERO, Instant::now());
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(pinners.join(Duration::from_secs(60)).await, Ok(()));
    assert_eq!(finished.load(Ordering::SeqCst), 3, "no pinner panicked");
    sweepers.cancel();
    assert_eq!(sweepers.join(SECOND).await, Ok(()));
    bench.registry.entry(&key());
    assert!(bench.asked.wants(&key()));
}
