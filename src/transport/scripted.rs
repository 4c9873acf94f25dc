//! A network of scripted servers in memory, for the transport's own tests.
//!
//! Each node says at every dial what becomes of it, and at every question what it answers. Under a paused clock all of
//! it runs on virtual time.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::model::server::ServerAddr;
use crate::pb::metric::rate_limit_grpcv2_server::RateLimitGrpcv2Server;
use crate::pb::v1;
use crate::pb::v1::polaris_grpc_server::{PolarisGrpc, PolarisGrpcServer};
use crate::transport::scripted_limiter::Limiter;
use crate::transport::{TokenSource, Transport, TransportOptions};
use crate::util::connect::{BoxIo, Connecting, Connector};
use crate::util::task::TaskScope;

/// The nodes, and the scope that all of a test runs in.
#[derive(Clone)]
pub(super) struct Net {
    nodes: Arc<HashMap<String, Node>>,
    pub(super) scope: TaskScope,
}

/// A server.
#[derive(Clone)]
pub(super) struct Node(Arc<NodeState>);

struct NodeState {
    incoming: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    mode: Mutex<Mode>,
    discover: Mutex<Script<Ask, Reply>>,
    unary: Mutex<Script<Unary, Reply>>,
    asked: Mutex<Vec<Ask>>,
    called: Mutex<Vec<Unary>>,
    dials: Mutex<Vec<Instant>>,
    streams: watch::Sender<usize>,
    cut: Mutex<CancellationToken>,
    limiter: Limiter,
    scope: TaskScope,
}

type Script<Q, R> = Box<dyn FnMut(&Q) -> R + Send>;

/// What becomes of a dial.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Serve,
    Refuse,
    /// Accepts, and never says anything.
    BlackHole,
    /// Says this, and closes.
    Speak(&'static [u8]),
    /// The dial itself hangs.
    Hang,
}

/// A question of a discover stream.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// The how-manieth stream of the node, from 1.
    pub(super) stream: usize,
    pub(super) at: Instant,
    pub(super) metadata: MetadataMap,
    pub(super) request: v1::DiscoverRequest,
}

/// A unary call.
#[derive(Debug, Clone)]
pub(super) struct Unary {
    #[expect(dead_code, reason = "seen in the output of a failing test")]
    pub(super) method: &'static str,
    pub(super) metadata: MetadataMap,
    pub(super) instance: v1::Instance,
    pub(super) at: Instant,
}

/// What a node does about a question.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Answers; a unary call takes the code and the info of it.
    Answer(Box<v1::DiscoverResponse>),
    After(Duration, Box<v1::DiscoverResponse>),
    Silence,
    /// Ends the stream in peace.
    End,
    Fail(tonic::Code),
    /// Cuts the connection.
    Cut,
}

impl Net {
    /// Nodes that serve, and answer everything with an empty success, by these names.
    pub(super) fn new(names: &[&str]) -> Self {
        Self::serving(names, &tonic::transport::Server::builder())
    }

    /// The same, served as `server` says.
    pub(super) fn serving(names: &[&str], server: &tonic::transport::Server) -> Self {
        let scope = TaskScope::new(Handle::current());
        let nodes = names.iter().map(|name| ((*name).to_owned(), Node::start(&scope, server.clone())));
        Self { nodes: Arc::new(nodes.collect()), scope }
    }

    pub(super) fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    pub(super) fn options(&self) -> TransportOptions {
        let mut names: Vec<&String> = self.nodes.keys().collect();
        names.sort();
        TransportOptions {
            addresses: names.into_iter().map(|name| addr(name)).collect(),
            connect_timeout: Duration::from_millis(500),
            message_timeout: Duration::from_secs(5),
            max_retries: 1,
            retry_interval: Duration::from_millis(500),
            switch_interval: Duration::from_secs(600),
            reconnect_base: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(60),
            max_message_size: 50 << 20,
            refresh_interval: Duration::from_secs(2),
            bind_ip: None,
            token: TokenSource::default(),
            tls: None,
            connector: Arc::new(self.clone()),
        }
    }

    pub(super) fn transport(&self) -> Transport {
        Transport::new(self.options(), &self.scope).unwrap()
    }

    /// Everything ends when it is cancelled, at once.
    pub(super) async fn ends(&self) {
        self.scope.cancel();
        assert_eq!(self.scope.join(Duration::from_secs(1)).await, Ok(()));
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

impl Connector for Net {
    fn connect(&self, host: String, _: u16) -> Connecting<BoxIo> {
        let node = self.nodes.get(&host).cloned();
        Box::pin(async move {
            let node = node.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
            node.0.dials.lock().unwrap().push(Instant::now());
            let (near, mut far) = tokio::io::duplex(64 << 10);
            let mode = *node.0.mode.lock().unwrap();
            match mode {
                Mode::Serve => node.0.incoming.send(Ok(far)).map_err(|_| io::ErrorKind::ConnectionRefused)?,
                Mode::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
                Mode::BlackHole => node.0.scope.spawn("black hole", async move {
                    let _far = far;
                    std::future::pending::<()>().await;
                }),
                Mode::Speak(bytes) => node.0.scope.spawn("speaker", async move {
                    let _ = far.write_all(bytes).await;
                }),
                Mode::Hang => return std::future::pending().await,
            }
            let cut = node.0.cut.lock().unwrap().clone();
            Ok(Box::new(Cable { io: near, cut: Box::pin(cut.cancelled_owned()) }) as BoxIo)
        })
    }

    fn resolve(&self, host: String, port: u16) -> Connecting<Vec<SocketAddr>> {
        let known = self.nodes.contains_key(&host);
        Box::pin(async move {
            known.then(|| vec![([127, 0, 0, 1], port).into()]).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

pub(super) fn addr(name: &str) -> ServerAddr {
    ServerAddr::new(name, 8091, false)
}

impl Node {
    fn start(scope: &TaskScope, mut server: tonic::transport::Server) -> Self {
        let (incoming, connections) = mpsc::unbounded_channel();
        let node = Self(Arc::new(NodeState {
            incoming,
            mode: Mutex::new(Mode::Serve),
            discover: Mutex::new(Box::new(|ask: &Ask| Reply::Answer(Box::new(full(&ask.request, "1"))))),
            unary: Mutex::new(Box::new(|_| code(200_000))),
            asked: Mutex::default(),
            called: Mutex::default(),
            dials: Mutex::default(),
            streams: watch::Sender::new(0),
            cut: Mutex::default(),
            limiter: Limiter::default(),
            scope: scope.clone(),
        }));
        let serving = server
            .add_service(PolarisGrpcServer::new(node.clone()))
            .add_service(RateLimitGrpcv2Server::new(node.clone()))
            .serve_with_incoming(UnboundedReceiverStream::new(connections));
        scope.spawn("node", async move {
            let _ = serving.await;
        });
        node
    }

    pub(super) fn mode(&self, mode: Mode) {
        *self.0.mode.lock().unwrap() = mode;
    }

    pub(super) fn on_discover(&self, script: impl FnMut(&Ask) -> Reply + Send + 'static) {
        *self.0.discover.lock().unwrap() = Box::new(script);
    }

    pub(super) fn on_unary(&self, script: impl FnMut(&Unary) -> Reply + Send + 'static) {
        *self.0.unary.lock().unwrap() = Box::new(script);
    }

    pub(super) fn asked(&self) -> Vec<Ask> {
        self.0.asked.lock().unwrap().clone()
    }

    pub(super) fn called(&self) -> Vec<Unary> {
        self.0.called.lock().unwrap().clone()
    }

    pub(super) fn dials(&self) -> Vec<Instant> {
        self.0.dials.lock().unwrap().clone()
    }

    /// The node as a limiter.
    pub(super) fn limiter(&self) -> &Limiter {
        &self.0.limiter
    }

    pub(super) fn scope(&self) -> &TaskScope {
        &self.0.scope
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        std::mem::take(&mut *self.0.cut.lock().unwrap()).cancel();
    }

    async fn answer(
        &self,
        method: &'static str,
        request: Request<v1::Instance>,
    ) -> Result<Response<v1::Response>, Status> {
        let (metadata, _, instance) = request.into_parts();
        let call = Unary { method, metadata, instance, at: Instant::now() };
        self.0.called.lock().unwrap().push(call.clone());
        let reply = (self.0.unary.lock().unwrap())(&call);
        let answer = match reply {
            Reply::Answer(answer) => answer,
            Reply::After(delay, answer) => {
                tokio::time::sleep(delay).await;
                answer
            }
            Reply::Silence => return std::future::pending().await,
            Reply::Fail(code) => return Err(Status::new(code, "scripted")),
            Reply::End | Reply::Cut => {
                self.cut();
                return std::future::pending().await;
            }
        };
        let instance = Some(v1::Instance { id: Some("id-1".to_owned()), ..call.instance });
        Ok(Response::new(v1::Response { code: answer.code, info: answer.info, instance, ..v1::Response::default() }))
    }
}

/// A success without content.
pub(super) fn full(request: &v1::DiscoverRequest, revision: &str) -> v1::DiscoverResponse {
    let asked = request.service.clone().unwrap_or_default();
    v1::DiscoverResponse {
        code: Some(200_000),
        r#type: request.r#type,
        service: Some(v1::Service { revision: Some(revision.to_owned()), ..asked }),
        ..v1::DiscoverResponse::default()
    }
}

/// An answer with a code, and neither type nor service.
pub(super) fn code(code: u32) -> Reply {
    Reply::Answer(Box::new(v1::DiscoverResponse { code: Some(code), ..v1::DiscoverResponse::default() }))
}

#[tonic::async_trait]
impl PolarisGrpc for Node {
    async fn report_client(&self, request: Request<v1::Client>) -> Result<Response<v1::Response>, Status> {
        let (metadata, extensions, client) = request.into_parts();
        let call = Request::from_parts(metadata, extensions, v1::Instance::default());
        let response = self.answer("report", call).await?.into_inner();
        Ok(Response::new(v1::Response { client: Some(client), ..response }))
    }

    async fn register_instance(&self, request: Request<v1::Instance>) -> Result<Response<v1::Response>, Status> {
        self.answer("register", request).await
    }

    async fn deregister_instance(&self, request: Request<v1::Instance>) -> Result<Response<v1::Response>, Status> {
        self.answer("deregister", request).await
    }

    async fn heartbeat(&self, request: Request<v1::Instance>) -> Result<Response<v1::Response>, Status> {
        self.answer("heartbeat", request).await
    }

    type DiscoverStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::DiscoverResponse, Status>> + Send>>;

    async fn discover(
        &self,
        request: Request<Streaming<v1::DiscoverRequest>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        let (metadata, _, mut questions) = request.into_parts();
        self.0.streams.send_modify(|count| *count += 1);
        let stream = *self.0.streams.borrow();
        let (answers, mut answered) = mpsc::channel(1);
        let node = self.clone();
        self.0.scope.spawn("stream", async move {
            while let Ok(Some(request)) = questions.message().await {
                let ask = Ask { stream, at: Instant::now(), metadata: metadata.clone(), request };
                node.0.asked.lock().unwrap().push(ask.clone());
                let reply = (node.0.discover.lock().unwrap())(&ask);
                let sent = match reply {
                    Reply::Answer(answer) => answers.send(Ok(*answer)).await,
                    Reply::After(delay, answer) => {
                        tokio::time::sleep(delay).await;
                        answers.send(Ok(*answer)).await
                    }
                    Reply::Silence => {
                        answers.closed().await;
                        return;
                    }
                    Reply::Fail(code) => answers.send(Err(Status::new(code, "scripted"))).await,
                    Reply::End => return,
                    Reply::Cut => {
                        node.cut();
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        // Like a Go server, the headers go with the first answer.
        match answered.recv().await {
            Some(first) => Ok(Response::new(Box::pin(tokio_stream::once(first).chain(ReceiverStream::new(answered))))),
            None => Ok(Response::new(Box::pin(tokio_stream::empty()))),
        }
    }
}

/// A connection that can be cut.
struct Cable {
    io: DuplexStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Cable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
