//! The pick: guard, route, draw, one look at the instance that was drawn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::balance::{Criteria, Selector};
use crate::engine::entropy;
use crate::engine::leaf::Leaf;
use crate::engine::view::{CallerPlan, Refusals, Service, ServiceView};
use crate::error::{Error, ErrorKind, Result};
use crate::model::health::{Breaker, Slot};
use crate::model::instance::Instance;
use crate::model::request::asks::Asks;
use crate::model::request::instance::Pick;
use crate::model::subset::Subset;
use crate::registry::EntryState;
use crate::routing::{Chosen, Maker, RouteRequest};

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
        self.try_pick(pick).unwrap_or_else(|| Err(self.not_ready(pick)))
    }

    /// As [`Self::pick`]; `None` if nothing is loaded.
    #[inline]
    pub(crate) fn try_pick(&self, pick: &Pick<'_>) -> Option<Result<Instance>> {
        self.on_leaf(pick, |draw| Ok(draw.select()?.1.clone()))
    }

    /// Picks one instance and looks at it under the guard of the view.
    #[cfg(feature = "testing")]
    #[inline]
    pub(crate) fn pick_with<T>(&self, pick: &Pick<'_>, look: impl FnOnce(&Instance) -> T) -> Result<T> {
        let picked = self.on_leaf(pick, |draw| Ok(look(draw.select()?.1)));
        picked.unwrap_or_else(|| Err(self.not_ready(pick)))
    }

    /// Picks one instance, with its cells.
    pub(super) fn pick_with_slot(&self, pick: &Pick<'_>) -> Result<(Instance, Arc<Slot>)> {
        let picked = self.on_leaf(pick, |draw| {
            let (index, instance) = draw.select()?;
            let slot = draw.subset.slot(index).cloned().ok_or_else(out_of_range)?;
            Ok((instance.clone(), slot))
        });
        picked.unwrap_or_else(|| Err(self.not_ready(pick)))
    }

    /// Picks one instance and up to `more` others, all different: the next ones on the way of a policy that hashes, others
    /// as they are drawn.
    pub(crate) fn pick_several(&self, pick: &Pick<'_>, more: usize) -> Option<Result<Vec<Instance>>> {
        self.on_leaf(pick, |draw| {
            let subset = draw.subset;
            let (first, _) = draw.select()?;
            let mut chosen = vec![first];
            let takes = |index: usize, chosen: &[usize]| {
                !chosen.contains(&index) && matches!(draw.judge(index), Some((Verdict::Take, _)))
            };
            let criteria = criteria(pick, draw.entropy);
            let mut way = (0..).map_while(|step| match step {
                0 => Some(draw.selector.select(subset, &criteria)),
                _ => draw.selector.walk(subset, &criteria, step),
            });
            while chosen.len() <= more
                && let Some(index) = way.next()
            {
                if takes(index, &chosen) {
                    chosen.push(index);
                }
            }
            let (start, _) = criteria.two_of(subset.len());
            for index in (start..subset.len().get()).chain(0..start) {
                if chosen.len() <= more && takes(index, &chosen) && subset.weight(index) > 0 {
                    chosen.push(index);
                }
            }
            Ok(chosen.into_iter().filter_map(|index| subset.instance(index).cloned()).collect())
        })
    }

    /// One of the instances of a leaf that was made for this once.
    pub(super) fn select_from(&self, leaf: &Leaf, pick: &Pick<'_>) -> Result<Instance> {
        self.gate.check()?;
        let selector = leaf.selector(pick.balancer, &self.policy)?;
        let entropy = entropy::draw();
        let draw = Draw { service: self, subset: &leaf.subset, selector, pick, looks: true, entropy };
        Ok(draw.select()?.1.clone())
    }

    /// The instances that routing leaves for `pick`; none if nothing is loaded.
    pub(crate) fn routed(&self, pick: &Pick<'_>) -> Option<Result<Vec<Instance>>> {
        let listed = self.on_leaf(pick, |draw| Ok(draw.subset.iter().cloned().collect()))?;
        Some(match listed {
            // An empty list is an answer, as long as the service exists.
            Err(error) if error.kind() == ErrorKind::NoInstances => Ok(Vec::new()),
            listed => listed,
        })
    }

    /// The instances that can serve now, whatever routing says of them; none if nothing is loaded.
    pub(crate) fn healthy(&self) -> Option<Result<Vec<Instance>>> {
        self.on_view(|view| {
            let alive = || {
                let snapshot = view.listed()?;
                let slots = view.base.as_ref().map(|base| base.slots()).unwrap_or_default();
                let alive = snapshot.instances().iter().zip(slots).filter(|(instance, slot)| {
                    let serves = instance.is_healthy() && !instance.is_isolated() && instance.weight() > 0;
                    serves && slot.breaker() != Breaker::Open
                });
                Ok(alive.map(|(instance, _)| instance.clone()).collect())
            };
            Some(alive())
        })
    }

    /// Reads the view; `None` if there is none and the gate is open, or if `read` finds nothing.
    #[inline]
    pub(super) fn on_view<T>(&self, read: impl FnOnce(&ServiceView) -> Option<Result<T>>) -> Option<Result<T>> {
        if let Err(closed) = self.gate.check() {
            return Some(Err(closed));
        }
        self.touch();
        let view = self.view.load();
        read(view.as_deref()?)
    }

    /// Reads what `pick` picks from, and by which policy.
    #[inline]
    fn on_leaf<T>(&self, pick: &Pick<'_>, read: impl FnOnce(Draw<'_>) -> Result<T>) -> Option<Result<T>> {
        self.on_view(|view| {
            let plan = view.plan(pick.caller)?;
            let looks = self.moves.load(Ordering::Acquire) != view.moves;
            let entropy = entropy::draw();
            Some(self.route(plan, pick, entropy).and_then(|leaf| {
                let selector = leaf.selector(pick.balancer, &self.policy)?;
                read(Draw { service: self, subset: &leaf.subset, selector, pick, looks, entropy })
            }))
        })
    }

    #[inline]
    fn route<'v>(&self, plan: &'v CallerPlan, pick: &Pick<'_>, entropy: u64) -> Result<Chosen<'v, Leaf>> {
        self.with_maker(plan, |maker| plan.root.choose(&RouteRequest { pick, entropy }, maker))
    }

    /// What parts of a plan are made with that calls ask for.
    #[inline]
    pub(super) fn with_maker<T>(&self, plan: &CallerPlan, work: impl FnOnce(&Maker<'_, Leaf>) -> T) -> T {
        let leaf = |subset| Leaf::new(subset, &self.policy);
        // A new view has room again.
        let crowded = || self.renew();
        work(&Maker { chain: &self.policy.chain, surroundings: &plan.surroundings, leaf: &leaf, crowded: &crowded })
    }

    /// The refusal while nothing is loaded, with what went wrong so far as its source; loading has begun by now.
    #[cold]
    pub(super) fn not_ready(&self, pick: &Pick<'_>) -> Error {
        self.serves(pick.caller);
        let refusal = self.refusals.not_ready.clone();
        match self.source().map(|source| source.state()) {
            Some(EntryState::Failed(error)) => refusal.with_source(error),
            _ => refusal,
        }
    }
}

/// One pick, once it is known what from and by which policy.
struct Draw<'a> {
    service: &'a Service,
    subset: &'a Subset,
    selector: &'a dyn Selector,
    pick: &'a Pick<'a>,
    /// Whether breakers moved since the view was made: what was compiled knows the others.
    looks: bool,
    /// The random bits of the pick. Forks have drawn by others, made of these.
    entropy: u64,
}

impl<'a> Draw<'a> {
    /// The instance that is taken, with its index.
    #[inline]
    fn select(&self) -> Result<(usize, &'a Instance)> {
        let criteria = criteria(self.pick, self.entropy);
        let index = self.selector.select(self.subset, &criteria);
        match self.judge(index) {
            Some((Verdict::Take, instance)) => Ok((index, instance)),
            Some(_) => self.select_again(&criteria),
            None => Err(out_of_range()),
        }
    }

    /// Goes on when the first choice must not be taken: along the policy's own order, or by drawing again, and at last
    /// through all of them.
    #[cold]
    fn select_again(&self, first: &Criteria<'_>) -> Result<(usize, &'a Instance)> {
        let mut walked = false;
        for index in (1..).map_while(|step| self.selector.walk(self.subset, first, step)) {
            walked = true;
            match self.judge(index) {
                Some((Verdict::Take, instance)) => return Ok((index, instance)),
                Some(_) => {}
                None => return Err(out_of_range()),
            }
        }
        for _ in 1..if walked { 1 } else { DRAWS } {
            let index = self.selector.select(self.subset, &criteria(self.pick, entropy::draw()));
            match self.judge(index) {
                Some((Verdict::Take, instance)) => return Ok((index, instance)),
                Some(_) => {}
                None => return Err(out_of_range()),
            }
        }
        self.scan()
    }

    #[inline]
    fn judge(&self, index: usize) -> Option<(Verdict, &'a Instance)> {
        let instance = self.subset.instance(index)?;
        if self.pick.exclude.is_some_and(|tried| tried.contains(instance.id())) {
            return Some((Verdict::Excluded, instance));
        }
        // Its cell is far from the list in memory, so it is read only while it can say something new.
        if self.looks && self.subset.slot(index)?.breaker() == Breaker::Open && !self.pick.asks.has(Asks::BROKEN) {
            return Some((Verdict::Open, instance));
        }
        Some((Verdict::Take, instance))
    }

    /// Looks through all instances from a random one on, when draws keep hitting what must not be taken.
    fn scan(&self) -> Result<(usize, &'a Instance)> {
        let count = self.subset.len();
        let start = Criteria::new(entropy::draw()).two_of(count).0;
        // Weight 0 takes no calls, unless nobody has a weight.
        let weightless = (0..count.get()).all(|index| self.subset.weight(index) == 0);
        let mut open = None;
        for index in (start..count.get()).chain(0..start) {
            if !weightless && self.subset.weight(index) == 0 {
                continue;
            }
            match self.judge(index) {
                Some((Verdict::Take, instance)) => return Ok((index, instance)),
                Some((Verdict::Open, instance)) => open = open.or(Some((index, instance))),
                Some((Verdict::Excluded, _)) | None => {}
            }
        }
        let Refusals { circuit_open, exhausted, .. } = &self.service.refusals;
        match open {
            // All that are left are broken: one of them is tried, rather than nobody.
            Some(found) if self.service.policy.recover_all => Ok(found),
            Some(_) => Err(circuit_open.clone()),
            None => Err(exhausted.clone()),
        }
    }
}

/// What a choice depends on.
#[inline]
fn criteria<'a>(pick: &Pick<'a>, entropy: u64) -> Criteria<'a> {
    let mut criteria = Criteria::new(entropy);
    if let Some(key) = pick.hash_key {
        criteria = criteria.with_hash_key(key);
    }
    if let Some(value) = pick.hash_value {
        criteria = criteria.with_hash_value(value);
    }
    criteria
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
    use crate::model::request::tried::Tried;
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
        fn select(&self, subset: &Subset, _: &Criteria<'_>) -> usize {
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
