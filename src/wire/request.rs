//! From the model's requests to messages. Every request was validated before; nothing is checked here.

use crate::model::instance::InstanceAddr;
use crate::model::key::{ResourceKind, Revision, ServiceEventKey, ServiceKey};
use crate::model::location::Location;
use crate::model::request::registration::{Register, Target};
use crate::pb::v1;
use crate::pb::v1::discover_request::DiscoverRequestType;
use crate::wire::instance::{location_message, non_empty, service_message};

/// Asks for a resource; `known` is the revision that is held of it, or none.
pub(crate) fn discover(key: &ServiceEventKey, known: &Revision) -> v1::DiscoverRequest {
    // The service is always there, even without names: a server ends the stream over an INSTANCE question without one.
    let service = service_message(&key.service, known);
    v1::DiscoverRequest { r#type: type_of(key.kind), service: Some(service), ..v1::DiscoverRequest::default() }
}

/// Asks whether a server serves a kind at all: without a service, it answers 400004 if not, and some other error if
/// so. Never to be used for a kind that every server serves, which may end the stream.
pub(crate) fn probe(kind: ResourceKind) -> v1::DiscoverRequest {
    v1::DiscoverRequest { r#type: type_of(kind), ..v1::DiscoverRequest::default() }
}

/// Registers an instance. `at` and `location` are what the request's own were resolved to. Without `isolate` the
/// server keeps what it has, which people may have set.
pub(crate) fn register(
    register: &Register,
    at: &InstanceAddr,
    location: &Location,
    isolate: Option<bool>,
) -> v1::Instance {
    v1::Instance {
        protocol: non_empty(&register.protocol),
        version: non_empty(&register.version),
        weight: Some(register.weight),
        healthy: Some(register.healthy),
        isolate,
        location: Some(location_message(location)),
        metadata: register.metadata.clone(),
        enable_health_check: Some(true),
        health_check: Some(v1::HealthCheck {
            r#type: v1::health_check::HealthCheckType::Heartbeat.into(),
            heartbeat: Some(v1::HeartbeatHealthCheck { ttl: u32::try_from(register.ttl.as_secs()).ok() }),
        }),
        ..instance(&register.key, Some(at), register.id.as_deref())
    }
}

/// Names an instance that is to beat, or to be deregistered. A host that stands for all addresses of this machine must
/// have been replaced.
pub(crate) fn target(target: &Target) -> v1::Instance {
    instance(&target.key, target.at.as_ref(), target.id.as_deref())
}

/// Reports this client. A server lists clients with an id only.
pub(crate) fn client(host: &str, id: &str, location: &Location) -> v1::Client {
    v1::Client {
        host: non_empty(host),
        r#type: v1::client::ClientType::Sdk.into(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        location: (!location.is_empty()).then(|| location_message(location)),
        id: non_empty(id),
        ..v1::Client::default()
    }
}

/// The number of a kind; requests and answers share them.
pub(crate) fn type_of(kind: ResourceKind) -> i32 {
    let number = match kind {
        ResourceKind::Instances => DiscoverRequestType::Instance,
        ResourceKind::Services => DiscoverRequestType::Services,
        ResourceKind::Routing => DiscoverRequestType::Routing,
        ResourceKind::RateLimit => DiscoverRequestType::RateLimit,
        ResourceKind::CircuitBreaker => DiscoverRequestType::CircuitBreaker,
        ResourceKind::FaultDetector => DiscoverRequestType::FaultDetector,
        ResourceKind::Lane => DiscoverRequestType::Lane,
        ResourceKind::CustomRoute => DiscoverRequestType::CustomRouteRule,
        ResourceKind::NearbyRoute => DiscoverRequestType::NearbyRouteRule,
        ResourceKind::Lossless => DiscoverRequestType::Lossless,
        ResourceKind::BlockAllow => DiscoverRequestType::BlockAllowRule,
        ResourceKind::TrafficMirroring => DiscoverRequestType::TrafficMirroring,
        ResourceKind::FaultInjection => DiscoverRequestType::FaultInjection,
    };
    number.into()
}

/// The kind of a number; `None` for one that this crate never asks for.
pub(crate) fn kind_of(number: i32) -> Option<ResourceKind> {
    ResourceKind::ALL.into_iter().find(|kind| type_of(*kind) == number)
}

/// Never an empty id: a server refuses that, while an absent one is derived from the rest.
fn instance(key: &ServiceKey, at: Option<&InstanceAddr>, id: Option<&str>) -> v1::Instance {
    v1::Instance {
        id: id.and_then(non_empty),
        namespace: non_empty(key.namespace()),
        service: non_empty(key.service()),
        host: at.and_then(|at| non_empty(at.host())),
        port: at.map(|at| u32::from(at.port())),
        ..v1::Instance::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::request::registration::{Deregister, Heartbeat};
    use crate::wire::json::to_json;

    #[test]
    fn a_question_names_its_service_and_the_revision_that_is_held() {
        let key = ServiceKey::new("shop", "orders").of(ResourceKind::Instances);
        assert_eq!(
            to_json(&discover(&key, &Revision::new("r1"))).unwrap(),
            json!({"type": "INSTANCE", "service": {"namespace": "shop", "name": "orders", "revision": "r1"}})
        );
        let all = ServiceKey::new("", "").of(ResourceKind::Services);
        assert_eq!(to_json(&discover(&all, &Revision::default())).unwrap(), json!({"type": "SERVICES", "service": {}}));
        assert_eq!(to_json(&probe(ResourceKind::Lane)).unwrap(), json!({"type": "LANE"}));
    }

    #[test]
    fn a_registration_carries_all_it_wants_and_leaves_isolation_to_people() {
        let wanted = Register::new(("shop", "orders"), 80).weight(0).version("1").metadata("k", "");
        let at = InstanceAddr::new("10.0.0.1", 80);
        let mut sent = to_json(&register(&wanted, &at, &Location::new("r", "", ""), None)).unwrap();
        assert_eq!(
            sent,
            json!({
                "namespace": "shop", "service": "orders", "host": "10.0.0.1", "port": 80, "weight": 0,
                "version": "1", "healthy": true, "metadata": {"k": ""}, "enableHealthCheck": true,
                "healthCheck": {"type": "HEARTBEAT", "heartbeat": {"ttl": 5}},
                "location": {"region": "r", "zone": "", "campus": ""},
            })
        );
        sent = to_json(&register(&wanted, &at, &Location::default(), Some(true))).unwrap();
        assert_eq!((&sent["isolate"], &sent["location"]["zone"]), (&json!(true), &json!("")));
    }

    #[test]
    fn a_target_is_named_by_what_is_known_of_it_and_never_by_an_empty_id() {
        let by_address = Deregister::new(("shop", "orders"), ("h", 1)).target;
        assert_eq!(
            to_json(&target(&by_address)).unwrap(),
            json!({"namespace": "shop", "service": "orders", "host": "h", "port": 1})
        );
        let by_id = Heartbeat::from(&crate::model::instance::InstanceId::new(("shop", "orders"), "x")).target;
        assert_eq!(to_json(&target(&by_id)).unwrap(), json!({"namespace": "shop", "service": "orders", "id": "x"}));
        assert_eq!(target(&Target { id: Some(String::new()), ..by_id }).id, None);
    }

    #[test]
    fn every_kind_has_its_number_and_comes_back_from_it() {
        for kind in ResourceKind::ALL {
            assert_eq!(kind_of(type_of(kind)), Some(kind));
        }
        assert_eq!((kind_of(0), kind_of(2), kind_of(999)), (None, None, None));
    }

    #[test]
    fn a_client_without_a_location_sends_none() {
        let sent = to_json(&client("h", "id", &Location::default())).unwrap();
        assert_eq!(sent, json!({"host": "h", "type": "SDK", "version": env!("CARGO_PKG_VERSION"), "id": "id"}));
    }
}
