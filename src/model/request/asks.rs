//! What a request asks of routing beyond labels: a few flags in one byte, so that a pick that asks for nothing is told
//! apart by one comparison.

/// What is picked from if no instance has the metadata that a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetadataFailover {
    /// Nobody: the pick fails with `RouteMismatch`.
    None,
    /// All instances.
    All,
    /// The instances that have none of the wanted keys; `RouteMismatch` if there are none.
    NotKey,
}

/// What is picked from if rules match a call and none of their destinations has an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuleFailover {
    /// All instances.
    All,
    /// Nobody: the pick fails with `RouteMismatch`.
    None,
}

/// What a request asks for, packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Asks(u8);

impl Asks {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const METADATA: Self = Self(1);
    pub(crate) const NEARBY: Self = Self(1 << 1);
    pub(crate) const BROKEN: Self = Self(1 << 2);
    /// Two bits: 0 is unsaid.
    const METADATA_FAILOVER: u32 = 3;
    const RULE_FAILOVER: u32 = 5;

    pub(crate) const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// With `flag` set or not, whatever it was.
    pub(crate) const fn with_if(self, flag: Self, set: bool) -> Self {
        if set { self.with(flag) } else { Self(self.0 & !flag.0) }
    }

    /// Whether it has any of `others`.
    #[inline]
    pub(crate) const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub(crate) const fn with_metadata_failover(self, failover: MetadataFailover) -> Self {
        let code = match failover {
            MetadataFailover::None => 1,
            MetadataFailover::All => 2,
            MetadataFailover::NotKey => 3,
        };
        Self(self.0 & !(3 << Self::METADATA_FAILOVER) | code << Self::METADATA_FAILOVER)
    }

    pub(crate) const fn metadata_failover(self) -> Option<MetadataFailover> {
        match self.0 >> Self::METADATA_FAILOVER & 3 {
            1 => Some(MetadataFailover::None),
            2 => Some(MetadataFailover::All),
            3 => Some(MetadataFailover::NotKey),
            _ => None,
        }
    }

    pub(crate) const fn with_rule_failover(self, failover: RuleFailover) -> Self {
        let code = match failover {
            RuleFailover::None => 1,
            RuleFailover::All => 2,
        };
        Self(self.0 & !(3 << Self::RULE_FAILOVER) | code << Self::RULE_FAILOVER)
    }

    pub(crate) const fn rule_failover(self) -> Option<RuleFailover> {
        match self.0 >> Self::RULE_FAILOVER & 3 {
            1 => Some(RuleFailover::None),
            2 => Some(RuleFailover::All),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_failovers_do_not_touch_each_other() {
        let all = [None, Some(MetadataFailover::None), Some(MetadataFailover::All), Some(MetadataFailover::NotKey)];
        let rules = [None, Some(RuleFailover::All), Some(RuleFailover::None)];
        for metadata in all {
            for rule in rules {
                let mut asks = Asks::NONE.with(Asks::NEARBY).with_metadata_failover(MetadataFailover::All);
                asks = Asks(asks.0 & !(3 << Asks::METADATA_FAILOVER));
                asks = metadata.map_or(asks, |failover| asks.with_metadata_failover(failover));
                asks = rule.map_or(asks, |failover| asks.with_rule_failover(failover));
                assert_eq!((asks.metadata_failover(), asks.rule_failover()), (metadata, rule));
                assert!(asks.has(Asks::NEARBY) && !asks.has(Asks::METADATA.with(Asks::BROKEN)));
            }
        }
        assert!(!Asks::NONE.with(Asks::METADATA).with_if(Asks::METADATA, false).has(Asks::METADATA));
    }
}
