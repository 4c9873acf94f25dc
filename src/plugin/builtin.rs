//! What is built in, registered by hand: what a context has can be read here.

use std::sync::Arc;

use crate::balance::WeightedRandom;
use crate::config;
use crate::plugin::manager::Manager;
use crate::routing::{Isolated, Recover};

/// The policy that takes the place of one that is not built.
pub(crate) const BALANCER: &str = "weightedRandom";

pub(crate) fn register(manager: &mut Manager, consumer: &config::Consumer) {
    let section = &consumer.service_router;
    // Keys of the section itself in both official SDKs, not options of the router.
    let recover = Recover::new(section.enable_recover_all, section.percent_of_min_instances);
    manager.add_router("isolatedRouter", |_| Ok(Arc::new(Isolated)));
    manager.add_router("recoverRouter", move |_| Ok(Arc::new(recover)));
    manager.add_balancer(BALANCER, |_| Ok(Arc::new(WeightedRandom)));
}
