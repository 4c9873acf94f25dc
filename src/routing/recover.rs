//! Drops instances that cannot serve, unless nothing would be left.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::Instance;
use crate::model::request::asks::Asks;
use crate::model::subset::Subset;
use crate::routing::router::{Routed, ServiceRouter};
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Choice, Fixed};

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

    /// Those of `given` that are `alive`, or all of them.
    fn recover(self, given: &Subset, alive: Option<Subset>) -> Result<(Subset, Option<String>)> {
        let (living, all) = (alive.as_ref().map_or(0, |alive| alive.len().get()), given.len().get());
        if self.panics(living, all) {
            let note =
                (living < all).then(|| format!("{living} of {all} can serve, which is too few to be true: all stay"));
            return Ok((given.clone(), note));
        }
        alive.map(|alive| (alive, None)).ok_or_else(|| {
            let context = format!("none of {all} instances is healthy, and enableRecoverAll is off");
            Error::new(ErrorKind::NoInstances, context).with_service(given.snapshot().key().text())
        })
    }
}

impl ServiceRouter for Recover {
    fn compile(&self, subset: &Subset, surroundings: &Surroundings) -> Result<Routed> {
        let health = &surroundings.health;
        let alive = self.recover(subset, subset.filter_at(|position, instance| health.may_serve(position, instance)));
        let (routed, note) = if health.all_closed() {
            let (alive, note) = alive?;
            (Routed::alike(alive), note)
        } else {
            // A request may want the broken ones too, and gets them even if there are no others.
            let healthy = subset.filter(Instance::is_healthy);
            let with_broken = self.recover(subset, healthy).map(|(instances, _)| instances);
            let note = alive.as_ref().ok().and_then(|(_, note)| note.clone());
            let switch = Arc::new(Fixed(Choice::Branch(0)));
            (Routed::aside(alive.map(|(instances, _)| instances), Asks::BROKEN, switch, vec![with_broken]), note)
        };
        Ok(match note {
            Some(note) => routed.because(note),
            None => routed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::{Breaker, HealthView, Slot};
    use crate::model::subset::fixture::{ids, subset};
    use crate::routing::router::Way;

    fn branches(router: Recover, given: &Subset, breakers: &[(usize, Breaker)]) -> Vec<Result<Subset>> {
        let slots: Vec<Arc<Slot>> = (0..given.len().get()).map(|_| Arc::default()).collect();
        for (position, state) in breakers {
            slots[*position].set_breaker(*state);
        }
        let surroundings = Surroundings { health: Arc::new(HealthView::of(&slots)), ..Surroundings::default() };
        match router.compile(given, &surroundings).map(|routed| routed.way) {
            Ok(Way::Alike(subset)) => vec![Ok(subset)],
            Ok(Way::Aside { plain, branches, .. }) => [plain].into_iter().chain(branches).collect(),
            Ok(Way::Fork { branches, .. }) => branches,
            Err(error) => vec![Err(error)],
        }
    }

    fn route(router: Recover, given: &Subset, open: &[usize]) -> Result<Subset> {
        let open: Vec<_> = open.iter().map(|position| (*position, Breaker::Open)).collect();
        branches(router, given, &open).swap_remove(0)
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
        let left = branches(Recover::new(true, 0.0), &healthy(&[true, true]), &[(0, Breaker::HalfOpen)]);
        assert_eq!(left[0].as_ref().unwrap().len().get(), 2);
    }

    #[test]
    fn requests_that_include_broken_instances_get_the_healthy_ones_among_them() {
        let branches = branches(Recover::new(true, 0.0), &healthy(&[true, false, true]), &[(0, Breaker::Open)]);
        let ids: Vec<_> = branches.iter().map(|branch| ids(branch.as_ref().unwrap())).collect();
        assert_eq!(ids, [vec!["i00002"], vec!["i00000", "i00002"]]);
    }

    #[test]
    fn requests_that_include_broken_instances_get_them_even_where_there_are_no_others() {
        let given = healthy(&[true, false]);
        let mut branches = branches(Recover::new(false, 0.0), &given, &[(0, Breaker::Open), (1, Breaker::Open)]);
        assert_eq!(ids(branches.pop().unwrap().as_ref().unwrap()), ["i00000"]);
        assert_eq!(branches.pop().unwrap().unwrap_err().kind(), ErrorKind::NoInstances);
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
