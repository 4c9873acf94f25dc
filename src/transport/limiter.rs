//! The way to a polaris-limiter: a stream on which quotas are joined and use is reported, and a call for its clock.
//!
//! Problem: a limiter answers out of turn (what one client uses up is told to the others), ends the stream in peace over a
//! wrong counter key, forgets everything when it restarts, and says nothing at all before its first answer. Choice: one
//! owner holds the stream and waits on it beside its other work; messages go out by a queue that does not wait; when to
//! join again, and with whom, is decided above. Invariant: nothing here blocks or waits without end but for the next
//! answer of a stream that has given one; what is queued is bounded; after an error a stream gives that error only.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Error, ErrorKind, Result};
use crate::model::limiter::{JoinQuota, QuotaTarget, QuotaUse};
use crate::model::limiter_answer::LimiterAnswer;
use crate::model::server::ServerAddr;
use crate::pb::metric;
use crate::pb::metric::rate_limit_grpcv2_client::RateLimitGrpcv2Client;
use crate::transport::auth::Operation;
use crate::transport::pool::{Link, Pool};
use crate::transport::{Inner, Transport, TransportOptions, rpc};
use crate::util::deadline::after;
use crate::wire::limiter;

/// How many messages may wait to go out: seconds of reports. A limiter that takes in fewer is as good as gone.
pub(crate) const ROOM: usize = 256;

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<metric::RateLimitResponse>>, Status>> + Send>>;

/// A stream to a limiter. Dropping it ends it, and does not wait.
pub(crate) struct LimiterStream {
    way: Way,
    pool: Pool,
    /// How long the first answer may take, once something was asked.
    patience: Duration,
    due: Option<Instant>,
    outgoing: mpsc::Sender<metric::RateLimitRequest>,
    incoming: Incoming,
}

/// A limiter sends its headers with its first answer: opening is waited for like an answer.
enum Incoming {
    Opening(Opening),
    Open(Box<Streaming<metric::RateLimitResponse>>),
    Ended(Error),
}

/// What a limiter's clock showed at some time between two of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimiterTime {
    pub(crate) server_millis: i64,
    pub(crate) sent: Instant,
    pub(crate) received: Instant,
}

/// A connection, and what an error on it has to tell.
#[derive(Debug)]
struct Way {
    link: Arc<Link>,
    request_id: Arc<str>,
    started: Instant,
}

impl Transport {
    /// Prepares a stream to a limiter. Nothing is dialled before its first answer is waited for, which has the time for a
    /// connection and for a message, from the first thing that is asked on it.
    pub(crate) async fn limiter(&self, server: &ServerAddr) -> Result<LimiterStream> {
        let options = &self.0.options;
        let patience = options.connect_timeout.saturating_add(options.message_timeout);
        let (outgoing, waiting) = mpsc::channel(ROOM);
        let mut request = Request::new(ReceiverStream::new(waiting));
        let way = self.0.way(server, request.metadata_mut(), patience).await?;
        let mut client = self.0.limiter_client(&way.link);
        let incoming = Incoming::Opening(Box::pin(async move { client.service(request).await }));
        Ok(LimiterStream { way, pool: self.0.pool.clone(), patience, due: None, outgoing, incoming })
    }

    /// Asks a limiter for its time.
    pub(crate) async fn limiter_time(&self, server: &ServerAddr, within: Duration) -> Result<LimiterTime> {
        let mut metadata = MetadataMap::new();
        let way = self.0.way(server, &mut metadata, within).await?;
        let until = after(way.started, within);
        let first_of_connection = way.link.writes() == 0;
        let time = self.0.time(&way, metadata.clone(), until).await?;
        // The time for making the connection lies between sending and receiving.
        if first_of_connection { self.0.time(&way, metadata, until).await } else { Ok(time) }
    }
}

impl LimiterStream {
    /// Asks to count along; each target is answered sooner or later, together with others or alone. Returns the targets
    /// that are too large to be asked for.
    pub(crate) fn join(&mut self, client_id: &str, asks: &[JoinQuota]) -> Vec<QuotaTarget> {
        let joining = limiter::join(client_id, asks);
        for message in joining.messages {
            self.send(message);
        }
        joining.too_large
    }

    /// Reports use at a time of the limiter's clock: elsewhere than in its current window the limiter does not count it.
    pub(crate) fn report(&mut self, client_key: u32, uses: &[QuotaUse], timestamp_millis: i64) {
        for message in limiter::report(client_key, uses, timestamp_millis) {
            self.send(message);
        }
    }

    /// The next answer, asked for or not. Cancel safe.
    pub(crate) async fn answer(&mut self) -> Result<LimiterAnswer> {
        let answer = self.next().await;
        if let Err(error) = &answer {
            self.incoming = Incoming::Ended(error.clone());
        }
        answer
    }

    /// Ends the stream, and keeps others from its connection: for one that should have answered and has not.
    pub(crate) fn abandon(self) {
        self.pool.discard(&self.way.link);
    }

    /// A stream that has ended says so by its answers.
    fn send(&mut self, message: metric::RateLimitRequest) {
        self.due.get_or_insert_with(|| after(Instant::now(), self.patience));
        if let Err(TrySendError::Full(_)) = self.outgoing.try_send(message)
            && !matches!(self.incoming, Incoming::Ended(_))
        {
            self.pool.discard(&self.way.link);
            let why = format!("the limiter takes nothing in, and {ROOM} messages wait for it");
            self.incoming = Incoming::Ended(self.way.error(ErrorKind::Network, &why));
        }
    }

    async fn next(&mut self) -> Result<LimiterAnswer> {
        if let Incoming::Opening(opening) = &mut self.incoming {
            let opened = match self.due {
                Some(due) => timeout_at(due, opening).await,
                None => Ok(opening.await),
            };
            match opened {
                Ok(Ok(response)) => self.incoming = Incoming::Open(Box::new(response.into_inner())),
                Ok(Err(status)) => return Err(self.way.failed(&status, &self.pool)),
                Err(_) => return Err(self.way.overdue(&self.pool)),
            }
        }
        match &mut self.incoming {
            Incoming::Open(answers) => match answers.message().await {
                Ok(Some(answer)) => Ok(limiter::answer(answer)),
                Ok(None) => Err(self.way.over(&self.pool)),
                Err(status) => Err(self.way.failed(&status, &self.pool)),
            },
            Incoming::Ended(error) => Err(error.clone()),
            Incoming::Opening(_) => Err(self.way.over(&self.pool)),
        }
    }
}

impl fmt::Debug for LimiterStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterStream").field("way", &self.way).finish_non_exhaustive()
    }
}

impl Inner {
    /// The connection to `server`, and the metadata of what goes there.
    async fn way(&self, server: &ServerAddr, metadata: &mut MetadataMap, within: Duration) -> Result<Way> {
        let started = Instant::now();
        let until = after(started, within);
        let way = async {
            self.pool.check_open()?;
            let request_id = if self.options.may_see_token(server) {
                self.auth.stamp(metadata, Operation::Limiter, until).await?.id
            } else {
                self.auth.number(metadata, Operation::Limiter)
            };
            // A limiter keeps its statistics by it, and goes by the connection where it is missing.
            if let Some(address) = self.own_address(server, until).await {
                metadata.insert("client-ip", address);
            }
            Ok(Way { link: self.pool.link(server, until).await?, request_id, started })
        };
        way.await.map_err(|error: Error| error.with_address(server.to_string()).with_elapsed(started.elapsed()))
    }

    async fn own_address(&self, server: &ServerAddr, until: Instant) -> Option<MetadataValue<Ascii>> {
        let address = if let Some(address) = self.options.bind_ip {
            address
        } else {
            let within = until.saturating_duration_since(Instant::now()).min(self.options.connect_timeout);
            self.address_towards(server, within).await.ok()?
        };
        MetadataValue::try_from(address.to_string()).ok()
    }

    async fn time(&self, way: &Way, metadata: MetadataMap, until: Instant) -> Result<LimiterTime> {
        let mut request = Request::new(metric::TimeAdjustRequest {});
        *request.metadata_mut() = metadata;
        let mut client = self.limiter_client(&way.link);
        let sent = Instant::now();
        // Pinned here: it is large, and would be moved into the time-out.
        let asked = std::pin::pin!(client.time_adjust(request));
        let server_millis = match timeout_at(until, asked).await {
            Ok(Ok(response)) => response.into_inner().server_timestamp,
            Ok(Err(status)) => return Err(way.failed(&status, &self.pool)),
            Err(_) => return Err(way.overdue(&self.pool)),
        };
        if server_millis <= 0 {
            return Err(way.error(ErrorKind::Server, "the limiter does not know the time"));
        }
        Ok(LimiterTime { server_millis, sent, received: Instant::now() })
    }

    fn limiter_client(&self, link: &Link) -> RateLimitGrpcv2Client<Channel> {
        RateLimitGrpcv2Client::new(link.channel()).max_decoding_message_size(self.options.max_message_size)
    }
}

impl TransportOptions {
    /// Limiters are found through discovery, spoken to in the clear, and ask for no token: what is kept secret from
    /// those who listen to the control plane is not shown to those who listen to a limiter.
    pub(super) fn may_see_token(&self, limiter: &ServerAddr) -> bool {
        limiter.tls || !self.speaks_tls()
    }
}

impl Way {
    /// The stream or the call failed, and the connection may be to blame.
    fn failed(&self, status: &Status, pool: &Pool) -> Error {
        pool.discard(&self.link);
        pool.check_open().err().unwrap_or_else(|| self.about(rpc::from_status(status, Operation::Limiter, &self.link)))
    }

    fn overdue(&self, pool: &Pool) -> Error {
        pool.discard(&self.link);
        let why = self.link.fault();
        self.error(ErrorKind::Timeout, why.as_deref().unwrap_or("the limiter did not answer in time"))
    }

    /// The stream ended in peace, or with its connection.
    fn over(&self, pool: &Pool) -> Error {
        let why = self.link.fault();
        let error = self.error(ErrorKind::Network, why.as_deref().unwrap_or("the limiter ended the stream"));
        pool.check_open().err().unwrap_or(error)
    }

    fn error(&self, kind: ErrorKind, why: &str) -> Error {
        self.about(Error::new(kind, format!("{}: {why}", Operation::Limiter.as_str())))
    }

    fn about(&self, error: Error) -> Error {
        error
            .with_address(self.link.server().to_string())
            .with_request_id(Arc::clone(&self.request_id))
            .with_elapsed(self.started.elapsed())
    }
}
