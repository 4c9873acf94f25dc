//! Services and instances: from answers into snapshots, and back for the disk cache.

use crate::model::build::{self, SnapshotBuilder};
use crate::model::instance::Instance;
use crate::model::key::{Revision, ServiceEventKey, ServiceKey};
use crate::model::location::Location;
use crate::model::namespace::Namespace;
use crate::model::service::{ServiceInfo, ServiceInstances, ServiceList};
use crate::pb::v1;
use crate::wire::discovered::DiscoverAnswer;
use crate::wire::reader::Malformed;
use crate::wire::walk::InstanceReader;

/// Why one item of an answer cannot be used. It is left out; its neighbours stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidItem {
    #[error("the instance at {host}:{port} has no id")]
    NoId { host: String, port: u32 },
    #[error("the bytes of an instance are malformed: {0}")]
    Bytes(#[from] Malformed),
    #[error(transparent)]
    Instance(#[from] build::InvalidInstance),
    #[error("a service of the list has no name")]
    NoName,
}

/// The items of an answer that were left out: the first few by name, and how many.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    named: Vec<String>,
    more: usize,
}

impl Skipped {
    /// As many as anybody reads; an answer may hold a hundred thousand bad ones.
    const NAMED: usize = 8;

    fn push(&mut self, why: &InvalidItem) {
        if self.named.len() < Self::NAMED {
            self.named.push(why.to_string());
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn into_messages(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("and {} more", self.more));
        }
        self.named
    }
}

/// The snapshot that an INSTANCE answer describes. The instances come in no order and may name another service than
/// the one asked for (an alias's target, an exporting namespace); they belong to what was asked for all the same.
pub(super) fn instances(key: &ServiceEventKey, response: &DiscoverAnswer) -> (ServiceInstances, Skipped) {
    let mut builder = SnapshotBuilder::new(key.service.clone());
    let mut skipped = Skipped::default();
    builder.reserve(response.instances.len());
    let mut read = InstanceReader::default();
    for bytes in &response.instances {
        if let Err(why) = push(&mut builder, &mut read, bytes) {
            skipped.push(&why);
        }
    }
    let response = &response.head;
    let service = response.service.as_ref();
    let metadata = service.into_iter().flat_map(|service| pairs(&service.metadata));
    // Servers name the service itself where it is no alias.
    let alias_for = response.alias_for.as_ref().and_then(service_key).filter(|target| *target != key.service);
    (builder.finish(revision(service), metadata, alias_for), skipped)
}

fn push<'a>(builder: &mut SnapshotBuilder, read: &mut InstanceReader<'a>, bytes: &'a [u8]) -> Result<(), InvalidItem> {
    let parts = read.read(bytes)?;
    if parts.id.is_empty() {
        return Err(InvalidItem::NoId { host: parts.host.to_owned(), port: parts.port });
    }
    Ok(builder.push(parts, read.metadata().iter().copied())?)
}

/// The list that a SERVICES answer describes, ordered by key, each name once.
pub(super) fn services(key: &ServiceEventKey, response: &v1::DiscoverResponse) -> (ServiceList, Skipped) {
    let mut skipped = Skipped::default();
    let mut services = Vec::with_capacity(response.services.len());
    for service in &response.services {
        match service_key(service) {
            Some(key) => services.push(ServiceInfo { key, metadata: pairs(&service.metadata).collect() }),
            None => skipped.push(&InvalidItem::NoName),
        }
    }
    services.sort_by(|a, b| a.key.cmp(&b.key));
    services.dedup_by(|later, kept| later.key == kept.key);
    let list = ServiceList {
        namespace: Namespace::new(key.service.namespace()),
        revision: revision(response.service.as_ref()),
        services: services.into(),
    };
    (list, skipped)
}

/// The INSTANCE answer that a snapshot would come from.
pub(super) fn instances_answer(snapshot: &ServiceInstances) -> v1::DiscoverResponse {
    let mut service = service_message(&snapshot.key, &snapshot.revision);
    service.metadata = snapshot.metadata.iter().map(owned).collect();
    v1::DiscoverResponse {
        service: Some(service),
        alias_for: snapshot.alias_for.as_ref().map(|target| service_message(target, &Revision::default())),
        instances: snapshot.instances.iter().map(instance_message).collect(),
        ..v1::DiscoverResponse::default()
    }
}

fn instance_message(instance: &Instance) -> v1::Instance {
    v1::Instance {
        id: Some(instance.id().as_str().to_owned()),
        host: Some(instance.host().to_owned()),
        port: Some(u32::from(instance.port())),
        protocol: non_empty(instance.protocol()),
        version: non_empty(instance.version()),
        weight: Some(instance.weight()),
        healthy: Some(instance.is_healthy()),
        isolate: Some(instance.is_isolated()),
        location: (!instance.location().is_empty()).then(|| location_message(instance.location())),
        metadata: instance.metadata().iter().map(owned).collect(),
        ..v1::Instance::default()
    }
}

/// The SERVICES answer that a list would come from.
pub(super) fn services_answer(list: &ServiceList) -> v1::DiscoverResponse {
    let scope = ServiceKey::new(list.namespace.as_str(), "");
    let service = |info: &ServiceInfo| v1::Service {
        metadata: info.metadata.iter().map(owned).collect(),
        ..service_message(&info.key, &Revision::default())
    };
    v1::DiscoverResponse {
        service: Some(service_message(&scope, &list.revision)),
        services: list.services.iter().map(service).collect(),
        ..v1::DiscoverResponse::default()
    }
}

/// A service by its names and the revision that is known of it; what is empty is left out.
pub(super) fn service_message(key: &ServiceKey, revision: &Revision) -> v1::Service {
    v1::Service {
        namespace: non_empty(key.namespace()),
        name: non_empty(key.service()),
        revision: non_empty(revision.as_str()),
        ..v1::Service::default()
    }
}

/// The id that a server gave to a registration.
pub(crate) fn registered_id(response: &v1::Response) -> Option<&str> {
    response.instance.as_ref()?.id.as_deref().filter(|id| !id.is_empty())
}

/// The location that a server knows for the client; of its own if it has one, else what the client said.
pub(crate) fn reported_location(response: &v1::Response) -> Option<Location> {
    let place = response.client.as_ref()?.location.as_ref()?;
    Some(Location::new(text(place.region.as_ref()), text(place.zone.as_ref()), text(place.campus.as_ref())))
        .filter(|place| !place.is_empty())
}

/// All three levels, empty ones too: a server adds them to the instance's metadata only where they are given.
pub(super) fn location_message(location: &Location) -> v1::Location {
    v1::Location {
        region: Some(location.region.clone()),
        zone: Some(location.zone.clone()),
        campus: Some(location.campus.clone()),
    }
}

pub(super) fn revision(service: Option<&v1::Service>) -> Revision {
    Revision::new(service.map_or("", |service| text(service.revision.as_ref())))
}

pub(super) fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn service_key(service: &v1::Service) -> Option<ServiceKey> {
    let name = service.name.as_deref().filter(|name| !name.is_empty())?;
    Some(ServiceKey::new(text(service.namespace.as_ref()), name))
}

fn text(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::ResourceKind;

    fn key() -> ServiceEventKey {
        ServiceKey::new("default", "a").of(ResourceKind::Instances)
    }

    fn at(id: &str, host: &str, port: u32) -> v1::Instance {
        v1::Instance { id: Some(id.into()), host: Some(host.into()), port: Some(port), ..v1::Instance::default() }
    }

    #[test]
    fn a_bad_instance_is_left_out_and_its_neighbours_stay() {
        let bad = [at("", "h", 1), at("b", "", 1), at("c", "h", 65_536), v1::Instance::default()];
        let instances = [vec![at("a", "h", 1)], bad.to_vec(), vec![at("z", "h", 65_535)]].concat();
        let (snapshot, skipped) = instances_of(instances);
        assert_eq!(snapshot.instances().iter().map(|i| i.id().as_str()).collect::<Vec<_>>(), ["a", "z"]);
        assert_eq!(
            skipped.into_messages(),
            [
                "the instance at h:1 has no id",
                "instance \"b\" has no host",
                "instance \"c\" has port 65536, above 65535",
                "the instance at :0 has no id",
            ]
        );
    }

    #[test]
    fn a_flood_of_bad_instances_is_counted_and_not_listed() {
        let (snapshot, skipped) = instances_of(vec![v1::Instance::default(); 1_000]);
        let messages = skipped.into_messages();
        assert!(snapshot.is_empty());
        assert_eq!((messages.len(), messages.last().map(String::as_str)), (9, Some("and 992 more")));
    }

    #[test]
    fn absent_wrappers_have_the_value_that_a_server_assumes() {
        let (snapshot, _) = instances_of(vec![at("a", "h", 1)]);
        let instance = snapshot.get("a").unwrap();
        assert_eq!((instance.weight(), instance.is_healthy(), instance.is_isolated()), (100, true, false));
        assert!(instance.location().is_empty() && instance.metadata().is_empty());
    }

    #[test]
    fn an_alias_is_one_only_where_it_names_another_service() {
        let answer = |name: &str| -> DiscoverAnswer {
            let target = service_message(&ServiceKey::new("default", name), &Revision::default());
            v1::DiscoverResponse { alias_for: Some(target), ..v1::DiscoverResponse::default() }.into()
        };
        assert_eq!(instances(&key(), &answer("a")).0.alias_for(), None);
        assert_eq!(instances(&key(), &answer("b")).0.alias_for(), Some(&ServiceKey::new("default", "b")));
        assert_eq!(instances(&key(), &answer("")).0.alias_for(), None);
    }

    fn instances_of(instances: Vec<v1::Instance>) -> (ServiceInstances, Skipped) {
        super::instances(&key(), &v1::DiscoverResponse { instances, ..v1::DiscoverResponse::default() }.into())
    }
}
