//! The task that turns stored data into views: the only writer of what picks read.
//!
//! It is fed with keys, not with data, so a burst of answers of one service is compiled once. Long lists are worked in
//! chunks that let other tasks run, and never on the discover worker.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::gate::CloseOnDrop;
use crate::engine::retire::{LOOK_AGAIN, Retired};
use crate::engine::view::{Leaf, Service, ServiceView};
use crate::engine::{Policy, Shared, health};
use crate::error::{Error, ErrorKind};
use crate::model::health::HealthView;
use crate::model::key::ResourceKind;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::Resource;
use crate::model::subset::{Base, Subset};
use crate::registry::EntryState;
use crate::routing::{Plan, Surroundings};

/// How often services that the registry has forgotten are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(2);

/// Compiles until the context ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let _closes = CloseOnDrop(&shared.gate);
    let mut changes = shared.registry.changes();
    // What changed before this task listened, or while it was being started again, is not told again.
    shared.services.mark_all();
    let mut retired = Retired::default();
    let mut forget = tokio::time::interval(FORGET_EVERY);
    forget.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        for service in shared.services.take_marked() {
            compile(&service, &mut retired).await;
        }
        retired.sweep();
        let waiting = !(shared.services.sweep() & retired.is_empty());
        tokio::select! {
            changed = changes.next() => match changed {
                Some(keys) => {
                    let instances = keys.iter().filter(|key| key.kind == ResourceKind::Instances);
                    instances.for_each(|key| shared.services.mark_key(&key.service));
                }
                // The registry has ended, and with it the context.
                None => return shared.gate.close(),
            },
            () = shared.services.marked() => {}
            _ = forget.tick() => drop_forgotten(&shared, &mut retired),
            () = tokio::time::sleep(LOOK_AGAIN), if waiting => {}
        }
    }
}

/// Drops services whose entry expired in the registry, so that the next call subscribes them anew.
fn drop_forgotten(shared: &Shared, retired: &mut Retired) {
    for service in shared.services.all() {
        let Some(source) = service.source() else { continue };
        if shared.registry.peek(source.key()).is_some_and(|entry| Arc::ptr_eq(&entry, source)) {
            continue;
        }
        shared.services.remove(&service);
        if let Some(old) = service.publish(None) {
            retired.push(old);
        }
        retired.push(service);
    }
}

/// Brings the view of one service up to what is served now.
async fn compile(service: &Service, retired: &mut Retired) {
    let Some(source) = service.source() else { return };
    let broken = service.take_stale();
    let current = service.view.load_full();
    let base = current.as_ref().and_then(|view| view.base.as_ref());
    let view = match (source.served(), source.state()) {
        (Some(Resource::Instances(instances)), _) => {
            if !broken && base.is_some_and(|base| Arc::ptr_eq(base.instances(), &instances)) {
                return;
            }
            build(&service.policy, instances, base).await
        }
        (_, EntryState::NotFound(error)) => ServiceView::refused(error),
        // Nothing is known yet; who waits is told by the registry why not.
        _ => return,
    };
    let old = service.publish(Some(view));
    drop(current);
    if let Some(old) = old {
        retired.push(old);
    }
}

/// Compiles a list: slots of the instances that stayed, routes, selectors.
async fn build(policy: &Policy, instances: Arc<ServiceInstances>, previous: Option<&Arc<Base>>) -> ServiceView {
    let slots = health::carry_over(&instances, previous.map(|base| &**base)).await;
    let base = Arc::new(Base::new(instances, slots));
    let health = HealthView::of(base.slots());
    let mut plan = match Subset::whole(&base) {
        Some(whole) => Plan::Leaf(whole),
        None => Plan::Refused(no_instances(base.instances())),
    };
    for router in policy.chain.routers() {
        plan = plan.refine(router, &Surroundings { health: &health });
        tokio::task::yield_now().await;
    }
    let plan = plan.map(&mut |subset| {
        let selector = policy.balancer.prepare(&subset)?;
        Ok(Leaf { subset, selector })
    });
    ServiceView { base: Some(base), plan }
}

fn no_instances(service: &ServiceInstances) -> Error {
    Error::new(ErrorKind::NoInstances, "the service exists and nobody is registered").with_service(service.key().text())
}
