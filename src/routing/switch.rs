//! Where calls part: the half of a router that runs for each of them, as the chain sees it.

use std::fmt::Debug;

use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::routing::router::{Chooser, RouteRequest, Routed};
use crate::routing::surroundings::Surroundings;
use crate::util::panic::caught;

/// Says which branch a call takes. It must neither block nor allocate, but for [`resolve`](Self::resolve).
pub(crate) trait Switch: Debug + Send + Sync {
    /// The branch for `request`. `passed` is the late branch that was chosen before for the same request, and turned out
    /// to have nothing for it.
    fn choose(&self, request: &RouteRequest<'_>, passed: Option<u32>) -> Result<Choice>;

    /// Writes what a late branch depends on, besides its number.
    fn write_key(&self, token: u32, request: &RouteRequest<'_>, part: &mut dyn FnMut(&[u8])) {
        let (_, _, _) = (token, request, part);
    }

    /// Makes a late branch of `given`, the subset at the fork. On first use, and kept.
    fn resolve(
        &self,
        token: u32,
        request: &RouteRequest<'_>,
        given: &Subset,
        surroundings: &Surroundings,
    ) -> Result<Resolved> {
        let (_, _, _) = (request, given, surroundings);
        Err(Error::new(ErrorKind::Internal, format!("{self:?} has no late branch {token}")))
    }

    /// All branches that `request` may take, each with its share, and why. By default the one that it takes now.
    fn ways(&self, request: &RouteRequest<'_>, passed: Option<u32>) -> Ways {
        Ways { why: Vec::new(), ways: vec![Alternative::only(self.choose(request, passed))] }
    }
}

/// What a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The branch of this number.
    Branch(usize),
    /// One that is made on first use; the number tells it from others of the same fork.
    Late(u32),
}

/// What a late branch turned out to be.
#[derive(Debug)]
pub(crate) enum Resolved {
    To(Routed),
    /// Nothing is there for this call: choose again.
    PassOn,
}

/// The ways that a request may take at a fork.
#[derive(Debug)]
pub(crate) struct Ways {
    /// What was looked at on the way, in order.
    pub(crate) why: Vec<String>,
    pub(crate) ways: Vec<Alternative>,
}

/// One way among several.
#[derive(Debug)]
pub(crate) struct Alternative {
    pub(crate) choice: Result<Choice>,
    /// Its share among all of them, in parts of their sum.
    pub(crate) weight: u64,
    pub(crate) name: Option<String>,
}

/// A chooser of a user's.
#[derive(Debug)]
pub(crate) struct Plain<C>(pub(crate) C);

/// Says the same to everybody who looks: for forks that only some look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed(pub(crate) Choice);

impl Alternative {
    pub(crate) fn only(choice: Result<Choice>) -> Self {
        Self { choice, weight: 1, name: None }
    }
}

impl<C: Chooser> Switch for Plain<C> {
    fn choose(&self, request: &RouteRequest<'_>, _: Option<u32>) -> Result<Choice> {
        match caught(|| self.0.choose(request)) {
            Ok(chosen) => chosen.map(Choice::Branch),
            Err(said) => Err(Error::new(ErrorKind::Plugin, format!("a router panicked: {said}"))),
        }
    }
}

impl Switch for Fixed {
    fn choose(&self, _: &RouteRequest<'_>, _: Option<u32>) -> Result<Choice> {
        Ok(self.0)
    }
}
