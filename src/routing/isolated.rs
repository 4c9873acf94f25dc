//! Drops instances that were taken out of service: isolated ones, and those of weight 0.

use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::routing::router::{Routed, ServiceRouter};
use crate::routing::surroundings::Surroundings;

/// The router `isolatedRouter`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Isolated;

impl ServiceRouter for Isolated {
    fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
        let kept = subset.filter(|instance| !instance.is_isolated() && instance.weight() > 0);
        kept.map(Routed::alike).ok_or_else(|| {
            let context = format!("all {} instances are isolated or have weight 0", subset.len());
            Error::new(ErrorKind::NoInstances, context).with_service(subset.snapshot().key().text())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subset::fixture::{ids, subset};
    use crate::routing::router::Way;

    fn route(given: &Subset) -> Result<Subset> {
        match Isolated.compile(given, &Surroundings::default())?.way {
            Way::Alike(subset) => Ok(subset),
            Way::Fork { .. } | Way::Aside { .. } => panic!("depends on no request"),
        }
    }

    #[test]
    fn isolated_instances_and_those_of_weight_zero_are_dropped_whatever_their_health() {
        let given = subset(4, |n, parts| {
            parts.isolated = n == 0;
            parts.weight = u32::from(n != 1);
            parts.healthy = n != 2;
        });
        assert_eq!(ids(&route(&given).unwrap()), ["i00002", "i00003"]);
    }

    #[test]
    fn with_none_left_the_refusal_counts_what_was_there() {
        let error = route(&subset(3, |_, parts| parts.isolated = true)).unwrap_err();
        assert_eq!((error.kind(), error.service()), (ErrorKind::NoInstances, Some("default/a")));
        assert!(error.to_string().contains("all 3 instances"), "{error}");
    }
}
