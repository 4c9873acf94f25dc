//! Routers: which instances of a service may be picked by a request.
//!
//! A list that is filtered when a call comes costs time for every instance, every call. So a router has two halves. It
//! *compiles* when data changes, on the writer's side: a subset goes in, and out comes either one subset for all
//! requests or several with a [`Chooser`](router::Chooser). And it *chooses* when a call comes: a request goes in, the number of one of
//! those subsets comes out, and no instance is looked at.
//!
//! ```text
//!   data changes:   snapshot ─► isolated ─► recover ─► Plan { leaf, or fork ─► leaf, leaf, … }
//!   a call comes:   request  ─► Plan::choose ─► leaf
//! ```
//!
//! The invariant: every leaf of a [`Plan`] holds a subset that is not empty, or the refusal that says which router left
//! nothing of what. Routers see breakers as data of one moment, and know neither clocks nor the network.

pub(crate) mod chain;
pub(crate) mod isolated;
pub(crate) mod recover;
pub(crate) mod router;

pub(crate) use chain::{Chain, Plan};
pub(crate) use isolated::Isolated;
pub(crate) use recover::Recover;
pub(crate) use router::{RouteRequest, ServiceRouter, Surroundings};
