//! What a request picks from, and by which policy: the default one is prepared ahead, others on first use.

use std::fmt;
use std::sync::OnceLock;

use crate::balance::Selector;
use crate::engine::Policy;
use crate::error::Result;
use crate::model::subset::Subset;

/// The choices of one policy, or why there are none.
type Prepared = Result<Box<dyn Selector>>;

/// The end of a way through the chain.
pub(crate) struct Leaf {
    pub(crate) subset: Subset,
    selector: Box<dyn Selector>,
    /// By the number of the policy.
    others: OnceLock<Box<[OnceLock<Prepared>]>>,
}

impl Leaf {
    /// # Errors
    /// What the default policy refuses this subset with.
    pub(crate) fn new(subset: Subset, policy: &Policy) -> Result<Self> {
        let selector = policy.balancers.policy(policy.balancers.default())?.prepare(&subset)?;
        Ok(Self { subset, selector, others: OnceLock::new() })
    }

    /// The choices of the policy of this name, or of the default one.
    ///
    /// # Errors
    /// `InvalidArgument` if the context has no such policy, and what the policy refuses this subset with.
    #[inline]
    pub(crate) fn selector(&self, name: Option<&str>, policy: &Policy) -> Result<&dyn Selector> {
        match name {
            None => Ok(&*self.selector),
            Some(name) => self.other(policy.balancers.find(name)?, policy),
        }
    }

    fn other(&self, number: usize, policy: &Policy) -> Result<&dyn Selector> {
        if number == policy.balancers.default() {
            return Ok(&*self.selector);
        }
        let others = self.others.get_or_init(|| (0..policy.balancers.len()).map(|_| OnceLock::new()).collect());
        let prepare = || policy.balancers.policy(number)?.prepare(&self.subset);
        match others.get(number).map(|other| other.get_or_init(prepare)) {
            Some(Ok(selector)) => Ok(&**selector),
            Some(Err(error)) => Err(error.clone()),
            // There is a place for each policy.
            None => Ok(&*self.selector),
        }
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("subset", &self.subset).finish_non_exhaustive()
    }
}
