//! What the control plane said about a resource, and how fresh what we hold of it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ServerCode};
use crate::model::key::{ResourceKind, Revision, ServiceKey};
use crate::model::rule::Compiled;
use crate::model::rule::limit::LimitRules;
use crate::model::rule::nearby::NearbyRules;
use crate::model::rule::route::RouteRules;
use crate::model::service::{ServiceInstances, ServiceList};

/// The content of one resource. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Resource {
    Instances(Arc<ServiceInstances>),
    Services(Arc<ServiceList>),
    Rules(Arc<RuleSet>),
}

/// The rules of one kind that concern one service.
#[derive(Clone)]
pub struct RuleSet {
    pub(crate) service: ServiceKey,
    pub(crate) kind: ResourceKind,
    pub(crate) revision: Revision,
    pub(crate) json: Arc<str>,
    /// What the text says, for those who act on it.
    pub(crate) compiled: Compiled,
}

/// One answer of the control plane about one resource.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// What was presented is current.
    Unchanged,
    /// The whole resource. `skipped` items of it could not be understood and are left out.
    Full { resource: Resource, skipped: Vec<String> },
    /// The service or its namespace does not exist; what kind of resource was asked for does not matter.
    NotFound { code: ServerCode, info: String },
    /// This server does not serve the kind: it counts as empty, and is not asked for again on this server.
    Unsupported,
    /// The server refused (malformed request, token, throttling) or failed. What is held stays in force.
    Failed(Error),
}

/// What a watch tells: the state, or that it is not known better at the moment.
///
/// Within each of the two the latest wins, and a [`Current`](Self::Current) that was not seen yet always comes before an
/// [`Unavailable`](Self::Unavailable) that was not: a slow reader misses steps, never the outcome.
#[derive(Debug)]
#[non_exhaustive]
pub enum Update<T> {
    /// The whole state as it is now.
    Current(Arc<T>),
    /// The state is not confirmed at the moment, and why. Keep using what came last.
    Unavailable(Error),
}

/// Where data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A control plane answered in the life of this context.
    Live,
    /// The disk cache, from an earlier run.
    Disk,
    /// Given to the builder; no control plane is asked.
    Fixed,
}

/// How fresh the data of one resource is, at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freshness {
    /// Where it comes from.
    pub source: Source,
    /// Since a control plane last confirmed it; of data from disk, since it was written.
    pub age: Duration,
    /// Whether it is known not to be current: the control plane is not reached, or it said something that is not
    /// believed yet (an empty list after a full one).
    pub stale: bool,
}

// === impl Update ===

// By hand: a derived impl would ask for `T: Clone`, and it is only pointed at.
impl<T> Clone for Update<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Current(state) => Self::Current(Arc::clone(state)),
            Self::Unavailable(error) => Self::Unavailable(error.clone()),
        }
    }
}

// === impl Resource ===

impl Resource {
    pub(crate) fn revision(&self) -> &Revision {
        match self {
            Self::Instances(instances) => &instances.revision,
            Self::Services(services) => &services.revision,
            Self::Rules(rules) => &rules.revision,
        }
    }

    /// Whether both say the same, whatever their revisions.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Instances(a), Self::Instances(b)) => a.same_content(b),
            (Self::Services(a), Self::Services(b)) => a.same_content(b),
            (Self::Rules(a), Self::Rules(b)) => a.json == b.json,
            _ => false,
        }
    }
}

// === impl RuleSet ===

impl RuleSet {
    /// The service that the rules were asked for.
    #[must_use]
    pub fn service(&self) -> &ServiceKey {
        &self.service
    }

    /// What kind of rules they are.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The revision; empty where there are no rules.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// The rules as the proto3 JSON of the Polaris specification; `{}` where there are none.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        &*self.json == "{}"
    }

    /// The routing rules, if it is a set of them.
    pub(crate) fn route(&self) -> Option<&Arc<RouteRules>> {
        match &self.compiled {
            Compiled::Route(rules) => Some(rules),
            _ => None,
        }
    }

    /// The nearby rule, if it is a set of such.
    pub(crate) fn nearby(&self) -> Option<&Arc<NearbyRules>> {
        match &self.compiled {
            Compiled::Nearby(rules) => Some(rules),
            _ => None,
        }
    }

    /// The rate-limit rules, if it is a set of such.
    pub(crate) fn limit(&self) -> Option<&Arc<LimitRules>> {
        match &self.compiled {
            Compiled::Limit(rules) => Some(rules),
            _ => None,
        }
    }

    pub(crate) fn empty(service: ServiceKey, kind: ResourceKind) -> Self {
        Self { service, kind, revision: Revision::default(), json: "{}".into(), compiled: Compiled::Unread }
    }
}

impl PartialEq for RuleSet {
    /// What is compiled follows from the text.
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service
            && self.kind == other.kind
            && self.revision == other.revision
            && self.json == other.json
    }
}

impl Eq for RuleSet {}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSet")
            .field("service", &self.service)
            .field("kind", &self.kind)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
