//! One compilation of one service: from what is known of it to the view that picks read.
//!
//! What did not change is kept: the cells of instances that stayed, the plans of callers whose rules are the same, and rules
//! as they are matched when only instances changed, which they do far more often. Long lists are worked in pieces that let
//! other tasks run.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use crate::balance::WeightAdjuster;
use crate::engine::health::{self, CHUNK};
use crate::engine::inputs::{Inputs, Rules};
use crate::engine::leaf::Leaf;
use crate::engine::view::{CallerPlan, Service, ServiceView};
use crate::error::{Error, ErrorKind, Result};
use crate::model::build::SnapshotBuilder;
use crate::model::health::HealthView;
use crate::model::instance::Instance;
use crate::model::key::{Revision, ServiceKey};
use crate::model::rule::nearby::NearbyRule;
use crate::model::rule::route::RouteRules;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::RuleSet;
use crate::model::subset::{Base, Subset};
use crate::routing::{Build, Maker, Matching, Node, Surroundings};
use crate::util::panic::caught;

/// One compilation of one service.
pub(super) struct Compilation<'a> {
    pub(super) service: &'a Service,
    pub(super) inputs: &'a Inputs,
    /// Whether something moved that does not show in the inputs.
    pub(super) broken: bool,
}

/// What came of it.
pub(super) struct Compiled {
    /// None if nothing is different.
    pub(super) view: Option<ServiceView>,
    /// Until when a caller waits for its rules.
    pub(super) awaits: Option<Instant>,
}

impl Compilation<'_> {
    /// The view, from what is kept of the one before and what is new.
    ///
    /// # Errors
    /// What a part of a user's failed with.
    pub(super) async fn view(&self, before: Option<&Arc<ServiceView>>) -> Result<Compiled> {
        let kept = before.filter(|view| !self.broken && view.inputs.same(self.inputs));
        let base = match kept.and_then(|view| view.base.clone()) {
            Some(base) => base,
            None => self.base(before).await,
        };
        let moves = self.service.moves.load(Ordering::Acquire);
        let health = Arc::new(HealthView::of(base.slots()));
        let common = Common { base: &base, health, nearby: self.nearby(), before, keeps: kept.is_some() };
        let plain = self.plan(&common, self.service.policy.caller.as_ref(), &self.inputs.own).await?;
        let mut awaits = None;
        let mut callers = Vec::new();
        for (caller, rules) in self.service.rules.callers() {
            match rules.awaited() {
                Some(until) => awaits = awaits.into_iter().chain([until]).min(),
                None => callers.push(self.plan(&common, Some(&caller), &rules).await?),
            }
        }
        let same = |view: &Arc<ServiceView>| {
            let mut pairs = view.callers.iter().zip(&callers);
            Arc::ptr_eq(&view.plain, &plain)
                && view.callers.len() == callers.len()
                && pairs.all(|(old, new)| Arc::ptr_eq(old, new))
        };
        if kept.is_some_and(same) {
            return Ok(Compiled { view: None, awaits });
        }
        let (inputs, callers) = (self.inputs.clone(), callers.into());
        // What is kept of an older view knows no later moves.
        let moves = kept.map_or(moves, |view| view.moves);
        let view = ServiceView { base: Some(base), inputs, moves, plain, callers, missing: None };
        Ok(Compiled { view: Some(view), awaits })
    }

    /// The instances with their cells: those that stayed keep theirs.
    async fn base(&self, before: Option<&Arc<ServiceView>>) -> Arc<Base> {
        let instances = self.inputs.instances.clone().unwrap_or_else(|| Arc::new(nobody(self.service.key())));
        let previous = before.and_then(|view| view.base.as_deref());
        let slots = health::carry_over(&instances, previous).await;
        let weights = self.inputs.weights.as_ref().map(|weights| weights.to_vec());
        Arc::new(Base::with_weights(instances, slots, weights))
    }

    fn nearby(&self) -> Option<NearbyRule> {
        self.inputs.nearby.there()?.nearby()?.rule.clone()
    }

    /// The plan of one caller: the one that it had, if nothing that it is made of is different.
    async fn plan(
        &self,
        common: &Common<'_>,
        caller: Option<&ServiceKey>,
        outbound: &Rules,
    ) -> Result<Arc<CallerPlan>> {
        let old = common.before.and_then(|view| view.plan(caller)).filter(|plan| plan.caller.as_ref() == caller);
        let same_rules = old.filter(|plan| plan.rules.same(outbound));
        if let Some(plan) = same_rules.filter(|_| common.keeps) {
            return Ok(Arc::clone(plan));
        }
        let surroundings = Surroundings {
            health: Arc::clone(&common.health),
            location: Arc::clone(&self.inputs.location),
            caller: caller.cloned(),
            matching: self.matching(common, caller, outbound, same_rules),
            nearby: common.nearby.clone(),
            variables: Arc::clone(&self.service.policy.variables),
        };
        let root = self.root(common, &surroundings, outbound).await?;
        Ok(Arc::new(CallerPlan { caller: caller.cloned(), root, surroundings, rules: outbound.clone() }))
    }

    /// Routes, and selectors.
    async fn root(&self, common: &Common<'_>, surroundings: &Surroundings, outbound: &Rules) -> Result<Node<Leaf>> {
        let policy = &self.service.policy;
        let strict = [&self.inputs.inbound, &self.inputs.nearby, outbound].into_iter().find_map(Rules::missing);
        if let Some(error) = strict.filter(|_| policy.strict_rules) {
            return Ok(Node::refused(error.clone()));
        }
        let Some(whole) = Subset::whole(common.base) else {
            return Ok(Node::refused(no_instances(common.base.instances())));
        };
        let leaf = |subset| Leaf::new(subset, policy);
        let maker = Maker { chain: &policy.chain, surroundings, leaf: &leaf, crowded: &|| {} };
        let mut build = Build::new(&maker, whole);
        let mut work = 0;
        while let Some(done) = build.step() {
            work += done;
            if work >= CHUNK {
                work = 0;
                tokio::task::yield_now().await;
            }
        }
        match build.fault() {
            Some(fault) => Err(fault.clone()),
            None => Ok(build.finish()),
        }
    }

    /// The rules between the two, which stay what they are when only instances change.
    fn matching(
        &self,
        common: &Common<'_>,
        caller: Option<&ServiceKey>,
        outbound: &Rules,
        same_rules: Option<&Arc<CallerPlan>>,
    ) -> Arc<Matching> {
        let service = common.base.instances();
        let same_callee = common.before.is_some_and(|view| {
            let list = view.inputs.instances.as_ref();
            view.inputs.inbound.same(&self.inputs.inbound)
                && list.is_some_and(|list| list.alias_for() == service.alias_for())
        });
        if let Some(old) = same_rules.filter(|_| same_callee) {
            return Arc::clone(&old.surroundings.matching);
        }
        let none = RouteRules::default();
        let inbound = self.inputs.inbound.there().and_then(RuleSet::route).map_or(&none, |rules| &**rules);
        let outbound = outbound.there().and_then(RuleSet::route).map(|rules| &**rules);
        let callee: Vec<&ServiceKey> = [Some(service.key()), service.alias_for()].into_iter().flatten().collect();
        Arc::new(Matching::new(&callee, caller, inbound, outbound, &self.service.policy.variables))
    }

    /// The view of a service that a user's part failed on before there was another.
    pub(super) fn faulty(&self, fault: Error) -> ServiceView {
        let instances = self.inputs.instances.clone();
        let base = instances.map(|instances| Arc::new(Base::new(instances, Vec::new())));
        ServiceView { base, inputs: self.inputs.clone(), ..ServiceView::refused(fault) }
    }
}

/// What the plans of all callers have in common.
struct Common<'a> {
    base: &'a Arc<Base>,
    health: Arc<HealthView>,
    nearby: Option<NearbyRule>,
    before: Option<&'a Arc<ServiceView>>,
    /// Whether all of this is as it was before.
    keeps: bool,
}

fn nobody(key: &ServiceKey) -> ServiceInstances {
    SnapshotBuilder::new(key.clone()).finish(Revision::default(), [], None)
}

fn no_instances(service: &ServiceInstances) -> Error {
    Error::new(ErrorKind::NoInstances, "the service exists and nobody is registered").with_service(service.key().text())
}

/// The weights as they are to be now, by position.
pub(super) fn weigh(
    adjuster: &dyn WeightAdjuster,
    instances: &ServiceInstances,
    view: Option<&ServiceView>,
) -> Arc<[u32]> {
    let base = view.and_then(|view| view.base.as_deref());
    let load = |instance: &Instance| base.and_then(|base| base.slot_of(instance.id().as_str())).map(|slot| slot.load());
    let weight = |instance: &Instance| adjuster.weight(instance, load(instance).unwrap_or_default());
    // A panic leaves the weights that were registered.
    let all = caught(|| instances.instances().iter().map(weight).collect());
    all.unwrap_or_else(|_| instances.instances().iter().map(Instance::weight).collect())
}
