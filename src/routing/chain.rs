//! The chain: routers in order, compiled into a plan that is chosen through without looking at instances.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::routing::router::{Chooser, RouteRequest, Routed, ServiceRouter, Surroundings};

/// Routers in the order in which they narrow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    routers: Vec<Arc<dyn ServiceRouter>>,
}

/// What a chain compiled to: a tree with a leaf for every way that a request can take.
#[derive(Debug)]
pub(crate) enum Plan<L> {
    /// What requests that come here pick from.
    Leaf(L),
    /// What requests that come here are told.
    Refused(Error),
    /// Where requests part.
    Fork { chooser: Arc<dyn Chooser>, branches: Box<[Plan<L>]> },
}

// === impl Chain ===

impl Chain {
    pub(crate) fn new(routers: Vec<Arc<dyn ServiceRouter>>) -> Self {
        Self { routers }
    }

    /// The routers in order; who compiles large services pauses between two of them.
    pub(crate) fn routers(&self) -> impl Iterator<Item = &dyn ServiceRouter> {
        self.routers.iter().map(|router| &**router)
    }
}

// === impl Plan ===

impl Plan<Subset> {
    /// The plan after one more router.
    pub(crate) fn refine(self, router: &dyn ServiceRouter, surroundings: &Surroundings<'_>) -> Self {
        match self {
            Self::Refused(error) => Self::Refused(error),
            Self::Fork { chooser, branches } => {
                let branches = branches.into_iter().map(|branch| branch.refine(router, surroundings));
                Self::Fork { chooser, branches: branches.collect() }
            }
            Self::Leaf(subset) => match router.compile(&subset, surroundings) {
                Ok(Routed::Alike(narrowed)) => Self::Leaf(narrowed),
                Ok(Routed::Fork { chooser, branches }) => {
                    let branches = branches.into_iter().map(|branch| branch.map_or_else(Self::Refused, Self::Leaf));
                    Self::Fork { chooser, branches: branches.collect() }
                }
                Err(error) => Self::Refused(error),
            },
        }
    }
}

impl<L> Plan<L> {
    /// Replaces every leaf by what `make` makes of it, a refusal included.
    pub(crate) fn map<M>(self, make: &mut impl FnMut(L) -> Result<M>) -> Plan<M> {
        match self {
            Self::Leaf(leaf) => make(leaf).map_or_else(Plan::Refused, Plan::Leaf),
            Self::Refused(error) => Plan::Refused(error),
            Self::Fork { chooser, branches } => {
                let branches = branches.into_iter().map(|branch| branch.map(make));
                Plan::Fork { chooser, branches: branches.collect() }
            }
        }
    }

    /// The leaf for `request`. A refusal is a clone of one made ahead: nothing is formatted for a call.
    #[inline]
    pub(crate) fn choose(&self, request: &RouteRequest<'_>) -> Result<&L> {
        let mut plan = self;
        loop {
            match plan {
                Self::Leaf(leaf) => return Ok(leaf),
                Self::Refused(error) => return Err(error.clone()),
                Self::Fork { chooser, branches } => {
                    plan = branches.get(chooser.choose(request)?).ok_or_else(no_such_branch)?;
                }
            }
        }
    }
}

#[cold]
fn no_such_branch() -> Error {
    Error::new(ErrorKind::Plugin, "a router chose a branch that it did not compile")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::HealthView;
    use crate::model::request::instance::Pick;
    use crate::model::subset::fixture::{ids, subset};

    /// Parts even from odd instances; the entropy chooses.
    #[derive(Debug)]
    struct ByParity;

    #[derive(Debug)]
    struct Modulo(u64);

    #[derive(Debug)]
    struct DropFirst;

    impl ServiceRouter for ByParity {
        fn name(&self) -> &'static str {
            "parity"
        }

        fn compile(&self, subset: &Subset, _: &Surroundings<'_>) -> Result<Routed> {
            let none = || Error::new(ErrorKind::RouteMismatch, "none");
            let branch = |rest| subset.filter(|position, _| position % 2 == rest).ok_or_else(none);
            Ok(Routed::Fork { chooser: Arc::new(Modulo(3)), branches: vec![branch(0), branch(1)] })
        }
    }

    impl Chooser for Modulo {
        fn choose(&self, request: &RouteRequest<'_>) -> Result<usize> {
            Ok(usize::try_from(request.entropy % self.0).unwrap())
        }
    }

    impl ServiceRouter for DropFirst {
        fn name(&self) -> &'static str {
            "drop-first"
        }

        fn compile(&self, subset: &Subset, _: &Surroundings<'_>) -> Result<Routed> {
            let first = subset.instance(0).cloned();
            let narrowed = subset.filter(|_, instance| Some(instance) != first.as_ref());
            narrowed.map(Routed::Alike).ok_or_else(|| Error::new(ErrorKind::NoInstances, "all gone"))
        }
    }

    fn compile(count: usize) -> Plan<Subset> {
        let chain = Chain::new(vec![Arc::new(ByParity), Arc::new(DropFirst)]);
        let health = HealthView::default();
        let surroundings = Surroundings { health: &health };
        chain.routers().fold(Plan::Leaf(subset(count, |_, _| {})), |plan, router| plan.refine(router, &surroundings))
    }

    fn choose(plan: &Plan<Subset>, entropy: u64) -> Result<Vec<&str>> {
        plan.choose(&RouteRequest { pick: &Pick::new(), entropy }).map(ids)
    }

    #[test]
    fn every_branch_goes_through_the_routers_that_follow() {
        let plan = compile(5);
        assert_eq!(choose(&plan, 0).unwrap(), ["i00002", "i00004"]);
        assert_eq!(choose(&plan, 1).unwrap(), ["i00003"]);
    }

    #[test]
    fn a_branch_without_instances_refuses_and_its_neighbour_serves() {
        let plan = compile(3);
        assert_eq!(choose(&plan, 0).unwrap(), ["i00002"]);
        assert_eq!(choose(&plan, 1).unwrap_err().kind(), ErrorKind::NoInstances);
        assert_eq!(choose(&compile(1), 1).unwrap_err().kind(), ErrorKind::RouteMismatch);
    }

    #[test]
    fn a_choice_out_of_range_is_the_routers_fault() {
        assert_eq!(choose(&compile(4), 2).unwrap_err().kind(), ErrorKind::Plugin);
    }

    #[test]
    fn a_leaf_may_turn_into_a_refusal() {
        let plan = compile(5).map(&mut |subset: Subset| match subset.len().get() {
            1 => Err(Error::new(ErrorKind::Plugin, "one")),
            len => Ok(len),
        });
        let at = |entropy| plan.choose(&RouteRequest { pick: &Pick::new(), entropy }).copied();
        assert_eq!(at(0).unwrap(), 2);
        assert_eq!(at(1).unwrap_err().kind(), ErrorKind::Plugin);
    }
}
