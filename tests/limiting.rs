//! Calls are limited by the rules of the control plane: by amounts, pace and concurrency, together or apart by their labels.

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

use polarismesh::testing::{Rpc, Server};
use polarismesh::{
    ContextState, Decision, ErrorKind, GetQuota, LabelSet, LimitHandle, Permit, Quota, QuotaError, ResourceKind,
    RuleKind, SdkContext, ServiceKey,
};
use serde_json::{Value, json};
use support::eventually;
use support::limits::with_fields;
use tokio::time::Instant;

const PAY: (&str, &str) = ("default", "payments");
const SECOND: Duration = Duration::from_secs(1);

/// A rule for calls to `PAY`: `fields` beside, or in place of, one call a second by this process alone.
fn rule(name: &str, fields: &Value) -> String {
    let rule = json!({"name": name, "namespace": PAY.0, "service": PAY.1, "type": "LOCAL", "resource": "QPS",
        "action": "REJECT", "amounts": [{"maxAmount": 1, "validDuration": "1s"}]});
    with_fields(rule, fields).to_string()
}

fn amount(calls: u32) -> Value {
    json!({"amounts": [{"maxAmount": calls, "validDuration": "1s"}]})
}

fn exact(value: &str) -> Value {
    json!({"type": "EXACT", "value": value})
}

/// A server with these rules, a context of it, and a handle with the rules loaded.
async fn limited(rules: &[(&str, Value)]) -> (Server, SdkContext, LimitHandle) {
    let server = Server::in_memory();
    for (name, fields) in rules {
        server.rule(RuleKind::RateLimit, rule(name, fields)).unwrap();
    }
    let context = server.context().unwrap();
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    (server, context, handle)
}

fn granted(decision: polarismesh::Result<Decision>) -> Permit {
    match decision.unwrap() {
        Decision::Granted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// How many of so many calls pass at once.
fn passes(handle: &LimitHandle, quota: &Quota<'_>, calls: usize) -> usize {
    (0..calls).filter(|_| matches!(handle.check(quota).unwrap(), Decision::Granted(_))).count()
}

/// The rule that refuses the call, if one does.
fn refuser(handle: &LimitHandle, quota: &Quota<'_>) -> Option<String> {
    match handle.check(quota).unwrap() {
        Decision::Limited(limited) => Some(limited.rule().to_owned()),
        _ => None,
    }
}

// === amounts

#[tokio::test(start_paused = true)]
async fn an_amount_passes_and_no_more_in_any_second() {
    let (_server, _context, handle) = limited(&[("ten", amount(10))]).await;
    let began = Instant::now();
    let mut passed = Vec::new();
    while began.elapsed() < 20 * SECOND {
        if passes(&handle, &Quota::new(), 1) == 1 {
            passed.push(began.elapsed());
        }
        tokio::time::advance(Duration::from_millis(3)).await;
    }
    for (first, at) in passed.iter().zip(passed.iter().skip(10)) {
        assert!(*at >= *first + SECOND, "eleven calls from {first:?} to {at:?}");
    }
    assert!(passed.len() >= 190, "{} of 200", passed.len());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_rule_and_when_it_may_be_worth_to_ask_again() {
    let custom =
        json!({"custom_response": {"body": "slow down"}, "amounts": [{"maxAmount": 1, "validDuration": "10s"}]});
    let server = Server::in_memory();
    server.newer_kinds(true);
    let id = server.rule(RuleKind::RateLimit, rule("one", &custom)).unwrap();
    let context = server.context().unwrap();
    let quota = || context.limiter().get_quota(PAY);
    drop(quota().await.unwrap());
    let Err(QuotaError::Limited(limited)) = quota().await else { panic!("it is used up") };
    assert_eq!((limited.rule(), limited.rule_id(), limited.custom_response()), ("one", &*id, Some("slow down")));
    assert_eq!(limited.service().map(ServiceKey::to_string).as_deref(), Some("default/payments"));
    let after = limited.retry_after().unwrap();
    assert!((10 * SECOND..11 * SECOND).contains(&after), "{after:?}");
    let text = limited.to_string();
    assert!(text.starts_with("limited by rule \"one\" of default/payments; again in 10."), "{text}");
    tokio::time::advance(after).await;
    drop(quota().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_amount_of_nothing_refuses_all_for_good() {
    let (_server, _context, handle) = limited(&[("none", amount(0))]).await;
    let Decision::Limited(limited) = handle.check(&Quota::new()).unwrap() else { panic!("nothing passes") };
    assert_eq!(limited.retry_after(), None);
    assert!(limited.to_string().ends_with("which lets nothing pass"));
}

#[tokio::test(start_paused = true)]
async fn of_several_amounts_the_one_that_is_used_up_limits() {
    let amounts =
        json!({"amounts": [{"maxAmount": 2, "validDuration": "1s"}, {"maxAmount": 3, "validDuration": "60s"}]});
    let (_server, _context, handle) = limited(&[("both", amounts)]).await;
    assert_eq!(passes(&handle, &Quota::new(), 5), 2);
    tokio::time::advance(2 * SECOND).await;
    // What the short amount let pass and the long one did not is not counted by the short one either.
    assert_eq!(passes(&handle, &Quota::new(), 5), 1);
    tokio::time::advance(61 * SECOND).await;
    assert_eq!(passes(&handle, &Quota::new(), 5), 2);
}

#[tokio::test(start_paused = true)]
async fn all_rules_that_match_apply_and_what_one_refuses_none_counts() {
    let rules = [
        ("wide", json!({"priority": 0, "amounts": [{"maxAmount": 5, "validDuration": "1s"}]})),
        (
            "narrow",
            json!({"priority": 1, "method": exact("/pay"), "amounts": [{"maxAmount": 2, "validDuration": "1s"}]}),
        ),
    ];
    let (_server, _context, handle) = limited(&rules).await;
    let (pay, look) = (Quota::new().method("/pay"), Quota::new().method("/look"));
    assert_eq!(passes(&handle, &pay, 9), 2);
    assert_eq!(refuser(&handle, &pay).as_deref(), Some("narrow"));
    assert_eq!(passes(&handle, &look, 9), 3, "the refused calls gave back what the wide rule had counted");
    assert_eq!(refuser(&handle, &pay).as_deref(), Some("wide"), "the first that refuses");
    let usage = handle.usage();
    let counts: Vec<_> = usage.iter().map(|rule| (&*rule.name, rule.passed, rule.limited)).collect();
    assert_eq!(counts, [("wide", 5, 7), ("narrow", 2, 8)]);
}

// === labels

#[tokio::test(start_paused = true)]
async fn values_are_counted_apart_or_together_as_the_rule_says() {
    let uid =
        |kind: &str, value: &str| json!([{"type": "HEADER", "key": "uid", "value": {"type": kind, "value": value}}]);
    for (combine, arguments, other_passes) in [
        (false, uid("REGEX", ".+"), true),
        (true, uid("REGEX", ".+"), false),
        (false, uid("IN", "1,2"), true),
        (true, uid("IN", "1,2"), false),
    ] {
        let fields = json!({"arguments": arguments, "regex_combine": combine});
        let (_server, _context, handle) = limited(&[("by-user", fields)]).await;
        let [one, two] = ["1", "2"].map(|uid| LabelSet::new().header("uid", uid));
        let (one, two) = (Quota::new().labels(&one), Quota::new().labels(&two));
        assert_eq!(passes(&handle, &one, 3), 1);
        assert_eq!(passes(&handle, &two, 3), usize::from(other_passes), "{arguments} {combine}");
        assert_eq!(passes(&handle, &Quota::new(), 3), 3, "the rule is for calls with the label");
        assert_eq!(handle.usage()[0].windows, if combine { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_with_a_variable_part_is_one_method_for_each_value_or_one_for_all() {
    for (combine, other_passes) in [(false, 1), (true, 0)] {
        let fields = json!({"method": exact("/users/{id}"), "regex_combine": combine});
        let (_server, _context, handle) = limited(&[("users", fields)]).await;
        assert_eq!(passes(&handle, &Quota::new().method("/users/1"), 3), 1);
        assert_eq!(passes(&handle, &Quota::new().method("/users/2"), 3), other_passes);
        assert_eq!(passes(&handle, &Quota::new().method("/users"), 3), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_million_values_need_no_more_windows_than_are_allowed() {
    for (policy, passed) in [("pass", true), ("reject", false)] {
        let server = Server::in_memory();
        let fields = json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": "."}}]});
        server.rule(RuleKind::RateLimit, rule("by-user", &fields)).unwrap();
        let builder = server.builder().set("provider.rateLimit.maxWindowCount", "1000");
        let context = builder.set("provider.rateLimit.fallbackOnExceedWindowCount", policy).build().unwrap();
        let handle = context.limiter().service(PAY);
        handle.ready().await.unwrap();
        let check = |n: u32| {
            let labels = LabelSet::new().header("uid", n.to_string());
            passes(&handle, &Quota::new().labels(&labels), 1) == 1
        };
        let granted = (0..1_000_000_u32).filter(|n| check(*n)).count();
        assert_eq!(granted, if passed { 1_000_000 } else { 1_000 });
        assert_eq!(handle.usage()[0].windows, 1_000);
        assert!(!check(3), "a window that counts stays");
        let told = async || {
            matches!(context.state(), ContextState::Degraded { troubles, .. }
            if troubles[0].to_string().contains("provider.rateLimit.maxWindowCount"))
        };
        eventually("the state tells", SECOND, told).await;
        tokio::time::sleep(2 * SECOND).await;
        // The first may come too early still, and makes room.
        check(2_000_000);
        let room = async || check(3_000_000) && handle.usage()[0].windows < 10;
        eventually("idle windows make room", SECOND, room).await;
        eventually("the state is good again", 61 * SECOND, async || context.state() == ContextState::Ready).await;
    }
}

// === pace

#[tokio::test(start_paused = true)]
async fn a_pace_lets_calls_wait_for_their_turn_and_refuses_those_that_would_wait_too_long() {
    let fields = json!({"action": "UNIRATE", "amounts": [{"maxAmount": 10, "validDuration": "1s"}]});
    let (_server, context, handle) = limited(&[("paced", fields)]).await;
    let began = Instant::now();
    let queued: Vec<_> = (0..15).map(|_| context.limiter().get_quota(PAY)).collect();
    let mut refused = 0;
    for (n, quota) in queued.into_iter().enumerate() {
        match quota.await {
            Ok(_) => {
                let expected = Duration::from_millis(100 * u64::try_from(n).unwrap());
                let late = began.elapsed().checked_sub(expected);
                assert!(late.is_some_and(|late| late < Duration::from_millis(3)), "{n}: {:?}", began.elapsed());
            }
            Err(QuotaError::Limited(limited)) => {
                refused += 1;
                assert_eq!(limited.retry_after(), Some(Duration::from_millis(100)));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 4, "one second is the longest that a call queues where a rule says nothing");
    let usage = &handle.usage()[0];
    assert_eq!((usage.passed, usage.limited, usage.queued), (11, 4, 10));
}

#[tokio::test(start_paused = true)]
async fn a_wait_gives_its_place_back_also_where_another_rule_had_no_window_for_the_call() {
    let server = Server::in_memory();
    let by = |key: &str| {
        json!({"action": "UNIRATE", "max_queue_delay": 9, "arguments": [
        {"type": "HEADER", "key": key, "value": {"type": "REGEX", "value": ".*"}}]})
    };
    server.rule(RuleKind::RateLimit, rule("a", &by("a"))).unwrap();
    server.rule(RuleKind::RateLimit, rule("b", &by("b"))).unwrap();
    let builder = server.builder().set("provider.rateLimit.maxWindowCount", "1");
    let context = builder.build().unwrap();
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    let wait = |labels: &LabelSet| match handle.check(&Quota::new().labels(labels)).unwrap() {
        Decision::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let only_b = LabelSet::new().header("b", "1");
    drop(granted(handle.check(&Quota::new().labels(&only_b))));
    for _ in 0..3 {
        let ticket = wait(&LabelSet::new().header("a", "1").header("b", "1"));
        assert_eq!(ticket.wait(), SECOND);
    }
    assert_eq!(wait(&only_b).wait(), SECOND, "all places were given back");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_nobody_asks_about_is_forgotten_although_there_is_no_room_for_windows() {
    let server = Server::in_memory();
    let fields = json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": "."}}]});
    server.rule(RuleKind::RateLimit, rule("by-user", &fields)).unwrap();
    let builder = server.builder().set("provider.rateLimit.maxWindowCount", "1");
    let builder = builder.set("provider.rateLimit.purgeInterval", "1s");
    let builder = builder.set("consumer.localCache.serviceExpireEnable", "true");
    let context = builder.set("consumer.localCache.serviceExpireTime", "5s").build().unwrap();
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    let other = ServiceKey::new("default", "other");
    let rules = json!({"name": "other", "namespace": "default", "service": "other", "type": "LOCAL",
        "amounts": [{"maxAmount": 1, "validDuration": "1s"}]});
    server.rule(RuleKind::RateLimit, rules.to_string()).unwrap();
    drop(context.limiter().get_quota(&other).await);
    assert_eq!(context.limiter().usage(&other).len(), 1);
    // All the time there is no room.
    for n in 0..300 {
        passes(&handle, &Quota::new().labels(&LabelSet::new().header("uid", (n % 7).to_string())), 1);
        tokio::time::sleep(SECOND / 10).await;
    }
    assert_eq!(context.limiter().usage(&other), []);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_gives_its_place_and_all_else_back() {
    let rules = [
        ("paced", json!({"action": "UNIRATE", "priority": 1, "max_queue_delay": 1})),
        ("counted", json!({"priority": 0, "amounts": [{"maxAmount": 3, "validDuration": "60s"}]})),
        (
            "one-at-a-time",
            json!({"resource": "CONCURRENCY", "priority": 2, "amounts": [{"maxAmount": 2, "validDuration": "1s"}]}),
        ),
    ];
    let (_server, context, handle) = limited(&rules).await;
    for _ in 0..5 {
        drop(granted(handle.check(&Quota::new())));
        for _ in 0..5 {
            let Decision::Wait(ticket) = handle.check(&Quota::new()).unwrap() else { panic!("it queues") };
            assert_eq!(ticket.wait(), SECOND);
            drop(ticket);
            // Polled once, and dropped while it waits.
            let quota = context.limiter().get_quota(PAY);
            assert!(tokio::time::timeout(Duration::ZERO, quota).await.is_err());
        }
        tokio::time::advance(SECOND).await;
        drop(granted(handle.check(&Quota::new())));
        tokio::time::advance(62 * SECOND).await;
    }
    let Decision::Granted(_held) = handle.check(&Quota::new()).unwrap() else { panic!("it is time") };
    let Decision::Wait(ticket) = handle.check(&Quota::new()).unwrap() else { panic!("it queues") };
    let began = Instant::now();
    let permit = ticket.ready().await;
    assert_eq!(began.elapsed(), SECOND);
    tokio::time::advance(5 * SECOND).await;
    assert_eq!(refuser(&handle, &Quota::new()).as_deref(), Some("one-at-a-time"), "both permits count");
    drop(permit);
    assert_eq!(refuser(&handle, &Quota::new()), None);
    let usage = handle.usage();
    assert_eq!(usage.iter().map(|rule| rule.passed).collect::<Vec<_>>(), [13, 13, 13], "{usage:?}");
}

// === concurrency

#[tokio::test(start_paused = true)]
async fn a_permit_counts_until_it_is_dropped_also_with_the_future_that_holds_it() {
    let fields = json!({"resource": "CONCURRENCY", "concurrencyAmount": {"maxAmount": 2}, "amounts": []});
    let server = Server::in_memory();
    server.newer_kinds(true);
    server.rule(RuleKind::RateLimit, rule("two", &fields)).unwrap();
    let context = server.context().unwrap();
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    let serve = async || {
        let _permit = context.limiter().get_quota(PAY).await.unwrap();
        std::future::pending::<()>().await;
    };
    let held = granted(handle.check(&Quota::new()));
    {
        let serving = tokio::time::timeout(SECOND, serve());
        assert!(serving.await.is_err(), "it is cancelled while it holds a permit");
    }
    let also = granted(handle.check(&Quota::new()));
    assert_eq!(refuser(&handle, &Quota::new()).as_deref(), Some("two"));
    drop(held);
    drop(granted(handle.check(&Quota::new())));
    drop(also);
    assert_eq!(passes(&handle, &Quota::new(), 9), 9);
}

#[tokio::test(start_paused = true)]
async fn of_several_paces_each_has_its_own_place_back_and_the_slowest_is_the_one_that_queues() {
    let paced = |priority: u32, calls: u32| {
        json!({"priority": priority, "action": "UNIRATE", "max_queue_delay": 10,
            "amounts": [{"maxAmount": calls, "validDuration": "1s"}]})
    };
    let none = json!({"priority": 9, "method": exact("/none"), "amounts": [{"maxAmount": 0, "validDuration": "1s"}]});
    // More of them than places that are kept without allocating.
    let rules: Vec<_> = (0..6).map(|n| ("paced", paced(n, [100, 50, 20, 10, 1, 5][n as usize]))).collect();
    let (_server, _context, handle) = limited(&[rules, vec![("none", none)]].concat()).await;
    drop(granted(handle.check(&Quota::new())));
    for _ in 0..3 {
        assert_eq!(refuser(&handle, &Quota::new().method("/none")).as_deref(), Some("none"));
        let Decision::Wait(ticket) = handle.check(&Quota::new()).unwrap() else { panic!("it is early") };
        assert!(ticket.wait() > SECOND / 2 && ticket.wait() <= SECOND, "{:?}", ticket.wait());
        let held: Vec<_> = handle.usage().iter().map(|rule| rule.passed).collect();
        assert_eq!(held, [2, 2, 2, 2, 2, 2, 0]);
    }
    let usage: Vec<_> = handle.usage().iter().map(|rule| (rule.passed, rule.queued)).collect();
    assert_eq!(usage, [(1, 0), (1, 0), (1, 0), (1, 0), (1, 3), (1, 0), (0, 0)]);
    tokio::time::advance(SECOND).await;
    drop(granted(handle.check(&Quota::new())));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_has_no_window_for_a_call_leaves_what_the_others_counted_to_be_given_back() {
    let paced = |priority: u32, fields: Value| {
        with_fields(json!({"priority": priority, "action": "UNIRATE", "max_queue_delay": 10}), &fields)
    };
    let apart = json!([{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": "."}}]);
    let slow = json!({"arguments": apart, "amounts": [{"maxAmount": 1, "validDuration": "3600s"}]});
    let none = json!({"priority": 2, "method": exact("/none"), "amounts": [{"maxAmount": 0, "validDuration": "1s"}]});
    let server = Server::in_memory();
    for (name, fields) in [("apart", paced(0, slow)), ("together", paced(1, json!({}))), ("none", none)] {
        server.rule(RuleKind::RateLimit, rule(name, &fields)).unwrap();
    }
    let context = server.builder().set("provider.rateLimit.maxWindowCount", "1").build().unwrap();
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    let [one, two] = ["1", "2"].map(|uid| LabelSet::new().header("uid", uid));
    drop(granted(handle.check(&Quota::new().labels(&one))));
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(refuser(&handle, &Quota::new().method("/none").labels(&two)).as_deref(), Some("none"));
    drop(granted(handle.check(&Quota::new().labels(&two))));
    // What queues and gives up leaves the place behind it as well.
    let Decision::Wait(ticket) = handle.check(&Quota::new().labels(&two)).unwrap() else { panic!("it is early") };
    assert!(ticket.wait() > SECOND / 2);
    drop(ticket);
    tokio::time::advance(SECOND).await;
    drop(granted(handle.check(&Quota::new())));
    let passed: Vec<_> = handle.usage().iter().map(|rule| (rule.passed, rule.windows)).collect();
    assert_eq!(passed, [(1, 1), (3, 1), (0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_under_way_in_all_rules_that_limit_such_calls_and_in_none_if_one_refuses_it() {
    let most = |priority: u32, calls: u32| {
        json!({"priority": priority, "resource": "CONCURRENCY",
            "amounts": [{"maxAmount": calls, "validDuration": "1s"}]})
    };
    let none = json!({"priority": 9, "method": exact("/none"), "amounts": [{"maxAmount": 0, "validDuration": "1s"}]});
    let (_server, _context, handle) =
        limited(&[("four", most(0, 4)), ("two", most(1, 2)), ("three", most(2, 3)), ("none", none)]).await;
    for round in 1..9 {
        assert_eq!(refuser(&handle, &Quota::new().method("/none")).as_deref(), Some("none"));
        let permits: Vec<_> = (0..2).map(|_| granted(handle.check(&Quota::new()))).collect();
        assert_eq!(refuser(&handle, &Quota::new()).as_deref(), Some("two"));
        let passed: Vec<_> = handle.usage().iter().map(|rule| rule.passed).collect();
        assert_eq!(passed, [2 * round, 2 * round, 2 * round, 0]);
        drop(permits);
    }
}

// === rules that change, and that cannot be had

#[tokio::test(start_paused = true)]
async fn rules_change_within_a_refresh_and_what_did_not_change_goes_on() {
    let (server, _context, handle) = limited(&[("first", amount(2))]).await;
    assert_eq!(passes(&handle, &Quota::new(), 5), 2);
    let second = server.rule(
        RuleKind::RateLimit,
        rule("second", &json!({"priority": 9, "amounts": [{"maxAmount": 1, "validDuration": "3600s"}]})),
    );
    let second = second.unwrap();
    eventually("the second rule is there", 3 * SECOND, async || handle.usage().len() == 2).await;
    assert_eq!(handle.usage()[0].passed, 2, "the first goes on counting");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(passes(&handle, &Quota::new(), 5), 1);
    server.change_rule(RuleKind::RateLimit, &second, amount(7)).unwrap();
    let anew = async || handle.usage()[1].passed == 0;
    eventually("the second rule is anew", 3 * SECOND, anew).await;
    server.enable_rule(RuleKind::RateLimit, &second, false).unwrap();
    eventually("the second rule is off", 3 * SECOND, async || handle.usage().len() == 1).await;
    let first = server.rules(RuleKind::RateLimit).into_keys().find(|id| *id != second).unwrap();
    server.remove_rule(RuleKind::RateLimit, &first);
    eventually("nothing is limited", 3 * SECOND, async || passes(&handle, &Quota::new(), 50) == 50).await;
    assert_eq!(handle.usage(), []);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_cannot_be_understood_takes_no_other_with_it_and_is_told() {
    let server = Server::in_memory();
    server.rule(RuleKind::RateLimit, rule("bad", &json!({"action": "dance"}))).unwrap();
    server.rule(RuleKind::RateLimit, rule("good", &amount(1))).unwrap();
    let context = server.context().unwrap();
    let handle = context.limiter().service(PAY);
    handle.ready().await.unwrap();
    assert_eq!(passes(&handle, &Quota::new(), 5), 1);
    let ContextState::Degraded { troubles, .. } = context.state() else { panic!("it is told") };
    assert!(troubles[0].to_string().contains("action \"dance\"; known are REJECT and UNIRATE"), "{}", troubles[0]);
}

#[tokio::test(start_paused = true)]
async fn without_rules_all_calls_pass_and_the_service_need_not_exist() {
    let (_server, context, handle) = limited(&[]).await;
    assert_eq!(passes(&handle, &Quota::new().method("/any"), 1_000), 1_000);
    let permit = context.limiter().get_quota(GetQuota::new("nowhere", "nobody")).await.unwrap();
    assert!(permit.unknown().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_first_call_waits_for_the_rules() {
    let server = Server::in_memory();
    server.rule(RuleKind::RateLimit, rule("one", &amount(1))).unwrap();
    server.on(Rpc::Discover).kind(ResourceKind::RateLimit).delay(Duration::from_millis(700));
    let context = server.context().unwrap();
    let began = Instant::now();
    assert!(context.limiter().get_quota(PAY).await.unwrap().unknown().is_none());
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(context.limiter().get_quota(PAY).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_admitted_and_told_or_refused_as_configured() {
    for (policy, admitted) in [("admit", true), ("reject", false)] {
        let server = Server::in_memory();
        server.rule(RuleKind::RateLimit, rule("one", &amount(1))).unwrap();
        server.on(Rpc::Discover).hang();
        let context = server.builder().set("provider.rateLimit.onUnknown", policy).build().unwrap();
        let began = Instant::now();
        let error = match context.limiter().get_quota(PAY).await {
            Ok(permit) if admitted => permit.unknown().unwrap().clone(),
            Err(QuotaError::Failed(error)) if !admitted => error,
            other => panic!("{other:?}"),
        };
        assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, SECOND));
        let again = Instant::now();
        assert_eq!(context.limiter().get_quota(PAY).await.is_ok(), admitted);
        assert_eq!(again.elapsed(), Duration::ZERO, "one wait is enough");
        match context.limiter().check(&PAY.into()) {
            Ok(Decision::Granted(permit)) if admitted => assert!(permit.unknown().is_some()),
            Err(error) if !admitted => assert_eq!(error.kind(), ErrorKind::NotReady),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_were_loaded_stay_in_force_while_the_control_plane_is_gone() {
    let (server, _context, handle) = limited(&[("one", amount(1))]).await;
    server.on(Rpc::Discover).hang();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(passes(&handle, &Quota::new(), 5), 1);
}

#[tokio::test(start_paused = true)]
async fn limits_can_be_switched_off() {
    let server = Server::in_memory();
    server.rule(RuleKind::RateLimit, rule("none", &amount(0))).unwrap();
    let context = server.builder().set("provider.rateLimit.enable", "false").build().unwrap();
    let handle = context.limiter().service(PAY);
    assert_eq!(passes(&handle, &Quota::new(), 5), 5);
    assert!(context.limiter().get_quota(PAY).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_and_a_context_that_is_shut_down_are_errors() {
    let (_server, context, handle) = limited(&[]).await;
    for key in [("default", ""), ("", "a"), ("default", "a b")] {
        let error = context.limiter().check(&key.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{key:?}");
        let Err(QuotaError::Failed(error)) = context.limiter().get_quota(key).await else { panic!("{key:?}") };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{key:?}");
    }
    let limiter = context.limiter();
    context.shutdown(SECOND).await.unwrap();
    assert_eq!(handle.check(&Quota::new()).unwrap_err().kind(), ErrorKind::Closed);
    let Err(QuotaError::Failed(error)) = limiter.get_quota(PAY).await else { panic!("it is closed") };
    assert_eq!(error.kind(), ErrorKind::Closed);
}
