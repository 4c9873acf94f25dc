//! A namespace, the first half of a service's name.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::model::key::{MAX_NAMESPACE, check_name};

/// A namespace, the first half of a service's name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// A namespace of this name; nothing is checked before it is used.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Holds the name to the control plane's rules; an empty one stands for all namespaces.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { check_name("namespace", &self.0, MAX_NAMESPACE) }
    }
}

impl From<&str> for Namespace {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Namespace {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({})", self.0)
    }
}
