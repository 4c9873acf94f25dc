//! What is measured: services of one context with their rules, the calls to them, and the peer's limiters.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, RateLimiter};
use polarismesh::testing::bench::Fed;
use polarismesh::{Decision, LabelSet, LimitHandle, Quota, ResourceKind, ServiceKey};
use polarismesh_benches::floor::{below, draw};
use polarismesh_benches::harness::{median, quantile, sampled, text};
use polarismesh_benches::row::Row;
use tokio::runtime::Runtime;

use crate::effort::Effort;
use crate::rules::{self, Call, METHOD, Rule};

/// How long is checked before a sample: long enough for the coarse clock, which ticks only while calls are many, to have
/// started, and short enough to go on from row to row.
const WARM: f64 = 2e-3;
/// How often a row is looked at for allocations.
const LOOKED_AT: u32 = 10_000;

/// Services of one context, whose runtime has a worker beside the threads that check: on it the coarse clock ticks.
pub struct Bed<'r> {
    runtime: &'r Runtime,
    fed: Fed,
}

/// Calls with labels of their own, to be drawn from.
pub struct Calls(Vec<(LabelSet, String)>);

/// Ways of checking that are measured in turn.
pub struct Rows<'a>(Vec<(String, Row<'a>)>);

/// Samples of one run.
pub struct Measured(Vec<(String, Vec<f64>)>);

// === impl Bed ===

impl<'r> Bed<'r> {
    pub fn new(runtime: &'r Runtime) -> Self {
        Self { runtime, fed: runtime.block_on(async { Fed::new().expect("a context") }) }
    }

    pub fn fed(&self) -> &Fed {
        &self.fed
    }

    /// A service with these rules.
    pub fn service(&self, name: &str, rules: &[Rule]) -> LimitHandle {
        let key = ServiceKey::new("default", name);
        self.runtime.block_on(async {
            let handle = self.fed.context().limiter().service(key.clone());
            self.fed.answer_of(ResourceKind::RateLimit, &key, rules::answer(&key, rules)).expect("an answer");
            handle.ready().await.expect("the rules are loaded");
            assert_eq!(handle.usage().len(), rules.len(), "{name}: all rules are in force");
            handle
        })
    }

    pub fn end(self) {
        self.runtime.block_on(self.fed.context().shutdown(Duration::from_secs(5))).expect("an end");
    }
}

/// Asserts that of a hundred calls each rule counts what it is said to: all of them or none, as passed or as refused.
pub fn counts(handle: &LimitHandle, labels: &LabelSet, passed: &[u64], limited: &[u64]) {
    let quota = Quota::new().method(METHOD).labels(labels);
    let before = handle.usage();
    (0..100).for_each(|_| drop(handle.check(&quota).expect("a decision")));
    let after = handle.usage();
    let of = |count: fn(&polarismesh::RuleUsage) -> u64| -> Vec<u64> {
        after.iter().zip(&before).map(|(after, before)| (count(after) - count(before)).div_ceil(100)).collect()
    };
    assert_eq!((of(|usage| usage.passed), of(|usage| usage.limited)), (passed.to_vec(), limited.to_vec()));
}

/// Makes the quota of each call, so that checks find it.
pub fn touch(handle: &LimitHandle, calls: &Calls) {
    for (labels, _) in &calls.0 {
        drop(handle.check(&Quota::new().method(METHOD).labels(labels)).expect("a decision"));
    }
    assert_eq!(handle.usage().last().map(|usage| usage.windows), Some(calls.0.len()));
}

/// A check by handle, with everything said that a caller says for each call.
#[inline]
pub fn by_handle(handle: &LimitHandle, labels: &LabelSet) -> polarismesh::Result<Decision> {
    handle.check(&Quota::new().method(black_box(METHOD)).labels(black_box(labels)))
}

// === impl Calls ===

impl Calls {
    pub fn new(count: usize) -> Self {
        Self((0..count).map(Call::number).map(|call| (call.collected(), call.key())).collect())
    }

    #[inline]
    pub fn labels(&self) -> &LabelSet {
        &self.draw().0
    }

    #[inline]
    pub fn key(&self) -> &String {
        &self.draw().1
    }

    #[inline]
    fn draw(&self) -> &(LabelSet, String) {
        &self.0[below(draw(), self.0.len())]
    }
}

// === the peer ===

/// A direct limiter of governor's: one that lets all pass, or next to nothing.
pub fn direct(passes: bool) -> DefaultDirectRateLimiter {
    RateLimiter::direct(peers_quota(passes))
}

/// A keyed one, which knows the keys already.
pub fn keyed(passes: bool, calls: &Calls) -> DefaultKeyedRateLimiter<String> {
    let limiter = RateLimiter::keyed(peers_quota(passes));
    calls.0.iter().for_each(|(_, key)| assert!(limiter.check_key(key).is_ok()));
    limiter
}

fn peers_quota(passes: bool) -> governor::Quota {
    // A nanosecond a call is the most that it counts, and less than a check takes.
    let most = NonZeroU32::new(if passes { 1_000_000_000 } else { 1 }).expect("it is not zero");
    governor::Quota::per_second(most)
}

// === impl Rows ===

impl<'a> Rows<'a> {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add<T>(&mut self, name: &str, check: impl Fn() -> T + Send + Sync + 'a) {
        let mut row = Row::new(1, check);
        row.warm = (f64::from(row.batch) * WARM / 4e-3) as u32;
        self.0.push((name.to_owned(), row));
    }

    /// The same, of which it is asserted that it allocates nothing.
    pub fn own<T>(&mut self, name: &str, check: impl Fn() -> T + Send + Sync + 'a) {
        self.add(name, check);
        let (_, row) = &self.0[self.0.len() - 1];
        assert_eq!(row.allocations(LOOKED_AT), 0, "{name} allocates");
    }

    pub fn each(&self) -> impl Iterator<Item = (&str, &Row<'a>)> {
        self.0.iter().map(|(name, row)| (name.as_str(), row))
    }

    /// All rows by the calling thread, in turn.
    pub fn measure(&self, effort: &Effort) -> Measured {
        self.warm_up();
        let samples = sampled(effort.rounds, &mut self.0.iter().map(|(_, row)| || row.sample()).collect::<Vec<_>>());
        Measured(self.0.iter().map(|(name, _)| name.clone()).zip(samples).collect())
    }

    /// Checks for so long that all clocks tick.
    pub fn warm_up(&self) {
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            self.0.iter().for_each(|(_, row)| row.run(row.warm));
        }
    }
}

// === impl Measured ===

impl Measured {
    pub fn new(samples: Vec<(String, Vec<f64>)>) -> Self {
        Self(samples)
    }

    pub fn of(&self, name: &str) -> &[f64] {
        let of = self.0.iter().find(|(of, _)| of == name);
        &of.unwrap_or_else(|| panic!("{name} was not measured")).1
    }

    /// The median and the quartiles.
    pub fn text(&self, name: &str) -> String {
        let samples = self.of(name);
        let quarter = |quarters| text(quantile(samples, quarters));
        format!("{} [{} to {}]", text(median(samples)), quarter(1), quarter(3))
    }

    pub fn ratio(&self, of: &str, to: &str) -> f64 {
        polarismesh_benches::harness::ratio(self.of(of), self.of(to))
    }

    /// What a row costs in another one, told with that one's cost.
    pub fn beside(&self, of: &str, to: &str) -> String {
        format!("{to} {}, {:.2} x", text(median(self.of(to))), self.ratio(of, to))
    }
}
