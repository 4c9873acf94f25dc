//! The ring of Tencent's L5, for fleets that have spoken it since.
//!
//! When: to agree with callers that use `l5cst`; else take `ringHash`. An instance has as many points as its weight, so
//! the ring of a hundred instances of weight 100 has ten thousand. A choice costs one hash of the key and two or three
//! lines of memory; 20 bytes a point.
//! Source: polaris-go (`l5cst`). A point is the 32-bit murmur3, seed 16, of `<host>:<n>:<port>` for `n` from 0 up to the
//! weight. Where two fall on one place, it belongs to the heavier instance, then to the lower address (as an IPv4
//! number; anything else counts as 0), then to the lower port. A key is hashed alike; a value that is given instead of
//! one is looked up as it is, and belongs to the first point if it lies above the 32 bits of the ring.

use std::cmp::Reverse;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::points::{self, Point, Points};
use crate::error::Result;
use crate::model::subset::Subset;
use crate::util::murmur3;

const SEED: u32 = 16;

/// The balancer `l5cst`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct L5cst;

struct Ring(Points);

impl LoadBalancer for L5cst {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        let weights = weights(subset);
        let total = weights.iter().copied().map(u64::from).sum();
        points::check_count("l5cst", total, "one for each unit of weight; lower the weights, or take ringHash")?;
        Ok(Box::new(Ring(Points::new(place(subset, &weights)))))
    }
}

impl Selector for Ring {
    #[inline]
    fn select(&self, _: &Subset, criteria: &Criteria<'_>) -> usize {
        self.0.owner(hash(criteria))
    }

    fn walk(&self, _: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        self.0.after(hash(criteria), step)
    }
}

#[inline]
fn hash(criteria: &Criteria<'_>) -> u64 {
    let of_key = |key: &[u8]| u64::from(murmur3::x86_32(key, SEED));
    criteria.hash_key().map_or_else(|| criteria.hash(), of_key)
}

/// All points, each once.
fn place(subset: &Subset, weights: &[u32]) -> Vec<Point> {
    // Who goes first where points collide; by rank, so that sorting compares numbers only.
    let mut ranked: Vec<_> = (0u32..).zip(weights).zip(subset.iter()).collect();
    ranked.sort_by_key(|((_, weight), instance)| (Reverse(**weight), address(instance.host()), instance.port()));

    let mut placed: Vec<(u32, u32)> = Vec::new();
    let mut key = String::new();
    for (rank, ((_, weight), instance)) in (0..).zip(&ranked) {
        key.clear();
        key.push_str(instance.host());
        key.push(':');
        let host = key.len();
        for number in 0..**weight {
            key.truncate(host);
            // Writing to a `String` cannot fail.
            let _ = write!(key, "{number}:{}", instance.port());
            placed.push((murmur3::x86_32(key.as_bytes(), SEED), rank));
        }
    }
    placed.sort_unstable();
    placed.dedup_by_key(|(at, _)| *at);

    let index = |rank: u32| ranked.get(rank as usize).map_or(0, |((index, _), _)| *index);
    placed.into_iter().map(|(at, rank)| Point { at: at.into(), index: index(rank) }).collect()
}

fn address(host: &str) -> u32 {
    host.parse::<Ipv4Addr>().map_or(0, u32::from)
}
