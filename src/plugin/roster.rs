//! The balancers of a context, by name.

use std::sync::Arc;

use crate::balance::LoadBalancer;
use crate::config::plugin::canonical;
use crate::error::{Error, ErrorKind, Result};

/// Policies by name; one of them is that of requests that name none.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    policies: Vec<(String, Arc<dyn LoadBalancer>)>,
    default: usize,
}

impl Roster {
    pub(crate) fn new(policies: Vec<(String, Arc<dyn LoadBalancer>)>, default: usize) -> Self {
        Self { policies, default }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.policies.len()
    }

    /// The number of the default one.
    pub(crate) fn default(&self) -> usize {
        self.default
    }

    pub(crate) fn policy(&self, number: usize) -> Result<&Arc<dyn LoadBalancer>> {
        let policy = self.policies.get(number).map(|(_, policy)| policy);
        policy.ok_or_else(|| Error::new(ErrorKind::Internal, format!("there is no balancer {number}")))
    }

    #[cfg(test)]
    pub(crate) fn default_name(&self) -> &str {
        self.policies.get(self.default).map(|(name, _)| name.as_str()).unwrap_or_default()
    }

    /// The number of the policy of this name, in either dialect.
    ///
    /// # Errors
    /// `InvalidArgument`, listing the known ones.
    #[inline]
    pub(crate) fn find(&self, name: &str) -> Result<usize> {
        let of = |name: &str| self.policies.iter().position(|(known, _)| known == name);
        of(name).or_else(|| of(canonical(name))).ok_or_else(|| self.unknown(name))
    }

    #[cold]
    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.policies.iter().map(|(name, _)| name.as_str()).collect();
        let context = format!("this context has no balancer {name:?}; it has {}", known.join(", "));
        Error::new(ErrorKind::InvalidArgument, context)
    }
}
