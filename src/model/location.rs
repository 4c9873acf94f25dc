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

/// How near: from the same campus to anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// The same campus.
    Campus,
    /// The same zone.
    Zone,
    /// The same region.
    Region,
    /// Anywhere.
    All,
}

// === impl Level ===

impl Level {
    /// From the narrowest to the widest.
    pub(crate) const ORDER: [Self; 4] = [Self::Campus, Self::Zone, Self::Region, Self::All];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Campus => "campus",
            Self::Zone => "zone",
            Self::Region => "region",
            Self::All => "all",
        }
    }

    /// What a location says at this level; empty is unknown, and `All` is known to everybody.
    pub(crate) fn of(self, location: &Location) -> &str {
        match self {
            Self::Campus => &location.campus,
            Self::Zone => &location.zone,
            Self::Region => &location.region,
            Self::All => "*",
        }
    }
}
