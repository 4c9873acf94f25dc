//! One limiter: a stream to it, as long as it counts something.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::quota::Shared;
use crate::engine::quota::sync::books::Books;
use crate::engine::quota::sync::cluster::{Cluster, alone};
use crate::engine::quota::sync::{Bell, Counted};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::limiter::Clock;
use crate::model::key::ServiceEventKey;
use crate::model::limiter::QuotaTarget;
use crate::model::limiter_answer::{LimiterAnswer, LimiterCode, LimiterRefusal};
use crate::model::server::ServerAddr;
use crate::transport::limiter::{LimiterStream, LimiterTime};
use crate::util::backoff::Backoff;
use crate::util::deadline::after;

/// How often what is due is looked for while calls come.
const TICK: Duration = Duration::from_millis(10);
/// What is due within so long is looked at together.
const GRAIN: Duration = Duration::from_millis(5);
/// The more there are, the more are looked at together: every look costs all of them a little.
const MANY: usize = 2_000;
/// How often the limiter is asked for its time.
const TIME: Duration = Duration::from_secs(30);
/// How long it may take to say it, and to answer at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before a target that was refused, or of which nothing was said, is asked for again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// The shortest and the longest pause before another stream: within two windows of a second all must be well again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Told = watch::Receiver<Arc<[Arc<Counted>]>>;

/// One limiter.
pub(super) struct Node {
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    server: ServerAddr,
    trouble: ServiceEventKey,
    books: Books,
    bell: Arc<Bell>,
    /// Targets that the limiter does not want, and until when they are not asked for.
    refused: HashMap<QuotaTarget, Instant>,
    backoff: Backoff,
}

/// What one stream knows.
struct Session {
    stream: LimiterStream,
    client_key: u32,
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    /// What was asked for and is not answered yet, and until when it is not asked for again.
    joining: HashMap<QuotaTarget, Instant>,
    next_time: Instant,
    /// When to look whether calls go on.
    tick: Option<Instant>,
}

impl Node {
    pub(super) fn new(
        shared: Arc<Shared>,
        cluster: Arc<Cluster>,
        server: ServerAddr,
        trouble: ServiceEventKey,
    ) -> Self {
        let books = Books::default();
        Self {
            shared,
            cluster,
            server,
            trouble,
            bell: books.bell(),
            books,
            refused: HashMap::new(),
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
        }
    }

    /// Counts what it is told to, until nobody tells it any more.
    pub(super) async fn run(mut self, mut told: Told) {
        loop {
            self.assign(&mut told);
            if self.books.is_empty() {
                if told.changed().await.is_err() {
                    break;
                }
                continue;
            }
            match self.stream(&mut told).await {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Closed => break,
                Err(error) => {
                    self.books.lost(self.now());
                    self.set_failing(Some(error));
                    let pause = self.backoff.next_delay(&mut rand::rng());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = ended(&mut told) => break,
                    }
                }
            }
        }
        self.books.lost(self.now());
        self.set_failing(None);
    }

    /// Keeps a stream until nobody tells what to count any more.
    async fn stream(&mut self, told: &mut Told) -> Result<()> {
        let offset = self.measure().await?;
        self.books.set_offset(offset, self.now());
        let stream = self.shared.transport.limiter(&self.server).await?;
        let next_time = after(Instant::now(), TIME);
        let mut session =
            Session { stream, client_key: 0, asked: None, joining: HashMap::new(), next_time, tick: None };
        loop {
            self.speak(&mut session);
            let wake = self.wake_at(&session, Instant::now());
            tokio::select! {
                // In this order: what was answered in time counts, however late it is looked at.
                biased;
                answer = session.stream.answer() => {
                    session.asked = None;
                    self.hear(&mut session, answer?)?;
                }
                changed = told.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.assign(told);
                }
                () = self.bell.rung(), if session.tick.is_none() => session.tick = Some(Instant::now() + TICK),
                () = tokio::time::sleep_until(wake) => {
                    if session.asked.is_some_and(|asked| asked.elapsed() >= PATIENCE) {
                        session.stream.abandon();
                        let why = format!("the limiter did not answer within {PATIENCE:?}");
                        return Err(Error::new(ErrorKind::Timeout, why).with_address(self.server.to_string()));
                    }
                    if session.tick.is_some_and(|tick| Instant::now() >= tick) {
                        session.tick = self.books.was_used().then(|| Instant::now() + TICK);
                    }
                    if Instant::now() >= session.next_time {
                        session.next_time = after(Instant::now(), TIME);
                        let offset = self.measure().await?;
                        self.books.set_offset(offset, self.now());
                    }
                }
            }
        }
    }

    /// Joins and reports what is due.
    fn speak(&mut self, session: &mut Session) {
        let (now, client) = (self.now(), &self.shared.options.client_id);
        let instant = Instant::now();
        self.refused.retain(|_, until| *until > instant);
        session.joining.retain(|_, until| *until > instant);
        let refused = &self.refused;
        let joins = self.books.to_join(|target| session.joining.contains_key(target) || refused.contains_key(target));
        if !joins.is_empty() {
            session.asked.get_or_insert(instant);
            let again = after(instant, REFUSED_PAUSE);
            session.joining.extend(joins.iter().map(|join| (join.target.clone(), again)));
            for target in session.stream.join(client, &joins) {
                session.joining.remove(&target);
                self.refused.insert(target, after(instant, Duration::MAX));
            }
        }
        for (time, uses) in self.books.reports(now) {
            session.asked.get_or_insert(instant);
            session.stream.report(session.client_key, &uses, time);
        }
    }

    fn hear(&mut self, session: &mut Session, answer: LimiterAnswer) -> Result<()> {
        let now = self.now();
        // An answer that names no time is of now.
        let time = |timestamp: i64| if timestamp > 0 { timestamp } else { self.books.server_millis(now) };
        match answer {
            LimiterAnswer::Joined { client_key, timestamp, results } => {
                let timestamp = time(timestamp);
                if client_key != 0 {
                    session.client_key = client_key;
                }
                let mut refused = None;
                for (target, result) in results {
                    session.joining.remove(&target);
                    match result {
                        Ok(counters) => self.books.joined(&target, &counters, timestamp, now),
                        Err(refusal) if refusal.code == LimiterCode::OTHER_CLIENT => return Err(self.error(refusal)),
                        Err(refusal) => {
                            refused = Some(self.error(refusal));
                            self.refused.insert(target, after(Instant::now(), REFUSED_PAUSE));
                        }
                    }
                }
                self.backoff.reset();
                // One that was refused before, and is not asked for yet, is as bad as one that was just now.
                if refused.is_some() || self.refused.is_empty() {
                    self.set_failing(refused);
                }
            }
            LimiterAnswer::Left { timestamp, lefts } => self.books.left(&lefts, time(timestamp), now),
            LimiterAnswer::Refused { refusal, timestamp, lefts } if refusal.code == LimiterCode::COUNTER_GONE => {
                self.books.refused(&lefts, time(timestamp), now);
            }
            LimiterAnswer::Refused { refusal, .. } => return Err(self.error(refusal)),
            LimiterAnswer::Other => {}
        }
        Ok(())
    }

    fn error(&self, refusal: LimiterRefusal) -> Error {
        Error::new(ErrorKind::Server, refusal.to_string()).with_address(self.server.to_string())
    }

    /// When to look again, if nothing comes before.
    fn wake_at(&self, session: &Session, now: Instant) -> Instant {
        let overdue = session.asked.map(|asked| after(asked, PATIENCE));
        let due = self.books.next_report(self.now()).filter(|due| *due != u64::MAX);
        let due = due.map(|due| self.shared.clock.instant(due.saturating_mul(1_000)));
        let wake = [overdue, due, session.tick].into_iter().flatten().fold(session.next_time, Instant::min);
        // A thousand quotas are due at a thousand moments, and looked at all at once a few of them.
        wake.max(now + GRAIN * u32::try_from(1 + self.books.len() / MANY).unwrap_or(u32::MAX))
    }

    /// By how many microseconds the limiter's clock is ahead of ours.
    async fn measure(&self) -> Result<i64> {
        let LimiterTime { server_millis, sent, received } =
            self.shared.transport.limiter_time(&self.server, PATIENCE).await?;
        let middle = self.shared.clock.micros_at(sent + (received - sent) / 2);
        // A limiter cuts milliseconds off: half of one is most likely missing.
        let server = server_millis.saturating_mul(1_000).saturating_add(500);
        Ok(server.saturating_sub_unsigned(middle))
    }

    fn assign(&mut self, told: &mut Told) {
        let all = Arc::clone(&told.borrow_and_update());
        self.books.assign(&all, self.now());
        self.refused.retain(|target, _| self.books.counts(target));
    }

    fn now(&self) -> u64 {
        self.shared.clock.exact() / 1_000
    }

    fn set_failing(&mut self, error: Option<Error>) {
        let of_all = self.cluster.note(&self.server, error);
        self.shared.troubles.set(&self.trouble, of_all.map(alone));
    }
}

/// Until nobody tells what to count any more.
async fn ended(told: &mut Told) {
    while told.changed().await.is_ok() {}
}
