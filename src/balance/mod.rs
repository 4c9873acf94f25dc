//! Balancers: which one of the instances that routing left.
//!
//! A balancer has two halves. [`LoadBalancer::prepare`] runs when data changes and builds what a choice needs: a table, a
//! ring, a cycle. [`Selector::select`] runs for each call, and takes the same time for ten instances as for a hundred
//! thousand, but for the two policies that look at all of them. It answers with an index into a subset that cannot be
//! empty, so "an empty list" and "modulo zero" cannot be written. Randomness is a value of [`Criteria`], so a choice can
//! be replayed. Where an instance has weight 0 it gets no calls, and where nobody has a weight all are equal.
//!
//! | name | when |
//! |---|---|
//! | `weightedRandom` | the default: no state between calls, exact shares |
//! | `powerOfTwo` | instances differ in speed or load; any number of instances and clients |
//! | `weightedRoundRobin` | few calls, where chance would be uneven for long |
//! | `leastConnection` | calls differ much in length; few instances and clients |
//! | `shortestResponseTime` | machines differ in speed; few instances |
//! | `ringHash` | a key keeps its instance, and its replicas are the next ones |
//! | `maglev` | a key keeps its instance, with even shares and the fastest look-up |
//! | `hash` | a key picks an instance of a list that rarely changes |
//! | `l5cst` | to agree with callers that came from Tencent's L5 |
//!
//! The last four agree with polaris-go on the same input, which `golden_test.rs` holds them to.

pub(crate) mod balancer;
mod hash;
mod l5cst;
mod least_connection;
mod maglev;
mod options;
mod points;
mod power_of_two;
mod ring_hash;
mod round_robin;
mod scan;
mod shortest_response_time;
pub(crate) mod weight;
pub(crate) mod weighted_random;

#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod property_test;

pub use balancer::{Criteria, LoadBalancer, Selector};
pub(crate) use hash::Hash;
pub(crate) use l5cst::L5cst;
pub(crate) use least_connection::LeastConnection;
pub(crate) use maglev::Maglev;
pub(crate) use power_of_two::PowerOfTwo;
pub(crate) use ring_hash::RingHash;
pub(crate) use round_robin::WeightedRoundRobin;
pub(crate) use shortest_response_time::ShortestResponseTime;
pub use weight::WeightAdjuster;
pub(crate) use weighted_random::WeightedRandom;
