//! One node of the control plane: its connections, its script, its record, over a store it may share.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use super::access::Action;
use super::answer::{self, bare, echo, encode, response, unsupported};
use super::behaviour::Release;
use super::grpc::Endpoint;
use super::limiter::Limiter;
use super::link::{Flow, Link, Valve};
use super::record::{Call, Record, Rpc};
use super::script::{Effect, Script};
use super::store::Store;
use crate::model::key::ResourceKind;
use crate::pb::{metric, v1};
use crate::util::connect::BoxIo;
use crate::util::task::TaskScope;

/// How long a stopping server lets go on what does not end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// How many calls are kept unless more are asked for.
const KEPT_CALLS: usize = 100_000;

pub(super) struct Node {
    pub(super) store: Arc<Store>,
    pub(super) script: Script,
    pub(super) record: Record,
    pub(super) limiter: Limiter,
    scope: TaskScope,
    valves: Mutex<BTreeMap<u64, Valve>>,
    connections: AtomicU64,
    pings: AtomicU64,
    /// How many connections are open.
    open: watch::Sender<usize>,
    /// New and old connections stand still.
    silent: watch::Sender<bool>,
    /// New connections are taken.
    pub(super) accepting: watch::Sender<bool>,
    /// Counts how often everything open was told to end.
    stops: watch::Sender<u64>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// No message begins with a field of wire type 7.
pub(super) const GARBAGE: [u8; 8] = [0xff; 8];

/// Runs what hyper spawns in the node's scope.
#[derive(Clone)]
struct Spawner(TaskScope);

impl<F: Future + Send + 'static> hyper::rt::Executor<F> for Spawner
where
    F::Output: Send,
{
    fn execute(&self, work: F) {
        self.0.spawn("request", async move { drop(work.await) });
    }
}

// --- connections ---

impl Node {
    pub(super) fn new(store: Arc<Store>, scope: TaskScope) -> Self {
        let (number, clock) = store.with(|state, _| (state.next_node(), state.clock));
        Self {
            store,
            script: Script::default(),
            record: Record::new(KEPT_CALLS),
            limiter: Limiter::new(number, clock),
            scope,
            valves: Mutex::default(),
            connections: AtomicU64::new(0),
            pings: AtomicU64::new(0),
            open: watch::Sender::new(0),
            silent: watch::Sender::new(false),
            accepting: watch::Sender::new(true),
            stops: watch::Sender::new(0),
            panic: Mutex::default(),
        }
    }

    pub(super) fn scope(&self) -> &TaskScope {
        &self.scope
    }

    /// Serves a connection until it ends.
    pub(super) fn serve(self: &Arc<Self>, io: BoxIo) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let valve = Valve::new(if *self.silent.borrow() { Flow::Stopped } else { Flow::Open });
        self.valves().insert(connection, valve.clone());
        self.open.send_modify(|open| *open += 1);
        let node = Arc::clone(self);
        self.scope.spawn("connection", async move {
            let listener = Arc::clone(&node);
            let heard = move |pings, too_many| listener.pinged(pings, too_many);
            let link = TokioIo::new(Link::new(io, valve, heard));
            let endpoint = Endpoint { node: Arc::clone(&node), connection };
            let mut builder = hyper::server::conn::http2::Builder::new(Spawner(node.scope.clone()));
            builder.max_concurrent_streams(None).auto_date_header(false);
            let serving = builder.serve_connection(link, endpoint);
            tokio::pin!(serving);
            tokio::select! {
                // How a client leaves is its own affair.
                ended = serving.as_mut() => drop(ended),
                () = node.stopped() => {
                    serving.as_mut().graceful_shutdown();
                    drop(tokio::time::timeout(GRACE, serving).await);
                }
            }
            node.valves().remove(&connection);
            node.open.send_modify(|open| *open = open.saturating_sub(1));
        });
    }

    /// Resolves when everything that is open now is told to end.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stops = self.stops.subscribe();
        async move {
            // Without its sender the node is gone, which is the end as well.
            let _ = stops.changed().await;
        }
    }

    /// Tells everything open to end: streams with `UNAVAILABLE`, connections when nothing runs on them any more.
    pub(super) fn stop(&self) {
        self.stops.send_modify(|count| *count += 1);
    }

    /// Resets every connection.
    pub(super) fn break_connections(&self) {
        self.valves().values().for_each(|valve| valve.set(Flow::Broken));
    }

    /// Lets nothing pass, or everything again.
    pub(super) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
        let flow = if silent { Flow::Stopped } else { Flow::Open };
        self.valves().values().for_each(|valve| valve.set(flow));
    }

    /// Resolves when bytes pass.
    pub(super) fn heard(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut silent = self.silent.subscribe();
        async move {
            // Without its sender the node is gone, and then nobody answers anyway.
            let _ = silent.wait_for(|silent| !silent).await.is_ok();
        }
    }

    /// How many connections are open, and how many ever were.
    pub(super) fn counts(&self) -> (usize, u64) {
        (*self.open.borrow(), self.connections.load(Ordering::Relaxed))
    }

    /// Ends everything: first what was told to by [`Node::stop`], then the rest.
    pub(super) async fn end(&self) {
        let mut open = self.open.subscribe();
        // A connection that outlives its grace is cut with the tasks.
        let _ = tokio::time::timeout(GRACE, open.wait_for(|open| *open == 0)).await.is_ok();
        self.scope.cancel();
        if let Err(tasks) = self.scope.join(GRACE).await {
            tracing::error!(?tasks, "the embedded control plane did not end");
        }
    }

    /// Counts pings; what becomes of the connection they came over.
    fn pinged(&self, pings: u64, too_many: bool) -> Flow {
        self.pings.fetch_add(pings, Ordering::Relaxed);
        let ends = too_many && !self.store.read(|state, _| state.behaviour.tolerates_pings);
        if ends { Flow::Broken } else { Flow::Open }
    }

    /// How many HTTP/2 pings came.
    pub(super) fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Keeps the first panic for whoever ends the server.
    pub(super) fn panicked(&self, panic: Box<dyn Any + Send>) {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }

    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn valves(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Valve>> {
        self.valves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn valve(&self, call: &Call) -> Option<Valve> {
        self.valves().get(&call.connection).cloned()
    }
}

// --- calls ---

impl Node {
    /// Whether the release has this call.
    pub(super) fn serves(&self, rpc: Rpc) -> bool {
        let release = self.store.read(|state, _| state.behaviour.release);
        match rpc {
            Rpc::Other => false,
            Rpc::BatchHeartbeat => release >= Release::V1_17,
            Rpc::ReportContract | Rpc::GetContract => release >= Release::V1_18,
            Rpc::Register
            | Rpc::Deregister
            | Rpc::Heartbeat
            | Rpc::ReportClient
            | Rpc::Discover
            | Rpc::LimitInit
            | Rpc::LimitAcquire
            | Rpc::LimitClock => true,
        }
    }

    /// Answers a unary call.
    pub(super) async fn unary(&self, call: Call) -> Result<Vec<u8>, Status> {
        let number = self.record.arrived(call.clone());
        let verdict = self.script.decide(&call);
        tokio::time::sleep(verdict.delay).await;
        let shown = || call.instance();
        let response = match verdict.effect {
            None | Some(Effect::Pad(_) | Effect::CloseMidway | Effect::ForeignKeys) if call.rpc == Rpc::LimitClock => {
                let answer = metric::TimeAdjustResponse { server_timestamp: self.limiter.now() };
                return Ok(self.finished(&call, verdict.effect.as_ref(), answer.encode_to_vec()));
            }
            None | Some(Effect::Pad(_) | Effect::CloseMidway | Effect::ForeignKeys) => self.proper(&call).await?,
            Some(Effect::Code(code)) => v1::Response { instance: shown(), ..response(code) },
            Some(Effect::BareCode(code)) => response(code),
            Some(Effect::Unsupported) => response(400_004),
            Some(Effect::Empty | Effect::NewRevision) => response(answer::OK),
            Some(Effect::Garbage) => return Ok(GARBAGE.to_vec()),
            Some(Effect::Status(code, text)) => return Err(Status::new(code.into(), text)),
            Some(Effect::EndStream) => return Err(Status::unknown("no answer")),
            Some(Effect::Close) => self.close(&call).await,
            Some(Effect::Hang | Effect::Skip) => std::future::pending().await,
        };
        if let Some(code) = response.code {
            self.record.answered(number, code);
        }
        let bytes = response.encode_to_vec();
        Ok(self.finished(&call, verdict.effect.as_ref(), bytes))
    }

    async fn proper(&self, call: &Call) -> Result<v1::Response, Status> {
        let body = call.body.as_slice();
        let response = match call.rpc {
            Rpc::Register | Rpc::Deregister | Rpc::Heartbeat => self.naming(call, &read::<v1::Instance>(body)?),
            Rpc::ReportClient => {
                let client = read::<v1::Client>(body)?;
                self.store.with(|state, now| state.report_client(&client, now))
            }
            Rpc::ReportContract => {
                let contract = read::<v1::ServiceContract>(body)?;
                self.store.with(|state, now| state.report_contract(&contract, now))
            }
            Rpc::GetContract => {
                let contract = read::<v1::ServiceContract>(body)?;
                self.store.read(|state, _| state.get_contract(&contract))
            }
            Rpc::Discover | Rpc::BatchHeartbeat | Rpc::LimitInit | Rpc::LimitAcquire | Rpc::LimitClock | Rpc::Other => {
                return Err(Status::internal("not a unary call"));
            }
        };
        if call.rpc == Rpc::Register {
            tokio::time::sleep(self.store.read(|state, _| state.behaviour.batch_window)).await;
        }
        Ok(response)
    }

    fn naming(&self, call: &Call, instance: &v1::Instance) -> v1::Response {
        self.store.with(|state, now| {
            if call.rpc != Rpc::Heartbeat {
                let (header, body) = (call.token.as_deref(), instance.service_token.as_deref());
                if let Err(code) = state.access.check(state.behaviour.release, Action::Write, header, body) {
                    return response(code);
                }
            }
            match call.rpc {
                Rpc::Register => state.register(instance, now),
                Rpc::Deregister => state.deregister(instance, now),
                _ => state.heartbeat(instance, now),
            }
        })
    }

    /// Answers one message of a stream: `None` ends it with status OK, `Some(Ok(None))` leaves it unanswered.
    pub(super) async fn message(&self, call: Call) -> Option<Result<Option<Vec<u8>>, Status>> {
        let number = self.record.arrived(call.clone());
        let verdict = self.script.decide(&call);
        tokio::time::sleep(verdict.delay).await;
        match verdict.effect {
            Some(Effect::Hang) => std::future::pending().await,
            Some(Effect::Skip) => return Some(Ok(None)),
            Some(Effect::EndStream) => return None,
            Some(Effect::Close) => self.close(&call).await,
            Some(Effect::Status(code, text)) => return Some(Err(Status::new(code.into(), text))),
            Some(Effect::Garbage) => return Some(Ok(Some(GARBAGE.to_vec()))),
            _ => {}
        }
        if call.rpc == Rpc::BatchHeartbeat {
            return Some(read::<v1::HeartbeatsRequest>(&call.body).map(|beats| {
                self.store.with(|state, now| state.heartbeats(&beats, now));
                Some(v1::HeartbeatsResponse {}.encode_to_vec())
            }));
        }
        let request = match read::<v1::DiscoverRequest>(&call.body) {
            Ok(request) => request,
            Err(status) => return Some(Err(status)),
        };
        let bytes = self.discover(&call, request, verdict.effect.as_ref())?;
        if let Some(code) = answer::code_of(&bytes) {
            self.record.answered(number, code);
        }
        Some(Ok(Some(self.finished(&call, verdict.effect.as_ref(), bytes))))
    }

    fn discover(&self, call: &Call, mut request: v1::DiscoverRequest, effect: Option<&Effect>) -> Option<Vec<u8>> {
        match effect {
            Some(Effect::Code(code)) => return Some(encode(echo(*code, &request), false)),
            Some(Effect::BareCode(code)) => return Some(encode(bare(*code), false)),
            Some(Effect::Unsupported) => return Some(encode(unsupported(&request), false)),
            Some(Effect::Empty | Effect::NewRevision) => {
                request.service.iter_mut().for_each(|service| service.revision = None);
            }
            _ => {}
        }
        self.store.read(|state, _| {
            let release = state.behaviour.release;
            if let Err(code) = state.access.check(release, Action::Read, call.token.as_deref(), None) {
                return Some(encode(bare(code), false));
            }
            let bytes = state.discover(&request)?;
            let flagged = release == Release::Main && call.kind() == Some(ResourceKind::Instances);
            Some(match effect {
                Some(Effect::NewRevision) => answer::renamed(&bytes, &state.revision(), flagged),
                Some(Effect::Empty) => answer::emptied(&bytes, &state.revision(), flagged),
                _ => bytes,
            })
        })
    }

    /// What is done to the bytes of an answer at last.
    pub(super) fn finished(&self, call: &Call, effect: Option<&Effect>, mut bytes: Vec<u8>) -> Vec<u8> {
        /// A tag that no message has.
        const PADDING: u32 = 9_999;

        match effect {
            Some(Effect::Pad(most)) => prost::encoding::bytes::encode(PADDING, &vec![0_u8; *most], &mut bytes),
            Some(Effect::CloseMidway) => {
                self.valve(call).into_iter().for_each(|valve| valve.break_after(bytes.len() / 2));
            }
            _ => {}
        }
        bytes
    }

    pub(super) async fn close<T>(&self, call: &Call) -> T {
        self.valve(call).into_iter().for_each(|valve| valve.set(Flow::Broken));
        std::future::pending().await
    }
}

/// A message, or the status a real server ends the call with.
fn read<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
    M::decode(body)
        .map_err(|error| Status::internal(format!("grpc: failed to unmarshal the received message: {error}")))
}
