//! The actor: keeps a stream open while anything is wanted, asks what the schedule says, hands answers to the sink.
//!
//! It waits in one place only, and there for everything at once: an answer, a change of what is wanted, a new list of
//! servers, the next due time. Cancellation ends it at any of its awaits. A stream that fails demotes its server, and
//! the next one is opened after a delay that starts over only once a server has answered: one that accepts and closes is
//! not hammered.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::ResourceSink;
use super::desired::{Change, Desired};
use super::edges::Edges;
use super::schedule::{Pace, Question, Schedule, Step, StreamEnd, Verdict};
use super::session::{Ended, Session};
use super::stream::{Broken, End, Stream, verdict};
use crate::error::{Error, ErrorKind, ServerCode};
use crate::model::key::ServiceEventKey;
use crate::model::snapshot::Answer;
use crate::transport::Inner;
use crate::transport::clusters::Cluster;
use crate::util::backoff::Backoff;
use crate::util::deadline::after;
use crate::wire::code::Answered;
use crate::wire::discovered::DiscoverAnswer;
use crate::wire::{request, resource};

/// Questions are asked together that are due within this part of the refresh interval.
const TOGETHER: u32 = 20;

/// The pause after a server refused the stream for its token, give or take a half.
const UNAUTHORIZED_PAUSE: Duration = Duration::from_secs(20);
/// Answers in a row that speak of trouble in the server, after which another one is tried.
const MAX_FAULTS: u32 = 3;
/// Streams in a row that are opened at once because there is a newer token; a source that has another one each time must
/// not make a client hammer a server that refuses them all.
const MAX_RENEWALS: u32 = 2;
/// How long an answer that is overdue is waited for with nothing else going on: when this process stood still, the
/// answer is here, and only was not read.
const GRACE: Duration = Duration::from_millis(200);

/// As long as for ever, in sums that must not overflow.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The worker of one context.
pub(super) struct Worker {
    transport: Arc<Inner>,
    desired: Arc<Desired>,
    sink: Arc<dyn ResourceSink>,
    schedule: Schedule,
    backoff: Backoff,
    edges: Edges,
    /// Keys whose answers went by another name, and were taken for another key's once already.
    misnamed: HashSet<ServiceEventKey>,
    /// How often in a row a stream was given up for a newer token.
    renewals: u32,
}

impl Worker {
    pub(super) fn new(transport: Arc<Inner>, desired: Arc<Desired>, sink: Arc<dyn ResourceSink>) -> Self {
        let options = &transport.options;
        let pace = Pace { refresh: options.refresh_interval.min(FAR), answer: options.message_timeout.min(FAR) };
        // A client that looks for a server costs it no more than one that polls, and what changed while no server could
        // be reached is seen within one period of one being back.
        let backoff = Backoff::new(options.reconnect_base.min(FAR), pace.refresh);
        let mut schedule = Schedule::new(pace);
        for key in desired.all() {
            schedule.want(key);
        }
        let edges = Edges::new(Arc::clone(&sink));
        Self { transport, desired, sink, schedule, backoff, edges, misnamed: HashSet::new(), renewals: 0 }
    }

    /// Runs until all handles are gone, or until it is cancelled.
    pub(super) async fn run(mut self) {
        while self.until_wanted().await {
            match self.stream().await {
                End::Closed => return,
                End::Left => {}
                End::Failed { unauthorized } => self.pause(unauthorized).await,
            }
        }
    }

    /// Waits for the first key; false when there will be none.
    async fn until_wanted(&mut self) -> bool {
        loop {
            self.catch_up();
            if self.desired.is_closed() {
                return false;
            }
            if !self.schedule.is_empty() {
                return true;
            }
            self.desired.changed().await;
        }
    }

    fn catch_up(&mut self) {
        for change in self.desired.changes() {
            match change {
                Change::Want(key) => self.schedule.want(key),
                Change::Forget(key) => {
                    self.schedule.forget(&key);
                    self.misnamed.remove(&key);
                }
            }
        }
    }

    /// Waits before the next stream; changes of what is wanted go on being taken in, and a new server ends the wait.
    async fn pause(&mut self, unauthorized: bool) {
        let mut pause = self.backoff.next_delay(&mut rand::rng());
        if unauthorized {
            pause = UNAUTHORIZED_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
        }
        let until = after(Instant::now(), pause);
        let mut replaced = self.transport.clusters.replaced(Cluster::Discover);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.desired.changed() => self.catch_up(),
                Ok(()) = replaced.changed() => return,
            }
            if self.desired.is_closed() {
                return;
            }
        }
    }

    /// Opens a stream and keeps it until it fails or is left.
    async fn stream(&mut self) -> End {
        self.edges.connecting();
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(error) => {
                self.edges.down(None, &error);
                return match error.kind() {
                    ErrorKind::Closed => End::Closed,
                    kind => End::Failed { unauthorized: kind == ErrorKind::Unauthorized },
                };
            }
        };
        self.schedule.connected(&stream.name);
        let mut replaced = self.transport.clusters.replaced(Cluster::Discover);
        loop {
            let now = Instant::now();
            if self.desired.is_closed() {
                return End::Closed;
            }
            if self.is_to_be_left(&mut stream, now) {
                self.schedule.disconnected(StreamEnd::Left, now, &mut rand::rng());
                return End::Left;
            }
            self.ask(&mut stream, now);
            let wake_at = self.wake_at(&stream, now);
            let outcome = tokio::select! {
                () = self.desired.changed() => { self.catch_up(); Ok(()) }
                answer = stream.session.answer() => self.heard(&mut stream, answer).await,
                () = tokio::time::sleep_until(wake_at) => self.overdue(&mut stream).await,
                Ok(()) = replaced.changed() => Ok(()),
            };
            match outcome {
                Ok(()) => {}
                Err(Some(broken)) => return self.lost(&stream, broken),
                Err(None) => {
                    // A new token: the stream carries the old one for as long as it lives.
                    self.schedule.disconnected(StreamEnd::Lost, Instant::now(), &mut rand::rng());
                    return End::Left;
                }
            }
        }
    }

    async fn open(&self) -> Result<Stream, Error> {
        let now = Instant::now();
        let server = self.transport.pick(Cluster::Discover)?;
        let epoch = self.transport.clusters.epoch(Cluster::Discover, now);
        let session = Session::open(&self.transport, &server).await?;
        let name: Arc<str> = server.to_string().into();
        Ok(Stream { session, server, name, epoch, leaving: false, proven: false, faults: 0, used: now })
    }

    /// Whether the stream is to be left now: nothing is wanted for long, or another server's turn has come and every
    /// question is answered.
    fn is_to_be_left(&self, stream: &mut Stream, now: Instant) -> bool {
        let clusters = &self.transport.clusters;
        let epoch = clusters.epoch(Cluster::Discover, now);
        if epoch != stream.epoch {
            stream.epoch = epoch;
            stream.leaving = clusters.current(Cluster::Discover, now).is_some_and(|server| server != stream.server);
        }
        if !self.schedule.is_empty() {
            stream.used = now;
        }
        let idle = now >= after(stream.used, self.transport.options.idle_timeout);
        (stream.leaving || idle) && self.schedule.outstanding() == 0
    }

    /// Asks all that is due.
    fn ask(&mut self, stream: &mut Stream, now: Instant) {
        if stream.leaving {
            return;
        }
        // What is due very soon is asked at once: a process with a thousand services wakes ten times a second for them,
        // and not for each by itself.
        let soon = after(now, self.transport.options.refresh_interval / TOGETHER);
        while let Some(step) = self.schedule.next(soon) {
            match step {
                Step::Ask(key) => stream.session.ask(request::discover(&key, &self.sink.revision(&key))),
                Step::Probe(kind) => stream.session.ask(request::probe(kind)),
                Step::Unsupported(key) => {
                    self.sink.apply(&key, Answer::Unsupported);
                }
            }
        }
    }

    fn wake_at(&self, stream: &Stream, now: Instant) -> Instant {
        let poll = self.schedule.wake_at(now).filter(|_| !stream.leaving);
        let idle = self.schedule.is_empty().then(|| after(stream.used, self.transport.options.idle_timeout));
        let switch = self.transport.clusters.next_switch(Cluster::Discover).filter(|at| *at > now);
        let far = now + Duration::from_secs(3600);
        [poll, idle, switch, self.schedule.deadline()].into_iter().flatten().fold(far, Instant::min)
    }

    /// Fails when the next answer should have come.
    async fn overdue(&mut self, stream: &mut Stream) -> Result<(), Option<Broken>> {
        if self.schedule.deadline().is_none_or(|deadline| Instant::now() < deadline) {
            return Ok(());
        }
        if let Ok(answer) = tokio::time::timeout(GRACE, stream.session.answer()).await {
            return self.heard(stream, answer).await;
        }
        let within = self.transport.options.message_timeout;
        let error = Error::new(ErrorKind::Timeout, format!("discover: no answer within {within:?}"));
        Err(Some(Broken { error: stream.session.about(error), end: StreamEnd::Lost }))
    }

    /// Takes what the stream brought: an answer, or its end.
    async fn heard(
        &mut self,
        stream: &mut Stream,
        answer: Result<DiscoverAnswer, Ended>,
    ) -> Result<(), Option<Broken>> {
        let Ended { error, by_server } = match answer {
            Ok(answer) => return self.take(stream, answer).await,
            Err(ended) => ended,
        };
        let used = stream.session.token_generation();
        if error.kind() == ErrorKind::Unauthorized && self.renewed_token(used).await {
            return Err(None);
        }
        let end = if by_server { StreamEnd::Ended } else { StreamEnd::Lost };
        Err(Some(Broken { error, end }))
    }

    /// Takes an answer. Fails if the stream cannot be trusted any more, with nothing if it needs another token.
    async fn take(&mut self, stream: &mut Stream, answer: DiscoverAnswer) -> Result<(), Option<Broken>> {
        let now = Instant::now();
        // Before anything is made of the answer: its key may be wanted no more, or by somebody else.
        self.catch_up();
        let broken = |why: &str| {
            let error = stream.session.about(Error::new(ErrorKind::Network, format!("discover: {why}")));
            Some(Broken { error, end: StreamEnd::Lost })
        };
        let code = answer.code();
        let Some(question) = self.schedule.answered(now) else {
            return Err(broken("an answer came that nobody asked for"));
        };
        match question {
            _ if code.get() == 0 => return Err(broken("an answer came without a code")),
            Question::Forgotten => self.proven(stream),
            Question::Probe(kind) => {
                self.proven(stream);
                // Any other code complains of the missing service, and so the server knows the kind.
                let served = code != ServerCode::INVALID_DISCOVER_RESOURCE;
                for key in self.schedule.probed(kind, served) {
                    self.sink.apply(&key, Answer::Unsupported);
                }
            }
            Question::Key(key) if self.is_out_of_step(&key, &answer) => {
                return Err(broken("answers are out of step with the questions"));
            }
            Question::Key(key) => return self.deliver(stream, &key, answer, now).await,
        }
        Ok(())
    }

    /// Whether a good answer names another kind than was asked for, or another service that is wanted too. Errors may
    /// name none or a wrong one. Services may go by another name when they were asked for by an alias, and not every
    /// server says so: a key whose answers go on naming another one is believed the second time.
    fn is_out_of_step(&mut self, asked: &ServiceEventKey, answer: &DiscoverAnswer) -> bool {
        if !answer.code().is_success() {
            return false;
        }
        let subject = resource::subject(&answer.head);
        if subject.kind.is_some_and(|kind| kind != asked.kind) {
            return true;
        }
        let Some(named) = subject.service.filter(|_| answer.head.alias_for.is_none()) else { return false };
        let another = named != asked.service && self.schedule.wants(&named.of(asked.kind));
        another && self.misnamed.insert(asked.clone())
    }

    /// Hands an answer of a wanted key to the sink.
    async fn deliver(
        &mut self,
        stream: &mut Stream,
        key: &ServiceEventKey,
        answer: DiscoverAnswer,
        now: Instant,
    ) -> Result<(), Option<Broken>> {
        let refuses = answer.code() == ServerCode::INVALID_DISCOVER_RESOURCE;
        let answer = if refuses && !key.kind.is_rule() {
            // Every server serves these: it means something else, and an empty list would be a lie.
            Answer::Failed(answer.error(&format!("discovering {}", key.kind)).with_service(key.service.text()))
        } else {
            resource::answer(key, answer)
        };
        let error = match answer {
            Answer::Failed(error) => stream.session.about(error),
            Answer::Unsupported => {
                self.proven(stream);
                self.schedule.unsupported(key);
                self.sink.apply(key, Answer::Unsupported);
                return Ok(());
            }
            answer => {
                self.proven(stream);
                let changed = self.sink.apply(key, answer);
                self.schedule.settle(key, Verdict::Known { changed }, now, &mut rand::rng());
                return Ok(());
            }
        };
        let verdict = verdict(&error);
        self.schedule.settle(key, verdict, now, &mut rand::rng());
        if error.kind() == ErrorKind::Unauthorized && self.renewed_token(stream.session.token_generation()).await {
            return Err(None);
        }
        self.sink.apply(key, Answer::Failed(error.clone()));
        if verdict != Verdict::Fault {
            self.proven(stream);
            return Ok(());
        }
        stream.faults += 1;
        let elsewhere = self.transport.clusters.has_alternative(Cluster::Discover, &stream.server, now);
        if stream.faults >= MAX_FAULTS && elsewhere {
            return Err(Some(Broken { error, end: StreamEnd::Lost }));
        }
        Ok(())
    }

    /// After a refusal of the token of generation `used`: whether there is another one.
    async fn renewed_token(&mut self, used: u64) -> bool {
        if self.renewals >= MAX_RENEWALS {
            return false;
        }
        let until = after(Instant::now(), self.transport.options.message_timeout);
        let renewed = self.transport.auth.refresh(used, until).await;
        self.renewals += u32::from(renewed);
        renewed
    }

    /// The server gave a useful answer.
    fn proven(&mut self, stream: &mut Stream) {
        stream.faults = 0;
        self.renewals = 0;
        if std::mem::replace(&mut stream.proven, true) {
            return;
        }
        self.backoff.reset();
        self.transport.clusters.succeeded(Cluster::Discover, &stream.server);
        self.edges.up(&stream.name);
    }

    /// Gives a stream up, demotes its server, and makes every key due again.
    fn lost(&mut self, stream: &Stream, broken: Broken) -> End {
        let Broken { error, end } = broken;
        let now = Instant::now();
        if self.transport.pool.check_open().is_err() {
            return End::Closed;
        }
        self.transport.pool.discard(stream.session.link());
        self.transport.clusters.failed(Cluster::Discover, &stream.server, now);
        if let Some(key) = self.schedule.disconnected(end, now, &mut rand::rng()) {
            let error = error.clone().with_service(key.service.text());
            self.sink.apply(&key, Answer::Failed(error));
        }
        // While another server is there to be tried, the link is not down yet.
        if !self.transport.clusters.has_alternative(Cluster::Discover, &stream.server, now) {
            self.edges.down(Some(Arc::clone(&stream.name)), &error);
        }
        End::Failed { unauthorized: error.kind() == ErrorKind::Unauthorized }
    }
}
