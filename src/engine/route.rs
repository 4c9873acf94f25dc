//! Routing and balancing of instances that a caller gives, by the rules and the health that are known of their service.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::entropy;
use crate::engine::future::ConsumerFuture;
use crate::engine::leaf::Leaf;
use crate::engine::view::{CallerPlan, Service, ServiceView};
use crate::error::{Error, ErrorKind, Result};
use crate::model::health::{HealthView, Slot};
use crate::model::instance::Instance;
use crate::model::key::Revision;
use crate::model::metadata::Metadata;
use crate::model::request::instance::{GetOneInstance, Pick};
use crate::model::service::ServiceInstances;
use crate::model::subset::{Base, Subset};
use crate::routing::{Build, Chain, Maker, RouteRequest, Surroundings};

impl Engine {
    /// Those of `given` that the routers of these names leave, or those of the configured chain.
    pub(crate) fn route(
        &self,
        given: Vec<Instance>,
        names: Option<&[&str]>,
        request: &GetOneInstance<'_>,
    ) -> ConsumerFuture<Vec<Instance>> {
        let chain = match names.map(|names| self.chain_of(names)).transpose() {
            Ok(named) => named.unwrap_or_else(|| self.0.policy.chain.clone()),
            Err(error) => return ConsumerFuture::done(Err(error)),
        };
        self.read(request, move |service, pick| service.route_given(&given, &chain, pick))
    }

    /// One of `given`, by the policy that `pick` names or the configured one.
    ///
    /// # Errors
    /// `NoInstances` if there is nobody to choose from, and what a pick fails with.
    pub(crate) fn balance(&self, given: &[Instance], pick: &Pick<'_>) -> Result<Instance> {
        let Some(first) = given.first() else {
            return Err(Error::new(ErrorKind::NoInstances, "there are no instances to choose from"));
        };
        // The load that is known of them is that of their service, if it is in use.
        let service = self.service(first.service().as_ref());
        let view = service.view.load_full();
        let like = ServiceInstances {
            key: first.service().clone(),
            revision: Revision::default(),
            metadata: Metadata::default(),
            alias_for: None,
            instances: Box::default(),
        };
        let base = base_of(&like, given, view.as_deref());
        let subset = Subset::whole(&base).ok_or_else(|| Error::new(ErrorKind::NoInstances, "nobody is left"))?;
        let leaf = Leaf::new(subset, &self.0.policy)?;
        service.select_from(&leaf, pick)
    }

    fn chain_of(&self, names: &[&str]) -> Result<Chain> {
        let routers = &self.0.policy.routers;
        let canonical: Vec<&str> = names.iter().map(|name| crate::config::plugin::canonical(name)).collect();
        match names.iter().zip(&canonical).find(|(_, name)| !routers.has(name)) {
            None => Ok(routers.of(&canonical)),
            Some((name, _)) => {
                let known = routers.names().collect::<Vec<_>>().join(", ");
                let context = format!("this context has no router {name:?}; it has {known}");
                Err(Error::new(ErrorKind::InvalidArgument, context))
            }
        }
    }
}

impl Service {
    /// Those of `given` that `chain` leaves for `pick`; none if nothing is loaded.
    fn route_given(&self, given: &[Instance], chain: &Chain, pick: &Pick<'_>) -> Option<Result<Vec<Instance>>> {
        self.on_view(|view| {
            let plan = Arc::clone(view.plan(pick.caller)?);
            Some(view.listed().and_then(|like| route(view, like, &plan, given, chain, pick)))
        })
    }
}

fn route(
    view: &ServiceView,
    like: &ServiceInstances,
    plan: &CallerPlan,
    given: &[Instance],
    chain: &Chain,
    pick: &Pick<'_>,
) -> Result<Vec<Instance>> {
    let base = base_of(like, given, Some(view));
    let Some(whole) = Subset::whole(&base) else { return Ok(Vec::new()) };
    let known = &plan.surroundings;
    let surroundings = Surroundings {
        health: Arc::new(HealthView::of(base.slots())),
        location: Arc::clone(&known.location),
        caller: known.caller.clone(),
        matching: Arc::clone(&known.matching),
        nearby: known.nearby.clone(),
        variables: Arc::clone(&known.variables),
    };
    let maker = Maker { chain, surroundings: &surroundings, leaf: &Ok, crowded: &|| {} };
    let plan = Build::new(&maker, whole).run();
    let leaf = plan.choose(&RouteRequest { pick, entropy: entropy::draw() }, &maker)?;
    Ok(leaf.iter().cloned().collect())
}

/// The given instances with the cells that are known of them.
fn base_of(like: &ServiceInstances, given: &[Instance], view: Option<&ServiceView>) -> Arc<Base> {
    let list = ServiceInstances::of(like, given.to_vec());
    let known = view.and_then(|view| view.base.as_deref());
    let slot = |instance: &Instance| -> Arc<Slot> {
        known.and_then(|base| base.slot_of(instance.id().as_str())).map(Arc::clone).unwrap_or_default()
    };
    let slots = list.instances().iter().map(slot).collect();
    Arc::new(Base::new(Arc::new(list), slots))
}
