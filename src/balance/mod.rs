//! Balancers: which one of the instances that routing left.
//!
//! A balancer has two halves. [`LoadBalancer::prepare`] runs when data changes and builds what a choice needs: a table, a
//! ring, a cycle. [`Selector::select`] runs for each call, and takes the same time for ten instances as for a hundred
//! thousand. It answers with an index into a subset that cannot be empty, so "an empty list" and "modulo zero" cannot be
//! written. Randomness is a value of [`Criteria`], so a choice can be replayed.
//!
//! | name | when |
//! |---|---|
//! | `weightedRandom` | the default: no state between calls, exact shares |

pub(crate) mod balancer;
pub(crate) mod weighted_random;

pub(crate) use balancer::{Criteria, LoadBalancer, Selector};
pub(crate) use weighted_random::WeightedRandom;
