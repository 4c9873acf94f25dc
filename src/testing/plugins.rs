//! What authors of routers and balancers test them on, without a context.

use super::fixtures::TestInstance;
use crate::balance::Criteria;
use crate::error::{Error, ErrorKind, Result};
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::call::Outcome;
use crate::model::instance::InstanceAddr;
use crate::model::key::{Revision, ServiceKey};
use crate::model::request::instance::Pick;
use crate::model::subset::{Base, Subset};
use crate::routing::RouteRequest;
use std::sync::Arc;
use std::time::Duration;

/// A subset of these instances, as a router or a balancer is given one. They are ordered by their ids, which are
/// `host:port` where none is given.
///
/// ```
/// use polarismesh::testing::{criteria, instance, subset};
/// use polarismesh::{Criteria, LoadBalancer, Result, Selector, Subset};
///
/// /// Always the first.
/// #[derive(Debug)]
/// struct First;
///
/// impl LoadBalancer for First {
///     fn prepare(&self, _: &Subset) -> Result<Box<dyn Selector>> {
///         Ok(Box::new(First))
///     }
/// }
///
/// impl Selector for First {
///     fn select(&self, _: &Subset, _: &Criteria<'_>) -> usize {
///         0
///     }
/// }
///
/// let subset = subset([instance("10.0.0.2", 80), instance("10.0.0.1", 80)])?;
/// let selector = First.prepare(&subset)?;
/// let chosen = selector.select(&subset, &criteria(42));
/// assert_eq!(subset.instance(chosen).unwrap().host(), "10.0.0.1");
/// # Ok::<(), polarismesh::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` without instances, and for one that could not be registered.
pub fn subset(instances: impl IntoIterator<Item = TestInstance>) -> Result<Subset> {
    let mut builder = SnapshotBuilder::new(ServiceKey::new("default", "test"));
    for TestInstance { message } in instances {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let place = message.location.clone().unwrap_or_default();
        let (region, zone, campus) = (text(&place.region), text(&place.zone), text(&place.campus));
        let parts = InstanceParts {
            id: &text(&message.id),
            host: &text(&message.host),
            port: message.port.unwrap_or_default(),
            protocol: &text(&message.protocol),
            version: &text(&message.version),
            weight: message.weight.unwrap_or(100),
            healthy: message.healthy.unwrap_or(true),
            isolated: message.isolate.unwrap_or_default(),
            location: (&region, &zone, &campus),
        };
        let labels = message.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let pushed = builder.push(parts, labels);
        pushed.map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
    }
    let snapshot = builder.finish(Revision::default(), [], None);
    let base = Arc::new(Base::new(Arc::new(snapshot), Vec::new()));
    Subset::whole(&base).ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a subset needs an instance"))
}

/// As [`subset`], of instances that carry load: so many calls under way, and answers that took so long.
///
/// # Errors
/// As [`subset`].
pub fn loaded_subset(instances: impl IntoIterator<Item = (TestInstance, u32, Option<Duration>)>) -> Result<Subset> {
    let (instances, loads): (Vec<_>, Vec<_>) = instances
        .into_iter()
        .map(|(instance, calls, latency)| (instance.clone(), (instance.addr(), calls, latency)))
        .unzip();
    let subset = subset(instances)?;
    for index in 0..subset.len().get() {
        let of = |(addr, ..): &&(InstanceAddr, u32, Option<Duration>)| {
            subset.instance(index).is_some_and(|i| i.host() == addr.host() && i.port() == addr.port())
        };
        if let (Some((_, calls, latency)), Some(slot)) = (loads.iter().find(of), subset.slot(index)) {
            (0..*calls).for_each(|_| slot.enter());
            if let Some(latency) = latency {
                slot.record(Outcome::Success(0), *latency);
            }
        }
    }
    Ok(subset)
}

/// The criteria of a pick that drew these random bits, and has no hash key.
#[must_use]
pub fn criteria(entropy: u64) -> Criteria<'static> {
    Criteria::new(entropy)
}

/// The criteria of a pick with this hash key.
#[must_use]
pub fn keyed_criteria(key: &[u8]) -> Criteria<'_> {
    Criteria::new(0).with_hash_key(key)
}

/// The request that a chooser is asked about for such a pick, with these random bits.
#[must_use]
pub fn route_request<'a>(pick: &'a Pick<'a>, entropy: u64) -> RouteRequest<'a> {
    RouteRequest { pick, entropy }
}
