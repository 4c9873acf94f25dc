//! What is built in, registered by hand: what a context has can be read here.

use std::sync::Arc;

use crate::balance::{
    Hash, L5cst, LeastConnection, Maglev, PowerOfTwo, RingHash, ShortestResponseTime, WeightedRandom,
    WeightedRoundRobin,
};
use crate::config;
use crate::plugin::manager::Manager;
use crate::routing::{ByMetadata, Isolated, Nearby, Recover, RuleBased};

pub(crate) fn register(manager: &mut Manager, consumer: &config::Consumer) {
    let section = &consumer.service_router;
    // Keys of the section itself in both official SDKs, not options of the router.
    let recover = Recover::new(section.enable_recover_all, section.percent_of_min_instances);
    manager.add_router("isolatedRouter", |_| Ok(Arc::new(Isolated)));
    manager.add_router("metadataRouter", |options| Ok(Arc::new(ByMetadata::from_options(options)?)));
    manager.add_router("ruleBasedRouter", |options| Ok(Arc::new(RuleBased::from_options(options)?)));
    manager.add_router("nearbyBasedRouter", |options| Ok(Arc::new(Nearby::from_options(options)?)));
    manager.add_router("recoverRouter", move |_| Ok(Arc::new(recover)));
    manager.add_balancer("weightedRandom", |_| Ok(Arc::new(WeightedRandom)));
    manager.add_balancer("weightedRoundRobin", |_| Ok(Arc::new(WeightedRoundRobin)));
    manager.add_balancer("ringHash", |options| Ok(Arc::new(RingHash::from_options(options)?)));
    manager.add_balancer("maglev", |options| Ok(Arc::new(Maglev::from_options(options)?)));
    manager.add_balancer("hash", |options| Ok(Arc::new(Hash::from_options(options)?)));
    manager.add_balancer("l5cst", |_| Ok(Arc::new(L5cst)));
    manager.add_balancer("leastConnection", |_| Ok(Arc::new(LeastConnection)));
    manager.add_balancer("shortestResponseTime", |_| Ok(Arc::new(ShortestResponseTime)));
    manager.add_balancer("powerOfTwo", |_| Ok(Arc::new(PowerOfTwo)));
}
