//! What arrived.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::instance::InstanceAddr;
use crate::model::key::{ResourceKind, ServiceKey};
use crate::pb::schema;
use crate::pb::v1;
use crate::wire::json;

/// The calls that the control plane tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rpc {
    /// An instance is registered.
    Register,
    /// An instance is taken away.
    Deregister,
    /// An instance beats.
    Heartbeat,
    /// A client introduces itself.
    ReportClient,
    /// One question of a discover stream.
    Discover,
    /// One message of a stream of beats.
    BatchHeartbeat,
    /// A service's interfaces are reported.
    ReportContract,
    /// A service's interfaces are asked for.
    GetContract,
    /// A client joins counters of the limiter: `INIT` or `BATCH_INIT`.
    LimitInit,
    /// A client reports to the limiter what it used, and asks what is left: `ACQUIRE` or `BATCH_ACQUIRE`. Answered with
    /// 400214, be it by script, it is the last of its stream.
    LimitAcquire,
    /// A client asks for the limiter's clock: `TimeAdjust`.
    LimitClock,
    /// Anything else; it is answered as unknown.
    Other,
}

/// One request that arrived: a unary call, or one message of a stream.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) rpc: Rpc,
    pub(super) path: String,
    pub(super) at: Instant,
    pub(super) connection: u64,
    pub(super) token: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) background: bool,
    pub(super) body: Vec<u8>,
    pub(super) code: Option<u32>,
    /// The service of the counter that is reported, as the limiter knew it when the report came.
    pub(super) counted: Option<ServiceKey>,
}

/// All calls, the newest last, and a bell that rings for each.
#[derive(Debug)]
pub(super) struct Record {
    calls: Mutex<Calls>,
    arrived: watch::Sender<u64>,
}

#[derive(Debug)]
struct Calls {
    kept: VecDeque<Call>,
    most: usize,
    /// How many were let go since the beginning: the number of the first that is kept.
    gone: u64,
}

// === impl Rpc ===

impl Rpc {
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/v1.PolarisGRPC/RegisterInstance" => Self::Register,
            "/v1.PolarisGRPC/DeregisterInstance" => Self::Deregister,
            "/v1.PolarisGRPC/Heartbeat" => Self::Heartbeat,
            "/v1.PolarisGRPC/ReportClient" => Self::ReportClient,
            "/v1.PolarisGRPC/Discover" => Self::Discover,
            "/v1.PolarisHeartbeatGRPC/BatchHeartbeat" => Self::BatchHeartbeat,
            "/v1.PolarisServiceContractGRPC/ReportServiceContract" => Self::ReportContract,
            "/v1.PolarisServiceContractGRPC/GetServiceContract" => Self::GetContract,
            // Each message of the stream says by its command what it is.
            "/polaris.metric.v2.RateLimitGRPCV2/Service" => Self::LimitInit,
            "/polaris.metric.v2.RateLimitGRPCV2/TimeAdjust" => Self::LimitClock,
            _ => Self::Other,
        }
    }

    fn message(self) -> Option<&'static str> {
        Some(match self {
            Self::Register | Self::Deregister | Self::Heartbeat => "v1.Instance",
            Self::ReportClient => "v1.Client",
            Self::Discover => "v1.DiscoverRequest",
            Self::BatchHeartbeat => "v1.HeartbeatsRequest",
            Self::ReportContract | Self::GetContract => "v1.ServiceContract",
            Self::LimitInit | Self::LimitAcquire => "polaris.metric.v2.RateLimitRequest",
            Self::LimitClock => "polaris.metric.v2.TimeAdjustRequest",
            Self::Other => return None,
        })
    }
}

// === impl Call ===

impl Call {
    /// A call without metadata that came over no connection.
    pub(super) fn new(rpc: Rpc, path: &str, body: Vec<u8>, at: Instant) -> Self {
        Self {
            rpc,
            path: path.to_owned(),
            at,
            connection: 0,
            token: None,
            request_id: None,
            user_agent: None,
            background: false,
            body,
            code: None,
            counted: None,
        }
    }

    /// Which call it was.
    #[must_use]
    pub fn rpc(&self) -> Rpc {
        self.rpc
    }

    /// The gRPC path, such as `/v1.PolarisGRPC/Heartbeat`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// When it arrived.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Over which connection, counted from 1 in the order they were made to this node.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// The token of the metadata; sent and empty is `Some("")`.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The `request-id` of the metadata.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The user agent.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }

    /// Whether `async-regis` was there: a registration that the client renews by itself.
    #[must_use]
    pub fn is_background(&self) -> bool {
        self.background
    }

    /// The code it was answered with; none while it has no answer, and if the answer had no code.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        self.code
    }

    /// The service it is about.
    #[must_use]
    pub fn service(&self) -> Option<ServiceKey> {
        let (namespace, name) = match self.rpc {
            Rpc::Register | Rpc::Deregister | Rpc::Heartbeat => {
                let instance = self.instance()?;
                (instance.namespace, instance.service?)
            }
            Rpc::Discover => {
                let service = self.question()?.service?;
                (service.namespace, service.name?)
            }
            Rpc::ReportContract | Rpc::GetContract => {
                let contract = v1::ServiceContract::decode(self.body.as_slice()).ok()?;
                (Some(contract.namespace), contract.service)
            }
            Rpc::LimitInit | Rpc::LimitAcquire => return self.limited_service(),
            Rpc::ReportClient | Rpc::BatchHeartbeat | Rpc::LimitClock | Rpc::Other => return None,
        };
        Some(ServiceKey::new(namespace.unwrap_or_default(), name))
    }

    /// What a discover question asks for; none for kinds that this crate has no name for.
    #[must_use]
    pub fn kind(&self) -> Option<ResourceKind> {
        use v1::discover_request::DiscoverRequestType as Kind;
        Some(match Kind::try_from(self.question()?.r#type).ok()? {
            Kind::Instance => ResourceKind::Instances,
            Kind::Services => ResourceKind::Services,
            kind => super::discover_rules::resource(kind)?,
        })
    }

    /// The revision that a discover question already knows; `Some("")` for one that knows none.
    #[must_use]
    pub fn revision(&self) -> Option<String> {
        Some(self.question()?.service?.revision.unwrap_or_default())
    }

    /// The address of the instance that is registered, taken away or beats.
    #[must_use]
    pub fn addr(&self) -> Option<InstanceAddr> {
        let instance = self.instance()?;
        Some(InstanceAddr::new(instance.host?, u16::try_from(instance.port?).ok()?))
    }

    /// The id that the request names.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        match self.rpc {
            Rpc::ReportClient => v1::Client::decode(self.body.as_slice()).ok()?.id,
            _ => self.instance()?.id,
        }
    }

    /// The request as proto3 JSON: all of its fields, in the specification's spelling.
    #[must_use]
    pub fn json(&self) -> String {
        let table = self.rpc.message().and_then(schema::find);
        let value = table.and_then(|table| json::render(table, &self.body).ok());
        value.map(|value| value.to_string()).unwrap_or_default()
    }

    pub(super) fn instance(&self) -> Option<v1::Instance> {
        let is_instance = matches!(self.rpc, Rpc::Register | Rpc::Deregister | Rpc::Heartbeat);
        is_instance.then(|| v1::Instance::decode(self.body.as_slice()).ok()).flatten()
    }

    pub(super) fn question(&self) -> Option<v1::DiscoverRequest> {
        (self.rpc == Rpc::Discover).then(|| v1::DiscoverRequest::decode(self.body.as_slice()).ok()).flatten()
    }
}

// === impl Record ===

impl Record {
    pub(super) fn new(most: usize) -> Self {
        let calls = Calls { kept: VecDeque::new(), most, gone: 0 };
        Self { calls: Mutex::new(calls), arrived: watch::Sender::new(0) }
    }

    /// Notes a call; its number.
    pub(super) fn arrived(&self, call: Call) -> u64 {
        let number = {
            let mut calls = self.lock();
            calls.kept.push_back(call);
            while calls.kept.len() > calls.most {
                calls.kept.pop_front();
                calls.gone += 1;
            }
            calls.gone + calls.kept.len() as u64 - 1
        };
        self.ring();
        number
    }

    /// Notes what the call of this number was answered.
    pub(super) fn answered(&self, number: u64, code: u32) {
        {
            let mut calls = self.lock();
            let at = number.checked_sub(calls.gone).and_then(|at| usize::try_from(at).ok());
            if let Some(call) = at.and_then(|at| calls.kept.get_mut(at)) {
                call.code = Some(code);
            }
        }
        self.ring();
    }

    pub(super) fn all(&self) -> Vec<Call> {
        self.lock().kept.iter().cloned().collect()
    }

    pub(super) fn clear(&self) {
        let mut calls = self.lock();
        calls.gone += calls.kept.len() as u64;
        calls.kept.clear();
    }

    pub(super) fn keep(&self, most: usize) {
        self.lock().most = most;
    }

    /// Waits until the calls satisfy `condition`, at most `within`; then all calls, else nothing.
    pub(super) async fn wait(&self, within: Duration, mut condition: impl FnMut(&[Call]) -> bool) -> Option<Vec<Call>> {
        let mut arrived = self.arrived.subscribe();
        let satisfied = async {
            loop {
                arrived.mark_unchanged();
                let met = {
                    let mut calls = self.lock();
                    condition(calls.kept.make_contiguous())
                };
                if met {
                    return;
                }
                // The sender lives in `self`, so this only ever ends by a change.
                let _ = arrived.changed().await;
            }
        };
        tokio::time::timeout(within, satisfied).await.ok()?;
        Some(self.all())
    }

    fn ring(&self) {
        self.arrived.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
