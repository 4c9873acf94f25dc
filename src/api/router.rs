//! Routing by hand: chosen steps on chosen instances, and why a request gets what it gets.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::api::consumer::GetInstancesFuture;
use crate::engine::Engine;
use crate::engine::future::ConsumerFuture;
use crate::error::Result;
use crate::model::instance::Instance;
use crate::model::request::instance::{GetOneInstance, Pick};
use crate::routing::explain::Explanation;

/// Runs routers and balancers on instances that you give, and explains what the configured chain does with a request.
///
/// For gateways and proxies that have an instance list or a chain of their own; who only wants an instance asks the
/// [`ConsumerApi`](crate::ConsumerApi), which costs the same for any number of instances, while these calls take time
/// linear in it. Cheap to clone; keeps its context alive.
#[derive(Clone)]
pub struct RouterApi {
    engine: Engine,
    /// What keeps the context alive.
    #[expect(dead_code, reason = "held, not read")]
    context: Arc<dyn Any + Send + Sync>,
}

/// Asks for the routing of given instances: the request that is routed, and by which routers.
#[derive(Debug, Clone)]
#[must_use]
pub struct RouteInstances<'a> {
    request: GetOneInstance<'a>,
    routers: Option<Vec<&'a str>>,
}

#[allow(single_use_lifetimes, reason = "an `impl Trait` argument cannot leave its lifetime out yet")]
impl RouterApi {
    pub(crate) fn new(engine: Engine, context: Arc<dyn Any + Send + Sync>) -> Self {
        Self { engine, context }
    }

    /// Why `request` gets the instances that it gets: what each router was given and left, which rule matched or why none
    /// did. It walks the very plan that picks go through, so what it ends with is what picks choose from.
    ///
    /// Waits for the service to be loaded, as a pick does.
    ///
    /// ```
    /// use polarismesh::testing::{Server, instance};
    /// use polarismesh::GetOneInstance;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> polarismesh::Result<()> {
    /// let server = Server::in_memory();
    /// server.service(("default", "payments")).instances([
    ///     instance("10.0.0.1", 80).metadata("env", "prod"),
    ///     instance("10.0.0.2", 80).metadata("env", "test"),
    /// ]);
    /// let context = server.context()?;
    /// let request = GetOneInstance::new("default", "payments").metadata(&[("env", "test")]);
    /// let told = context.router().explain(request).await?;
    /// assert_eq!(told.support().len(), 1);
    /// assert_eq!(told.routes[0].steps[1].router.as_ref(), "metadataRouter");
    /// println!("{told}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [all calls](crate::ConsumerApi#errors-of-all-calls). A refusal by routing is not one of them: it is part of
    /// the explanation.
    pub fn explain<'a>(&self, request: impl Into<GetOneInstance<'a>>) -> ConsumerFuture<Explanation> {
        self.engine.explain(&request.into())
    }

    /// Those of `instances` that routing leaves for a request, with the rules and the health that are known of the
    /// request's service. An empty list gives an empty list.
    ///
    /// Waits for the service to be loaded, as a pick does.
    ///
    /// # Errors
    /// Those of [all calls](crate::ConsumerApi#errors-of-all-calls), what a router refuses, and `InvalidArgument` for a
    /// router that the context does not have.
    pub fn route<'a>(
        &self,
        instances: impl IntoIterator<Item = Instance>,
        request: impl Into<RouteInstances<'a>>,
    ) -> GetInstancesFuture {
        let RouteInstances { request, routers } = request.into();
        self.engine.route(instances.into_iter().collect(), routers.as_deref(), &request)
    }

    /// One of `instances`, by the policy that `pick` names, else the configured one. They are put in the order of their
    /// ids first, so that a key hashes to the same instance whatever order they come in.
    ///
    /// # Errors
    /// `NoInstances` for an empty list, `InvalidArgument` for a policy that the context does not have, `Exhausted`,
    /// `CircuitOpen` and `Closed` as a pick.
    pub fn balance(&self, instances: &[Instance], pick: &Pick<'_>) -> Result<Instance> {
        self.engine.balance(instances, pick)
    }
}

impl<'a> RouteInstances<'a> {
    /// Routes for `request`, by the configured chain.
    pub fn new(request: impl Into<GetOneInstance<'a>>) -> Self {
        Self { request: request.into(), routers: None }
    }

    /// Routes by these routers in this order, in place of the configured chain.
    pub fn routers(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.routers = Some(names.into_iter().collect());
        self
    }
}

impl<'a, R: Into<GetOneInstance<'a>>> From<R> for RouteInstances<'a> {
    fn from(request: R) -> Self {
        Self::new(request)
    }
}

impl fmt::Debug for RouterApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterApi").finish_non_exhaustive()
    }
}
