//! The kinds of rules that a service may have.

use crate::model::key::ResourceKind;

/// A kind of rules: what of [`ResourceKind`] is neither the list of instances nor that of services.
///
/// A server that does not know a newer kind has no rules of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuleKind {
    /// Rule-based routing.
    Routing,
    /// Rate limits.
    RateLimit,
    /// Circuit breaking.
    CircuitBreaker,
    /// Active probing.
    FaultDetector,
    /// Traffic lanes; newer servers only.
    Lane,
    /// Custom routing; newer servers only.
    CustomRoute,
    /// Nearby routing; newer servers only.
    NearbyRoute,
    /// Lossless start and stop; newer servers only.
    Lossless,
    /// Allow and block lists; newer servers only.
    BlockAllow,
    /// Traffic mirroring; newer servers only.
    TrafficMirroring,
    /// Fault injection; newer servers only.
    FaultInjection,
}

impl From<RuleKind> for ResourceKind {
    fn from(kind: RuleKind) -> Self {
        match kind {
            RuleKind::Routing => Self::Routing,
            RuleKind::RateLimit => Self::RateLimit,
            RuleKind::CircuitBreaker => Self::CircuitBreaker,
            RuleKind::FaultDetector => Self::FaultDetector,
            RuleKind::Lane => Self::Lane,
            RuleKind::CustomRoute => Self::CustomRoute,
            RuleKind::NearbyRoute => Self::NearbyRoute,
            RuleKind::Lossless => Self::Lossless,
            RuleKind::BlockAllow => Self::BlockAllow,
            RuleKind::TrafficMirroring => Self::TrafficMirroring,
            RuleKind::FaultInjection => Self::FaultInjection,
        }
    }
}
