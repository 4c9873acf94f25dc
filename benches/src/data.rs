//! Services as they look in production: a few versions, zones and sets of labels over many instances.

use polarismesh::testing::bench::v1;
use polarismesh::testing::{TestInstance, instance};
use polarismesh::{Location, ServiceKey};
use prost::Message as _;
use prost::bytes::Bytes;

/// What a code says that all went well.
const DONE: u32 = 200_000;

pub fn key() -> ServiceKey {
    ServiceKey::new("default", "bench")
}

/// The parts of an instance.
pub struct Parts {
    pub id: String,
    pub host: String,
    pub weight: u32,
    pub location: (String, String, String),
    pub metadata: Vec<(&'static str, String)>,
}

/// Of instance `n`, whatever it is asked by: 3 zones of 3 campuses each, weights from 50 to 200, 5 labels.
pub fn parts(n: usize) -> Parts {
    let (zone, campus) = (n % 3, n % 9);
    // Ids are digests, so a list is in no order of them.
    let scattered = (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Parts {
        id: format!("{scattered:016x}{n:024x}"),
        host: format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255),
        weight: 50 + u32::try_from(n * 7919 % 151).unwrap(),
        location: ("east".into(), format!("east-{zone}"), format!("east-{zone}-{campus}")),
        metadata: vec![
            ("env", if n.is_multiple_of(10) { "canary" } else { "prod" }.into()),
            ("team", "payments".into()),
            ("region", "east".into()),
            ("zone", format!("east-{zone}")),
            ("version", format!("1.4.{}", n % 2)),
        ],
    }
}

/// An answer with `count` instances, of which generation `generation` differs from the others.
pub fn answer(count: usize, generation: u32) -> Bytes {
    let service = v1::Service {
        namespace: Some("default".into()),
        name: Some("bench".into()),
        revision: Some(format!("{generation:040}")),
        ..v1::Service::default()
    };
    let response = v1::DiscoverResponse {
        code: Some(DONE),
        r#type: 1,
        service: Some(service),
        instances: (0..count).map(|n| message(n, generation)).collect(),
        ..v1::DiscoverResponse::default()
    };
    response.encode_to_vec().into()
}

fn message(n: usize, generation: u32) -> v1::Instance {
    let Parts { id, host, weight, location: (region, zone, campus), metadata } = parts(n);
    v1::Instance {
        revision: Some(id[..32].to_owned()),
        id: Some(id),
        service: Some("bench".into()),
        namespace: Some("default".into()),
        host: Some(host),
        port: Some(8000 + generation % 1000),
        protocol: Some("grpc".into()),
        version: Some(format!("1.4.{}", n % 2)),
        priority: Some(0),
        weight: Some(weight),
        healthy: Some(true),
        isolate: Some(false),
        location: Some(v1::Location { region: Some(region), zone: Some(zone), campus: Some(campus) }),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ..v1::Instance::default()
    }
}

/// Instances for the embedded control plane.
pub fn instances(count: usize) -> impl Iterator<Item = TestInstance> {
    (0..count).map(|n| {
        let Parts { host, weight, location: (region, zone, campus), metadata, .. } = parts(n);
        let instance = instance(host, 8080).weight(weight).protocol("grpc").version(format!("1.4.{}", n % 2));
        let instance = instance.location(&Location::new(region, zone, campus));
        metadata.into_iter().fold(instance, |instance, (key, value)| instance.metadata(key, value))
    })
}

/// The question after the instances of a service.
pub fn question(service: &str, revision: &str) -> v1::DiscoverRequest {
    let service = v1::Service {
        namespace: Some("default".into()),
        name: Some(service.to_owned()),
        revision: Some(revision.to_owned()),
        ..v1::Service::default()
    };
    v1::DiscoverRequest { r#type: 1, service: Some(service), ..v1::DiscoverRequest::default() }
}
