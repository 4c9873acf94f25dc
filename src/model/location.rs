//! Where a client or an instance runs: region, zone, campus.

use std::fmt;

/// A place in up to three levels, from the widest to the narrowest; an empty level is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Location {
    /// The widest level.
    pub region: String,
    /// Inside the region.
    pub zone: String,
    /// Inside the zone; polaris-java calls it `IDC` in places.
    pub campus: String,
}

impl Location {
    /// A location; an empty level is unknown.
    pub fn new(region: impl Into<String>, zone: impl Into<String>, campus: impl Into<String>) -> Self {
        Self { region: region.into(), zone: zone.into(), campus: campus.into() }
    }

    /// Whether no level is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.campus.is_empty()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.campus)
    }
}
