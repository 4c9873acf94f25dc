//! The pick: guard, route, draw, one look at the instance that was drawn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::balance::Criteria;
use crate::config::plugin::canonical;
use crate::engine::entropy;
use crate::engine::view::{Leaf, Service, ServiceView};
use crate::error::{Error, ErrorKind, Result};
use crate::model::health::{Breaker, Slot};
use crate::model::instance::Instance;
use crate::model::request::instance::Pick;
use crate::registry::EntryState;
use crate::routing::RouteRequest;

/// How often a choice that must not be taken is drawn again, before all are looked through.
const DRAWS: usize = 4;

/// Why an instance that was drawn is or is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Take,
    Excluded,
    Open,
}

impl Service {
    /// Picks one instance; `NotReady` if nothing is loaded. Never waits, and allocates nothing.
    #[inline]
    pub(crate) fn pick(&self, pick: &Pick<'_>) -> Result<Instance> {
        self.try_pick(pick).unwrap_or_else(|| Err(self.not_ready()))
    }

    /// As [`Self::pick`]; `None` if nothing is loaded.
    #[inline]
    pub(crate) fn try_pick(&self, pick: &Pick<'_>) -> Option<Result<Instance>> {
        self.on_view(|view| {
            let (leaf, index) = self.select(view, pick)?;
            leaf.subset.instance(index).cloned().ok_or_else(out_of_range)
        })
    }

    /// Picks one instance, with its cells.
    pub(super) fn pick_with_slot(&self, pick: &Pick<'_>) -> Result<(Instance, Arc<Slot>)> {
        let picked = self.on_view(|view| {
            let (leaf, index) = self.select(view, pick)?;
            let cells = leaf.subset.instance(index).cloned().zip(leaf.subset.slot(index).cloned());
            cells.ok_or_else(out_of_range)
        });
        picked.unwrap_or_else(|| Err(self.not_ready()))
    }

    /// The instances that routing leaves for `pick`; none if nothing is loaded.
    pub(crate) fn routed(&self, pick: &Pick<'_>) -> Option<Result<Vec<Instance>>> {
        self.on_view(|view| {
            let request = RouteRequest { pick, entropy: entropy::draw() };
            match view.plan.choose(&request) {
                Ok(leaf) => Ok(leaf.subset.iter().cloned().collect()),
                // An empty list is an answer, as long as the service exists.
                Err(error) if error.kind() == ErrorKind::NoInstances => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        })
    }

    /// The instances that can serve now, whatever routing says of them; none if nothing is loaded.
    pub(crate) fn healthy(&self) -> Option<Result<Vec<Instance>>> {
        self.on_view(|view| {
            let snapshot = view.listed()?;
            let slots = view.base.as_ref().map(|base| base.slots()).unwrap_or_default();
            let alive = snapshot.instances().iter().zip(slots).filter(|(instance, slot)| {
                let serves = instance.is_healthy() && !instance.is_isolated() && instance.weight() > 0;
                serves && slot.breaker() != Breaker::Open
            });
            Ok(alive.map(|(instance, _)| instance.clone()).collect())
        })
    }

    /// Reads the view; `None` if there is none and the gate is open.
    #[inline]
    pub(super) fn on_view<T>(&self, read: impl FnOnce(&ServiceView) -> Result<T>) -> Option<Result<T>> {
        if let Err(closed) = self.gate.check() {
            return Some(Err(closed));
        }
        self.touch();
        let view = self.view.load();
        view.as_deref().map(read)
    }

    /// The refusal while nothing is loaded, with what went wrong so far as its source.
    #[cold]
    pub(super) fn not_ready(&self) -> Error {
        let refusal = self.refusals.not_ready.clone();
        match self.source().map(|source| source.state()) {
            Some(EntryState::Failed(error)) => refusal.with_source(error),
            _ => refusal,
        }
    }

    #[inline]
    fn select<'v>(&self, view: &'v ServiceView, pick: &Pick<'_>) -> Result<(&'v Leaf, usize)> {
        if let Some(name) = pick.balancer {
            self.check_balancer(name)?;
        }
        let leaf = view.plan.choose(&RouteRequest { pick, entropy: entropy::draw() })?;
        for _ in 0..DRAWS {
            let index = leaf.selector.select(&leaf.subset, &Criteria::new(entropy::draw()));
            match self.judge(leaf, index, pick) {
                Some(Verdict::Take) => return Ok((leaf, index)),
                Some(_) => {}
                None => return Err(out_of_range()),
            }
        }
        self.scan(leaf, pick).map(|index| (leaf, index))
    }

    #[inline]
    fn judge(&self, leaf: &Leaf, index: usize, pick: &Pick<'_>) -> Option<Verdict> {
        let instance = leaf.subset.instance(index)?;
        if pick.exclude.is_some_and(|tried| tried.contains(instance.id())) {
            return Some(Verdict::Excluded);
        }
        // Most services never see a breaker move: then its cell, far from the list in memory, is not read.
        if self.guarded.load(Ordering::Acquire) && leaf.subset.slot(index)?.breaker() == Breaker::Open {
            return Some(Verdict::Open);
        }
        Some(Verdict::Take)
    }

    /// Looks through all instances from a random one on, when draws keep hitting what must not be taken.
    #[cold]
    fn scan(&self, leaf: &Leaf, pick: &Pick<'_>) -> Result<usize> {
        let count = leaf.subset.len();
        let start = Criteria::new(entropy::draw()).two_of(count).0;
        // Weight 0 takes no calls, unless nobody has a weight.
        let weightless = leaf.subset.iter().all(|instance| instance.weight() == 0);
        let mut open = None;
        for index in (start..count.get()).chain(0..start) {
            if !weightless && leaf.subset.instance(index).is_none_or(|instance| instance.weight() == 0) {
                continue;
            }
            match self.judge(leaf, index, pick) {
                Some(Verdict::Take) => return Ok(index),
                Some(Verdict::Open) => open = open.or(Some(index)),
                Some(Verdict::Excluded) | None => {}
            }
        }
        match open {
            Some(index) if self.policy.recover_all => Ok(index),
            Some(_) => Err(self.refusals.circuit_open.clone()),
            None => Err(self.refusals.exhausted.clone()),
        }
    }

    fn check_balancer(&self, name: &str) -> Result<()> {
        let built = &self.policy.balancer_name;
        if name == built || canonical(name) == built {
            return Ok(());
        }
        let context = format!("balancer {name:?} is not one of this context; it has {built}");
        Err(Error::new(ErrorKind::InvalidArgument, context).with_service(self.key().text()))
    }
}

#[cold]
fn out_of_range() -> Error {
    Error::new(ErrorKind::Plugin, "the balancer chose an instance beyond the end of the list")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{LoadBalancer, Selector, WeightedRandom};
    use crate::engine::fixture::{Fixture, id, picked};
    use crate::model::request::instance::Tried;
    use crate::model::subset::Subset;
    use tokio::runtime::Handle;

    #[tokio::test(start_paused = true)]
    async fn no_instance_is_picked_twice_until_all_are_exhausted() {
        let names: Vec<_> = (0..40).map(|n| format!("i{n}")).collect();
        let list: Vec<_> = names.iter().map(|name| (name.as_str(), if name == "i7" { 10_000 } else { 1 })).collect();
        let fixture = Fixture::new();
        let service = fixture.warm(&list).await;
        let mut tried = Tried::default();
        for _ in 0..list.len() {
            let instance = service.pick(&Pick::new().exclude(&tried)).unwrap();
            assert!(!tried.contains(instance.id()), "{instance:?}");
            tried.insert(instance.id());
        }
        let error = service.pick(&Pick::new().exclude(&tried)).unwrap_err();
        assert_eq!((error.kind(), error.service()), (ErrorKind::Exhausted, Some("default/a")));
    }

    #[tokio::test(start_paused = true)]
    async fn open_breakers_are_passed_over_and_half_open_ones_are_not() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 10_000), ("b", 1), ("c", 1)]).await;
        service.set_breaker("a", Breaker::Open);
        service.set_breaker("b", Breaker::HalfOpen);
        assert_eq!(picked(&service, &Pick::new()), ["b", "c"]);
        service.set_breaker("a", Breaker::Closed);
        assert!(picked(&service, &Pick::new()).contains(&"a".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn with_all_breakers_open_somebody_is_picked_unless_recovery_is_off() {
        for (recover_all, expected) in [(true, None), (false, Some(ErrorKind::CircuitOpen))] {
            let fixture = Fixture::build(&Handle::current(), Arc::new(WeightedRandom), recover_all, None);
            let service = fixture.warm(&[("a", 1), ("b", 1)]).await;
            service.set_breaker("a", Breaker::Open);
            service.set_breaker("b", Breaker::Open);
            assert_eq!(service.pick(&Pick::new()).err().map(|error| error.kind()), expected);
            let mut tried = Tried::default();
            for instance in service.snapshot().unwrap().instances() {
                tried.insert(instance.id());
            }
            let error = service.pick(&Pick::new().exclude(&tried)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted, "excluded stays excluded");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn picks_follow_the_weights() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 3), ("c", 0)]).await;
        let count = |wanted: &str| {
            let picks = (0..40_000).map(|_| service.pick(&Pick::new()).unwrap());
            picks.filter(|instance| id(instance) == wanted).count()
        };
        // 30,000 expected; the bounds are six standard deviations away.
        let b = count("b");
        assert!((29_480..=30_520).contains(&b), "{b}");
        assert_eq!(count("c"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_balancer_that_the_context_does_not_have_is_refused_by_name() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1)]).await;
        assert!(service.pick(&Pick::new().balancer("weightedRandom")).is_ok());
        let error = service.pick(&Pick::new().balancer("mine")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("mine") && error.to_string().contains("weightedRandom"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pick_that_is_not_ready_tells_what_went_wrong_so_far() {
        use std::error::Error as _;
        let fixture = Fixture::new();
        let service = fixture.service();
        assert!(service.pick(&Pick::new()).unwrap_err().source().is_none());
        fixture.fail(Error::new(ErrorKind::Unauthorized, "bad token"));
        let error = service.pick(&Pick::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotReady);
        assert!(error.source().unwrap().to_string().contains("bad token"));
    }

    #[derive(Debug)]
    struct Beyond;

    impl LoadBalancer for Beyond {
        fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
            Ok(Box::new(Self))
        }
    }

    impl Selector for Beyond {
        fn select(&self, subset: &Subset, _: &Criteria) -> usize {
            subset.len().get()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_choice_beyond_the_list_is_the_balancers_fault() {
        let fixture = Fixture::build(&Handle::current(), Arc::new(Beyond), true, None);
        let service = fixture.warm(&[("a", 1)]).await;
        assert_eq!(service.pick(&Pick::new()).unwrap_err().kind(), ErrorKind::Plugin);
    }

    #[tokio::test(start_paused = true)]
    async fn lists_of_an_empty_service_are_empty_and_not_errors() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 0)]).await;
        assert_eq!(service.routed(&Pick::new()).unwrap().unwrap(), []);
        assert_eq!(service.healthy().unwrap().unwrap(), []);
        assert_eq!(service.snapshot().unwrap().len(), 1);
    }
}
