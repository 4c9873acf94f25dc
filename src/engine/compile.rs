//! The task that turns stored data into views: the only writer of what picks read.
//!
//! It is fed with keys, not with data, so a burst of answers of one service is compiled once. Long lists are worked in
//! chunks that let other tasks run, and never on the discover worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Shared;
use crate::engine::compilation::{Compilation, weigh};
use crate::engine::inputs::{Inputs, Rules};
use crate::engine::retire::{LOOK_AGAIN, Retired};
use crate::engine::services::Services;
use crate::engine::view::{Service, ServiceView};
use crate::error::{Error, ErrorKind};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::model::snapshot::Resource;
use crate::registry::EntryState;

/// How often services that the registry has forgotten are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(2);

/// Compiles until the context ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.registry.changes();
    let mut moved = shared.location.changed();
    // What changed before this task listened, or while it was being started again, is not told again.
    shared.services.mark_all();
    let mut retired = Retired::default();
    let mut held = Held::default();
    let mut forget = tokio::time::interval(FORGET_EVERY);
    forget.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reweigh = tokio::time::interval(shared.policy.adjuster.as_ref().map_or(FORGET_EVERY, |it| it.interval()));
    reweigh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        held.release(&shared.services);
        for service in shared.services.take_marked() {
            if let Some(until) = compile(&shared, &service, &mut retired).await {
                held.hold(service.key().clone(), until);
            }
        }
        retired.sweep();
        let waiting = !(shared.services.sweep() & retired.is_empty());
        tokio::select! {
            told = changes.next() => match told {
                Some(keys) => keys.iter().for_each(|key| shared.services.mark_changed(key)),
                // The registry has ended, with the context or with its runtime: the gate tells which.
                None => return,
            },
            () = shared.services.marked() => {}
            // The sender lives in the engine.
            _ = moved.changed() => shared.services.mark_all(),
            _ = forget.tick() => {
                drop_forgotten(&shared, &mut retired);
                report_expressions(&shared);
            }
            _ = reweigh.tick(), if shared.policy.adjuster.is_some() => shared.services.mark_all(),
            () = tokio::time::sleep(LOOK_AGAIN), if waiting => {}
            () = held.due() => {}
        }
    }
}

/// Services that wait for rules, until a moment at which they wait no longer.
#[derive(Default)]
struct Held(Vec<(Instant, ServiceKey)>);

impl Held {
    fn hold(&mut self, key: ServiceKey, until: Instant) {
        self.0.retain(|(_, known)| *known != key);
        self.0.push((until, key));
    }

    /// Marks those whose moment has come.
    fn release(&mut self, services: &Services) {
        let now = Instant::now();
        self.0.retain(|(until, key)| {
            if *until <= now {
                services.mark_key(key);
            }
            *until > now
        });
    }

    async fn due(&self) {
        match self.0.iter().map(|(until, _)| *until).min() {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
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
        shared.troubles.forget(|key| key.service == *service.key());
        if let Some(old) = service.publish(None) {
            retired.push(old);
        }
        retired.push(service);
    }
}

/// Reports rules whose regular expressions were given up for some call, since their view was made.
fn report_expressions(shared: &Shared) {
    for service in shared.services.all() {
        if let Some(view) = service.view.load().as_ref().filter(|view| view.base.is_some()) {
            shared.troubles.set(&service.key().of(ResourceKind::Routing), trouble(&service, &view.inputs.inbound));
        }
    }
}

/// What keeps picks from following the rules of their callee.
fn trouble(service: &Service, inbound: &Rules) -> Option<Error> {
    late(inbound).or_else(|| {
        let rule = inbound.there()?.route()?.gave_up()?;
        let why = "an expression takes too many steps for some calls, and is false for them";
        let error = Error::new(ErrorKind::InvalidRule, format!("rule {}: {why}", rule.name));
        Some(error.with_service(service.key().text()))
    })
}

/// Rules that did not come in time. Answers that are bad are seen in the state of their key already.
fn late(rules: &Rules) -> Option<Error> {
    rules.missing().filter(|error| error.kind() == ErrorKind::Timeout).cloned()
}

/// Brings the view of one service up to what is served now. If it waits for rules, until when.
async fn compile(shared: &Shared, service: &Service, retired: &mut Retired) -> Option<Instant> {
    let source = service.source()?;
    let broken = service.take_stale();
    let current = service.view.load_full();
    let instances = match (source.served(), source.state()) {
        (Some(Resource::Instances(instances)), _) => instances,
        (_, EntryState::NotFound(error)) => {
            retired.extend(service.publish(Some(ServiceView::refused(error))));
            return None;
        }
        // Nothing is known yet; who waits is told by the registry why not.
        _ => return None,
    };
    let inputs = Inputs {
        weights: shared.policy.adjuster.as_ref().map(|it| weigh(&**it, &instances, current.as_deref())),
        instances: Some(instances),
        inbound: service.rules.inbound(),
        nearby: service.rules.nearby(),
        own: service.rules.own(),
        location: shared.location.load(),
    };
    let before = current.as_ref().filter(|view| view.base.is_some() && view.missing.is_none());
    if let (Some(until), None) = (inputs.awaited(), before) {
        return Some(until);
    }
    report(shared, service, &inputs);
    let job = Compilation { service, inputs: &inputs, broken };
    let trouble = service.key().of(ResourceKind::Instances);
    match job.view(before).await {
        Ok(compiled) => {
            if let Some(view) = compiled.view {
                retired.extend(service.publish(Some(view)));
            }
            shared.troubles.set(&trouble, None);
            compiled.awaits
        }
        Err(fault) => {
            // What was compiled before stays in use.
            if before.is_none() {
                retired.extend(service.publish(Some(job.faulty(fault.clone()))));
            }
            shared.troubles.set(&trouble, Some(fault));
            None
        }
    }
}

/// Says in the state which rules a service goes without.
fn report(shared: &Shared, service: &Service, inputs: &Inputs) {
    shared.troubles.set(&service.key().of(ResourceKind::Routing), trouble(service, &inputs.inbound));
    shared.troubles.set(&service.key().of(ResourceKind::NearbyRoute), late(&inputs.nearby));
    let own = shared.policy.caller.clone().map(|caller| (caller, inputs.own.clone()));
    for (caller, rules) in service.rules.callers().into_iter().chain(own) {
        if caller != *service.key() && rules.awaited().is_none() {
            shared.troubles.set(&caller.of(ResourceKind::Routing), late(&rules));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Criteria, LoadBalancer, Selector};
    use crate::engine::fixture::{Fixture, id, instances, picked};
    use crate::error::Result;
    use crate::model::health::Breaker;
    use crate::model::request::instance::Pick;
    use crate::model::subset::Subset;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn kind(service: &Service) -> Option<ErrorKind> {
        service.pick(&Pick::new()).err().map(|error| error.kind())
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_list_is_picked_from_as_soon_as_it_is_compiled() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1)]).await;
        assert_eq!(picked(&service, &Pick::new()), ["a", "b"]);
        fixture.serve(&[("b", 1), ("c", 1), ("d", 0)]);
        fixture.until(&service, |service| service.snapshot().unwrap().len() == 3).await;
        assert_eq!(picked(&service, &Pick::new()), ["b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unchanged_list_keeps_its_view() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1)]).await;
        let before = service.view.load_full().unwrap();
        service.mark();
        fixture.serve(&[("a", 1)]);
        tokio::time::advance(LOOK_AGAIN * 2).await;
        tokio::task::yield_now().await;
        assert!(Arc::ptr_eq(&before, &service.view.load_full().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn load_and_breakers_outlive_the_list_they_were_counted_on() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1), ("c", 1)]).await;
        let call = loop {
            let call = service.start_call(&Pick::new()).unwrap();
            if id(call.instance()) == "b" {
                break call;
            }
        };
        assert!(service.set_breaker("c", Breaker::Open));
        fixture.serve(&[("b", 5), ("c", 1), ("d", 1)]);
        fixture.until(&service, |service| service.snapshot().unwrap().get("d").is_some()).await;
        let slot =
            |id: &str| Arc::clone(service.view.load().as_ref().unwrap().base.as_ref().unwrap().slot_of(id).unwrap());
        assert_eq!(slot("b").load().in_flight, 1);
        assert_eq!(picked(&service, &Pick::new()), ["b", "d"]);
        drop(call);
        assert_eq!(slot("b").load().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_acts_at_once_and_is_compiled_in_when_marked() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1), ("b", 1)]).await;
        assert!(service.set_breaker("a", Breaker::Open) && !service.set_breaker("z", Breaker::Open));
        assert_eq!(picked(&service, &Pick::new()), ["b"]);
        service.mark();
        let leaf_of_one = |service: &Service| service.routed(&Pick::new()).unwrap().unwrap().len() == 1;
        fixture.until(&service, leaf_of_one).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_without_instances_and_one_that_does_not_exist_refuse_apart() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[]).await;
        assert_eq!(kind(&service), Some(ErrorKind::NoInstances));
        fixture.not_found();
        fixture.until(&service, |service| kind(service) == Some(ErrorKind::ServiceNotFound)).await;
        assert!(service.snapshot().is_none());
        fixture.serve(&[("a", 1)]);
        fixture.until(&service, |service| kind(service).is_none()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_never_takes_a_list_away() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1)]).await;
        fixture.fail(Error::new(ErrorKind::Server, "out of order"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(picked(&service, &Pick::new()), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_expired_is_subscribed_anew_by_the_next_call() {
        let idle = Duration::from_secs(5);
        let fixture = Fixture::build(
            &tokio::runtime::Handle::current(),
            Arc::new(crate::balance::WeightedRandom),
            true,
            Some(idle),
        );
        let first = fixture.warm(&[("a", 1)]).await;
        let subscribed = fixture.wants(ResourceKind::Instances);
        fixture.until(&first, |service| !service.has_view()).await;
        assert!(kind(&first) == Some(ErrorKind::NotReady));
        let second = fixture.service();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(fixture.wants(ResourceKind::Instances), subscribed + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pinned_service_never_expires() {
        let idle = Duration::from_secs(5);
        let balancer = Arc::new(crate::balance::WeightedRandom);
        let fixture = Fixture::build(&tokio::runtime::Handle::current(), balancer, true, Some(idle));
        let service = fixture.warm(&[("a", 1)]).await;
        let pin = service.pin();
        tokio::time::sleep(idle * 20).await;
        assert_eq!(kind(&service), None);
        drop(pin);
        fixture.until(&service, |service| !service.has_view()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_scope_and_shuts_the_gate() {
        let fixture = Fixture::new();
        let service = fixture.warm(&[("a", 1)]).await;
        fixture.scope.cancel();
        fixture.scope.join(Duration::from_secs(1)).await.unwrap();
        assert_eq!(kind(&service), Some(ErrorKind::Closed));
    }

    #[test]
    fn a_runtime_that_goes_away_shuts_the_gate_and_says_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (fixture, service) = runtime.block_on(async {
            let fixture = Fixture::new();
            let service = fixture.warm(&[("a", 1)]).await;
            (fixture, service)
        });
        drop(runtime);
        let error = service.pick(&Pick::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("runtime"), "{error}");
        drop(fixture);
    }

    /// Panics when it prepares for the first time.
    #[derive(Debug, Default)]
    struct Stumbling(AtomicBool);

    impl LoadBalancer for Stumbling {
        fn prepare(&self, subset: &Subset) -> Result<Box<dyn Selector>> {
            assert!(self.0.swap(true, Ordering::Relaxed), "planned");
            crate::balance::WeightedRandom.prepare(subset)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_starts_again_and_misses_nothing() {
        let runtime = tokio::runtime::Handle::current();
        let fixture = Fixture::build(&runtime, Arc::new(Stumbling::default()), true, None);
        let service = fixture.service();
        fixture.serve(&[("a", 1)]);
        fixture.until(&service, Service::has_view).await;
        assert_eq!(
            (picked(&service, &Pick::new()), fixture.scope.last_panic().is_some()),
            (vec!["a".to_owned()], true)
        );
    }

    /// A balancer whose selectors note it when a thread that picks frees them.
    #[derive(Debug, Default)]
    struct Noting {
        freed: Arc<AtomicUsize>,
        freed_by_reader: Arc<AtomicUsize>,
    }

    struct Noted {
        freed: Arc<AtomicUsize>,
        freed_by_reader: Arc<AtomicUsize>,
    }

    impl LoadBalancer for Noting {
        fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
            let (freed, freed_by_reader) = (Arc::clone(&self.freed), Arc::clone(&self.freed_by_reader));
            Ok(Box::new(Noted { freed, freed_by_reader }))
        }
    }

    impl Selector for Noted {
        fn select(&self, subset: &Subset, criteria: &Criteria<'_>) -> usize {
            criteria.two_of(subset.len()).0
        }
    }

    impl Drop for Noted {
        fn drop(&mut self) {
            self.freed.fetch_add(1, Ordering::Relaxed);
            if std::thread::current().name() == Some("reader") {
                self.freed_by_reader.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn picks_during_updates_see_whole_views_in_order_and_never_free_one() {
        const GENERATIONS: u32 = 300;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let noting = Noting::default();
        let (freed, freed_by_reader) = (Arc::clone(&noting.freed), Arc::clone(&noting.freed_by_reader));
        let fixture = Fixture::build(runtime.handle(), Arc::new(noting), true, None);
        let service = runtime.block_on(fixture.warm(&[("a", 1)]));
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..2 {
                let read = || {
                    let mut generation = 0;
                    while !done.load(Ordering::Relaxed) {
                        let instance = service.pick(&Pick::new()).unwrap();
                        // The list of generation g has ids that begin with g and instances that listen on g.
                        let port = instance.port();
                        assert!(port == 80 || id(&instance).starts_with(&format!("{port}-")), "{instance:?}");
                        assert!(port == 80 && generation == 0 || port >= generation, "{port} after {generation}");
                        generation = if port == 80 { 0 } else { port };
                    }
                };
                std::thread::Builder::new().name("reader".into()).spawn_scoped(threads, read).unwrap();
            }
            for generation in 1000..1000 + GENERATIONS {
                let ids: Vec<_> = (0..=(generation % 7)).map(|n| format!("{generation}-{n}")).collect();
                let list: Vec<_> = ids.iter().map(|id| (id.as_str(), 1)).collect();
                fixture.serve_snapshot(instances(&list, generation));
                runtime.block_on(fixture.until(&service, |service| {
                    service.snapshot().unwrap().instances()[0].port() == u16::try_from(generation).unwrap()
                }));
            }
            done.store(true, Ordering::Relaxed);
        });
        runtime.block_on(async {
            let all = async {
                while freed.load(Ordering::Relaxed) < usize::try_from(GENERATIONS).unwrap() {
                    tokio::time::sleep(LOOK_AGAIN / 10).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), all).await.expect("replaced views are freed in the end");
        });
        assert_eq!(freed_by_reader.load(Ordering::Relaxed), 0);
    }
}
