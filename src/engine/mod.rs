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
pub(crate) mod compile;
pub(crate) mod contact;
pub(crate) mod entropy;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod future;
pub(crate) mod gate;
pub(crate) mod health;
pub(crate) mod heartbeat;
pub(crate) mod keep;
pub(crate) mod location;
pub(crate) mod record;
pub(crate) mod register;
pub(crate) mod remove;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod retire;
pub(crate) mod select;
pub(crate) mod services;
pub(crate) mod view;
pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::balance::LoadBalancer;
use crate::config::Config;
use crate::engine::gate::Gate;
use crate::engine::services::Services;
use crate::error::Result;
use crate::plugin::Manager;
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
    /// The canonical name of the default balancer.
    pub(crate) balancer_name: String,
    pub(crate) balancer: Arc<dyn LoadBalancer>,
    /// Whether an instance with an open breaker is picked when there is no other.
    pub(crate) recover_all: bool,
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
    api_timeout: Duration,
}

impl EngineOptions {
    /// What the configuration says.
    ///
    /// # Errors
    /// `InvalidConfig` if it names a router or a balancer that nobody knows.
    pub(crate) fn new(plugins: &Manager, config: &Config) -> Result<Self> {
        let consumer = &config.consumer;
        let (balancer_name, balancer) = plugins.default_balancer(&consumer.loadbalancer)?;
        let policy = Policy {
            chain: plugins.chain(&consumer.service_router)?,
            balancer_name,
            balancer,
            recover_all: consumer.service_router.enable_recover_all,
        };
        Ok(Self { policy, api_timeout: config.global.api.timeout })
    }
}

impl Engine {
    /// An engine over `registry`. It starts nothing before the first service is asked for.
    pub(crate) fn new(registry: LocalRegistry, scope: TaskScope, options: EngineOptions) -> Self {
        Self(Arc::new(Shared {
            registry,
            gate: Arc::new(Gate::new(scope.clone())),
            scope,
            policy: Arc::new(options.policy),
            services: Services::default(),
            api_timeout: options.api_timeout,
        }))
    }

    /// Refuses all calls from now on, those that wait included.
    pub(crate) fn close(&self) {
        self.0.gate.close();
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
        let options = EngineOptions::new(&Manager::new(&config.consumer), &config).unwrap();
        assert_eq!((options.api_timeout.as_secs(), options.policy.recover_all), (7, false));
        assert_eq!(options.policy.balancer_name, "weightedRandom");
        let names: Vec<_> = options.policy.chain.routers().map(|router| router.name().to_owned()).collect();
        assert_eq!(names, ["isolatedRouter", "recoverRouter"]);
        config.consumer.loadbalancer.policy = "nobody's".into();
        assert!(EngineOptions::new(&Manager::new(&config.consumer), &config).is_err());
    }
}
