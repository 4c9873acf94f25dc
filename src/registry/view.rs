//! What one key serves, at one moment: immutable, swapped whole.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::Error;
use crate::model::build::SnapshotBuilder;
use crate::model::key::{Revision, ServiceEventKey};
use crate::model::namespace::Namespace;
use crate::model::service::ServiceList;
use crate::model::snapshot::{Resource, RuleSet};

#[derive(Debug, Clone)]
pub(super) struct View {
    /// What was accepted last. Of a service that is not there any more: nothing is left in it.
    pub(super) content: Option<Resource>,
    pub(super) origin: Origin,
    pub(super) standing: Standing,
    /// Why `content` may not be current: from the first failure or doubted answer to the next good answer.
    pub(super) trouble: Option<Trouble>,
    /// What could not be understood of the newest answer.
    pub(super) skipped: Arc<[String]>,
    /// Counts what watches have to tell: contents, and troubles.
    pub(super) contents: u64,
    pub(super) troubles: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Nowhere,
    Live,
    /// Read from a file that was written then, in milliseconds since the Unix epoch.
    Disk(u64),
    Fixed,
}

#[derive(Debug, Clone)]
pub(super) enum Standing {
    Loading,
    Ready,
    NotFound(Error),
}

#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) error: Error,
    pub(super) since: Instant,
    /// An answer was received and is not believed yet.
    pub(super) doubted: bool,
}

impl View {
    pub(super) fn loading() -> Self {
        Self {
            content: None,
            origin: Origin::Nowhere,
            standing: Standing::Loading,
            trouble: None,
            skipped: Arc::default(),
            contents: 0,
            troubles: 0,
        }
    }

    pub(super) fn fixed(resource: Resource) -> Self {
        Self {
            content: Some(resource),
            origin: Origin::Fixed,
            standing: Standing::Ready,
            contents: 1,
            ..Self::loading()
        }
    }

    /// How many items a wipe would lose.
    pub(super) fn items(&self) -> usize {
        match &self.content {
            None => 0,
            Some(resource) => items(resource),
        }
    }
}

/// How many items a resource has. A set of rules is one item: it is there or not.
pub(super) fn items(resource: &Resource) -> usize {
    match resource {
        Resource::Instances(instances) => instances.len(),
        Resource::Services(services) => services.len(),
        Resource::Rules(rules) => usize::from(!rules.is_empty()),
    }
}

/// The resource of `key` with nothing in it.
pub(super) fn empty(key: &ServiceEventKey) -> Resource {
    use crate::model::key::ResourceKind as Kind;
    match key.kind {
        Kind::Instances => {
            let builder = SnapshotBuilder::new(key.service.clone());
            Resource::Instances(Arc::new(builder.finish(Revision::default(), [], None)))
        }
        Kind::Services => Resource::Services(Arc::new(ServiceList {
            namespace: Namespace::new(key.service.namespace()),
            revision: Revision::default(),
            services: Box::default(),
        })),
        kind => Resource::Rules(Arc::new(RuleSet::empty(key.service.clone(), kind))),
    }
}

/// `new`, sharing what did not change with `old`.
pub(super) fn shared(mut new: Resource, old: Option<&Resource>) -> Resource {
    if let (Resource::Instances(new), Some(Resource::Instances(old))) = (&mut new, old) {
        // The answer is handed over, so nobody else holds it; if somebody does, only memory is lost.
        if let Some(new) = Arc::get_mut(new) {
            new.share_with(old);
        }
    }
    new
}
