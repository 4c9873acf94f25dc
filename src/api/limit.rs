//! Limiting the calls that this process serves.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::engine::quota::Quotas;
use crate::engine::quota::active::RuleUsage;
use crate::engine::quota::future::GetQuotaFuture;
use crate::engine::quota::outcome::Decision;
use crate::engine::quota::service::LimitedService;
use crate::error::{Error, Result};
use crate::model::key::{ServiceKey, ServiceKeyRef};
use crate::model::request::quota::{GetQuota, Quota};

/// Decides which of the calls to a service of this process may be made, by the rate-limit rules of the control plane.
///
/// The rules of a service are loaded at its first use and kept up to date from then on. All rules that match a call apply to
/// it, and all or none of them count it. Cheap to clone; keeps its context alive.
///
/// While the rules are not known, because they are not loaded yet and the control plane is not reached, calls are admitted
/// and their [permits](crate::Permit::unknown) say so, or refused: `provider.rateLimit.onUnknown`.
///
/// ```
/// use polarismesh::testing::Server;
/// use polarismesh::{GetQuota, QuotaError, RuleKind};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> polarismesh::Result<()> {
/// let server = Server::in_memory();
/// let rule = r#"{"name": "one-a-second", "service": "payments", "namespace": "default", "type": "LOCAL",
///     "amounts": [{"maxAmount": 1, "validDuration": "1s"}]}"#;
/// server.rule(RuleKind::RateLimit, rule)?;
/// let context = server.context()?;
///
/// let pay = || context.limiter().get_quota(GetQuota::new("default", "payments").method("/pay"));
/// let _permit = pay().await.expect("the first of this second");
/// match pay().await {
///     Err(QuotaError::Limited(limited)) => assert_eq!(limited.rule(), "one-a-second"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LimitApi {
    quotas: Quotas,
    /// What keeps the context alive.
    #[expect(dead_code, reason = "held, not read")]
    context: Arc<dyn Any + Send + Sync>,
}

/// One service whose calls are limited, looked up once.
///
/// For servers that ask for every call, and for labels that are looked up rather than collected. Cheap to clone; keeps its
/// context alive.
#[derive(Clone)]
#[must_use]
pub struct LimitHandle {
    service: Arc<LimitedService>,
    limiter: LimitApi,
}

#[allow(single_use_lifetimes, reason = "an `impl Trait` argument cannot leave its lifetime out yet")]
impl LimitApi {
    pub(crate) fn new(quotas: Quotas, context: Arc<dyn Any + Send + Sync>) -> Self {
        Self { quotas, context }
    }

    /// Asks whether a call may be made, and waits for its moment where a rule paces calls.
    ///
    /// With the rules loaded it is decided while this is called: the future is ready unless the call has to queue. Before,
    /// it waits for the rules, at most for the request's time-out.
    ///
    /// Hold the [permit](crate::Permit) while the call is served: a rule that limits calls at the same time counts it until
    /// then.
    ///
    /// # Errors
    /// [`Limited`](crate::QuotaError::Limited) says by which rule and for how long; [`Failed`](crate::QuotaError::Failed) is
    /// `InvalidArgument` for a name that the control plane would not take, `Closed`, and, where the configuration says so,
    /// the reason why the rules are not known.
    ///
    /// # Cancel safety
    /// Dropped while it queues, the call gives its place back and counts nowhere.
    pub fn get_quota<'a>(&self, request: impl Into<GetQuota<'a>>) -> GetQuotaFuture {
        self.quotas.get(request.into())
    }

    /// The same without waiting. With the rules loaded it allocates nothing and takes no lock, unless the call has to queue.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that the control plane would not take, `Closed`, and, where
    /// `provider.rateLimit.onUnknown` says so, `NotReady` before the rules are loaded; loading starts with the first call.
    #[inline]
    pub fn check(&self, request: &GetQuota<'_>) -> Result<Decision> {
        self.quotas.check(request.key(), &request.quota())
    }

    /// A handle to one service: its name is resolved once.
    pub fn service(&self, key: impl Into<ServiceKey>) -> LimitHandle {
        let key = key.into();
        LimitHandle { service: self.quotas.service(key.as_ref()), limiter: self.clone() }
    }

    /// What the rules of a service have counted so far, those in force now and since they are; in the order in which they
    /// are asked. Nothing of a service that was never asked about.
    #[must_use]
    pub fn usage(&self, key: &ServiceKey) -> Vec<RuleUsage> {
        self.quotas.usage(ServiceKeyRef { namespace: key.namespace(), service: key.service() })
    }
}

impl LimitHandle {
    /// The service.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        self.service.key()
    }

    /// Asks whether a call may be made, without waiting. With the rules loaded it allocates nothing and takes no lock,
    /// unless the call has to queue.
    ///
    /// # Errors
    /// As [`LimitApi::check`].
    ///
    /// ```
    /// use polarismesh::{Decision, LimitHandle, Quota};
    ///
    /// fn may_serve(limits: &LimitHandle, request: &http::request::Parts) -> polarismesh::Result<bool> {
    ///     let decision = limits.check(&Quota::new().method(request.uri.path()).labels(request))?;
    ///     Ok(matches!(decision, Decision::Granted(_)))
    /// }
    /// ```
    #[inline]
    pub fn check(&self, quota: &Quota<'_>) -> Result<Decision> {
        self.limiter.quotas.check_service(&self.service, quota)
    }

    /// Whether a call does better to wait for the rules than to be decided about now.
    #[inline]
    pub(crate) fn is_worth_waiting(&self) -> bool {
        self.limiter.quotas.is_worth_waiting(&self.service)
    }

    /// Waits for the rules as `get_quota` does. If they are not known then: why, for [`Self::check_waited`].
    pub(crate) async fn wait_for_rules(&self) -> Option<Error> {
        self.limiter.quotas.wait_for_rules(&self.service, self.limiter.quotas.patience()).await
    }

    /// Decides about a call that has waited for the rules.
    pub(crate) fn check_waited(&self, quota: &Quota<'_>, unknown: Option<Error>) -> Result<Decision> {
        self.limiter.quotas.decide(&self.service, quota, unknown)
    }

    /// Waits until the rules are loaded, at most for `global.api.timeout`.
    ///
    /// # Errors
    /// `Timeout`, or the reason why the rules cannot be loaded: nothing came in time. `Closed`.
    ///
    /// # Cancel safety
    /// Loading goes on when it is dropped.
    pub async fn ready(&self) -> Result<()> {
        self.limiter.quotas.ready(&self.service, self.limiter.quotas.patience()).await
    }

    /// Whether the rules are loaded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.service.is_loaded()
    }

    /// What the rules have counted so far; see [`LimitApi::usage`].
    #[must_use]
    pub fn usage(&self) -> Vec<RuleUsage> {
        self.service.usage()
    }
}

impl fmt::Debug for LimitApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitApi").finish_non_exhaustive()
    }
}

impl fmt::Debug for LimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitHandle").field("service", &self.service).finish_non_exhaustive()
    }
}
