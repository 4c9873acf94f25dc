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
        self.try_pick(pick).unwrap_or_else(|| Err(self.refusals.not_ready.clone()))
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
        picked.unwrap_or_else(|| Err(self.refusals.not_ready.clone()))
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

    #[inline]
    fn select<'v>(&self, view: &'v ServiceView, pick: &Pick<'_>) -> Result<(&'v Leaf, usize)> {
        if let Some(name) = pick.balancer {
            self.check_balancer(name)?;
        }
        let leaf = view.plan.choose(&RouteRequest { pick, entropy: entropy::draw() })?;
        for _ in 0..DRAWS {
            let index = leaf.selector.select(&leaf.subset, &Criteria::new(0, entropy::draw()));
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
        let start = Criteria::new(0, entropy::draw()).two_of(count).0;
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
