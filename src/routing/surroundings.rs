//! What a router may look at besides the instances: all of one moment, and the same for all that is made of it later.

use std::sync::Arc;

use crate::model::health::HealthView;
use crate::model::key::ServiceKey;
use crate::model::location::Location;
use crate::model::rule::nearby::NearbyRule;
use crate::model::subset::Subset;
use crate::model::variables::Variables;
use crate::routing::matching::Matching;

/// What a router may look at besides the instances.
#[derive(Debug, Default)]
pub struct Surroundings {
    pub(crate) health: Arc<HealthView>,
    pub(crate) location: Arc<Location>,
    pub(crate) caller: Option<ServiceKey>,
    /// The rules that count between caller and callee, ready to be matched.
    pub(crate) matching: Arc<Matching>,
    pub(crate) nearby: Option<NearbyRule>,
    pub(crate) variables: Arc<Variables>,
}

// === impl Surroundings ===

impl Surroundings {
    /// Where this client runs; empty levels are unknown.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The service that makes the calls, if it is known.
    #[must_use]
    pub fn caller(&self) -> Option<&ServiceKey> {
        self.caller.as_ref()
    }

    /// Whether the instance at `index` of `subset` may take calls: healthy for the control plane, and its breaker not open.
    #[must_use]
    pub fn may_serve(&self, subset: &Subset, index: usize) -> bool {
        subset.at(index).is_some_and(|(position, instance)| self.health.may_serve(position, instance))
    }
}
