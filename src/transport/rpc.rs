//! One unary call: one deadline over all its tries, each try bounded too, the next one elsewhere where that can help.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::model::server::ServerAddr;
use crate::pb::v1;
use crate::pb::v1::polaris_grpc_client::PolarisGrpcClient;
use crate::transport::Inner;
use crate::transport::auth::Operation;
use crate::transport::clusters::Cluster;
use crate::transport::pool::Link;
use crate::util::backoff::Backoff;
use crate::wire::code::Answered;

/// The shortest pause after a server asked to slow down.
const THROTTLED: Duration = Duration::from_secs(1);

/// What a call is, apart from its message.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) cluster: Cluster,
    pub(crate) service: Option<Arc<str>>,
    /// The deadline over all tries.
    pub(crate) within: Duration,
    /// Late is as bad as never: no try takes more than half of what is left, and the next one follows at once.
    pub(crate) urgent: bool,
    /// Marks a registration that the application does not wait for.
    pub(crate) background: bool,
    /// Which codes are a good end.
    pub(crate) accepts: fn(ServerCode) -> bool,
}

/// Why a try failed, and what may help.
struct Failure {
    error: Error,
    advice: Advice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// Nothing: the answer would be the same.
    Stop,
    /// A new token.
    Token,
    /// Another server, or a new connection.
    Elsewhere,
    /// Time, at least this much.
    Wait(Duration),
}

impl Inner {
    /// Makes the call. `send` is one of the client's methods.
    ///
    /// Every operation of this protocol may be repeated, so a try without an answer is tried again.
    pub(super) async fn unary<M, F, Fut>(&self, call: &Call, message: &M, send: F) -> Result<v1::Response>
    where
        M: Clone,
        F: Fn(PolarisGrpcClient<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<v1::Response>, Status>>,
    {
        let started = Instant::now();
        let deadline = started + call.within;
        let mut backoff = Backoff::new(self.options.retry_interval, self.options.retry_interval * 8);
        let tries = self.tries(call);
        let mut renewed = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let until = self.try_until(call, tries.saturating_sub(attempt), deadline);
            let Failure { error, advice } = match self.try_once(call, message, &send, until).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let error = error.with_attempts(attempt).with_elapsed(started.elapsed());
            let pause = match advice {
                Advice::Token if !renewed && self.auth.refresh().await => {
                    renewed = true;
                    // The refusal cost nothing: it does not count.
                    attempt -= 1;
                    Duration::ZERO
                }
                Advice::Stop | Advice::Token => return Err(error),
                _ if attempt >= tries => return Err(error),
                Advice::Elsewhere if self.can_go_elsewhere(call, &error) => Duration::ZERO,
                Advice::Elsewhere => {
                    let pause = backoff.next_delay(&mut rand::rng());
                    if call.urgent { pause.min(call.within / 8) } else { pause }
                }
                Advice::Wait(least) => least + backoff.next_delay(&mut rand::rng()),
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.pool.scope().cancelled() => return self.pool.check_open().and(Err(error)),
            }
        }
    }

    fn tries(&self, call: &Call) -> u32 {
        let configured = 1 + self.options.max_retries;
        match call.urgent {
            true if self.clusters.has_several(call.cluster) => configured.clamp(3, 4),
            true => configured.clamp(2, 4),
            false => configured,
        }
    }

    /// A try leaves time for the next one where there is one to leave it for: an urgent call always has a second
    /// connection to try, any other only a second server.
    fn try_until(&self, call: &Call, further: u32, deadline: Instant) -> Instant {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let shares = further > 0 && (call.urgent || self.clusters.has_several(call.cluster));
        now + if shares { left / 2 } else { left }.min(self.options.message_timeout)
    }

    fn can_go_elsewhere(&self, call: &Call, error: &Error) -> bool {
        // An urgent call that timed out has a new connection to the same server to go to.
        let timed_out = call.urgent && error.kind() == ErrorKind::Timeout;
        let Ok(next) = self.pick(call.cluster) else { return false };
        timed_out || error.address().is_some_and(|failed| failed != next.to_string())
    }

    async fn try_once<M, F, Fut>(
        &self,
        call: &Call,
        message: &M,
        send: &F,
        until: Instant,
    ) -> Result<v1::Response, Failure>
    where
        M: Clone,
        F: Fn(PolarisGrpcClient<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<v1::Response>, Status>>,
    {
        let stop = |error: Error| Failure { error: about(call, error), advice: Advice::Stop };
        let server = self.pick(call.cluster).map_err(stop)?;
        let mut request = Request::new(message.clone());
        let id = self.auth.stamp(request.metadata_mut(), call.operation).await.map_err(stop)?;
        if call.background {
            request.metadata_mut().insert("async-regis", tonic::metadata::MetadataValue::from_static("true"));
        }
        let link = self.pool.link(&server).map_err(stop)?;
        let answer = send(self.client(&link), request);
        let failure = match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                if (call.accepts)(response.code()) {
                    self.clusters.succeeded(call.cluster, &server);
                    return Ok(response);
                }
                self.refused(call, &server, &response)
            }
            Ok(Err(status)) => {
                let failure = failed(call, &status, &link);
                if failure.advice == Advice::Elsewhere {
                    self.demote(call, &server, &link);
                }
                failure
            }
            Err(_) => {
                self.demote(call, &server, &link);
                let why = link.fault().unwrap_or_else(|| "the server did not answer in time".to_owned());
                let error = Error::new(ErrorKind::Timeout, format!("{}: {why}", call.operation.as_str()));
                Failure { error, advice: Advice::Elsewhere }
            }
        };
        let error = about(call, failure.error).with_address(server.to_string()).with_request_id(id);
        Err(Failure { error, ..failure })
    }

    pub(super) fn client(&self, link: &Link) -> PolarisGrpcClient<Channel> {
        PolarisGrpcClient::new(link.channel()).max_decoding_message_size(self.options.max_message_size)
    }

    fn demote(&self, call: &Call, server: &ServerAddr, link: &Arc<Link>) {
        self.pool.discard(link);
        if self.pool.check_open().is_ok() {
            self.clusters.failed(call.cluster, server, Instant::now());
        }
    }

    /// The server answered with a code that is no success.
    fn refused(&self, call: &Call, server: &ServerAddr, response: &v1::Response) -> Failure {
        let code = response.code();
        let mut error = response.error(call.operation.as_str());
        if code.is_throttled() {
            error = error.with_retry_after(THROTTLED);
        }
        let advice = if code.is_unauthorized() {
            Advice::Token
        } else if code.is_throttled() {
            Advice::Wait(THROTTLED)
        } else if code == ServerCode::SAME_INSTANCE_REQUEST {
            Advice::Wait(Duration::ZERO)
        } else if error.is_retryable() {
            // The node itself is in trouble, or it is not ready yet.
            self.clusters.failed(call.cluster, server, Instant::now());
            Advice::Elsewhere
        } else {
            Advice::Stop
        };
        Failure { error, advice }
    }
}

fn about(call: &Call, error: Error) -> Error {
    match &call.service {
        Some(service) => error.with_service(Arc::clone(service)),
        None => error,
    }
}

fn failed(call: &Call, status: &Status, link: &Link) -> Failure {
    let error = from_status(status, call.operation, link);
    let advice = match error.kind() {
        ErrorKind::Unauthorized => Advice::Token,
        ErrorKind::Network | ErrorKind::Timeout => Advice::Elsewhere,
        _ => Advice::Stop,
    };
    Failure { error, advice }
}

/// What a gRPC status means. Its text comes from the server, or from tonic, which says little about a connection that
/// failed: the link knows more.
pub(super) fn from_status(status: &Status, operation: Operation, link: &Link) -> Error {
    let kind = match status.code() {
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unauthenticated | Code::PermissionDenied => ErrorKind::Unauthorized,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        // Of a message over a size limit, ours or the server's.
        Code::ResourceExhausted | Code::OutOfRange => ErrorKind::Server,
        _ => ErrorKind::Network,
    };
    let text = match link.fault() {
        Some(fault) if kind == ErrorKind::Network => fault,
        _ => match root_cause(status) {
            Some(cause) => format!("{}: {cause}", status.message()),
            None => format!("{:?}: {}", status.code(), status.message()),
        },
    };
    Error::new(kind, format!("{}: {text}", operation.as_str())).with_source(status.clone())
}

/// The innermost source, which is where tonic's wrappers of a failed connection end in something that helps.
fn root_cause(error: &dyn std::error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Some(cause.to_string())
}
