//! What is served, what is told, and how long it is waited for.

use super::*;
use crate::model::snapshot::Source;

#[tokio::test(start_paused = true)]
async fn the_first_use_subscribes_and_waits_for_the_first_answer() {
    let bench = Bench::new();
    assert!(bench.registry.peek(&key()).is_none());
    let answering = async {
        tokio::task::yield_now().await;
        assert!(bench.asked.wants(&key()));
        assert!(bench.writer.apply(&key(), full("r1", &["a", "b"])), "the first content is news");
    };
    let (ready, ()) = tokio::join!(bench.ready(&key()), answering);
    assert!(matches!(ready.unwrap(), Resource::Instances(list) if ids(&list) == ["a", "b"]));
    assert_eq!(bench.writer.revision(&key()).as_str(), "r1");
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_wanted_before_there_was_a_worker_are_subscribed_with_it() {
    let scope = TaskScope::new(Handle::current());
    let (registry, _writer) = LocalRegistry::new(options(), scope);
    registry.entry(&key());
    let asked = Recorder::default();
    registry.attach(asked.clone());
    assert!(asked.wants(&key()));
}

#[tokio::test(start_paused = true)]
async fn another_revision_of_the_same_content_wakes_nobody_and_is_presented_next() {
    let bench = Bench::new();
    let entry = bench.registry.entry(&key());
    bench.writer.apply(&key(), full("r1", &["a"]));
    let before = entry.served().unwrap();
    let (mut changes, wakes) = (bench.registry.changes(), entry.changed());
    tokio::time::advance(SECOND).await;
    assert!(!bench.writer.apply(&key(), full("r2", &["a"])));
    let after = entry.served().unwrap();
    assert!(matches!((before, after), (Resource::Instances(a), Resource::Instances(b)) if Arc::ptr_eq(&a, &b)));
    assert!(!wakes.has_changed().unwrap());
    assert_eq!(bench.writer.revision(&key()).as_str(), "r2");
    assert_eq!(entry.freshness(Instant::now()).unwrap().age, Duration::ZERO, "it was confirmed");
    assert!(tokio::time::timeout(SECOND, changes.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn instances_that_did_not_change_are_shared_between_snapshots() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.writer.apply(&key(), full("r1", &["a"]));
    let Some(Resource::Instances(old)) = bench.registry.entry(&key()).served() else { panic!() };
    bench.writer.apply(&key(), full("r2", &["a", "b"]));
    let Some(Resource::Instances(new)) = bench.registry.entry(&key()).served() else { panic!() };
    assert!(std::ptr::eq(old.instances()[0].authority(), new.instances()[0].authority()));
}

#[tokio::test(start_paused = true)]
async fn changes_name_each_key_that_changed_once() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.registry.entry(&rule_key());
    let mut changes = bench.registry.changes();
    bench.writer.apply(&key(), full("r1", &["a"]));
    bench.writer.apply(&key(), full("r2", &["a", "b"]));
    bench.writer.apply(&rule_key(), rules("r1", "{\"x\":1}"));
    let mut keys = changes.next().await.unwrap();
    keys.sort();
    assert_eq!(keys, [key(), rule_key()]);
    bench.scope.cancel();
    assert_eq!(changes.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_last_good_data_and_marks_it_stale_until_it_is_confirmed() {
    let bench = Bench::new();
    let entry = bench.registry.entry(&key());
    bench.writer.apply(&key(), full("r1", &["a"]));
    tokio::time::advance(SECOND).await;
    bench.writer.apply(&key(), failed(ErrorKind::Server));
    assert_eq!(bench.ids(&key()).unwrap(), ["a"]);
    let freshness = entry.freshness(Instant::now()).unwrap();
    assert_eq!((freshness.source, freshness.age, freshness.stale), (Source::Live, SECOND, true));
    assert_eq!(bench.writer.revision(&key()).as_str(), "r1");
    let health = bench.registry.health();
    assert_eq!((health.troubles.len(), health.troubles[0].kind), (1, TroubleKind::Failed));
    bench.writer.apply(&key(), Answer::Unchanged);
    let freshness = entry.freshness(Instant::now()).unwrap();
    assert_eq!((freshness.age, freshness.stale), (Duration::ZERO, false));
    assert!(bench.registry.health().troubles.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_makes_everything_stale_and_is_told_once() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.up();
    bench.writer.apply(&key(), full("r1", &["a"]));
    let mut health = bench.registry.watch_health();
    assert!(!bench.stale(&key()));
    bench.down();
    health.changed().await.unwrap();
    bench.writer.link(LinkState::Connecting);
    bench.down();
    assert!(!health.has_changed().unwrap(), "trying again is no news");
    assert!(bench.stale(&key()) && bench.registry.health().lost.is_some());
    bench.up();
    assert!(!bench.stale(&key()) && bench.registry.health().lost.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_exist_is_known_at_once_and_its_rules_are_empty() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.registry.entry(&rule_key());
    bench.writer.apply(&key(), not_found());
    bench.writer.apply(&rule_key(), not_found());
    let began = Instant::now();
    let error = bench.ready(&key()).await.unwrap_err();
    assert_eq!((error.kind(), error.service()), (ErrorKind::ServiceNotFound, Some("default/pay")));
    assert!(matches!(bench.ready(&rule_key()).await.unwrap(), Resource::Rules(rules) if rules.is_empty()));
    assert_eq!(began.elapsed(), Duration::ZERO);
    bench.writer.apply(&key(), full("r1", &["a"]));
    assert!(bench.ready(&key()).await.is_ok(), "it was created meanwhile");
}

#[tokio::test(start_paused = true)]
async fn the_namespace_code_and_the_resource_code_mean_that_the_service_is_not_there() {
    for code in [ServerCode::NOT_FOUND_NAMESPACE, ServerCode::NOT_FOUND_RESOURCE] {
        let bench = Bench::new();
        bench.registry.entry(&key());
        bench.writer.apply(&key(), Answer::NotFound { code, info: String::new() });
        assert_eq!(bench.ready(&key()).await.unwrap_err().kind(), ErrorKind::ServiceNotFound);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_server_does_not_serve_counts_as_no_rules_and_of_instances_is_an_error() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.registry.entry(&rule_key());
    bench.writer.apply(&rule_key(), Answer::Unsupported);
    assert!(matches!(bench.ready(&rule_key()).await.unwrap(), Resource::Rules(rules) if rules.is_empty()));
    assert!(bench.registry.health().troubles.iter().all(|trouble| trouble.key != rule_key()));
    bench.writer.apply(&key(), Answer::Unsupported);
    assert_eq!(bench.ready(&key()).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_at_once_and_a_fault_is_waited_out() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.writer.apply(&key(), failed(ErrorKind::Unauthorized));
    let began = Instant::now();
    assert_eq!(bench.ready(&key()).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    assert_eq!(began.elapsed(), Duration::ZERO);

    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.writer.apply(&key(), failed(ErrorKind::Server));
    let began = Instant::now();
    let answer = async {
        tokio::time::sleep(SECOND / 2).await;
        bench.writer.apply(&key(), full("r1", &["a"]));
    };
    let (ready, ()) = tokio::join!(bench.ready(&key()), answer);
    assert!(ready.is_ok() && began.elapsed() == SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_server_there_is_one_bounded_wait_and_then_fast_failure_until_it_is_back() {
    let bench = Bench::new();
    bench.down();
    let began = Instant::now();
    let error = bench.ready(&key()).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, SECOND));
    assert_eq!((error.address(), error.service()), (Some("10.0.0.1:8091"), Some("default/pay")));
    assert!(error.to_string().contains("network failure"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("connection refused"), "{cause}");

    let error = bench.ready(&key()).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Network, SECOND), "at once");
    bench.up();
    let answer = async { bench.writer.apply(&key(), full("r1", &["a"])) };
    let (ready, _) = tokio::join!(bench.ready(&key()), answer);
    assert!(ready.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_impatient_caller_does_not_make_the_others_fail() {
    let bench = Bench::new();
    bench.up();
    let error = bench.ready_within(&key(), Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let answer = async {
        tokio::time::sleep(SECOND / 2).await;
        bench.writer.apply(&key(), full("r1", &["a"]));
    };
    assert!(tokio::join!(bench.ready(&key()), answer).0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_a_not_found_and_an_error_leave_the_list_as_it_was() {
    for (policy, kept) in [
        (GuardPolicy::Guard { window: WINDOW, shrink_percent: 80 }, true),
        (GuardPolicy::KeepLast { max_age: Duration::from_secs(60) }, true),
        (GuardPolicy::Accept, false),
    ] {
        let bench = Bench::with(RegistryOptions { guard: policy, ..options() });
        bench.registry.entry(&key());
        bench.writer.apply(&key(), many("r1", 10));
        for answer in [full("r2", &[]), not_found(), failed(ErrorKind::Server)] {
            tokio::time::advance(SECOND * 3).await;
            bench.writer.apply(&key(), answer);
        }
        let left = bench.ids(&key()).map_or(0, |ids| ids.len());
        assert_eq!(left, if kept { 10 } else { 0 }, "{policy:?}");
        if kept {
            assert!(bench.stale(&key()));
            assert_eq!(bench.registry.health().troubles[0].kind, TroubleKind::Doubted);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_real_scale_to_zero_arrives_by_unchanged_answers_on_the_held_revision() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.writer.apply(&key(), many("r1", 10));
    assert!(bench.writer.apply(&key(), full("r2", &[])), "a doubted answer is news: it is asked for more often");
    assert_eq!(bench.writer.revision(&key()).as_str(), "r2", "the held answer is the one to be confirmed");
    let began = Instant::now();
    while bench.ids(&key()).unwrap().len() == 10 {
        tokio::time::advance(SECOND * 2).await;
        bench.writer.apply(&key(), Answer::Unchanged);
    }
    assert_eq!((began.elapsed(), bench.ids(&key()).unwrap().len()), (WINDOW, 0));
    assert!(!bench.stale(&key()) && bench.registry.health().troubles.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_ends_the_hold_without_a_new_snapshot() {
    let bench = Bench::new();
    let entry = bench.registry.entry(&key());
    bench.writer.apply(&key(), many("r1", 10));
    bench.writer.apply(&key(), many("r2", 1));
    assert!(bench.stale(&key()));
    assert!(!bench.writer.apply(&key(), many("r3", 10)), "the content is the one that was served all along");
    assert!(!bench.stale(&key()));
    tokio::time::advance(WINDOW).await;
    bench.writer.apply(&key(), Answer::Unchanged);
    assert_eq!(bench.ids(&key()).unwrap().len(), 10);
    assert!(matches!(entry.state(), EntryState::Ready));
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_in_between_asks_for_a_whole_window_again() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.up();
    bench.writer.apply(&key(), many("r1", 10));
    bench.writer.apply(&key(), not_found());
    bench.down();
    tokio::time::advance(WINDOW * 10).await;
    bench.up();
    bench.writer.apply(&key(), not_found());
    assert_eq!(bench.ids(&key()).unwrap().len(), 10, "a server that just started knows nothing yet");
    tokio::time::advance(WINDOW).await;
    bench.writer.apply(&key(), not_found());
    assert!(matches!(bench.registry.entry(&key()).state(), EntryState::NotFound(_)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_between_asks_for_a_whole_window_again() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    bench.writer.apply(&key(), many("r1", 10));
    bench.writer.apply(&key(), full("r2", &[]));
    tokio::time::advance(WINDOW / 2).await;
    bench.writer.apply(&key(), failed(ErrorKind::Server));
    tokio::time::advance(WINDOW / 2).await;
    bench.writer.apply(&key(), Answer::Unchanged);
    assert_eq!(bench.ids(&key()).unwrap().len(), 10);
    tokio::time::advance(WINDOW).await;
    bench.writer.apply(&key(), Answer::Unchanged);
    assert_eq!(bench.ids(&key()).unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn rules_that_were_deleted_are_gone_at_once_and_rules_of_a_lost_service_after_the_window() {
    let bench = Bench::new();
    bench.registry.entry(&rule_key());
    let json = || match bench.registry.entry(&rule_key()).served().unwrap() {
        Resource::Rules(rules) => rules.json().to_owned(),
        other => panic!("{other:?}"),
    };
    bench.writer.apply(&rule_key(), rules("r1", "{\"rules\":[]}"));
    bench.writer.apply(&rule_key(), not_found());
    assert_eq!(json(), "{\"rules\":[]}");
    tokio::time::advance(WINDOW).await;
    bench.writer.apply(&rule_key(), not_found());
    assert_eq!(json(), "{}");
    bench.writer.apply(&rule_key(), rules("r2", "{\"rules\":[]}"));
    bench.writer.apply(&rule_key(), rules("r3", "{}"));
    assert_eq!(json(), "{}");
}

#[tokio::test(start_paused = true)]
async fn a_fixed_service_is_never_asked_for_and_never_stale() {
    let bench = Bench::with(RegistryOptions { fixed: vec![instances("", &["x"])], ..options() });
    bench.down();
    assert!(matches!(bench.ready(&key()).await.unwrap(), Resource::Instances(list) if ids(&list) == ["x"]));
    assert!(matches!(bench.ready(&rule_key()).await.unwrap(), Resource::Rules(rules) if rules.is_empty()));
    let freshness = bench.registry.entry(&key()).freshness(Instant::now()).unwrap();
    assert_eq!((freshness.source, freshness.stale), (Source::Fixed, false));
    assert!(!bench.asked.wants(&key()) && !bench.asked.wants(&rule_key()));
    assert!(!bench.writer.apply(&key(), not_found()) && bench.ids(&key()).is_some());
}

#[tokio::test(start_paused = true)]
async fn items_that_were_skipped_are_seen_in_the_health() {
    let bench = Bench::new();
    bench.registry.entry(&key());
    let resource = Resource::Instances(Arc::new(instances("r1", &["a"])));
    bench.writer.apply(&key(), Answer::Full { resource, skipped: vec!["instance \"b\" has no host".into()] });
    let health = bench.registry.health();
    assert_eq!(health.troubles[0].kind, TroubleKind::Skipped);
    assert!(health.troubles[0].error.to_string().contains("has no host"));
    bench.writer.apply(&key(), full("r2", &["a"]));
    assert!(bench.registry.health().troubles.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_the_end_every_wait_is_over() {
    let bench = Bench::new();
    let end = async {
        tokio::task::yield_now().await;
        bench.scope.cancel();
    };
    let (ready, ()) = tokio::join!(bench.ready(&key()), end);
    assert_eq!(ready.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(bench.scope.join(SECOND).await, Ok(()));
}
