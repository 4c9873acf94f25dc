//! Plug-ins: routers and balancers by name.
//!
//! A chain is written as names in a file that programs in other languages read too, so a name may be one of ours, one of
//! an official SDK that is not built here, or nobody's. The [`Manager`] of a context knows factories by name and tells
//! the three apart: ours is made, a known one is left out with a WARN (silently where it stands in the default chain,
//! which nobody chose), and nobody's is an error that lists the known names. Nothing is global: what a context does not
//! register, it does not have.

pub(crate) mod builtin;
pub(crate) mod guard;
pub(crate) mod manager;
pub(crate) mod roster;

pub(crate) use manager::Manager;
// Traits that the builder takes: the context does not know the layers that they come from.
pub(crate) use crate::balance::{LoadBalancer, WeightAdjuster};
pub(crate) use crate::routing::ServiceRouter;
pub(crate) use roster::Roster;
