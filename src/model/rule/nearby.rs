//! Nearby routing as a rule of the control plane says it.

use crate::model::location::Level;

/// The nearby rule of a service. Of several that are enabled, the first by priority and id.
#[derive(Debug, Default)]
pub(crate) struct NearbyRules {
    pub(crate) rule: Option<NearbyRule>,
}

/// How near; what a rule leaves open is taken from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NearbyRule {
    pub(crate) name: String,
    /// The level that is tried first.
    pub(crate) first: Option<Level>,
    /// The widest level that may be used.
    pub(crate) widest: Option<Level>,
    /// Whether a client that does not know its location is refused.
    pub(crate) strict: bool,
}
