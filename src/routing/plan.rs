//! The plan: what a chain compiled to, and the way of a call through it.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::request::asks::Asks;
use crate::model::subset::Subset;
use crate::routing::build::Build;
use crate::routing::chain::Chain;
use crate::routing::memo::{Found, Key, Memo};
use crate::routing::router::RouteRequest;
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Choice, Resolved, Switch};

/// A place in the plan, with the steps that led to it from the fork before.
#[derive(Debug)]
pub(crate) struct Node<L> {
    /// How many instances came to it.
    pub(crate) given: usize,
    pub(crate) steps: Box<[Step]>,
    /// Forks on the way that only some calls look at, in order, each with the place in `steps` that it stands before. All
    /// other calls go straight to the end.
    pub(crate) asides: Box<[Aside<L>]>,
    pub(crate) end: End<L>,
}

/// A fork that only those calls look at which ask for it.
#[derive(Debug)]
pub(crate) struct Aside<L> {
    pub(crate) asks: Asks,
    pub(crate) before: usize,
    pub(crate) fork: Fork<L>,
}

/// What calls find at the end of some steps.
#[derive(Debug)]
pub(crate) enum End<L> {
    /// What they pick from.
    Leaf(L),
    /// What they are told, by the router of this place in the chain.
    Refused { error: Error, router: usize },
    /// Nothing for them: the fork before has to choose again.
    PassOn,
    /// Where they part.
    Fork(Box<Fork<L>>),
}

/// A router that kept the same instances for all calls.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Its place in the chain.
    pub(crate) router: usize,
    pub(crate) given: usize,
    pub(crate) left: usize,
    pub(crate) note: Option<Arc<str>>,
}

/// A router that parts calls.
#[derive(Debug)]
pub(crate) struct Fork<L> {
    /// Its place in the chain.
    pub(crate) router: usize,
    pub(crate) switch: Arc<dyn Switch>,
    /// What came to it.
    pub(crate) given: Subset,
    pub(crate) branches: Box<[Node<L>]>,
    /// Branches that calls asked for.
    pub(crate) late: Memo<Node<L>>,
    pub(crate) note: Option<Arc<str>>,
}

/// What a part of a plan is made with: the same at first and later.
pub(crate) struct Maker<'a, L> {
    pub(crate) chain: &'a Chain,
    pub(crate) surroundings: &'a Surroundings,
    /// Makes what calls pick from.
    pub(crate) leaf: &'a (dyn Fn(Subset) -> Result<L> + Sync),
    /// Told when a table is full, so that what calls ask for is not kept any more.
    pub(crate) crowded: &'a (dyn Fn() + Sync),
}

/// The leaf that a call came to.
#[derive(Debug)]
pub(crate) enum Chosen<'p, L> {
    Kept(&'p L),
    Made(Box<L>),
}

/// The key of a late branch.
struct LateKey<'a> {
    switch: &'a dyn Switch,
    token: u32,
    request: &'a RouteRequest<'a>,
}

impl<L> Node<L> {
    /// A plan that refuses everybody before any router is asked.
    pub(crate) fn refused(error: Error) -> Self {
        Self::ending(0, End::Refused { error, router: usize::MAX })
    }

    /// A place that no step leads to.
    pub(crate) fn ending(given: usize, end: End<L>) -> Self {
        Self { given, steps: Box::default(), asides: Box::default(), end }
    }

    /// The leaf for `request`. A refusal is a clone of one made ahead: nothing is formatted for a call.
    #[inline]
    pub(crate) fn choose<'p>(&'p self, request: &RouteRequest<'_>, maker: &Maker<'_, L>) -> Result<Chosen<'p, L>> {
        let mut node = self;
        let asks = request.pick.asks;
        loop {
            if asks != Asks::NONE
                && let Some(aside) = node.asides.iter().find(|aside| asks.has(aside.asks))
            {
                match aside.fork.next(request, maker)? {
                    Found::Kept(next) => node = next,
                    Found::Made(next) => return next.into_leaf(request, maker).map(Chosen::Made),
                }
                continue;
            }
            match &node.end {
                End::Leaf(leaf) => return Ok(Chosen::Kept(leaf)),
                End::Refused { error, .. } => return Err(error.clone()),
                End::PassOn => return Err(no_such_branch()),
                End::Fork(fork) => match fork.next(request, maker)? {
                    Found::Kept(next) => node = next,
                    Found::Made(next) => return next.into_leaf(request, maker).map(Chosen::Made),
                },
            }
        }
    }

    /// The same of a node that is not kept.
    #[cold]
    fn into_leaf(self, request: &RouteRequest<'_>, maker: &Maker<'_, L>) -> Result<Box<L>> {
        let asks = request.pick.asks;
        let aside = self.asides.into_iter().find(|aside| asks.has(aside.asks));
        let fork = match (aside, self.end) {
            (Some(aside), _) => aside.fork,
            (None, End::Fork(fork)) => *fork,
            (None, End::Leaf(leaf)) => return Ok(Box::new(leaf)),
            (None, End::Refused { error, .. }) => return Err(error),
            (None, End::PassOn) => return Err(no_such_branch()),
        };
        fork.into_next(request, maker)?.into_leaf(request, maker)
    }
}

impl<L> Fork<L> {
    #[inline]
    fn next<'p>(&'p self, request: &RouteRequest<'_>, maker: &Maker<'_, L>) -> Result<Found<'p, Node<L>>> {
        let request = &self.of(request);
        let mut passed = None;
        loop {
            let token = match self.switch.choose(request, passed)? {
                Choice::Branch(at) => return self.branches.get(at).map(Found::Kept).ok_or_else(no_such_branch),
                Choice::Late(token) => token,
            };
            let found = self.late(token, request, maker);
            if !matches!(found.end, End::PassOn) {
                return Ok(found);
            }
            passed = Some(token);
        }
    }

    /// The same of a fork that is not kept.
    fn into_next(self, request: &RouteRequest<'_>, maker: &Maker<'_, L>) -> Result<Node<L>> {
        let request = &self.of(request);
        let mut passed = None;
        loop {
            match self.switch.choose(request, passed)? {
                Choice::Branch(at) => return self.branches.into_iter().nth(at).ok_or_else(no_such_branch),
                Choice::Late(token) => match self.make(token, request, maker) {
                    Node { end: End::PassOn, .. } => passed = Some(token),
                    node => return Ok(node),
                },
            }
        }
    }

    /// The request as this fork sees it: forks draw by different bits, so that no choice follows from another.
    #[inline]
    pub(crate) fn of<'r>(&self, request: &RouteRequest<'r>) -> RouteRequest<'r> {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a chain of routers is short, and a rotation by more is one by less"
        )]
        let turned = request.entropy.rotate_left(21 * self.router as u32);
        RouteRequest { entropy: turned, ..*request }
    }

    /// The late branch of this number, made if nobody asked for it before.
    pub(crate) fn late<'p>(
        &'p self,
        token: u32,
        request: &RouteRequest<'_>,
        maker: &Maker<'_, L>,
    ) -> Found<'p, Node<L>> {
        let key = LateKey { switch: &*self.switch, token, request };
        let make = || {
            let node = self.make(token, request, maker);
            let weight = node.given;
            (node, weight)
        };
        let found = self.late.get_or_make(&key, make);
        if matches!(found, Found::Made(_)) {
            (maker.crowded)();
        }
        found
    }

    fn make(&self, token: u32, request: &RouteRequest<'_>, maker: &Maker<'_, L>) -> Node<L> {
        match self.switch.resolve(token, request, &self.given, maker.surroundings) {
            Ok(Resolved::To(routed)) => Build::late(maker, self.router, &self.given, routed).run(),
            Ok(Resolved::PassOn) => Node::ending(0, End::PassOn),
            Err(error) => Node::ending(self.given.len().get(), End::Refused { error, router: self.router }),
        }
    }
}

impl Key for LateKey<'_> {
    fn write(&self, part: &mut dyn FnMut(&[u8])) {
        part(&self.token.to_le_bytes());
        self.switch.write_key(self.token, self.request, part);
    }
}

impl<V> Deref for Found<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        match self {
            Self::Kept(value) => value,
            Self::Made(value) => value,
        }
    }
}

impl<L> Deref for Chosen<'_, L> {
    type Target = L;

    #[inline]
    fn deref(&self) -> &L {
        match self {
            Self::Kept(leaf) => leaf,
            Self::Made(leaf) => leaf,
        }
    }
}

#[cold]
fn no_such_branch() -> Error {
    Error::new(ErrorKind::Plugin, "a router chose a branch that it did not compile")
}
