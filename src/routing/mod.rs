//! Routers: which instances of a service may be picked by a request.
//!
//! A list that is filtered when a call comes costs time for every instance, every call. So a router has two halves. It
//! *compiles* when data changes, on the writer's side: a subset goes in, and out comes either one subset for all
//! requests or several with a [`Switch`](switch::Switch). And it *chooses* when a call comes: a request goes in, the number of one of
//! those subsets comes out, and no instance is looked at. What depends on values that only calls bring is compiled when the
//! first call brings them, and kept.
//!
//! ```text
//!   data changes:   snapshot ─► isolated ─► metadata ─► rules ─► nearby ─► recover ─► plan: leaf, or fork ─► leaf, leaf, …
//!   a call comes:   request  ─► Node::choose ─► leaf
//! ```
//!
//! The invariant: every leaf of a plan holds a subset that is not empty, or the refusal that says which router left
//! nothing of what. Routers see breakers as data of one moment, and know neither clocks nor the network.

pub(crate) mod build;
pub(crate) mod chain;
pub(crate) mod explain;
pub(crate) mod filter;
#[cfg(test)]
mod golden_test;
mod groups;
pub(crate) mod isolated;
pub(crate) mod matching;
pub(crate) mod memo;
pub(crate) mod metadata;
pub(crate) mod nearby;
pub(crate) mod plan;
#[cfg(test)]
mod property_test;
pub(crate) mod recover;
#[cfg(test)]
mod reference_test;
pub(crate) mod router;
pub(crate) mod rule;
pub(crate) mod surroundings;
pub(crate) mod switch;

pub(crate) use build::Build;
pub(crate) use chain::Chain;
pub(crate) use isolated::Isolated;
pub(crate) use matching::Matching;
pub(crate) use metadata::ByMetadata;
pub(crate) use nearby::Nearby;
pub(crate) use plan::{Chosen, Maker, Node};
pub(crate) use recover::Recover;
pub(crate) use router::{RouteRequest, ServiceRouter};
pub(crate) use rule::RuleBased;
pub(crate) use surroundings::Surroundings;
