//! gRPC by hand, as far as a fake needs it: bytes in, bytes out.
//!
//! The generated server stubs decode and encode by themselves, and then a script cannot answer with bytes that are no
//! message, or with a field that `proto/` does not declare. So the services are one table of paths here, over a codec
//! that leaves the bytes alone.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::limiter::Session;
use super::node::Node;
use super::record::{Call, Rpc};

/// The most that a request may hold, as on a real server.
const MAX_REQUEST: usize = 4 << 20;

/// Leaves messages as the bytes they are.
#[derive(Debug, Default, Clone, Copy)]
struct Raw;

/// What answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) node: Arc<Node>,
    pub(super) connection: u64,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

// === impl Raw ===

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut;
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost::bytes::Buf;
        if from.remaining() > MAX_REQUEST {
            let text = format!("grpc: received message larger than max ({} vs. {MAX_REQUEST})", from.remaining());
            return Err(Status::resource_exhausted(text));
        }
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

// === impl Endpoint ===

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for Endpoint {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let endpoint = self.clone();
        Box::pin(async move { Ok(endpoint.answer(request).await) })
    }
}

impl Endpoint {
    async fn answer(self, request: http::Request<hyper::body::Incoming>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        let rpc = Rpc::of(&path);
        let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(usize::MAX);
        if !self.node.serves(rpc) {
            // At once: whoever sends a stream here may never send a message on it.
            let metadata = MetadataMap::from_headers(request.headers().clone());
            self.node.record.arrived(self.call(rpc, &path, &metadata, Vec::new()));
            return Status::unimplemented(format!("unknown service or method {path}")).into_http();
        }
        match rpc {
            Rpc::LimitInit => grpc.streaming(Session { endpoint: self, path }, request).await,
            Rpc::Discover | Rpc::BatchHeartbeat => grpc.streaming(Stream { endpoint: self, path, rpc }, request).await,
            _ => grpc.unary(Unary { endpoint: self, path, rpc }, request).await,
        }
    }

    pub(super) fn call(&self, rpc: Rpc, path: &str, metadata: &MetadataMap, body: Vec<u8>) -> Call {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Call {
            connection: self.connection,
            token: text("x-polaris-token"),
            request_id: text("request-id"),
            user_agent: text("user-agent"),
            background: metadata.contains_key("async-regis"),
            ..Call::new(rpc, path, body, tokio::time::Instant::now())
        }
    }
}

/// One unary call.
struct Unary {
    endpoint: Endpoint,
    path: String,
    rpc: Rpc,
}

impl tower_service::Service<Request<Vec<u8>>> for Unary {
    type Response = Response<Vec<u8>>;
    type Error = Status;
    type Future = Answer<Vec<u8>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let (metadata, _, body) = request.into_parts();
        let call = self.endpoint.call(self.rpc, &self.path, &metadata, body);
        let node = Arc::clone(&self.endpoint.node);
        Box::pin(async move {
            let answer = node.unary(call);
            guarded(&node, answer)
                .await
                .unwrap_or_else(|| Err(Status::internal("the fake panicked")))
                .map(Response::new)
        })
    }
}

/// One stream of requests, answered one by one in order.
struct Stream {
    endpoint: Endpoint,
    path: String,
    rpc: Rpc,
}

impl tower_service::Service<Request<Streaming<Vec<u8>>>> for Stream {
    type Response = Response<ReceiverStream<Result<Vec<u8>, Status>>>;
    type Error = Status;
    type Future = Answer<ReceiverStream<Result<Vec<u8>, Status>>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let (metadata, _, mut inbound) = request.into_parts();
        let (answers, outbound) = tokio::sync::mpsc::channel(1);
        let (endpoint, path, rpc) = (self.endpoint.clone(), self.path.clone(), self.rpc);
        let node = Arc::clone(&endpoint.node);
        let scope = node.scope().clone();
        scope.spawn("stream", async move {
            let stopped = node.stopped();
            let serving = async {
                loop {
                    let answer = match inbound.message().await {
                        Ok(Some(body)) => node.message(endpoint.call(rpc, &path, &metadata, body)).await,
                        Ok(None) => None,
                        Err(status) => Some(Err(status)),
                    };
                    let last = !matches!(answer, Some(Ok(_)));
                    let sent = match answer.and_then(Result::transpose) {
                        Some(answer) => answers.send(answer).await.is_ok(),
                        None => true,
                    };
                    if last || !sent {
                        return;
                    }
                }
            };
            let left = answers.closed();
            tokio::select! {
                biased;
                () = stopped => drop(answers.send(Err(Status::unavailable("transport is closing"))).await),
                () = left => {}
                _ = guarded(&node, serving) => {}
            }
        });
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(outbound))) })
    }
}

/// Runs `work`; `None` if it panicked, which the node keeps for whoever ends it.
pub(super) async fn guarded<T>(node: &Node, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(panic) => {
            node.panicked(panic);
            Poll::Ready(None)
        }
    })
    .await
}
