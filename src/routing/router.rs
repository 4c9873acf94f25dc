//! What a router is: a half that compiles and a half that chooses.

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::model::health::HealthView;
use crate::model::request::instance::Pick;
use crate::model::subset::Subset;

/// Narrows what may be picked.
pub(crate) trait ServiceRouter: Debug + Send + Sync + 'static {
    /// Its name in a configured chain.
    #[cfg_attr(not(test), expect(dead_code, reason = "named when a chain is explained"))]
    fn name(&self) -> &str;

    /// Narrows `subset`, which the routers before it left. Called when data changes, never for a call.
    ///
    /// # Errors
    /// The refusal that a pick gets which comes to this subset, most often `NoInstances` or `RouteMismatch`.
    fn compile(&self, subset: &Subset, surroundings: &Surroundings<'_>) -> Result<Routed>;
}

/// What a router may look at besides the instances, all of the same moment.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) health: &'a HealthView,
}

/// What a router made of a subset.
#[derive(Debug)]
pub(crate) enum Routed {
    /// The same for every request.
    Alike(Subset),
    #[cfg_attr(not(test), expect(dead_code, reason = "routing by rules is the first that forks"))]
    /// One of several; which one is chosen for each request. A branch may be a refusal.
    Fork { chooser: Arc<dyn Chooser>, branches: Vec<Result<Subset>> },
}

/// The half of a router that runs for each call. It must neither block nor allocate.
pub(crate) trait Chooser: Debug + Send + Sync + 'static {
    /// The number of the branch for `request`.
    ///
    /// # Errors
    /// The refusal that the caller gets, prepared ahead.
    fn choose(&self, request: &RouteRequest<'_>) -> Result<usize>;
}

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteRequest<'a> {
    /// What the caller asks for.
    #[expect(dead_code, reason = "routing by rules is the first that looks at the request")]
    pub(crate) pick: &'a Pick<'a>,
    /// 64 random bits, for weighted choices among branches.
    #[cfg_attr(not(test), expect(dead_code, reason = "routing by rules is the first that draws"))]
    pub(crate) entropy: u64,
}
