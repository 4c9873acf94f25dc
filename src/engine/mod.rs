//! Flows: what joins stored data, policies and I/O.
//!
//! A pick must cost the same for ten instances as for a hundred thousand, and must not slow down when many threads pick.
//! So a call touches nothing that is shared and written: it loads one immutable [`view`] of its service, made by the
//! [`compile`] task whenever data changes, draws, and looks at one breaker byte ([`select`]). Only a service that is not
//! loaded yet makes a caller wait, under one deadline ([`resolve`]).
//!
//! ```text
//!   registry ── changes ──► compile task ── ServiceView ──► Service ◄── pick, call (any thread)
//!                                             old views ──► retired: freed here, never by a reader
//! ```
//!
//! The invariant: one pick is one consistent view. Instances, routes and selectors come from one pointer.

pub(crate) mod beat;
pub(crate) mod budget;
pub(crate) mod call;
pub(crate) mod cluster;
pub(crate) mod compilation;
pub(crate) mod compile;
pub(crate) mod contact;
pub(crate) mod entropy;
pub(crate) mod explain;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod future;
pub(crate) mod gate;
pub(crate) mod health;
pub(crate) mod heartbeat;
pub(crate) mod inputs;
pub(crate) mod keep;
pub(crate) mod leaf;
pub(crate) mod location;
pub(crate) mod quota;
pub(crate) mod record;
pub(crate) mod register;
pub(crate) mod remove;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod retire;
pub(crate) mod route;
pub(crate) mod select;
pub(crate) mod services;
pub(crate) mod trouble;
pub(crate) mod view;
pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::balance::WeightAdjuster;
use crate::config::{self, Config};
use crate::engine::gate::Gate;
use crate::engine::location::LocationCell;
use crate::engine::services::Services;
use crate::engine::trouble::Troubles;
use crate::error::Result;
use crate::model::key::ServiceKey;
use crate::model::variables::Variables;
use crate::plugin::{Manager, Roster};
use crate::registry::LocalRegistry;
use crate::routing::Chain;
use crate::util::task::TaskScope;

/// What picks need: the services in use, and how their views are made. A handle: clones share everything.
///
/// It does not keep its context alive: who hands it out does. Its task ends with the scope.
#[derive(Debug, Clone)]
pub(crate) struct Engine(Arc<Shared>);

/// How picks are made.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Which instances, in the order of the routers.
    pub(crate) chain: Chain,
    /// All routers that there are, for requests that name some.
    pub(crate) routers: Chain,
    /// Which of them.
    pub(crate) balancers: Roster,
    /// Whether an instance with an open breaker is picked when there is no other.
    pub(crate) recover_all: bool,
    /// Whether a pick fails while the rules that it should follow cannot be had.
    pub(crate) strict_rules: bool,
    /// Who calls, where a request does not say so.
    pub(crate) caller: Option<ServiceKey>,
    pub(crate) variables: Arc<Variables>,
    pub(crate) adjuster: Option<Arc<dyn WeightAdjuster>>,
}

/// What the engine is built from.
#[derive(Debug)]
pub(crate) struct EngineOptions {
    pub(crate) policy: Policy,
    /// How long a call waits for what is not loaded, where it does not say so itself.
    pub(crate) api_timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    registry: LocalRegistry,
    scope: TaskScope,
    gate: Arc<Gate>,
    policy: Arc<Policy>,
    services: Services,
    troubles: Arc<Troubles>,
    location: LocationCell,
    api_timeout: Duration,
}

impl EngineOptions {
    /// What the configuration says.
    ///
    /// # Errors
    /// `InvalidConfig` if it names a router or a balancer that nobody knows, or an option that cannot be.
    pub(crate) fn new(plugins: &Manager, config: &Config, adjuster: Option<Arc<dyn WeightAdjuster>>) -> Result<Self> {
        let consumer = &config.consumer;
        let routers = plugins.routers(&consumer.service_router)?;
        let policy = Policy {
            chain: plugins.chain(&consumer.service_router, &routers)?,
            routers,
            balancers: plugins.balancers(&consumer.loadbalancer)?,
            recover_all: consumer.service_router.enable_recover_all,
            strict_rules: consumer.service_router.strict_rules,
            caller: config.provider.service.key(),
            variables: Arc::new(Variables::new(config.global.system.variables.clone(), config::variable)),
            adjuster,
        };
        Ok(Self { policy, api_timeout: config.global.api.timeout })
    }
}

impl Engine {
    /// An engine over `registry`. It starts nothing before the first service is asked for.
    pub(crate) fn new(
        registry: LocalRegistry,
        scope: TaskScope,
        location: LocationCell,
        options: EngineOptions,
    ) -> Self {
        Self(Arc::new(Shared {
            registry,
            gate: Arc::new(Gate::new(scope.clone())),
            scope,
            policy: Arc::new(options.policy),
            services: Services::default(),
            troubles: Arc::default(),
            location,
            api_timeout: options.api_timeout,
        }))
    }

    /// Refuses all calls from now on, those that wait included.
    pub(crate) fn close(&self) {
        self.0.gate.close();
    }

    /// What is wrong with routing.
    pub(crate) fn troubles(&self) -> &Arc<Troubles> {
        &self.0.troubles
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.0.gate
    }

    pub(crate) fn scope(&self) -> &TaskScope {
        &self.0.scope
    }

    pub(crate) fn registry(&self) -> &LocalRegistry {
        &self.0.registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_reaches_the_policy() {
        let mut config = Config::default();
        config.global.api.timeout = Duration::from_secs(7);
        config.consumer.service_router.enable_recover_all = false;
        let options = EngineOptions::new(&Manager::new(&config.consumer), &config, None).unwrap();
        assert_eq!((options.api_timeout.as_secs(), options.policy.recover_all), (7, false));
        assert_eq!(options.policy.balancers.default_name(), "weightedRandom");
        let names: Vec<_> = options.policy.chain.names().collect();
        let expected = ["isolatedRouter", "metadataRouter", "ruleBasedRouter", "nearbyBasedRouter", "recoverRouter"];
        assert_eq!(names, expected);
        config.consumer.loadbalancer.policy = "nobody's".into();
        assert!(EngineOptions::new(&Manager::new(&config.consumer), &config, None).is_err());
    }
}
