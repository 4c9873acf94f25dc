//! What goes wrong, on purpose.

#![allow(clippy::must_use_candidate, reason = "setters that are called for their effect hand themselves back")]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::record::{Call, Rpc};
use crate::model::key::{ResourceKind, ServiceKey};

/// The faults of one node, in the order they were set.
#[derive(Debug, Default)]
pub(super) struct Script(Mutex<Vec<Arc<Line>>>);

/// What becomes of one call.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) delay: Duration,
    pub(super) effect: Option<Effect>,
}

/// What happens instead of the proper answer, or to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Hang,
    Skip,
    Status(i32, String),
    EndStream,
    Close,
    CloseMidway,
    Code(u32),
    BareCode(u32),
    Empty,
    NewRevision,
    Unsupported,
    ForeignKeys,
    Garbage,
    Pad(usize),
}

/// Which calls a fault meets.
#[derive(Clone)]
struct Filter {
    rpc: Option<Rpc>,
    kind: Option<ResourceKind>,
    service: Option<ServiceKey>,
    when: Option<Condition>,
}

type Condition = Arc<dyn Fn(&Call) -> bool + Send + Sync>;

#[derive(Debug)]
struct Line {
    filter: Filter,
    delay: Duration,
    effect: Option<Effect>,
    /// How many matching calls pass first.
    skip: u64,
    /// How many are met after those.
    times: u64,
    matched: AtomicU64,
}

/// A fault in the making: which calls it meets, how often, and, as the last word, what happens to them.
///
/// ```no_run
/// # use polarismesh::testing::{Rpc, Server};
/// # fn example(server: &Server) {
/// server.on(Rpc::Heartbeat).times(4).answer(400_202);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before the last word, such as `answer`"]
pub struct On<'a> {
    script: &'a Script,
    filter: Filter,
    delay: Duration,
    skip: u64,
    times: u64,
}

/// A fault that was set. It stays until it is used up or cleared; dropping this changes nothing.
#[derive(Debug, Clone)]
pub struct Fault(Arc<Line>);

// === impl Script ===

impl Script {
    pub(super) fn on(&self, rpc: Option<Rpc>) -> On<'_> {
        let filter = Filter { rpc, kind: None, service: None, when: None };
        On { script: self, filter, delay: Duration::ZERO, skip: 0, times: u64::MAX }
    }

    /// What becomes of a call: all delays that meet it, and the first other effect.
    pub(super) fn decide(&self, call: &Call) -> Verdict {
        let lines = self.lock().clone();
        let mut verdict = Verdict::default();
        for line in lines {
            if (verdict.effect.is_some() && line.effect.is_some()) || !line.filter.meets(call) || !line.take() {
                continue;
            }
            verdict.delay += line.delay;
            verdict.effect = verdict.effect.or_else(|| line.effect.clone());
        }
        verdict
    }

    pub(super) fn clear(&self) {
        self.lock().drain(..).for_each(|line| line.exhaust());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Counts a matching call; whether it is one that is met.
    fn take(&self) -> bool {
        let before = self.matched.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
        before.is_ok_and(|before| before >= self.skip && before - self.skip < self.times)
    }

    fn exhaust(&self) {
        self.matched.store(u64::MAX, Ordering::Relaxed);
    }
}

impl Filter {
    fn meets(&self, call: &Call) -> bool {
        self.rpc.is_none_or(|rpc| rpc == call.rpc())
            && self.kind.is_none_or(|kind| call.kind() == Some(kind))
            && self.service.as_ref().is_none_or(|service| call.service().as_ref() == Some(service))
            && self.when.as_ref().is_none_or(|when| when(call))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("rpc", &self.rpc)
            .field("kind", &self.kind)
            .field("service", &self.service)
            .field("when", &self.when.is_some())
            .finish()
    }
}

// === impl On ===

impl On<'_> {
    /// Only discover questions for this kind of resource.
    pub fn kind(mut self, kind: ResourceKind) -> Self {
        self.filter.kind = Some(kind);
        self
    }

    /// Only calls about this service.
    pub fn service(mut self, service: impl Into<ServiceKey>) -> Self {
        self.filter.service = Some(service.into());
        self
    }

    /// Only calls for which `condition` holds.
    pub fn when(mut self, condition: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.filter.when = Some(Arc::new(condition));
        self
    }

    /// The first `calls` matching calls pass.
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// At most `calls` calls are met; without it, all until the fault is cleared.
    pub fn times(mut self, calls: u64) -> Self {
        self.times = calls;
        self
    }

    /// Also waits this long before the effect.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The proper answer comes this much later.
    pub fn delay(self, delay: Duration) -> Fault {
        self.after(delay).set(None)
    }

    /// No answer ever comes, and on a stream none to the questions behind it either; the connection stays.
    pub fn hang(self) -> Fault {
        self.set(Some(Effect::Hang))
    }

    /// The question is passed over: no answer to it, while those behind it are answered. On a unary call, [`On::hang`].
    pub fn pass_over(self) -> Fault {
        self.set(Some(Effect::Skip))
    }

    /// The call or the stream ends with this gRPC status, by its number: 14 is `UNAVAILABLE`, 12 `UNIMPLEMENTED`.
    pub fn status(self, code: i32, message: impl Into<String>) -> Fault {
        self.set(Some(Effect::Status(code, message.into())))
    }

    /// The stream ends with status OK and without an answer; a unary call gets `UNKNOWN`.
    pub fn end_stream(self) -> Fault {
        self.set(Some(Effect::EndStream))
    }

    /// The connection is reset.
    pub fn close(self) -> Fault {
        self.set(Some(Effect::Close))
    }

    /// The connection is reset when half of the answer is sent.
    pub fn close_midway(self) -> Fault {
        self.set(Some(Effect::CloseMidway))
    }

    /// An answer with this code that echoes the request; nothing is done.
    pub fn answer(self, code: u32) -> Fault {
        self.set(Some(Effect::Code(code)))
    }

    /// An answer of nothing but code and text, as when the server throttles or refuses a token: on a stream neither
    /// type nor service, else no instance.
    pub fn answer_bare(self, code: u32) -> Fault {
        self.set(Some(Effect::BareCode(code)))
    }

    /// The service, or the namespace, does not exist.
    pub fn not_found(self) -> Fault {
        self.answer(400_202)
    }

    /// A full discover answer with a new revision and nothing in it; of a limiter, one without counters.
    pub fn empty(self) -> Fault {
        self.set(Some(Effect::Empty))
    }

    /// The proper discover answer under a revision that was never seen before.
    pub fn new_revision(self) -> Fault {
        self.set(Some(Effect::NewRevision))
    }

    /// The kind is not served: 400004 typed as routing.
    pub fn unsupported(self) -> Fault {
        self.set(Some(Effect::Unsupported))
    }

    /// The proper answer of a limiter, under keys of counters that it never gave to anybody.
    pub fn foreign_keys(self) -> Fault {
        self.set(Some(Effect::ForeignKeys))
    }

    /// Bytes that are no message.
    pub fn garbage(self) -> Fault {
        self.set(Some(Effect::Garbage))
    }

    /// The proper answer with `bytes` more in a field that nobody knows.
    pub fn pad(self, bytes: usize) -> Fault {
        self.set(Some(Effect::Pad(bytes)))
    }

    fn set(self, effect: Option<Effect>) -> Fault {
        let Self { script, filter, delay, skip, times } = self;
        let line = Arc::new(Line { filter, delay, effect, skip, times, matched: AtomicU64::new(0) });
        script.lock().push(Arc::clone(&line));
        Fault(line)
    }
}

// === impl Fault ===

impl Fault {
    /// From now on it meets no call.
    pub fn clear(&self) {
        self.0.exhaust();
    }

    /// How many calls it has met.
    #[must_use]
    pub fn hits(&self) -> u64 {
        match self.0.matched.load(Ordering::Relaxed) {
            u64::MAX => self.0.times,
            matched => matched.saturating_sub(self.0.skip).min(self.0.times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn call(rpc: Rpc) -> Call {
        Call::new(rpc, "", Vec::new(), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn delays_add_up_and_the_first_effect_counts() {
        let script = Script::default();
        let second = Duration::from_secs(1);
        script.on(None).delay(second);
        script.on(Some(Rpc::Heartbeat)).after(second).skip(1).times(1).close();
        let other = script.on(Some(Rpc::Heartbeat)).hang();
        let decide = |rpc| {
            let Verdict { delay, effect } = script.decide(&call(rpc));
            (delay, effect)
        };
        assert_eq!(decide(Rpc::Register), (second, None));
        assert_eq!(decide(Rpc::Heartbeat), (second, Some(Effect::Hang)));
        assert_eq!(decide(Rpc::Heartbeat), (2 * second, Some(Effect::Close)));
        assert_eq!((decide(Rpc::Heartbeat), other.hits()), ((second, Some(Effect::Hang)), 2));
        other.clear();
        assert_eq!(decide(Rpc::Heartbeat), (second, None));
        script.clear();
        assert_eq!(decide(Rpc::Heartbeat), (Duration::ZERO, None));
    }
}
