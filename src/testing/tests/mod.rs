//! The embedded control plane as a client meets it, line by line of the protocol.

mod discovery;
mod faults;
mod health;
mod lifecycle;
mod limit_rules;
mod limiter;
mod registration;
mod routing;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::Server;
use crate::pb::v1;
use crate::pb::v1::discover_request::DiscoverRequestType as Kind;
use crate::pb::v1::polaris_grpc_client::PolarisGrpcClient;
use crate::util::connect::{BoxIo, Connector};

/// Makes tonic's connections over one of ours.
#[derive(Clone)]
struct Dial(Arc<dyn Connector>);

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<BoxIo>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.connect(uri.host().unwrap().to_owned(), uri.port_u16().unwrap());
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}

fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    endpoint.connect_with_connector_lazy(Dial(server.connector()))
}

fn client(server: &Server) -> PolarisGrpcClient<Channel> {
    PolarisGrpcClient::new(channel(server)).max_decoding_message_size(usize::MAX)
}

/// A message from its JSON.
#[allow(clippy::needless_pass_by_value, reason = "reads better at every call")]
fn message<M: prost::Message + Default + prost::Name>(json: serde_json::Value) -> M {
    let table = crate::pb::schema::find(&M::full_name()).unwrap();
    M::decode(crate::wire::json::to_bytes(table, &json).unwrap().as_slice()).unwrap()
}

fn question(kind: Kind, namespace: &str, name: &str) -> v1::DiscoverRequest {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let service = v1::Service { namespace: text(namespace), name: text(name), ..Default::default() };
    v1::DiscoverRequest { r#type: kind.into(), service: Some(service), ..Default::default() }
}

/// The same question by someone who knows this revision.
fn knowing(mut question: v1::DiscoverRequest, revision: Option<&str>) -> v1::DiscoverRequest {
    question.service.as_mut().unwrap().revision = revision.map(str::to_owned);
    question
}

/// A discover stream.
struct Discovery {
    questions: mpsc::Sender<v1::DiscoverRequest>,
    answers: tonic::Streaming<v1::DiscoverResponse>,
}

impl Discovery {
    async fn open(server: &Server) -> Self {
        let (questions, outbound) = mpsc::channel(512);
        let answers = client(server).discover(ReceiverStream::new(outbound)).await.unwrap().into_inner();
        Self { questions, answers }
    }

    async fn send(&self, question: v1::DiscoverRequest) {
        self.questions.send(question).await.unwrap();
    }

    /// The next answer; nothing if the stream ended with OK.
    async fn next(&mut self) -> Result<Option<v1::DiscoverResponse>, tonic::Status> {
        self.answers.message().await
    }

    async fn ask(&mut self, question: v1::DiscoverRequest) -> v1::DiscoverResponse {
        self.send(question).await;
        self.next().await.unwrap().expect("an answer")
    }
}

fn revision(answer: &v1::DiscoverResponse) -> Option<&str> {
    answer.service.as_ref()?.revision.as_deref()
}

fn hosts(answer: &v1::DiscoverResponse) -> Vec<&str> {
    let mut hosts: Vec<_> = answer.instances.iter().map(|instance| instance.host.as_deref().unwrap()).collect();
    hosts.sort_unstable();
    hosts
}
