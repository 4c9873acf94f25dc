//! What a router is: a half that compiles and a half that chooses; or a filter, whose answers are kept.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::error::Result;
use crate::model::instance::Instance;
use crate::model::label::{LabelKey, LabelKind};
use crate::model::request::asks::Asks;
use crate::model::request::instance::Pick;
use crate::model::subset::Subset;
use crate::routing::filter::FilterSwitch;
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Plain, Switch};
use crate::util::draw::mix;

/// Narrows what may be picked: one step of the chain.
///
/// A list that is filtered when a call comes costs time for every instance, every call. So a router does its work when
/// data changes: [`compile`](Self::compile) turns the instances that the step before left into one subset for all calls,
/// or into several and a [`Chooser`] that says for each call which one, without looking at an instance. A router whose
/// decision depends on values that only calls know, and too many to compile ahead, leaves a [`RouteFilter`], whose
/// answers are kept by the values that it depends on.
///
/// Routers are given to [`SdkContextBuilder::service_router`](crate::SdkContextBuilder::service_router), and stand in the chain where
/// `consumer.serviceRouter` names them. A panic in one is `ErrorKind::Plugin`, and what was compiled before stays in use.
///
/// ```
/// use polarismesh::{ErrorKind, Error, Result, Routed, ServiceRouter, Subset, Surroundings};
///
/// /// Leaves instances of even ports only.
/// #[derive(Debug)]
/// struct EvenPorts;
///
/// impl ServiceRouter for EvenPorts {
///     fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
///         match subset.filter(|instance| instance.port() % 2 == 0) {
///             Some(even) => Ok(Routed::alike(even)),
///             None => Err(Error::plugin(ErrorKind::NoInstances, "all ports are odd")),
///         }
///     }
/// }
/// ```
pub trait ServiceRouter: Debug + Send + Sync + 'static {
    /// Narrows `subset`. Called when data changes, and on first use for what a filter before it left; never for a call.
    ///
    /// # Errors
    /// The refusal that a call gets which comes to this subset, most often `NoInstances` or `RouteMismatch`.
    fn compile(&self, subset: &Subset, surroundings: &Surroundings) -> Result<Routed>;
}

/// The half of a router that runs for each call. It must neither block nor allocate.
pub trait Chooser: Debug + Send + Sync + 'static {
    /// The number of the branch for `request`; beyond their number, the call fails with `Plugin`.
    ///
    /// # Errors
    /// The refusal that the caller gets; best prepared ahead, a clone costs nothing.
    fn choose(&self, request: &RouteRequest<'_>) -> Result<usize>;
}

/// A router that only filters: says which instances stay, by values that a call brings.
///
/// It sees no more than the values that it says it depends on, so calls with equal values get equal answers, and these are
/// kept: the instances are filtered once for each combination of values, for at most 1,024 of them, until the instances
/// change.
pub trait RouteFilter: Debug + Send + Sync + 'static {
    /// What of a call the answer depends on. Asked for when data changes.
    fn depends_on(&self) -> Vec<Dependence>;

    /// Whether `instance` stays, given the call's values in the order of [`depends_on`](Self::depends_on). If none
    /// stays, the call fails with `RouteMismatch`.
    fn keep(&self, instance: &Instance, values: &[Option<&str>]) -> bool;
}

/// One value of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dependence {
    /// The label of this kind and key; the key of kinds that have one value only is empty.
    Label(LabelKind, Cow<'static, str>),
    /// The value of this key among the metadata that the request wants.
    Metadata(Cow<'static, str>),
}

/// What a router made of a subset.
#[derive(Debug)]
#[must_use]
pub struct Routed {
    pub(crate) way: Way,
    /// Why, for people who ask.
    pub(crate) note: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) enum Way {
    /// The same for every call.
    Alike(Subset),
    /// One of several, or one that is made when a call asks for it.
    Fork { switch: Arc<dyn Switch>, branches: Vec<Result<Subset>> },
    /// The same for every call but those that ask for one of `asks`, which take one of `branches` or one that is made.
    Aside { plain: Result<Subset>, asks: Asks, switch: Arc<dyn Switch>, branches: Vec<Result<Subset>> },
}

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest<'a> {
    /// What the caller asks for.
    pub(crate) pick: &'a Pick<'a>,
    /// 64 random bits; what a fork draws by is made of them.
    pub(crate) entropy: u64,
}

// === impl Dependence ===

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(kind, key) => fmt::Display::fmt(&LabelKey::new(*kind, key), f),
            Self::Metadata(key) => write!(f, "metadata {key}"),
        }
    }
}

// === impl Routed ===

impl Routed {
    /// The same subset for every call.
    pub fn alike(subset: Subset) -> Self {
        Self { way: Way::Alike(subset), note: None }
    }

    /// One of `branches` for each call, as `chooser` says. A branch may be a refusal.
    pub fn fork(chooser: impl Chooser, branches: impl IntoIterator<Item = Result<Subset>>) -> Self {
        Self::by(Arc::new(Plain(chooser)), branches.into_iter().collect())
    }

    /// What `filter` leaves of `subset`, by the values of each call.
    pub fn filter(filter: impl RouteFilter) -> Self {
        Self::by(Arc::new(FilterSwitch::new(filter)), Vec::new())
    }

    /// Says why, for [`RouterApi::explain`](crate::RouterApi::explain).
    pub fn because(mut self, note: impl Into<Arc<str>>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub(crate) fn by(switch: Arc<dyn Switch>, branches: Vec<Result<Subset>>) -> Self {
        Self { way: Way::Fork { switch, branches }, note: None }
    }

    pub(crate) fn aside(
        plain: Result<Subset>,
        asks: Asks,
        switch: Arc<dyn Switch>,
        branches: Vec<Result<Subset>>,
    ) -> Self {
        Self { way: Way::Aside { plain, asks, switch, branches }, note: None }
    }
}

// === impl RouteRequest ===

impl<'a> RouteRequest<'a> {
    /// The label of this kind and key; the key of kinds that have one value only is ignored.
    #[inline]
    #[must_use]
    pub fn label(&self, kind: LabelKind, key: &str) -> Option<Cow<'a, str>> {
        self.pick.labels?.get(kind, key)
    }

    /// The value of `key` among the metadata that the request wants.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&'a str> {
        self.pick.metadata.get(key)
    }

    /// 64 random bits, drawn for this choice.
    #[must_use]
    #[inline]
    pub const fn entropy(&self) -> u64 {
        mix(self.entropy)
    }
}
