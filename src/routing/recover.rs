//! Drops instances that cannot serve, unless nothing would be left.

use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::routing::router::{Routed, ServiceRouter, Surroundings};

/// The router `recoverRouter`: leaves what is healthy for the control plane and has no open breaker.
///
/// When health checks fail everywhere, it is more likely that they are wrong than that everybody is dead, and a call
/// that may fail is better than one that surely does. So when too few are left, all of the list that it was given are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recover {
    all_dead_all_alive: bool,
    /// The share of instances that can serve at or below which all are left.
    panic_share: f64,
}

impl Recover {
    /// With `all_dead_all_alive` off, `panic_share` has no effect and nothing is ever left but what can serve.
    pub(crate) const fn new(all_dead_all_alive: bool, panic_share: f64) -> Self {
        Self { all_dead_all_alive, panic_share }
    }

    /// Whether so few of `given` can serve that all are taken for alive.
    fn panics(self, alive: usize, given: usize) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "a share of a list; lists are far below 2^52")]
        let share = alive as f64 / given as f64;
        self.all_dead_all_alive && share <= self.panic_share.max(0.0)
    }
}

impl ServiceRouter for Recover {
    fn name(&self) -> &'static str {
        "recoverRouter"
    }

    fn compile(&self, subset: &Subset, surroundings: &Surroundings<'_>) -> Result<Routed> {
        let alive = subset.filter(|position, instance| surroundings.health.may_serve(position, instance));
        let given = subset.len().get();
        if self.panics(alive.as_ref().map_or(0, |alive| alive.len().get()), given) {
            return Ok(Routed::Alike(subset.clone()));
        }
        alive.map(Routed::Alike).ok_or_else(|| {
            let context = format!("none of {given} instances is healthy, and enableRecoverAll is off");
            Error::new(ErrorKind::NoInstances, context).with_service(subset.snapshot().key().text())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::{Breaker, HealthView, Slot};
    use crate::model::subset::fixture::{ids, subset};
    use std::sync::Arc;

    fn route(router: Recover, given: &Subset, open: &[usize]) -> Result<Subset> {
        let slots: Vec<Arc<Slot>> = (0..given.len().get()).map(|_| Arc::default()).collect();
        for position in open {
            slots[*position].set_breaker(Breaker::Open);
        }
        let health = HealthView::of(&slots);
        match router.compile(given, &Surroundings { health: &health })? {
            Routed::Alike(subset) => Ok(subset),
            Routed::Fork { .. } => panic!("depends on no request"),
        }
    }

    fn healthy(flags: &[bool]) -> Subset {
        subset(flags.len(), |n, parts| parts.healthy = flags[n])
    }

    #[test]
    fn unhealthy_and_broken_instances_are_dropped() {
        let left = route(Recover::new(true, 0.0), &healthy(&[true, false, true, true]), &[3]).unwrap();
        assert_eq!(ids(&left), ["i00000", "i00002"]);
    }

    #[test]
    fn a_half_open_breaker_stays_a_candidate() {
        let given = healthy(&[true, true]);
        let slots = [Arc::new(Slot::default()), Arc::new(Slot::default())];
        slots[0].set_breaker(Breaker::HalfOpen);
        let health = HealthView::of(&slots);
        let Routed::Alike(left) = Recover::new(true, 0.0).compile(&given, &Surroundings { health: &health }).unwrap()
        else {
            panic!("depends on no request")
        };
        assert_eq!(left.len().get(), 2);
    }

    #[test]
    fn all_dead_is_all_alive_unless_switched_off() {
        let dead = healthy(&[false, false]);
        assert_eq!(route(Recover::new(true, 0.0), &dead, &[]).unwrap().len().get(), 2);
        let error = route(Recover::new(false, 0.9), &dead, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoInstances);
        assert!(error.to_string().contains("enableRecoverAll"), "{error}");
    }

    #[test]
    fn at_or_below_the_panic_share_all_are_alive_and_above_it_only_the_healthy() {
        let given = healthy(&[true, false, false, false]);
        assert_eq!(route(Recover::new(true, 0.25), &given, &[]).unwrap().len().get(), 4);
        assert_eq!(route(Recover::new(true, 0.2), &given, &[]).unwrap().len().get(), 1);
        assert_eq!(route(Recover::new(false, 0.25), &given, &[]).unwrap().len().get(), 1, "off with recover");
    }
}
