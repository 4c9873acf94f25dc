//! What a scripted node is as a limiter.

use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::pb::metric::rate_limit_grpcv2_server::RateLimitGrpcv2;
use crate::pb::metric::{RateLimitRequest, RateLimitResponse, TimeAdjustRequest, TimeAdjustResponse};
use crate::transport::scripted::Node;

/// The script, and what was heard.
pub(super) struct Limiter {
    service: Mutex<Script>,
    clock: Mutex<Clock>,
    heard: Mutex<Vec<Heard>>,
    clock_asked: Mutex<Vec<MetadataMap>>,
    opened: watch::Sender<usize>,
    ended: watch::Sender<usize>,
}

type Script = Box<dyn FnMut(&Heard) -> Vec<Said> + Send>;

type Clock = Box<dyn FnMut() -> Tick + Send>;

/// A message of a stream.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// The how-manieth stream of the node, from 1.
    pub(super) stream: usize,
    pub(super) metadata: MetadataMap,
    pub(super) request: RateLimitRequest,
}

/// What a limiter does about a message, one after the other.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Answer(Box<RateLimitResponse>),
    Pause(Duration),
    /// Ends the stream in peace.
    End,
    Fail(Code),
    /// Cuts the connection.
    Cut,
}

/// What the clock shows, and after what time it says so.
pub(super) type Tick = (Duration, Result<i64, Code>);

// === impl Limiter ===

impl Default for Limiter {
    /// Says nothing, and has no time.
    fn default() -> Self {
        Self {
            service: Mutex::new(Box::new(|_| Vec::new())),
            clock: Mutex::new(Box::new(|| (Duration::ZERO, Ok(0)))),
            heard: Mutex::default(),
            clock_asked: Mutex::default(),
            opened: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        }
    }
}

impl Limiter {
    pub(super) fn on_service(&self, script: impl FnMut(&Heard) -> Vec<Said> + Send + 'static) {
        *self.service.lock().unwrap() = Box::new(script);
    }

    pub(super) fn on_clock(&self, script: impl FnMut() -> Tick + Send + 'static) {
        *self.clock.lock().unwrap() = Box::new(script);
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The metadata of each call for the time.
    pub(super) fn clock_asked(&self) -> Vec<MetadataMap> {
        self.clock_asked.lock().unwrap().clone()
    }

    /// Waits until so many streams have come to an end.
    pub(super) async fn ended(&self, count: usize) {
        self.ended.subscribe().wait_for(|ended| *ended >= count).await.unwrap();
    }
}

#[tonic::async_trait]
impl RateLimitGrpcv2 for Node {
    type ServiceStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<RateLimitResponse, Status>> + Send>>;

    async fn service(
        &self,
        request: Request<Streaming<RateLimitRequest>>,
    ) -> Result<Response<Self::ServiceStream>, Status> {
        let (metadata, _, mut messages) = request.into_parts();
        self.limiter().opened.send_modify(|count| *count += 1);
        let stream = *self.limiter().opened.borrow();
        let (answers, mut answered) = mpsc::channel(1);
        let node = self.clone();
        self.scope().spawn("limiter stream", async move {
            'stream: while let Ok(Some(request)) = messages.message().await {
                let heard = Heard { stream, metadata: metadata.clone(), request };
                node.limiter().heard.lock().unwrap().push(heard.clone());
                let said = (node.limiter().service.lock().unwrap())(&heard);
                for said in said {
                    let sent = match said {
                        Said::Answer(answer) => answers.send(Ok(*answer)).await,
                        Said::Pause(pause) => {
                            tokio::time::sleep(pause).await;
                            Ok(())
                        }
                        Said::Fail(code) => answers.send(Err(Status::new(code, "scripted"))).await,
                        Said::End => break 'stream,
                        Said::Cut => {
                            node.cut();
                            break 'stream;
                        }
                    };
                    if sent.is_err() {
                        break 'stream;
                    }
                }
            }
            node.limiter().ended.send_modify(|count| *count += 1);
        });
        // Like a Go server, the headers go with the first answer.
        match answered.recv().await {
            Some(first) => Ok(Response::new(Box::pin(tokio_stream::once(first).chain(ReceiverStream::new(answered))))),
            None => Ok(Response::new(Box::pin(tokio_stream::empty()))),
        }
    }

    async fn time_adjust(&self, request: Request<TimeAdjustRequest>) -> Result<Response<TimeAdjustResponse>, Status> {
        self.limiter().clock_asked.lock().unwrap().push(request.metadata().clone());
        let (delay, time) = (self.limiter().clock.lock().unwrap())();
        tokio::time::sleep(delay).await;
        match time {
            Ok(server_timestamp) => Ok(Response::new(TimeAdjustResponse { server_timestamp })),
            Err(code) => Err(Status::new(code, "scripted")),
        }
    }
}
