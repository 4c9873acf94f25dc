//! One stream: questions in, answers out, in order.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::error::{Error, ErrorKind, Result};
use crate::model::server::ServerAddr;
use crate::pb::v1;
use crate::transport::Inner;
use crate::transport::auth::{Operation, Stamp};
use crate::transport::discover::codec::AnswerCodec;
use crate::transport::discover::schedule::MAX_OUTSTANDING;
use crate::transport::pool::Link;
use crate::transport::rpc;
use crate::util::deadline::after;
use crate::wire::discovered::DiscoverAnswer;

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<DiscoverAnswer>>, Status>> + Send>>;

const METHOD: &str = "/v1.PolarisGRPC/Discover";

/// A discover stream. Dropping it ends it.
pub(super) struct Session {
    link: Arc<Link>,
    stamp: Stamp,
    questions: mpsc::Sender<v1::DiscoverRequest>,
    answers: Answers,
}

/// A server sends its headers with its first answer, so a stream is not open before a question was asked: opening is
/// waited for like an answer.
enum Answers {
    Opening(Opening),
    Open(Box<Streaming<DiscoverAnswer>>),
}

/// Why there are no more answers.
pub(super) struct Ended {
    pub(super) error: Error,
    /// Whether the server ended it over what was asked, rather than the connection or an absent server.
    pub(super) by_server: bool,
}

impl Session {
    /// Prepares the stream; nothing is dialled before the first answer is waited for.
    pub(super) async fn open(transport: &Inner, server: &ServerAddr) -> Result<Self> {
        let (questions, asked) = mpsc::channel(MAX_OUTSTANDING);
        let mut request = Request::new(ReceiverStream::new(asked));
        let until = after(Instant::now(), transport.options.message_timeout);
        let stamp = transport.auth.stamp(request.metadata_mut(), Operation::Discover, until).await?;
        let link = transport.pool.link(server, until).await?;
        let mut client = Grpc::new(link.channel()).max_decoding_message_size(transport.options.max_message_size);
        let opening = Box::pin(async move {
            client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            client.streaming(request, PathAndQuery::from_static(METHOD), AnswerCodec).await
        });
        Ok(Self { link, stamp, questions, answers: Answers::Opening(opening) })
    }

    /// Of the token that the stream was opened with, and carries for as long as it lives.
    pub(super) fn token_generation(&self) -> u64 {
        self.stamp.generation
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Sends a question; there is room for all that may be outstanding. A stream that is gone says so by its answers.
    pub(super) fn ask(&self, question: v1::DiscoverRequest) {
        let _ = self.questions.try_send(question);
    }

    /// The next answer. Cancel safe.
    pub(super) async fn answer(&mut self) -> Result<DiscoverAnswer, Ended> {
        if let Answers::Opening(opening) = &mut self.answers {
            match opening.await {
                Ok(response) => self.answers = Answers::Open(Box::new(response.into_inner())),
                Err(status) => return Err(self.failed(&status)),
            }
        }
        let Answers::Open(answers) = &mut self.answers else { return Err(self.ended()) };
        match answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.ended()),
            Err(status) => Err(self.failed(&status)),
        }
    }

    fn failed(&self, status: &Status) -> Ended {
        let error = rpc::from_status(status, Operation::Discover, &self.link);
        // Statuses of the connection carry its error; those of a server or proxy that is away say nothing of a question.
        let by_answer = matches!(
            status.code(),
            Code::Internal | Code::Unknown | Code::OutOfRange | Code::ResourceExhausted | Code::DataLoss
        );
        let by_server = by_answer && status.source().is_none() && self.link.fault().is_none();
        Ended { error: self.about(error), by_server }
    }

    fn ended(&self) -> Ended {
        let fault = self.link.fault();
        let by_server = fault.is_none();
        let why = fault.unwrap_or_else(|| "the server ended the stream".to_owned());
        Ended { error: self.about(Error::new(ErrorKind::Network, format!("discover: {why}"))), by_server }
    }

    /// Says where an error happened.
    pub(super) fn about(&self, error: Error) -> Error {
        error.with_address(self.link.server().to_string()).with_request_id(Arc::clone(&self.stamp.id))
    }
}
