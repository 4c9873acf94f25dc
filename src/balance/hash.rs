//! The plain hash of a key, over the weights as they stand.
//!
//! When: to bind keys to instances of a list that rarely changes. Shares follow the weights closely, but a change of the
//! list moves nearly all keys: take `ringHash` or `maglev` if it changes. A choice costs one hash of the key, a division
//! and two or three lines of memory; 20 bytes an instance.
//! Source: polaris-go, so that a mixed fleet agrees: the hash modulo the sum of weights falls into the interval of an
//! instance, which goes from above the sum before it to its own sum. 0 belongs to the first. So the first instance gets
//! one part more than its weight and the last one less: of two instances of weight 1, the second gets nothing.

use crate::balance::balancer::{Criteria, LoadBalancer, Selector, weights};
use crate::balance::options;
use crate::balance::points::{Point, Points};
use crate::config::PluginOptions;
use crate::error::Result;
use crate::model::subset::Subset;

/// The balancer `hash`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash;

struct Sums {
    sums: Points,
    /// At least 1.
    total: u64,
}

impl Hash {
    /// Reads no option but `hashFunction`, of which there is one.
    ///
    /// # Errors
    /// `InvalidConfig` for an option that cannot be used.
    pub(crate) fn from_options(options: &PluginOptions) -> Result<Self> {
        options::check_hash_function(options).map(|()| Self)
    }
}

impl LoadBalancer for Hash {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        let mut total = 0;
        let serving = (0..).zip(weights(subset)).filter(|(_, weight)| *weight > 0);
        let sums = serving.map(|(index, weight)| {
            total += u64::from(weight);
            Point { at: total, index }
        });
        let sums = Points::new(sums.collect());
        Ok(Box::new(Sums { sums, total }))
    }
}

impl Sums {
    #[inline]
    fn place(&self, criteria: &Criteria<'_>) -> u64 {
        criteria.hash().checked_rem(self.total).unwrap_or(0)
    }
}

impl Selector for Sums {
    #[inline]
    fn select(&self, _: &Subset, criteria: &Criteria<'_>) -> usize {
        self.sums.owner(self.place(criteria))
    }

    fn walk(&self, _: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        self.sums.after(self.place(criteria), step)
    }
}
