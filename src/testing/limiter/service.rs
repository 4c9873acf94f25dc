//! The limiter's stream: requests answered in order, and pushes in between.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::check::{NO_COUNTER_KEY, OK};
use super::state::{Crash, State};
use super::{LimitCounter, Moment, Skew};
use crate::model::key::ServiceKey;
use crate::pb::metric::{self, RateLimitCmd as Command};
use crate::testing::grpc::{Endpoint, guarded};
use crate::testing::node::{GARBAGE, Node};
use crate::testing::record::{Call, Rpc};
use crate::testing::script::Effect;
use crate::util::clock::WallClock;

/// One limiter: what it knows, its clock, and the streams that it can push to.
#[derive(Debug)]
pub(in crate::testing) struct Limiter {
    inner: Mutex<Inner>,
    clock: WallClock,
    /// Counts how often it began anew.
    restarts: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    myid: u8,
    state: State,
    /// Milliseconds that its wall clock is ahead.
    ahead: i64,
    streams: u64,
    outlets: BTreeMap<u64, mpsc::UnboundedSender<Vec<u8>>>,
}

/// What becomes of one message.
enum Step {
    Answer(Vec<u8>),
    /// An answer, and then the stream ends with OK.
    Last(Vec<u8>),
    Nothing,
    End,
    Fail(Status),
}

// === impl Limiter ===

impl Limiter {
    /// A limiter whose keys begin with `myid`, on this clock.
    pub(in crate::testing) fn new(myid: u8, clock: WallClock) -> Self {
        let state = State::new(myid, Instant::now());
        let inner = Inner { myid, state, ahead: 0, streams: 0, outlets: BTreeMap::new() };
        Self { inner: Mutex::new(inner), clock, restarts: watch::Sender::new(0) }
    }

    /// Forgets counters and clients, and ends all streams.
    pub(super) fn restart(&self) {
        self.with(|inner, now| {
            inner.state = State::new(inner.myid, now.at);
            inner.outlets.clear();
        });
        self.restarts.send_modify(|count| *count += 1);
    }

    pub(super) fn set_clock(&self, skew: Skew) {
        let millis = |by: std::time::Duration| i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 4);
        self.with(|inner, _| {
            inner.ahead = match skew {
                Skew::Ahead(by) => millis(by),
                Skew::Behind(by) => -millis(by),
            };
        });
    }

    /// Milliseconds since the Unix epoch on the limiter's clock.
    pub(in crate::testing) fn now(&self) -> i64 {
        self.with(|_, now| now.wall)
    }

    pub(super) fn counters(&self) -> Vec<LimitCounter> {
        self.with(|inner, now| inner.state.counters(now))
    }

    fn open(&self) -> (u64, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (outlet, pushes) = mpsc::unbounded_channel();
        self.with(|inner, _| {
            inner.streams += 1;
            inner.outlets.insert(inner.streams, outlet);
            (inner.streams, pushes)
        })
    }

    fn leave(&self, stream: u64) {
        self.with(|inner, now| {
            inner.outlets.remove(&stream);
            inner.state.leave(stream, now.at);
        });
    }

    fn restarted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut restarts = self.restarts.subscribe();
        async move {
            // Without its sender the node is gone, which is the end as well.
            let _ = restarts.changed().await;
        }
    }

    /// Answers a request, and pushes to others what it means for them.
    fn answer(&self, stream: u64, request: &metric::RateLimitRequest) -> Result<metric::RateLimitResponse, Crash> {
        self.with(|inner, now| {
            let mut answer = metric::RateLimitResponse { cmd: request.cmd, ..Default::default() };
            match Command::try_from(request.cmd) {
                Ok(Command::Init) => {
                    let body = request.rate_limit_init_request.as_ref().ok_or(Crash)?;
                    answer.rate_limit_init_response = Some(inner.state.init(stream, body, now));
                }
                Ok(Command::BatchInit) => {
                    let body = request.rate_limit_batch_init_request.as_ref().ok_or(Crash)?;
                    answer.rate_limit_batch_init_response = Some(inner.state.init_all(stream, body, now));
                }
                Ok(Command::Acquire | Command::BatchAcquire) => {
                    let body = request.rate_limit_report_request.clone().unwrap_or_default();
                    let reported = inner.state.report(stream, &body, now)?;
                    reported.pushes.into_iter().for_each(|(to, push)| inner.push(to, push));
                    answer.rate_limit_report_response = Some(reported.answer);
                }
                Err(_) => {}
            }
            Ok(answer)
        })
    }

    /// The service that the first report of a request is about.
    fn service(&self, request: &metric::RateLimitRequest) -> Option<ServiceKey> {
        let quota = request.rate_limit_report_request.as_ref()?.quota_uses.first()?;
        self.with(|inner, _| inner.state.service_of(quota.counter_key).cloned())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner, Moment) -> T) -> T {
        let at = Instant::now();
        // A panic in here is passed on when the server ends; until then the state is as good as it was.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let wall = i64::try_from(self.clock.unix_millis(at)).unwrap_or(i64::MAX / 2).saturating_add(inner.ahead);
        work(&mut inner, Moment { at, wall })
    }
}

impl Inner {
    fn push(&self, stream: u64, push: metric::RateLimitReportResponse) {
        let cmd = Command::Acquire.into();
        let message = metric::RateLimitResponse { cmd, rate_limit_report_response: Some(push), ..Default::default() };
        if let Some(outlet) = self.outlets.get(&stream) {
            // A stream that is ending hears it no more.
            let _ = outlet.send(message.encode_to_vec());
        }
    }
}

// === impl Node ===

impl Node {
    /// Answers one message of a limiter's stream.
    async fn limit(&self, stream: u64, mut call: Call) -> Step {
        let request = match metric::RateLimitRequest::decode(call.body.as_slice()) {
            Ok(request) => request,
            Err(error) => {
                self.record.arrived(call);
                let text = format!("grpc: failed to unmarshal the received message: {error}");
                return Step::Fail(Status::internal(text));
            }
        };
        call.rpc = rpc(request.cmd);
        call.counted = self.limiter.service(&request);
        let number = self.record.arrived(call.clone());
        let verdict = self.script.decide(&call);
        if !verdict.delay.is_zero() {
            tokio::time::sleep(verdict.delay).await;
        }
        let scripted = match verdict.effect {
            Some(Effect::Hang) => std::future::pending().await,
            Some(Effect::Skip) => return Step::Nothing,
            Some(Effect::EndStream) => return Step::End,
            Some(Effect::Status(code, text)) => return Step::Fail(Status::new(code.into(), text)),
            Some(Effect::Close) => self.close(&call).await,
            Some(Effect::Garbage) => return Step::Answer(GARBAGE.to_vec()),
            Some(Effect::Code(code)) => Some(echo(&request, code, self.limiter.now())),
            Some(Effect::Unsupported) => Some(echo(&request, 400_004, self.limiter.now())),
            Some(Effect::Empty) => Some(echo(&request, OK, self.limiter.now())),
            Some(Effect::BareCode(code)) => Some(echo(&bare(request.cmd), code, 0)),
            _ => None,
        };
        let mut answer = match scripted.map_or_else(|| self.limiter.answer(stream, &request), Ok) {
            Ok(answer) => answer,
            Err(Crash) => return Step::Fail(Status::unavailable("a real limiter dies of this message")),
        };
        if verdict.effect == Some(Effect::ForeignKeys) {
            keys(&mut answer).for_each(|key| *key |= FOREIGN);
        }
        let code = code(&answer);
        if let Some(code) = code {
            self.record.answered(number, code);
        }
        let bytes = self.finished(&call, verdict.effect.as_ref(), answer.encode_to_vec());
        let reports = answer.rate_limit_report_response.is_some();
        if reports && code == Some(NO_COUNTER_KEY) { Step::Last(bytes) } else { Step::Answer(bytes) }
    }
}

/// No limiter has the number that keys with these bits begin with.
const FOREIGN: u32 = 0xff00_0000;

fn rpc(command: i32) -> Rpc {
    match Command::try_from(command) {
        Ok(Command::Init | Command::BatchInit) => Rpc::LimitInit,
        Ok(Command::Acquire | Command::BatchAcquire) => Rpc::LimitAcquire,
        Err(_) => Rpc::Other,
    }
}

/// An answer to this request of nothing but a code, the time, and what the request was about.
fn echo(request: &metric::RateLimitRequest, code: u32, timestamp: i64) -> metric::RateLimitResponse {
    let mut answer = metric::RateLimitResponse { cmd: request.cmd, ..Default::default() };
    match Command::try_from(request.cmd) {
        Ok(Command::Init) => {
            let target = request.rate_limit_init_request.as_ref().and_then(|body| body.target.clone());
            let body = metric::RateLimitInitResponse { code, target, timestamp, ..Default::default() };
            answer.rate_limit_init_response = Some(body);
        }
        Ok(Command::BatchInit) => {
            let body = metric::RateLimitBatchInitResponse { code, timestamp, ..Default::default() };
            answer.rate_limit_batch_init_response = Some(body);
        }
        Ok(Command::Acquire | Command::BatchAcquire) => {
            let body = metric::RateLimitReportResponse { code, timestamp, ..Default::default() };
            answer.rate_limit_report_response = Some(body);
        }
        Err(_) => {}
    }
    answer
}

fn bare(cmd: i32) -> metric::RateLimitRequest {
    metric::RateLimitRequest { cmd, ..Default::default() }
}

fn code(answer: &metric::RateLimitResponse) -> Option<u32> {
    let init = answer.rate_limit_init_response.as_ref().map(|body| body.code);
    let batch = || answer.rate_limit_batch_init_response.as_ref().map(|body| body.code);
    init.or_else(batch).or_else(|| answer.rate_limit_report_response.as_ref().map(|body| body.code))
}

/// The keys of counters in an answer.
fn keys(answer: &mut metric::RateLimitResponse) -> impl Iterator<Item = &mut u32> {
    let init = answer.rate_limit_init_response.iter_mut().flat_map(|body| &mut body.counters);
    let batch = answer.rate_limit_batch_init_response.iter_mut().flat_map(|body| &mut body.result);
    let batch = batch.flat_map(|result| &mut result.counters).flat_map(|labeled| &mut labeled.counters);
    let lefts = answer.rate_limit_report_response.iter_mut().flat_map(|body| &mut body.quota_lefts);
    init.chain(batch).map(|counter| &mut counter.counter_key).chain(lefts.map(|left| &mut left.counter_key))
}

// === impl Session ===

/// One stream to the limiter of a node.
pub(in crate::testing) struct Session {
    pub(in crate::testing) endpoint: Endpoint,
    pub(in crate::testing) path: String,
}

type Answers = mpsc::Sender<Result<Vec<u8>, Status>>;

impl tower_service::Service<Request<Streaming<Vec<u8>>>> for Session {
    type Response = Response<ReceiverStream<Result<Vec<u8>, Status>>>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let (metadata, _, inbound) = request.into_parts();
        let (answers, outbound) = mpsc::channel(1);
        let session = Self { endpoint: self.endpoint.clone(), path: self.path.clone() };
        let node = Arc::clone(&session.endpoint.node);
        let scope = node.scope().clone();
        scope.spawn("limiter stream", async move {
            let (stopped, restarted) = (node.stopped(), node.limiter.restarted());
            let (stream, pushes) = node.limiter.open();
            let serving = session.serve(stream, pushes, &metadata, inbound, &answers);
            let left = answers.closed();
            let closing = || answers.send(Err(Status::unavailable("transport is closing")));
            tokio::select! {
                biased;
                () = stopped => drop(closing().await),
                () = restarted => drop(closing().await),
                () = left => {}
                _ = guarded(&node, serving) => {}
            }
            node.limiter.leave(stream);
        });
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(outbound))) })
    }
}

impl Session {
    async fn serve(
        &self,
        stream: u64,
        mut pushes: mpsc::UnboundedReceiver<Vec<u8>>,
        metadata: &MetadataMap,
        mut inbound: Streaming<Vec<u8>>,
        answers: &Answers,
    ) {
        loop {
            let step = tokio::select! {
                biased;
                Some(push) = pushes.recv() => Step::Answer(push),
                message = inbound.message() => match message {
                    Ok(Some(body)) => {
                        // What kind it is, its body says.
                        let call = self.endpoint.call(Rpc::Other, &self.path, metadata, body);
                        self.endpoint.node.limit(stream, call).await
                    }
                    Ok(None) => Step::End,
                    Err(status) => Step::Fail(status),
                },
            };
            let (answer, goes_on) = match step {
                Step::Nothing => continue,
                Step::End => return,
                Step::Answer(bytes) => (Ok(bytes), true),
                Step::Last(bytes) => (Ok(bytes), false),
                Step::Fail(status) => (Err(status), false),
            };
            if answers.send(answer).await.is_err() || !goes_on {
                return;
            }
        }
    }
}
