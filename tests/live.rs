//! Against a real Polaris server on loopback, at `POLARIS_SERVER_ADDRESS`: the only tests that are ignored by default.
//!
//! `POLARIS_SERVER_ADDRESS=127.0.0.1:8091 cargo test --test live -- --ignored --test-threads=1`
//!
//! One after the other, because one of them loads the server; each uses services of names that no other run has used. A
//! server that checks health every second (`healthcheck.maxCheckInterval: 1s`) keeps the whole run at about a minute. With
//! `--nocapture` it says how long picks took to follow a change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "how long a change took is worth knowing")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use polarismesh::{
    ContextState, Decision, ErrorKind, GetOneInstance, InstanceId, LabelSet, LimitHandle, Location, Pick, Quota,
    Register, Registration, RegistrationState, RuleKind, SdkContext, ServerCode, ServiceHandle, ServiceKey, Update,
};
use serde_json::{Value, json};
use support::console::Console;
use support::{eventually, throughout};
use tokio::time::Instant;

/// How long a change may take to be seen by a polling client: the server ticks every second, clients poll every two.
const SEEN: Duration = Duration::from_secs(6);
/// How long until the last instance of a service is gone: an empty list is believed after three polls only.
const GONE: Duration = Duration::from_secs(14);
const TTL: Duration = Duration::from_secs(1);

fn server() -> String {
    std::env::var("POLARIS_SERVER_ADDRESS").expect("POLARIS_SERVER_ADDRESS names the server under test")
}

fn context() -> SdkContext {
    SdkContext::builder().address(server()).build().unwrap()
}

/// A service that no other test and no earlier run has used.
fn service(name: &str) -> ServiceKey {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    ServiceKey::new("default", format!("live-{name}-{now}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn instance(key: &ServiceKey, port: u16) -> Register {
    Register::new(key, ("127.0.0.1", port)).ttl(TTL).drain(Duration::from_secs(1))
}

/// What a client sees of the instance on `port`: health and isolation.
async fn sees(context: &SdkContext, key: &ServiceKey, port: u16) -> Option<(bool, bool)> {
    let list = context.consumer().get_all_instances(key).await.ok()?;
    list.instances().iter().find(|i| i.port() == port).map(|i| (i.is_healthy(), i.is_isolated()))
}

async fn stop(contexts: impl IntoIterator<Item = SdkContext>) {
    for context in contexts {
        context.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn a_registered_instance_is_seen_stays_healthy_and_leaves() {
    let key = service("life");
    let (provider, consumer) = (context(), context());
    let register = instance(&key, 9001).weight(30).version("1.2").protocol("grpc").metadata("env", "live");
    let registration = provider.provider().register(register).await.unwrap();
    eventually("seen", SEEN, async || sees(&consumer, &key, 9001).await == Some((true, false))).await;

    let picked = consumer.consumer().get_one_instance(&key).await.unwrap();
    assert_eq!(picked.authority(), "127.0.0.1:9001");
    assert_eq!((picked.weight(), picked.version(), picked.protocol()), (30, "1.2", "grpc"));
    assert_eq!(picked.metadata().get("env"), Some("live"));
    assert_eq!(Some(picked.id().as_str()), registration.instance_id().as_ref().map(InstanceId::as_str));

    let healthy = async || sees(&consumer, &key, 9001).await == Some((true, false));
    throughout("beats keep it healthy", 4 * TTL, healthy).await;
    assert!(matches!(registration.state(), RegistrationState::Registered));

    registration.deregister().await.unwrap();
    eventually("gone", GONE, async || sees(&consumer, &key, 9001).await.is_none()).await;
    let empty = consumer.consumer().get_one_instance(&key).await.unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::NoInstances, "{empty}");
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn an_instance_whose_process_was_killed_turns_unhealthy() {
    let key = service("killed");
    let (provider, consumer) = (context(), context());
    provider.provider().register(instance(&key, 9001)).await.unwrap();
    eventually("seen", SEEN, async || sees(&consumer, &key, 9001).await == Some((true, false))).await;
    // The last handle goes without a shutdown: beats stop.
    drop(provider);
    eventually("unhealthy", Duration::from_secs(75), async || {
        sees(&consumer, &key, 9001).await == Some((false, false))
    })
    .await;
    stop([consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn an_instance_that_was_removed_at_the_console_comes_back_with_its_latest_data() {
    let key = service("removed");
    let (provider, consumer) = (context(), context());
    let registration = provider.provider().register(instance(&key, 9001).metadata("v", "1")).await.unwrap();
    registration
        .update(|wanted| {
            wanted.set_metadata("v", "2");
        })
        .await
        .unwrap();
    eventually("seen", SEEN, async || sees(&consumer, &key, 9001).await.is_some()).await;

    let id = registration.instance_id().unwrap();
    let console = Console::beside(&server());
    console.post("/naming/v1/instances/delete", &json!([{"id": id.as_str()}])).await;
    let lost = async || matches!(registration.state(), RegistrationState::Lost(_));
    eventually("lost", 12 * TTL + SEEN, lost).await;
    eventually("restored", SEEN, async || matches!(registration.state(), RegistrationState::Registered)).await;
    eventually("seen again", SEEN, async || sees(&consumer, &key, 9001).await == Some((true, false))).await;
    let picked = consumer.consumer().get_one_instance(&key).await.unwrap();
    assert_eq!(picked.metadata().get("v"), Some("2"));
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn an_old_instance_that_is_deregistered_is_gone_for_everyone() {
    let key = service("old");
    let (provider, consumer) = (context(), context());
    // Without beats nothing touches the instance, and with a long drain its last write is old when it is removed: a bolt
    // store would hide the removal, once anything else was written later.
    let old = instance(&key, 9001).manual_heartbeat().drain(Duration::from_secs(7));
    let registration = provider.provider().register(old).await.unwrap();
    eventually("seen", SEEN, async || sees(&consumer, &key, 9001).await.is_some()).await;
    let present = async || sees(&consumer, &key, 9001).await.is_some();
    throughout("it ages", Duration::from_secs(7), present).await;
    let (removed, ()) = tokio::join!(registration.deregister(), async {
        throughout("it drains", Duration::from_secs(6), async || true).await;
        provider.provider().register(instance(&service("newer"), 9002)).await.unwrap();
    });
    removed.unwrap();
    eventually("gone", GONE, async || sees(&consumer, &key, 9001).await.is_none()).await;
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn an_alias_shows_the_instances_of_its_service() {
    let key = service("source");
    let alias = service("alias");
    let (provider, consumer) = (context(), context());
    provider.provider().register(instance(&key, 9001)).await.unwrap();
    eventually("seen", SEEN, async || sees(&consumer, &key, 9001).await.is_some()).await;
    let body = json!({"service": key.service(), "namespace": "default", "alias": alias.service(),
        "alias_namespace": "default"});
    Console::beside(&server()).post("/naming/v1/service/alias", &body).await;
    eventually("seen by its alias", SEEN, async || sees(&consumer, &alias, 9001).await.is_some()).await;
    let list = consumer.consumer().get_all_instances(&alias).await.unwrap();
    assert_eq!((list.key(), list.alias_for()), (&alias, Some(&key)));

    let refused = provider.provider().register(instance(&alias, 9002)).await.unwrap_err();
    assert_eq!(refused.server_code().map(ServerCode::get), Some(400_000), "an alias takes no registration: {refused}");
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn an_empty_and_an_unknown_service_are_told_apart() {
    let key = service("empty");
    let consumer = context();
    let unknown = consumer.consumer().get_one_instance(&key).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::ServiceNotFound, "{unknown}");

    Console::beside(&server()).service(&key, json!({})).await;
    let empty = async || {
        let error = consumer.consumer().get_one_instance(&key).await.unwrap_err();
        error.kind() == ErrorKind::NoInstances
    };
    eventually("known and empty", SEEN, empty).await;
    assert!(consumer.consumer().get_all_instances(&key).await.unwrap().is_empty());
    let services = consumer.consumer().get_services("default").await.unwrap();
    assert!(services.services().iter().any(|s| s.key() == &key));
    stop([consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn two_clients_watch_the_same_service() {
    let key = service("watched");
    let (provider, one, two) = (context(), context(), context());
    let mut watches = [one.consumer().watch_instances(&key), two.consumer().watch_instances(&key)];
    let registration = provider.provider().register(instance(&key, 9001)).await.unwrap();
    for watch in &mut watches {
        let seen = async {
            loop {
                match watch.next().await {
                    Some(Update::Current(list)) if list.len() == 1 => return,
                    Some(_) => {}
                    None => panic!("the watch ended"),
                }
            }
        };
        tokio::time::timeout(SEEN, seen).await.expect("the instance is told of");
    }
    registration.set_isolated(true).await.unwrap();
    for context in [&one, &two] {
        eventually("isolated", SEEN, async || sees(context, &key, 9001).await == Some((true, true))).await;
    }
    stop([provider, one, two]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn a_thousand_instances_of_one_service_are_registered_and_seen() {
    let key = service("thousand");
    let (provider, consumer) = (context(), context());
    let registrations: Vec<_> = (1..=1000)
        .map(|n| {
            let host = format!("127.0.{}.{}", n / 250, n % 250 + 1);
            let register = Register::new(&key, (host, 9001)).ttl(Duration::from_secs(10)).drain(Duration::ZERO);
            provider.provider().register_in_background(register).unwrap()
        })
        .collect();
    for registration in &registrations {
        tokio::time::timeout(Duration::from_secs(60), registration.registered()).await.unwrap().unwrap();
    }
    let all = async || consumer.consumer().get_all_instances(&key).await.is_ok_and(|list| list.len() == 1000);
    eventually("all seen", SEEN, all).await;
    let mut picked = std::collections::HashSet::new();
    for _ in 0..20_000 {
        picked.insert(consumer.consumer().get_one_instance(&key).await.unwrap().authority().to_owned());
    }
    assert!(picked.len() > 990, "picks reach them all: {}", picked.len());
    provider.shutdown(Duration::from_secs(60)).await.map_err(|e| e.to_string()).unwrap();
    let none = async || consumer.consumer().get_all_instances(&key).await.is_ok_and(|list| list.is_empty());
    eventually("all gone", GONE, none).await;
    stop([consumer]).await;
}

/// Two instances of version v1, on ports 9001 and 9002, and two of v2, on 9003 and 9004.
async fn versions(provider: &SdkContext, key: &ServiceKey) {
    for port in 9001..=9004 {
        let version = if port < 9003 { "v1" } else { "v2" };
        provider.provider().register(instance(key, port).metadata("stage", version)).await.unwrap();
    }
}

fn at(key: &ServiceKey) -> (&str, &str) {
    (key.namespace(), key.service())
}

/// A rule about calls from `sources` to `callee`, which share its stages by weight.
fn rule(name: &ServiceKey, sources: &Value, callee: (&str, &str), groups: &[(&str, u32)]) -> Value {
    let group = |(stage, weight): &(&str, u32)| {
        json!({"namespace": callee.0, "service": callee.1, "name": stage, "weight": weight, "priority": 0, "isolate": false,
            "labels": {"stage": {"type": "EXACT", "value": stage}}})
    };
    json!({"name": name.service(), "namespace": "default", "enable": true, "routing_policy": "RulePolicy", "priority": 0,
        "routing_config": {"@type": "type.googleapis.com/v1.RuleRoutingConfig", "rules": [{"name": "only",
            "sources": [sources], "destinations": groups.iter().map(group).collect::<Vec<_>>()}]}})
}

async fn ready(context: &SdkContext, key: &ServiceKey, instances: usize) -> ServiceHandle {
    let handle = context.consumer().service(key);
    eventually("all seen", SEEN, async || handle.snapshot().is_some_and(|list| list.len() == instances)).await;
    handle
}

/// The ports that many picks come to; none while the caller's rules are on their way.
fn picked(handle: &ServiceHandle, pick: &Pick<'_>) -> Vec<u16> {
    let port = |_| match handle.pick(pick) {
        Err(error) if error.kind() == ErrorKind::NotReady => None,
        picked => Some(picked.unwrap().port()),
    };
    (0..200).filter_map(port).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Picks come to these ports, at the latest when a change may be seen.
async fn follow(what: &str, handle: &ServiceHandle, pick: &Pick<'_>, ports: &[u16]) {
    let began = Instant::now();
    eventually(what, SEEN, async || picked(handle, pick) == ports).await;
    println!("{what}: picks followed after {} ms", began.elapsed().as_millis());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn picks_follow_a_rule_that_is_made_switched_changed_and_removed() {
    let key = service("canary");
    let (provider, consumer, console) = (context(), context(), Console::beside(&server()));
    versions(&provider, &key).await;
    let handle = ready(&consumer, &key, 4).await;
    let (seven, eight) = (LabelSet::new().header("uid", "7"), LabelSet::new().header("uid", "8"));
    let (tester, other) = (Pick::new().labels(&seven), Pick::new().labels(&eight));
    let all = [9001, 9002, 9003, 9004];
    assert_eq!(picked(&handle, &tester), all);

    let tests = json!({"namespace": "*", "service": "*",
        "arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "EXACT", "value": "7"}}]});
    let canary = |stage: &str| rule(&key, &tests, at(&key), &[(stage, 100)]);
    let id = console.rule(&canary("v2")).await;
    follow("made", &handle, &tester, &[9003, 9004]).await;
    assert_eq!(picked(&handle, &other), all, "a call that it is not for");
    assert_eq!(picked(&handle, &Pick::new()), all, "a call without labels");
    let request = GetOneInstance::new("default", key.service()).labels(&seven);
    let told = consumer.router().explain(request).await.unwrap();
    assert_eq!(told.support().len(), 2, "{told}");
    assert!(told.to_string().contains(&format!("rule {}.only matches", key.service())), "{told}");

    console.enable_rule(&id, false).await;
    follow("switched off", &handle, &tester, &all).await;
    console.enable_rule(&id, true).await;
    follow("switched on", &handle, &tester, &[9003, 9004]).await;
    console.change_rule(&id, &canary("v1")).await;
    follow("changed", &handle, &tester, &[9001, 9002]).await;
    console.remove_rule(&id).await;
    follow("removed", &handle, &tester, &all).await;
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn groups_share_the_calls_by_weight() {
    let key = service("split");
    let (provider, consumer, console) = (context(), context(), Console::beside(&server()));
    versions(&provider, &key).await;
    let handle = ready(&consumer, &key, 4).await;
    let anybody = json!({"namespace": "*", "service": "*"});
    let share = || (0..10_000).filter(|_| handle.pick(&Pick::new()).unwrap().port() > 9002).count();
    let id = console.rule(&rule(&key, &anybody, at(&key), &[("v1", 80), ("v2", 20)])).await;
    // 2,000 expected; the bounds are six standard deviations away.
    eventually("80 to 20", SEEN, async || (1_760..=2_240).contains(&share())).await;
    console.change_rule(&id, &rule(&key, &anybody, at(&key), &[("v1", 50), ("v2", 50)])).await;
    eventually("half and half", SEEN, async || (4_700..=5_300).contains(&share())).await;
    console.change_rule(&id, &rule(&key, &anybody, at(&key), &[("v1", 0), ("v2", 100)])).await;
    follow("all to one group", &handle, &Pick::new(), &[9003, 9004]).await;
    console.remove_rule(&id).await;
    follow("removed", &handle, &Pick::new(), &[9001, 9002, 9003, 9004]).await;
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn a_callers_own_rule_is_for_its_calls_to_anybody() {
    let (key, web) = (service("callee"), service("caller"));
    let (provider, consumer, console) = (context(), context(), Console::beside(&server()));
    console.service(&web, json!({})).await;
    versions(&provider, &key).await;
    let handle = ready(&consumer, &key, 4).await;
    let sources = json!({"namespace": "default", "service": web.service()});
    // Main tells it to the caller alone; 1.18.1 tells every service that it may be called so.
    let id = console.rule(&rule(&key, &sources, ("*", "*"), &[("v2", 100)])).await;
    let pick = Pick::new().caller(&web);
    follow("the caller's calls", &handle, &pick, &[9003, 9004]).await;
    assert_eq!(picked(&handle, &Pick::new()), [9001, 9002, 9003, 9004], "nobody in particular calls");
    // Where the callee's copy led the picks, the caller's own may come a poll later.
    let (api, name) = (consumer.consumer(), format!("{}.only.v2", key.service()));
    let own = async || api.get_rule(&web, RuleKind::Routing).await.unwrap().json().contains(&name);
    eventually("the caller has the rule", SEEN, own).await;
    console.remove_rule(&id).await;
    follow("removed", &handle, &pick, &[9001, 9002, 9003, 9004]).await;
    stop([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real server"]
async fn a_service_that_asks_for_near_instances_gets_them_while_there_are_some() {
    let key = service("nearby");
    let console = Console::beside(&server());
    console.service(&key, json!({"internal-enable-nearby": "true"})).await;
    let provider = context();
    let mut registrations: Vec<Registration> = Vec::new();
    for (port, zone) in [(9001, "near"), (9002, "near"), (9003, "far")] {
        let register = instance(&key, port).location(Location::new("north", zone, ""));
        registrations.push(provider.provider().register(register).await.unwrap());
    }
    let here = SdkContext::builder().address(server()).set("global.location.region", "north");
    let consumer = here.set("global.location.zone", "near").build().unwrap();
    let handle = ready(&consumer, &key, 3).await;
    assert_eq!(picked(&handle, &Pick::new()), [9001, 9002]);
    registrations[0].set_isolated(true).await.unwrap();
    follow("one is out", &handle, &Pick::new(), &[9002]).await;
    registrations[1].set_isolated(true).await.unwrap();
    follow("both are out", &handle, &Pick::new(), &[9003]).await;
    registrations[0].set_isolated(false).await.unwrap();
    follow("one is back", &handle, &Pick::new(), &[9001]).await;
    console.service(&key, json!({"internal-enable-nearby": "false"})).await;
    follow("nobody asks for it any more", &handle, &Pick::new(), &[9001, 9003]).await;
    assert_eq!(picked(&handle, &Pick::new().nearby()), [9001], "but for a request that does");
    stop([provider, consumer]).await;
}

// === limits

/// A rule for all calls to a service: so many a second; `fields` beside, or in place.
fn limit(key: &ServiceKey, calls: u32, fields: &Value) -> Value {
    let mut rule = json!({"name": "live", "namespace": key.namespace(), "service": key.service(), "resource": "QPS",
        "type": "LOCAL", "action": "REJECT", "disable": false,
        "amounts": [{"maxAmount": calls, "validDuration": "1s"}]});
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    rule
}

/// How many of a hundred calls pass at once.
fn passes(handle: &LimitHandle, quota: &Quota<'_>) -> usize {
    (0..100).filter(|_| matches!(handle.check(quota).unwrap(), Decision::Granted(_))).count()
}

#[tokio::test]
#[ignore = "needs a real server"]
async fn limits_follow_a_rule_that_is_made_changed_switched_and_removed() {
    let (console, key, context) = (Console::beside(&server()), service("limit"), context());
    console.service(&key, json!({})).await;
    let handle = context.limiter().service(key.clone());
    handle.ready().await.unwrap();
    assert_eq!(passes(&handle, &Quota::new()), 100);
    let arguments = json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": ".+"}}],
        "method": {"type": "EXACT", "value": "/pay"}, "regex_combine": false});
    let id = console.limit(&limit(&key, 7, &arguments)).await;
    let labels = [LabelSet::new().header("uid", "1"), LabelSet::new().header("uid", "2")];
    let [one, two] = labels.each_ref().map(|labels| Quota::new().method("/pay").labels(labels));
    let follow = async |what: &str, calls: usize| {
        let began = Instant::now();
        // A window has to pass between two looks, or the first would use up what the second is to find.
        while passes(&handle, &one) != calls {
            assert!(began.elapsed() < SEEN + 3 * TTL, "{what}");
            tokio::time::sleep(TTL + TTL / 10).await;
        }
        println!("{what}: followed after {:?}", began.elapsed());
    };
    follow("a rule that is made", 7).await;
    assert_eq!(passes(&handle, &two), 7, "the other user has a window of its own");
    assert_eq!(passes(&handle, &Quota::new().method("/other").labels(&labels[0])), 100);
    console.change_limit(&id, &limit(&key, 3, &arguments)).await;
    follow("a rule that is changed", 3).await;
    console.enable_limit(&id, false).await;
    follow("a rule that is switched off", 100).await;
    console.enable_limit(&id, true).await;
    follow("a rule that is switched on", 3).await;
    console.remove_limit(&id).await;
    follow("a rule that is removed", 100).await;
    stop([context]).await;
}

#[tokio::test]
#[ignore = "needs a real server"]
async fn a_pace_is_kept_as_the_rule_says() {
    let (console, key, context) = (Console::beside(&server()), service("pace"), context());
    console.service(&key, json!({})).await;
    console.limit(&limit(&key, 10, &json!({"action": "UNIRATE", "max_queue_delay": 1}))).await;
    let handle = context.limiter().service(key.clone());
    let paced = async || handle.check(&Quota::new()).is_ok_and(|decision| matches!(decision, Decision::Wait(_)));
    eventually("the rule is there", SEEN, paced).await;
    tokio::time::sleep(TTL).await;
    let began = Instant::now();
    for _ in 0..6 {
        drop(context.limiter().get_quota(&key).await.unwrap());
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(490)..Duration::from_millis(900)).contains(&took), "{took:?}");
    stop([context]).await;
}

/// Needs a polaris-limiter that is registered at the server.
#[tokio::test]
#[ignore = "needs a real server"]
async fn clients_share_a_quota_through_the_limiter() {
    const CLIENTS: usize = 4;
    let (console, key) = (Console::beside(&server()), service("shared"));
    console.service(&key, json!({})).await;
    console.limit(&limit(&key, 100, &json!({"type": "GLOBAL", "failover": "FAILOVER_LOCAL"}))).await;
    tokio::time::sleep(SEEN / 2).await;
    let contexts: Vec<_> = (0..CLIENTS).map(|_| context()).collect();
    let handles: Vec<_> = contexts.iter().map(|context| context.limiter().service(key.clone())).collect();
    for handle in &handles {
        handle.ready().await.unwrap();
    }
    // Each asks for more than its part, and for more than all of it together.
    let run = async |length: Duration| {
        let (began, mut passed) = (Instant::now(), 0_usize);
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while began.elapsed() < length {
            ticks.tick().await;
            let granted = |handle: &&LimitHandle| matches!(handle.check(&Quota::new()).unwrap(), Decision::Granted(_));
            passed += handles.iter().filter(granted).count();
        }
        passed
    };
    run(3 * TTL).await;
    let passed = run(10 * TTL).await;
    println!("{CLIENTS} clients had {passed} of 1000");
    assert!((900..=1_060).contains(&passed), "{passed} of 1000");
    let states: Vec<_> = contexts.iter().map(SdkContext::state).collect();
    assert!(states.iter().all(|state| *state == ContextState::Ready), "{states:?}");
    stop(contexts).await;
}
