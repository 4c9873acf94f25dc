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
use crate::util::deadline::after;
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
    /// Whether the server may have got the request, and gave no answer that tells.
    unanswered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// Nothing: the answer would be the same.
    Stop,
    /// A newer token than that of this generation.
    Token(u64),
    /// Another server, or a new connection.
    Elsewhere,
    /// A little time: nothing was sent, for reasons of our own.
    Again,
    /// Time, at least this much.
    Wait(Duration),
}

impl Inner {
    /// Makes the call. `message` makes its message, for each try anew; `send` is one of the client's methods.
    ///
    /// A try without an answer is made again; on the same server only where the operation may be repeated there while
    /// the server is perhaps at it still.
    pub(super) async fn unary<M, F, Fut>(&self, call: &Call, message: impl Fn() -> M, send: F) -> Result<v1::Response>
    where
        F: Fn(PolarisGrpcClient<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<v1::Response>, Status>>,
    {
        let started = Instant::now();
        let deadline = after(started, call.within);
        let mut backoff = Backoff::new(self.options.retry_interval, self.options.retry_interval.saturating_mul(8));
        let tries = self.tries(call);
        let (mut renewed, mut attempt) = (false, 0);
        let mut server = self.pick(call.cluster).map_err(|error| about(call, error))?;
        // Servers that may be at it still, and must not be given it twice.
        let mut silent = Vec::new();
        loop {
            attempt += 1;
            let until = self.try_until(call, tries.saturating_sub(attempt), deadline);
            let failure = match self.try_once(call, &server, message(), &send, until).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let error = about(call, failure.error).with_attempts(attempt).with_elapsed(started.elapsed());
            if failure.unanswered && !call.operation.is_repeatable() {
                silent.push(server.clone());
            }
            let Some(next) = self.clusters.beside(call.cluster, &silent, Instant::now()) else { return Err(error) };
            let pause = match failure.advice {
                Advice::Token(used) if !renewed && self.auth.refresh(used, deadline).await => {
                    renewed = true;
                    // The refusal cost nothing: it does not count.
                    attempt -= 1;
                    Duration::ZERO
                }
                Advice::Stop | Advice::Token(_) => return Err(error),
                _ if attempt >= tries => return Err(error),
                // An urgent call that timed out has a new connection to the same server to go to.
                Advice::Elsewhere if next != server || call.urgent && error.kind() == ErrorKind::Timeout => {
                    Duration::ZERO
                }
                Advice::Elsewhere | Advice::Again => {
                    let pause = backoff.next_delay(&mut rand::rng());
                    if call.urgent { pause.min(call.within / 8) } else { pause }
                }
                Advice::Wait(least) => least.saturating_add(backoff.next_delay(&mut rand::rng())),
            };
            if after(Instant::now(), pause) >= deadline {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.pool.scope().cancelled() => return self.pool.check_open().and(Err(error)),
            }
            let Some(next) = self.clusters.beside(call.cluster, &silent, Instant::now()) else { return Err(error) };
            server = next;
        }
    }

    fn tries(&self, call: &Call) -> u32 {
        let configured = self.options.max_retries.saturating_add(1);
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

    async fn try_once<M, F, Fut>(
        &self,
        call: &Call,
        server: &ServerAddr,
        message: M,
        send: &F,
        until: Instant,
    ) -> Result<v1::Response, Failure>
    where
        F: Fn(PolarisGrpcClient<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<v1::Response>, Status>>,
    {
        let mut request = Request::new(message);
        let stamp = self.auth.stamp(request.metadata_mut(), call.operation, until).await;
        let stamp = stamp.map_err(|error| Failure::before_it_was_sent(error, self.auth.can_change()))?;
        if call.background {
            request.metadata_mut().insert("async-regis", tonic::metadata::MetadataValue::from_static("true"));
        }
        let link = self.pool.link(server, until).await.map_err(|error| Failure::before_it_was_sent(error, true))?;
        let before = link.writes();
        // Pinned here: it is large, and would be moved into the time-out.
        let answer = std::pin::pin!(send(self.client(&link), request));
        let failure = match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                if (call.accepts)(response.code()) {
                    self.clusters.succeeded(call.cluster, server);
                    return Ok(response);
                }
                self.refused(call, server, &response, stamp.generation)
            }
            Ok(Err(status)) => {
                let failure = failed(call, &status, &link, stamp.generation, before);
                if failure.advice == Advice::Elsewhere {
                    self.demote(call, server, &link);
                }
                failure
            }
            Err(_) => {
                self.demote(call, server, &link);
                let why = link.fault().unwrap_or_else(|| "the server did not answer in time".to_owned());
                let error = Error::new(ErrorKind::Timeout, format!("{}: {why}", call.operation.as_str()));
                Failure { error, advice: Advice::Elsewhere, unanswered: link.writes() != before }
            }
        };
        let error = failure.error.with_address(server.to_string()).with_request_id(stamp.id);
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
    fn refused(&self, call: &Call, server: &ServerAddr, response: &v1::Response, token: u64) -> Failure {
        let code = response.code();
        let mut error = response.error(call.operation.as_str());
        if code.is_throttled() {
            error = error.with_retry_after(THROTTLED);
        }
        let advice = if code.is_unauthorized() {
            Advice::Token(token)
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
        Failure { error, advice, unanswered: false }
    }
}

impl Failure {
    /// What has to be there before a request can go may be there a moment later: a file that is being replaced, a
    /// function that is slow. It says nothing of the server.
    fn before_it_was_sent(error: Error, can_change: bool) -> Self {
        let lasts = !can_change || error.kind() == ErrorKind::Closed;
        Self { error, advice: if lasts { Advice::Stop } else { Advice::Again }, unanswered: false }
    }
}

fn about(call: &Call, error: Error) -> Error {
    match &call.service {
        Some(service) => error.with_service(Arc::clone(service)),
        None => error,
    }
}

fn failed(call: &Call, status: &Status, link: &Link, token: u64, before: u64) -> Failure {
    let error = from_status(status, call.operation, link);
    let advice = match error.kind() {
        ErrorKind::Unauthorized => Advice::Token(token),
        ErrorKind::Network | ErrorKind::Timeout => Advice::Elsewhere,
        // Proxies that limit rates say so, and nobody has looked at the request.
        _ if status.code() == Code::ResourceExhausted => Advice::Wait(THROTTLED),
        _ => Advice::Stop,
    };
    // What a connection's end or a proxy says leaves open whether the server has begun.
    let unanswered = advice == Advice::Elsewhere && link.writes() != before;
    Failure { error, advice, unanswered }
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
