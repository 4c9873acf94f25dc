//! Why a request gets what it gets, told from the view that picks read.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::entropy;
use crate::engine::future::ConsumerFuture;
use crate::engine::view::Service;
use crate::error::Result;
use crate::model::request::instance::{GetOneInstance, Pick};
use crate::routing::RouteRequest;
use crate::routing::explain::{Explanation, explain};

impl Engine {
    /// Explains a request, once its service is loaded.
    pub(crate) fn explain(&self, request: &GetOneInstance<'_>) -> ConsumerFuture<Explanation> {
        self.read(request, Service::explain)
    }
}

impl Service {
    /// Every way that `pick` may take now; none if nothing is loaded.
    pub(crate) fn explain(&self, pick: &Pick<'_>) -> Option<Result<Explanation>> {
        self.on_view(|view| {
            let plan = Arc::clone(view.plan(pick.caller)?);
            let told = || {
                let instances = view.listed()?.len();
                let request = RouteRequest { pick, entropy: entropy::draw() };
                let routes = self.with_maker(&plan, |maker| explain(&plan.root, &request, maker, &|leaf| &leaf.subset));
                let caller = plan.caller.clone();
                Ok(Explanation { service: self.key().clone(), caller, instances, routes })
            };
            Some(told())
        })
    }
}
