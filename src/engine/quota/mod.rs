//! Quotas: which of the calls that this process serves may be made, and when.
//!
//! A check costs nanoseconds and waits for nobody: it loads the rules in force, asks the call for the labels that they
//! need, and counts it in a [`slot`] of each rule that applies. All rules apply, and all or none count the call. What takes
//! longer happens elsewhere: rules are compiled when they change ([`upkeep`]), quotas that are shared with other clients are
//! agreed with a limiter in the background ([`sync`]), and a wait is a [`Ticket`] that the caller waits for or gives up.
//!
//! ```text
//!   registry ── rules ──► upkeep ── InForce ──► LimitedService ◄── check (any thread)
//!                                                 │ slots of GLOBAL rules
//!                                                 └──────► sync ◄──► limiters
//! ```

pub(crate) mod active;
pub(crate) mod clock;
pub(crate) mod future;
pub(crate) mod outcome;
pub(crate) mod service;
pub(crate) mod slot;
pub(crate) mod sync;
pub(crate) mod upkeep;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::config::{Config, OnExceed, OnUnknown, ServerAddress};
use crate::engine::Engine;
use crate::engine::gate::Gate;
use crate::engine::quota::active::RuleUsage;
use crate::engine::quota::clock::QuotaClock;
use crate::engine::quota::future::GetQuotaFuture;
use crate::engine::quota::outcome::{Decision, Permit, QuotaError};
use crate::engine::quota::service::LimitedService;
use crate::engine::quota::slot::Room;
use crate::engine::quota::sync::Clusters;
use crate::engine::report;
use crate::engine::trouble::Troubles;
use crate::error::{Error, ErrorKind, Result};
use crate::model::key::{KeyParts, ResourceKind, ServiceKey, ServiceKeyRef};
use crate::model::request::quota::{GetQuota, Quota};
use crate::model::variables::Variables;
use crate::registry::LocalRegistry;
use crate::transport::Transport;
use crate::util::deadline::after;
use crate::util::hash::NameHash;
use crate::util::task::TaskScope;

type Map = HashMap<ServiceKey, Arc<LimitedService>, NameHash>;

/// The quotas of one context. A handle: clones share everything.
///
/// It does not keep its context alive: who hands it out does. Its tasks end with the scope.
#[derive(Debug, Clone)]
pub(crate) struct Quotas(Arc<Shared>);

/// How quotas are granted.
#[derive(Debug)]
pub(crate) struct QuotaOptions {
    pub(crate) enable: bool,
    pub(crate) on_unknown: OnUnknown,
    pub(crate) on_exceed: OnExceed,
    pub(crate) max_queuing_time: Duration,
    pub(crate) max_windows: usize,
    pub(crate) purge_interval: Duration,
    /// After how long without use a service is forgotten; none: never.
    pub(crate) expire_after: Option<Duration>,
    pub(crate) api_timeout: Duration,
    pub(crate) variables: Variables,
    /// The service of limiters, where a rule names none.
    pub(crate) limiter: ServiceKey,
    pub(crate) limiter_addresses: Vec<ServerAddress>,
    /// What this client is called by limiters.
    pub(crate) client_id: String,
    /// Whether checks always read the clock themselves.
    pub(crate) exact_clock: bool,
}

/// What all parts of it work with.
#[derive(Debug)]
pub(crate) struct Shared {
    registry: LocalRegistry,
    scope: TaskScope,
    gate: Arc<Gate>,
    troubles: Arc<Troubles>,
    options: QuotaOptions,
    clock: Arc<QuotaClock>,
    /// The smallest amount of which so many calls as may be told an old time are no more than a twentieth.
    coarse_from: u32,
    transport: Transport,
    clusters: Clusters,
    room: Arc<Room>,
    services: ArcSwap<Map>,
    /// Held to change the map.
    writer: Mutex<()>,
    started: AtomicBool,
}

impl QuotaOptions {
    /// What the configuration says.
    pub(crate) fn new(config: &Config, variables: Variables) -> Self {
        let (limit, cache) = (&config.provider.rate_limit, &config.consumer.local_cache);
        Self {
            enable: limit.enable,
            on_unknown: limit.on_unknown,
            on_exceed: limit.fallback_on_exceed_window_count,
            max_queuing_time: limit.max_queuing_time,
            max_windows: usize::try_from(limit.max_window_count).unwrap_or(usize::MAX),
            purge_interval: limit.purge_interval,
            expire_after: cache.service_expire_enable.then_some(cache.service_expire_time),
            api_timeout: config.global.api.timeout,
            variables,
            limiter: limit.limiter(),
            limiter_addresses: limit.limiter_addresses.clone(),
            client_id: report::client_id(),
            exact_clock: false,
        }
    }
}

impl Quotas {
    /// Quotas by the rules of `engine`'s registry. It starts nothing before the first one is asked for.
    pub(crate) fn new(engine: &Engine, transport: Transport, options: QuotaOptions) -> Self {
        let scope = engine.scope().clone();
        Self(Arc::new(Shared {
            registry: engine.registry().clone(),
            gate: Arc::clone(engine.gate()),
            troubles: Arc::clone(engine.troubles()),
            coarse_from: clock::told_old().saturating_mul(20),
            clock: QuotaClock::new((!options.exact_clock).then(|| scope.clone())),
            scope,
            transport,
            clusters: Clusters::default(),
            room: Arc::new(Room::new(options.max_windows)),
            options,
            services: ArcSwap::default(),
            writer: Mutex::new(()),
            started: AtomicBool::new(false),
        }))
    }

    /// The service of this name, whose rules are loaded from now on.
    ///
    /// A name that the control plane would not take, and a context that is closed, give a service that refuses.
    pub(crate) fn service(&self, key: ServiceKeyRef<'_>) -> Arc<LimitedService> {
        let shared = &self.0;
        if let Some(service) = shared.services.load().get(&key as &dyn KeyParts) {
            return Arc::clone(service);
        }
        let key = ServiceKey::from(key);
        if let Err(error) = shared.gate.check_scope().and_then(|()| key.validate()) {
            return Arc::new(LimitedService::refused(key, error));
        }
        // Outside the lock: it takes locks of its own. Of two that race here, both get the same entry.
        let source = shared.registry.entry(&key.of(ResourceKind::RateLimit)).pin();
        let service = shared.change(|map| {
            let make = || Arc::new(LimitedService::new(key.clone(), source));
            Arc::clone(map.entry(key.clone()).or_insert_with(make))
        });
        self.start();
        service.refresh(shared);
        service
    }

    /// Decides about a call, without waiting.
    #[inline]
    pub(crate) fn check(&self, key: ServiceKeyRef<'_>, quota: &Quota<'_>) -> Result<Decision> {
        let services = self.0.services.load();
        match services.get(&key as &dyn KeyParts) {
            Some(service) => self.check_service(service, quota),
            None => self.check_service(&self.service(key), quota),
        }
    }

    /// The same for a service that is at hand.
    #[inline]
    pub(crate) fn check_service(&self, service: &LimitedService, quota: &Quota<'_>) -> Result<Decision> {
        self.0.gate.check()?;
        if !self.0.options.enable {
            return Ok(Decision::Granted(Permit::new()));
        }
        self.decide(service, quota, None)
    }

    /// Whether a call does better to [wait for the rules](Self::wait_for_rules) than to be decided about now.
    #[inline]
    pub(crate) fn is_worth_waiting(&self, service: &LimitedService) -> bool {
        let undecided = !service.is_loaded() && service.is_worth_waiting();
        undecided && self.0.options.enable && self.0.gate.check().is_ok()
    }

    /// Decides about a call by the rules, or by what is done while they are not known, because of `unknown`.
    #[inline]
    pub(crate) fn decide(
        &self,
        service: &LimitedService,
        quota: &Quota<'_>,
        unknown: Option<Error>,
    ) -> Result<Decision> {
        match service.decide(&self.0, quota) {
            Some(decision) => Ok(decision),
            None => service.undecided(self.0.options.on_unknown, unknown),
        }
    }

    /// Decides about a call while it is called, if the rules are loaded.
    pub(crate) fn get(&self, request: GetQuota<'_>) -> GetQuotaFuture {
        let shared = &self.0;
        if let Err(error) = shared.gate.check() {
            return GetQuotaFuture::done(Err(QuotaError::Failed(error)));
        }
        if !shared.options.enable {
            return GetQuotaFuture::done(Ok(Permit::new()));
        }
        let services = shared.services.load();
        let decision =
            services.get(&request.key() as &dyn KeyParts).and_then(|service| service.decide(shared, &request.quota()));
        match decision {
            Some(Decision::Granted(permit)) => GetQuotaFuture::done(Ok(permit)),
            Some(Decision::Limited(limited)) => GetQuotaFuture::done(Err(QuotaError::Limited(limited))),
            Some(Decision::Wait(ticket)) => {
                GetQuotaFuture::waiting(async move { Ok(ticket.ready().await) }, shared.scope.clone())
            }
            None => self.get_later(request.into_owned()),
        }
    }

    #[cold]
    fn get_later(&self, request: GetQuota<'static>) -> GetQuotaFuture {
        let (quotas, service) = (self.clone(), self.service(request.key()));
        let within = request.deadline().unwrap_or(self.0.options.api_timeout);
        let work = async move {
            let unknown = quotas.wait_for_rules(&service, within).await;
            let decision = quotas.decide(&service, &request.quota(), unknown).map_err(QuotaError::Failed)?;
            match decision {
                Decision::Granted(permit) => Ok(permit),
                Decision::Wait(ticket) => Ok(ticket.ready().await),
                Decision::Limited(limited) => Err(QuotaError::Limited(limited)),
            }
        };
        GetQuotaFuture::waiting(work, self.0.scope.clone())
    }

    /// Waits until the rules of a service are loaded, at most `within`, and not at all where a call has done so in vain. If
    /// they are not known then: why.
    pub(crate) async fn wait_for_rules(&self, service: &LimitedService, within: Duration) -> Option<Error> {
        let within = if service.is_worth_waiting() { within } else { Duration::ZERO };
        let unknown = self.ready(service, within).await.err()?;
        // Who had little patience says nothing for others.
        if within >= self.0.options.api_timeout {
            service.has_waited_in_vain();
        }
        Some(unknown)
    }

    /// Waits until the rules of a service are loaded, at most `within`.
    ///
    /// # Errors
    /// The refusal of the control plane, `Timeout` with the last failure, `Closed`. What is known to fail fails at once.
    pub(crate) async fn ready(&self, service: &LimitedService, within: Duration) -> Result<()> {
        if let Some(error) = service.refusal() {
            return Err(error.clone());
        }
        self.0.gate.check_scope()?;
        let Some(source) = service.source().filter(|_| !service.is_loaded()) else { return Ok(()) };
        let key = source.entry().key();
        let loaded = self.0.scope.inside(self.0.registry.ready(key, after(Instant::now(), within))).await;
        service.refresh(&self.0);
        match loaded {
            // Of a service that does not exist there are no rules.
            Err(error) if service.is_loaded() && error.kind() == ErrorKind::ServiceNotFound => Ok(()),
            loaded => loaded.map(|_| ()),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.0.options.api_timeout
    }

    pub(crate) fn usage(&self, key: ServiceKeyRef<'_>) -> Vec<RuleUsage> {
        let services = self.0.services.load();
        services.get(&key as &dyn KeyParts).map(|service| service.usage()).unwrap_or_default()
    }

    fn start(&self) {
        if !self.0.started.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.0);
            self.0.scope.supervise("quota-rules", move || upkeep::follow(Arc::clone(&shared)));
            let shared = Arc::clone(&self.0);
            self.0.scope.supervise("quota-purge", move || upkeep::purge(Arc::clone(&shared)));
        }
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        // The map is replaced as a whole, so a panic leaves nothing half done.
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = Map::clone(&self.services.load());
        let result = change(&mut map);
        self.services.store(Arc::new(map));
        result
    }
}
