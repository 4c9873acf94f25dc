//! What a router may look at besides the instances: all of one moment, and the same for all that is made of it later.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::model::health::HealthView;
use crate::model::key::ServiceKey;
use crate::model::location::Location;
use crate::model::rule::nearby::NearbyRule;
use crate::model::subset::Subset;
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

/// Values that rules name: configured ones, else those of the process's environment.
#[derive(Clone)]
pub(crate) struct Variables {
    configured: BTreeMap<String, String>,
    environment: fn(&str) -> Option<String>,
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

// === impl Variables ===

impl Variables {
    pub(crate) fn new(configured: BTreeMap<String, String>, environment: fn(&str) -> Option<String>) -> Self {
        Self { configured, environment }
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.configured.get(name).cloned().or_else(|| (self.environment)(name))
    }
}

impl Default for Variables {
    fn default() -> Self {
        Self::new(BTreeMap::new(), |_| None)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: whoever configures a variable need not think of logs.
        f.debug_tuple("Variables").field(&self.configured.keys()).finish()
    }
}
