//! Each key of `provider.rateLimit`, and each key elsewhere that limits depend on, has the effect that it promises: seen
//! from outside, against the embedded control plane. What `enable` and `onUnknown` do is told in `limiting.rs`, too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    reason = "a test may panic"
)]

mod support;

use std::time::Duration;

use polarismesh::testing::{Rpc, Server, instance};
use polarismesh::{Decision, LabelSet, LimitHandle, Quota, ResourceKind, RuleKind, SdkContext, ServiceKey};
use serde_json::{Value, json};
use support::limits::{by_user, user, with_fields};
use support::{eventually, throughout};
use tokio::time::Instant;

const PAY: (&str, &str) = ("default", "payments");
const SECOND: Duration = Duration::from_secs(1);

/// A server with one rule: `fields` beside, or in place of, one call a second by this process alone.
fn server(fields: &Value) -> Server {
    let server = Server::in_memory();
    // What a rule says of its limiter is lost on public servers.
    server.newer_kinds(true);
    let rule = json!({"name": "rule", "namespace": PAY.0, "service": PAY.1, "type": "LOCAL",
        "amounts": [{"maxAmount": 1, "validDuration": "1s"}]});
    server.rule(RuleKind::RateLimit, with_fields(rule, fields)).unwrap();
    server
}

fn with(server: &Server, settings: &[(&str, &str)]) -> SdkContext {
    settings.iter().fold(server.builder(), |builder, (key, value)| builder.set(key, *value)).build().unwrap()
}

async fn handle(context: &SdkContext) -> LimitHandle {
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    handle
}

fn passes(handle: &LimitHandle, quota: &Quota<'_>) -> bool {
    matches!(handle.check(quota).unwrap(), Decision::Granted(_))
}

fn user_passes(handle: &LimitHandle, uid: usize) -> bool {
    passes(handle, &Quota::new().labels(&user(uid)))
}

// === pace

const QUEUE: &str = "provider.rateLimit.maxQueuingTime";

/// How many of a hundred calls that come at once may be made now or later, at ten a second.
async fn admitted(settings: &[(&str, &str)], fields: &Value) -> usize {
    let paced = json!({"action": "UNIRATE", "amounts": [{"maxAmount": 10, "validDuration": "1s"}]});
    let server = server(&with_fields(paced, fields));
    let context = with(&server, settings);
    let handle = handle(&context).await;
    let decisions: Vec<_> = (0..100).map(|_| handle.check(&Quota::new()).unwrap()).collect();
    decisions.iter().filter(|decision| !matches!(decision, Decision::Limited(_))).count()
}

#[tokio::test(start_paused = true)]
async fn max_queuing_time_is_the_longest_wait_of_a_call_unless_the_rule_says_another() {
    let (silent, own) = (json!({}), json!({"max_queue_delay": 3}));
    assert_eq!(admitted(&[], &silent).await, 11);
    assert_eq!(admitted(&[(QUEUE, "300ms")], &silent).await, 4);
    assert_eq!(admitted(&[(QUEUE, "0s")], &silent).await, 1);
    assert_eq!(admitted(&[(QUEUE, "300ms")], &own).await, 31);
    assert_eq!(admitted(&[(QUEUE, "1h")], &own).await, 31);
    assert_eq!(admitted(&[(QUEUE, "300ms")], &json!({"max_queue_delay": 0})).await, 4);
}

#[tokio::test(start_paused = true)]
async fn the_old_name_of_max_queuing_time_means_the_same() {
    let old = "provider.rateLimit.plugin.unirate.maxQueuingTime";
    assert_eq!(admitted(&[(old, "500ms")], &json!({})).await, 6);
}

// === windows

#[tokio::test(start_paused = true)]
async fn purge_interval_is_when_windows_are_dropped_that_count_nothing_any_more() {
    for (interval, least, most) in [("1s", 1, 3), ("10s", 9, 11), ("60s", 59, 61)] {
        let server = server(&by_user());
        let context = with(&server, &[("provider.rateLimit.purgeInterval", interval)]);
        let (began, handle) = (Instant::now(), handle(&context).await);
        assert!((0..5).all(|uid| user_passes(&handle, uid)));
        eventually("they are gone", 100 * SECOND, async || handle.usage()[0].windows == 0).await;
        let after = began.elapsed().as_secs();
        assert!((least..=most).contains(&after), "{interval}: {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn what_dropped_windows_have_counted_stays_in_the_sum_also_if_nobody_looked() {
    let server = server(&by_user());
    let context = with(&server, &[("provider.rateLimit.purgeInterval", "1s")]);
    let handle = handle(&context).await;
    for round in 1..4 {
        assert!((0..5).all(|uid| user_passes(&handle, uid)));
        tokio::time::sleep(5 * SECOND).await;
        let usage = &handle.usage()[0];
        assert_eq!((usage.windows, usage.passed), (0, round * 5));
    }
}

#[tokio::test(start_paused = true)]
async fn purge_interval_drops_no_window_that_counts() {
    let mut hourly = by_user();
    hourly["amounts"] = json!([{"maxAmount": 1, "validDuration": "3600s"}]);
    let server = server(&hourly);
    let context = with(&server, &[("provider.rateLimit.purgeInterval", "1s")]);
    let handle = handle(&context).await;
    assert!(user_passes(&handle, 1));
    throughout("it counts", 600 * SECOND, async || handle.usage()[0].windows == 1 && !user_passes(&handle, 1)).await;
}

const COUNT: &str = "provider.rateLimit.maxWindowCount";

#[tokio::test(start_paused = true)]
async fn max_window_count_and_its_old_name_bound_the_windows_of_all_rules_together() {
    for (settings, most) in [
        (&[][..], 5_000),
        (&[(COUNT, "1")][..], 1),
        (&[(COUNT, "300")][..], 300),
        (&[("provider.rateLimit.maxWindowSize", "200")][..], 200),
    ] {
        let server = server(&by_user());
        let mut second = by_user();
        second["name"] = json!("second");
        (second["namespace"], second["service"], second["type"]) = (json!(PAY.0), json!(PAY.1), json!("LOCAL"));
        second["amounts"] = json!([{"maxAmount": 7, "validDuration": "1s"}]);
        server.rule(RuleKind::RateLimit, second).unwrap();
        let context = with(&server, settings);
        let handle = handle(&context).await;
        assert!((0..2_500).all(|uid| user_passes(&handle, uid)), "what has no window passes");
        assert_eq!(handle.usage().iter().map(|rule| rule.windows).sum::<usize>(), most, "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_on_exceed_window_count_says_what_becomes_of_calls_without_a_window() {
    let fallback = "provider.rateLimit.fallbackOnExceedWindowCount";
    for (settings, expected) in [
        (&[(COUNT, "2")][..], true),
        (&[(COUNT, "2"), (fallback, "pass")][..], true),
        (&[(COUNT, "2"), (fallback, "reject")][..], false),
    ] {
        let server = server(&by_user());
        let context = with(&server, settings);
        let handle = handle(&context).await;
        assert!(user_passes(&handle, 1) && user_passes(&handle, 2) && !user_passes(&handle, 2));
        assert_eq!(user_passes(&handle, 3), expected, "{settings:?}");
        assert_eq!(user_passes(&handle, 3), expected, "{settings:?}: nothing counts it");
        assert!(passes(&handle, &Quota::new()), "the rule is for others");
    }
}

// === limiters

fn global(fields: &Value) -> Server {
    let global = json!({"type": "GLOBAL", "amounts": [{"maxAmount": 100, "validDuration": "1s"}]});
    server(&with_fields(global, fields))
}

/// Registers the limiter of a node under this name of a service.
fn host(server: &Server, node: &Server, service: (&str, &str)) {
    let (host, port) = node.address().rsplit_once(':').unwrap();
    server.service(service).instance(instance(host, port.parse().unwrap()).protocol("grpc"));
}

/// Whether the limiter of a node comes to count the calls of a context; another one is `silent`.
async fn is_counted_by(context: &SdkContext, node: &Server, silent: &Server) -> bool {
    let handle = handle(context).await;
    for _ in 0..50 {
        passes(&handle, &Quota::new());
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(silent.limiter_counters().is_empty());
    node.limiter_counters().first().is_some_and(|counter| counter.total_used >= 40)
}

#[tokio::test(start_paused = true)]
async fn limiter_namespace_and_limiter_service_say_where_limiters_are_registered() {
    let (namespace, name) = ("provider.rateLimit.limiterNamespace", "provider.rateLimit.limiterService");
    for (settings, registered) in [
        (&[][..], ("Polaris", "polaris.limiter")),
        (&[(namespace, "infra")][..], ("infra", "polaris.limiter")),
        (&[(name, "counters")][..], ("Polaris", "counters")),
        (&[(namespace, "infra"), (name, "counters")][..], ("infra", "counters")),
    ] {
        let server = global(&json!({}));
        let other = server.peer().await.unwrap();
        let all = ["Polaris", "infra"].into_iter().flat_map(|ns| [(ns, "polaris.limiter"), (ns, "counters")]);
        for service in all {
            host(&server, if service == registered { &server } else { &other }, service);
        }
        let context = with(&server, settings);
        assert!(is_counted_by(&context, &server, &other).await, "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_cluster_of_a_rule_goes_before_the_service_of_the_configuration() {
    let server = global(&json!({"cluster": {"namespace": "team", "service": "own"}}));
    let of_all = server.peer().await.unwrap();
    host(&server, &of_all, ("Polaris", "polaris.limiter"));
    host(&server, &server, ("team", "own"));
    let context = server.context().unwrap();
    assert!(is_counted_by(&context, &server, &of_all).await);
    // Half a name is none.
    let half = global(&json!({"cluster": {"namespace": "", "service": "own"}}));
    let of_rule = half.peer().await.unwrap();
    host(&half, &half, ("Polaris", "polaris.limiter"));
    host(&half, &of_rule, ("", "own"));
    assert!(is_counted_by(&half.context().unwrap(), &half, &of_rule).await);
}

#[tokio::test(start_paused = true)]
async fn limiter_addresses_are_used_as_they_are_and_nothing_is_looked_up() {
    // Also where the rule names a service of its own: whoever gives addresses cannot reach it.
    for fields in [json!({}), json!({"cluster": {"namespace": "team", "service": "own"}})] {
        let server = global(&fields);
        let given = server.peer().await.unwrap();
        server.host_limiter();
        host(&server, &server, ("team", "own"));
        let context = with(&server, &[("provider.rateLimit.limiterAddresses", given.address())]);
        assert!(is_counted_by(&context, &given, &server).await);
        let looked_up = |call: &polarismesh::testing::Call| call.kind() == Some(ResourceKind::Instances);
        let asked: Vec<_> = server.calls_of(Rpc::Discover).into_iter().filter(looked_up).collect();
        assert!(asked.is_empty(), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_limiter_addresses_are_used() {
    let mut apart = by_user();
    apart["amounts"] = json!([{"maxAmount": 100, "validDuration": "1s"}]);
    let server = global(&apart);
    let (one, two) = (server.peer().await.unwrap(), server.peer().await.unwrap());
    let both = format!("[\"{}\", \"{}\"]", one.address(), two.address());
    let context = with(&server, &[("provider.rateLimit.limiterAddresses", &both)]);
    let handle = handle(&context).await;
    assert!((0..100).all(|uid| user_passes(&handle, uid)));
    let counted = async || one.limiter_counters().len() + two.limiter_counters().len() == 100;
    eventually("all are counted", 3 * SECOND, counted).await;
    assert!(one.limiter_counters().len() > 20 && two.limiter_counters().len() > 20);
}

// === what is not known

#[tokio::test(start_paused = true)]
async fn enable_switches_limits_off_and_nothing_is_asked() {
    for (settings, limited) in [
        (&[][..], true),
        (&[("provider.rateLimit.enable", "true")][..], true),
        (&[("provider.rateLimit.enable", "false")][..], false),
    ] {
        let server = server(&json!({"amounts": [{"maxAmount": 0, "validDuration": "1s"}]}));
        let context = with(&server, settings);
        let answer = context.limiter().get_quota(PAY).await;
        assert_eq!(answer.is_err(), limited, "{settings:?}");
        assert_eq!(polled(&server) > 0, limited, "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn on_unknown_says_what_becomes_of_calls_whose_rules_are_not_loaded() {
    for (settings, admitted) in [
        (&[][..], true),
        (&[("provider.rateLimit.onUnknown", "admit")][..], true),
        (&[("provider.rateLimit.onUnknown", "reject")][..], false),
    ] {
        let server = server(&json!({"amounts": [{"maxAmount": 0, "validDuration": "1s"}]}));
        let context = with(&server, settings);
        let first = context.limiter().check(&PAY.into());
        assert_eq!(first.is_ok(), admitted, "{settings:?}");
        context.limiter().service(PAY).ready().await.unwrap();
        let known = context.limiter().check(&PAY.into()).unwrap();
        assert!(matches!(known, Decision::Limited(_)), "{settings:?}");
    }
}

// === keys of other sections

#[tokio::test(start_paused = true)]
async fn variables_of_the_system_are_the_values_of_conditions_that_name_them() {
    let by_stage = json!({"arguments": [{"type": "CUSTOM", "key": "stage",
        "value": {"type": "EXACT", "value_type": "VARIABLE", "value": "STAGE"}}]});
    for (settings, limited) in [
        (&[("global.system.variables.STAGE", "canary")][..], true),
        (&[("global.system.variables.STAGE", "stable")][..], false),
        (&[("global.system.variables.OTHER", "canary")][..], false),
    ] {
        let server = server(&by_stage);
        let context = with(&server, settings);
        let handle = handle(&context).await;
        let labels = LabelSet::new().custom("stage", "canary");
        let quota = Quota::new().labels(&labels);
        assert!(passes(&handle, &quota));
        assert_eq!(!passes(&handle, &quota), limited, "{settings:?}");
    }
}

/// How often the rules of `PAY` were asked for.
fn polled(server: &Server) -> usize {
    let pay = ServiceKey::from(PAY);
    let rules = |call: &polarismesh::testing::Call| {
        call.kind() == Some(ResourceKind::RateLimit) && call.service().as_ref() == Some(&pay)
    };
    server.calls_of(Rpc::Discover).into_iter().filter(rules).count()
}

#[tokio::test(start_paused = true)]
async fn service_expire_time_is_when_the_rules_of_an_unused_service_are_let_go() {
    let (expire, purge) = ("consumer.localCache.serviceExpireTime", ("provider.rateLimit.purgeInterval", "5s"));
    let enable = "consumer.localCache.serviceExpireEnable";
    for (settings, held, forgotten) in [
        (&[(expire, "20s"), purge][..], false, true),
        (&[(expire, "20s"), (enable, "false"), purge][..], false, false),
        (&[(expire, "1h"), purge][..], false, false),
        // A handle is a use.
        (&[(expire, "20s"), purge][..], true, false),
    ] {
        let server = server(&json!({}));
        let context = with(&server, settings);
        let limiter = context.limiter();
        assert!(limiter.get_quota(PAY).await.is_ok());
        let handle = held.then(|| limiter.service(PAY));
        throughout("it is polled before", 15 * SECOND, async || !limiter.usage(&PAY.into()).is_empty()).await;
        throughout("unused", 60 * SECOND, async || true).await;
        let before = polled(&server);
        throughout("unused", 30 * SECOND, async || true).await;
        assert_eq!(polled(&server) == before, forgotten, "{settings:?}");
        assert_eq!(limiter.usage(&PAY.into()).is_empty(), forgotten, "{settings:?}");
        // Who asks again has the rules again.
        drop(handle);
        assert!(limiter.get_quota(PAY).await.is_ok());
        assert!(limiter.get_quota(PAY).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_used_is_not_forgotten() {
    let server = server(&json!({"amounts": [{"maxAmount": 1, "validDuration": "3600s"}]}));
    let expire = ("consumer.localCache.serviceExpireTime", "10s");
    let context = with(&server, &[expire, ("provider.rateLimit.purgeInterval", "1s")]);
    let limiter = context.limiter();
    assert!(limiter.get_quota(PAY).await.is_ok());
    for _ in 0..30 {
        tokio::time::sleep(5 * SECOND).await;
        assert!(limiter.get_quota(PAY).await.is_err(), "its window would be anew");
    }
}
