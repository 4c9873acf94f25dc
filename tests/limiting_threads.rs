//! All or nothing, while threads race: what is granted is what the rules have counted, and nothing is lost or left over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may panic, and threads have no paused clock"
)]

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use polarismesh::testing::Server;
use polarismesh::{Decision, LabelSet, LimitHandle, Quota, RuleKind, SdkContext};
use serde_json::{Value, json};
use support::limits::with_fields;

const PAY: (&str, &str) = ("default", "payments");
const SECOND: Duration = Duration::from_secs(1);

/// A rule for calls to `PAY`, by this process alone.
fn rule(name: &str, priority: u32, fields: &Value) -> String {
    let rule = json!({"name": name, "priority": priority, "namespace": PAY.0, "service": PAY.1, "type": "LOCAL"});
    with_fields(rule, fields).to_string()
}

/// So many calls in an hour: how long the test takes changes nothing.
fn hourly(calls: u32) -> Value {
    json!({"amounts": [{"maxAmount": calls, "validDuration": "3600s"}]})
}

/// Runs a test on a runtime of its own, whose threads do what happens beside the calls.
fn run(rules: &[String], settings: &[(&str, &str)], test: impl FnOnce(&SdkContext, &LimitHandle)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, context) = runtime.block_on(async {
        let server = Server::in_memory();
        // The amount of a rule about concurrency is lost on public servers.
        server.newer_kinds(true);
        for rule in rules {
            server.rule(RuleKind::RateLimit, rule).unwrap();
        }
        let builder = settings.iter().fold(server.builder(), |builder, (key, value)| builder.set(key, *value));
        let context = builder.build().unwrap();
        context.limiter().service(PAY).ready().await.unwrap();
        (server, context)
    });
    test(&context, &context.limiter().service(PAY));
    runtime.block_on(async {
        context.shutdown(5 * SECOND).await.unwrap();
        server.shutdown().await;
    });
}

/// Some number, another one each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Counts who is inside, and how many that ever were at once.
#[derive(Default)]
struct Inside {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Inside {
    fn enter(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

const WIDE: u32 = 40_000;
const NARROW: u32 = 9_000;
const TOGETHER: u32 = 3;

/// What two threads were granted, of all calls and of those of the narrow rule.
fn hammer(handle: &LimitHandle, seed: u64, inside: &Inside) -> (u64, u64) {
    let (all, narrow) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (all, narrow) = (&all, &narrow);
            scope.spawn(move || {
                let mut dice = Dice(seed * 2 + thread);
                let mut held = Vec::new();
                for _ in 0..60_000 {
                    let is_narrow = dice.roll(2) == 0;
                    let quota = Quota::new().method(if is_narrow { "/pay" } else { "/look" });
                    let permit = match handle.check(&quota).unwrap() {
                        Decision::Granted(permit) => Some(permit),
                        // Half of those who may come later do not.
                        Decision::Wait(ticket) => (dice.roll(2) == 0).then(|| ticket.into_permit()),
                        _ => None,
                    };
                    if let Some(permit) = permit {
                        inside.enter();
                        all.fetch_add(1, Ordering::Relaxed);
                        narrow.fetch_add(u64::from(is_narrow), Ordering::Relaxed);
                        held.push(permit);
                    }
                    if dice.roll(3) > 0 && !held.is_empty() {
                        inside.leave();
                        drop(held.swap_remove(usize::try_from(dice.roll(100)).unwrap() % held.len()));
                    }
                }
                for permit in held {
                    inside.leave();
                    drop(permit);
                }
            });
        }
    });
    (all.into_inner(), narrow.into_inner())
}

fn all_or_nothing(paced: bool) {
    let mut narrow = hourly(NARROW);
    narrow["method"] = json!({"type": "EXACT", "value": "/pay"});
    let mut rules = vec![
        rule("wide", 0, &hourly(WIDE)),
        rule("narrow", 2, &narrow),
        rule("together", 1, &json!({"resource": "CONCURRENCY", "concurrencyAmount": {"maxAmount": TOGETHER}})),
    ];
    if paced {
        // So fast that some have to wait and others need not, and some would have to wait for too long.
        let pace = json!({"action": "UNIRATE", "amounts": [{"maxAmount": 500_000, "validDuration": "1s"}]});
        rules.push(rule("paced", 3, &pace));
    }
    for seed in 0..3 {
        run(&rules, &[("provider.rateLimit.maxQueuingTime", "1ms")], |_, handle| {
            let inside = Inside::default();
            let (mut all, mut few) = hammer(handle, seed, &inside);
            assert!(inside.most.into_inner() <= TOGETHER as usize);
            let check = |all: u64, few: u64| {
                for rule in handle.usage() {
                    let expected = if &*rule.name == "narrow" { few } else { all };
                    assert_eq!(rule.passed, expected, "{} of {all} and {few}: {:?}", rule.name, handle.usage());
                }
                assert!(all <= WIDE.into() && few <= NARROW.into(), "{all} {few}");
            };
            check(all, few);
            // All that was given back is there: as many may be under way, and pass, as if nobody had been refused.
            let pass = |method: &str| {
                let began = Instant::now();
                while began.elapsed() < 5 * SECOND {
                    match handle.check(&Quota::new().method(method)).unwrap() {
                        Decision::Granted(permit) => return Some(permit),
                        // Another try, that nothing counts.
                        Decision::Limited(limited) if limited.rule() != "paced" => return None,
                        _ => {}
                    }
                }
                panic!("nothing but waiting");
            };
            let permits: Vec<_> = (0..TOGETHER).filter_map(|_| pass("/look")).collect();
            all += u64::try_from(permits.len()).unwrap();
            assert!(permits.len() == TOGETHER as usize || all == u64::from(WIDE), "{} at once", permits.len());
            drop(permits);
            while pass("/pay").is_some() {
                (all, few) = (all + 1, few + 1);
            }
            assert!(few == u64::from(NARROW) || all == u64::from(WIDE), "{few} of {NARROW}, {all} of {WIDE}");
            while pass("/look").is_some() {
                all += 1;
            }
            assert_eq!(all, u64::from(WIDE));
            check(all, few);
        });
    }
}

#[test]
fn what_is_granted_is_what_each_rule_has_counted() {
    all_or_nothing(false);
}

#[test]
fn what_is_granted_is_what_each_rule_has_counted_also_where_tickets_are_dropped() {
    all_or_nothing(true);
}

#[test]
fn calls_under_way_are_counted_by_the_window_that_they_entered_whatever_is_dropped_meanwhile() {
    let apart = json!([{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": "."}}]);
    let together = json!({"resource": "CONCURRENCY", "concurrencyAmount": {"maxAmount": 2}, "arguments": apart});
    // Little room, so that windows are dropped as often as can be, and what has none is refused.
    let settings = [
        ("provider.rateLimit.maxWindowCount", "3"),
        ("provider.rateLimit.fallbackOnExceedWindowCount", "reject"),
        ("provider.rateLimit.purgeInterval", "1s"),
    ];
    run(&[rule("together", 0, &together)], &settings, |_, handle| {
        let labels: Vec<_> = (0..6).map(|uid| LabelSet::new().header("uid", uid.to_string())).collect();
        let (began, granted) = (Instant::now(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (labels, granted) = (&labels, &granted);
                scope.spawn(move || {
                    let mut dice = Dice(thread);
                    while began.elapsed() < 4 * SECOND {
                        for _ in 0..100 {
                            let of = &labels[usize::try_from(dice.roll(6)).unwrap()];
                            if let Decision::Granted(_permit) = handle.check(&Quota::new().labels(of)).unwrap() {
                                granted.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let began = Instant::now();
        for of in &labels {
            // Nobody is inside: where there is a window, or room for one, two may enter.
            let mut entered = Vec::new();
            while entered.len() < 2 && began.elapsed() < 10 * SECOND {
                entered.clear();
                for _ in 0..2 {
                    if let Decision::Granted(permit) = handle.check(&Quota::new().labels(of)).unwrap() {
                        entered.push(permit);
                    }
                }
            }
            assert_eq!(entered.len(), 2, "a window that nobody is in is full: {:?}", handle.usage());
        }
    });
}
