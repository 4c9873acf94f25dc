//! Between a user's plug-in and the context: a panic in one is an error of one call or of one compilation, and never more.

use std::fmt;
use std::sync::Arc;

use crate::balance::{Criteria, LoadBalancer, Selector};
use crate::error::{Error, ErrorKind, Result};
use crate::model::subset::Subset;
use crate::routing::router::Routed;
use crate::routing::{ServiceRouter, Surroundings};
use crate::util::panic::caught;

/// A plug-in of a user's, with its name.
pub(super) struct Guarded<T: ?Sized> {
    pub(super) name: Arc<str>,
    pub(super) inner: Arc<T>,
}

struct GuardedSelector(Box<dyn Selector>);

impl<T: ?Sized> Guarded<T> {
    fn guard<R>(&self, work: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        let panicked = |said| Error::new(ErrorKind::Plugin, format!("{} panicked: {said}", self.name));
        caught(|| work(&self.inner)).map_err(panicked)?
    }
}

impl ServiceRouter for Guarded<dyn ServiceRouter> {
    fn compile(&self, subset: &Subset, surroundings: &Surroundings) -> Result<Routed> {
        self.guard(|router| router.compile(subset, surroundings))
    }
}

impl LoadBalancer for Guarded<dyn LoadBalancer> {
    fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
        let selector = self.guard(|balancer| balancer.prepare(subset))?;
        Ok(Box::new(GuardedSelector(selector)))
    }
}

impl Selector for GuardedSelector {
    fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
        // No index: the pick is refused as one of a choice beyond the list.
        caught(|| self.0.select(subset, criteria)).unwrap_or(usize::MAX)
    }

    fn walk(&self, subset: &Subset, criteria: &Criteria<'_>, step: usize) -> Option<usize> {
        caught(|| self.0.walk(subset, criteria, step)).ok().flatten()
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("name", &self.name).field("inner", &&*self.inner).finish()
    }
}
