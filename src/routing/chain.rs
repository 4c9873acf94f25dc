//! The chain: routers in the order in which they narrow.

use std::sync::Arc;

use crate::routing::router::ServiceRouter;

/// Routers in order, by the names that the configuration gives them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain(Vec<(Arc<str>, Arc<dyn ServiceRouter>)>);

impl Chain {
    pub(crate) fn new(routers: Vec<(Arc<str>, Arc<dyn ServiceRouter>)>) -> Self {
        Self(routers)
    }

    /// Those of its routers that are named, in the order of the names.
    pub(crate) fn of(&self, names: &[&str]) -> Self {
        let named = |name: &&str| self.0.iter().find(|(known, _)| **known == **name).cloned();
        Self(names.iter().filter_map(named).collect())
    }

    pub(crate) fn router(&self, at: usize) -> Option<&dyn ServiceRouter> {
        self.0.get(at).map(|(_, router)| &**router)
    }

    pub(crate) fn name(&self, at: usize) -> Arc<str> {
        self.0.get(at).map_or_else(|| "balancer".into(), |(name, _)| Arc::clone(name))
    }

    /// The names in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// Whether it has the router of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }
}
