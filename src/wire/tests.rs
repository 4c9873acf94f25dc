//! Whatever bytes come, the answer is one; whatever is kept comes back as it was.

use std::fs;
use std::path::{Path, PathBuf};

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;

use super::discovered::DiscoverAnswer;
use super::resource::{answer, decode, encode, subject};
use crate::error::ErrorKind;
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::key::{ResourceKind, Revision, ServiceEventKey, ServiceKey};
use crate::model::location::Location;
use crate::model::snapshot::{Answer, Resource};
use crate::pb::v1;

fn key(kind: ResourceKind) -> ServiceEventKey {
    ServiceKey::new("shop", "orders").of(kind)
}

fn coded(code: u32, kind: ResourceKind) -> v1::DiscoverResponse {
    v1::DiscoverResponse {
        code: Some(code),
        info: Some("words".into()),
        r#type: super::request::type_of(kind),
        ..v1::DiscoverResponse::default()
    }
}

/// Every captured answer of the Discover stream.
fn captures() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let discovered = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "bin")
            && fs::read_to_string(path.with_extension("json")).unwrap().contains("\"DiscoverResponse\"")
    };
    files.filter(discovered).map(|path| fs::read(path).unwrap()).collect()
}

fn assert_kept(key: &ServiceEventKey, resource: &Resource) {
    let back = decode(key, &encode(resource).unwrap()).unwrap();
    assert_eq!(back.revision(), resource.revision(), "{key}");
    assert!(back.same_content(resource), "{key}: {back:?} is not {resource:?}");
}

#[test]
fn codes_become_what_they_mean() {
    let said = |code| answer(&key(ResourceKind::Routing), coded(code, ResourceKind::Routing));
    assert!(matches!(said(200_001), Answer::Unchanged));
    assert!(matches!(said(400_004), Answer::Unsupported));
    for code in [400_202, 400_301, 400_305] {
        assert!(matches!(said(code), Answer::NotFound { code: found, .. } if found.get() == code));
    }
    for (code, kind) in [
        (0, ErrorKind::Server),
        (400_000, ErrorKind::InvalidArgument),
        (401_001, ErrorKind::Unauthorized),
        (429_002, ErrorKind::Server),
        (500_001, ErrorKind::Server),
        (999_999, ErrorKind::Server),
    ] {
        let Answer::Failed(error) = said(code) else { panic!("{code} is no failure") };
        assert_eq!((error.kind(), error.service()), (kind, Some("shop/orders")), "{error}");
        assert!(error.to_string().contains("discovering routing"), "{error}");
    }
}

#[test]
fn an_unsupported_kind_is_told_by_its_code_whatever_type_the_answer_claims() {
    let said = answer(&key(ResourceKind::Lane), coded(400_004, ResourceKind::Routing));
    assert!(matches!(said, Answer::Unsupported));
}

#[test]
fn a_full_answer_of_another_kind_is_refused() {
    let said = answer(&key(ResourceKind::Instances), coded(200_000, ResourceKind::Routing));
    let Answer::Failed(error) = said else { panic!("{said:?}") };
    assert!(error.to_string().contains("answered with routing"), "{error}");
}

#[test]
fn an_absent_payload_is_an_empty_set_of_rules() {
    for kind in ResourceKind::ALL.into_iter().filter(|kind| kind.is_rule()) {
        let Answer::Full { resource: Resource::Rules(rules), .. } = answer(&key(kind), coded(200_000, kind)) else {
            panic!("{kind}")
        };
        assert!(rules.is_empty() && rules.revision().is_empty());
        assert_kept(&key(kind), &Resource::Rules(rules));
    }
}

#[test]
fn an_empty_payload_keeps_its_revision() {
    let routing = v1::Routing { revision: Some("r".into()), namespace: Some("shop".into()), ..Default::default() };
    let response = v1::DiscoverResponse { routing: Some(routing), ..coded(200_000, ResourceKind::Routing) };
    let Answer::Full { resource: Resource::Rules(rules), .. } = answer(&key(ResourceKind::Routing), response) else {
        panic!()
    };
    assert_eq!((rules.is_empty(), rules.revision().as_str()), (true, "r"));
    assert_kept(&key(ResourceKind::Routing), &Resource::Rules(rules));
}

#[test]
fn the_order_of_rules_and_their_revision_are_no_content() {
    let set = |revision: &str, ids: [&str; 2]| {
        let rules = ids.map(|id| v1::Rule { id: Some(id.into()), ..Default::default() }).into();
        let limit = v1::RateLimit { rules, revision: Some(revision.into()) };
        let response = v1::DiscoverResponse { rate_limit: Some(limit), ..coded(200_000, ResourceKind::RateLimit) };
        match answer(&key(ResourceKind::RateLimit), response) {
            Answer::Full { resource, .. } => resource,
            other => panic!("{other:?}"),
        }
    };
    let (one, other) = (set("r1", ["a", "b"]), set("r2", ["b", "a"]));
    assert!(one.same_content(&other));
    assert_ne!(one.revision(), other.revision());
    assert!(!one.same_content(&set("r1", ["a", "c"])));
}

#[test]
fn lossless_rules_are_read_from_both_their_tags() {
    let rule = |id: &str| v1::LosslessRule { id: id.into(), ..Default::default() };
    let response = v1::DiscoverResponse {
        lossless: vec![rule("b")],
        lossless_rule_list: vec![rule("a"), rule("b")],
        ..coded(200_000, ResourceKind::Lossless)
    };
    let Answer::Full { resource: Resource::Rules(rules), .. } = answer(&key(ResourceKind::Lossless), response) else {
        panic!()
    };
    assert_eq!(rules.json(), r#"{"losslessRuleList":[{"id":"a"},{"id":"b"}]}"#);
}

#[test]
fn every_captured_answer_survives_the_cache() {
    let mut kept = 0;
    for bytes in captures() {
        let response = DiscoverAnswer::decode(&*bytes).unwrap();
        let Some(kind) = subject(&response.head).kind else { continue };
        if let Answer::Full { resource, skipped } = answer(&key(kind), response) {
            assert!(skipped.is_empty(), "{skipped:?}");
            assert_kept(&key(kind), &resource);
            kept += 1;
        }
    }
    assert!(kept >= 40, "only {kept} captured answers carry a resource");
}

#[test]
fn instances_are_walked_to_what_the_generated_code_decodes() {
    let mut seen = 0;
    for bytes in captures() {
        let generated = v1::DiscoverResponse::decode(&*bytes).unwrap();
        let Answer::Full { resource: Resource::Instances(walked), .. } =
            answer(&key(ResourceKind::Instances), DiscoverAnswer::decode(&*bytes).unwrap())
        else {
            continue;
        };
        assert_eq!(walked.len(), generated.instances.len());
        for instance in &generated.instances {
            let found = walked.get(instance.id.as_deref().unwrap()).unwrap();
            let place = instance.location.clone().unwrap_or_default();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            assert_eq!(found.host(), text(&instance.host));
            assert_eq!(Some(u32::from(found.port())), instance.port);
            assert_eq!((found.protocol(), found.version()), (&*text(&instance.protocol), &*text(&instance.version)));
            assert_eq!((Some(found.weight()), Some(found.is_healthy())), (instance.weight, instance.healthy));
            assert_eq!(Some(found.is_isolated()), instance.isolate);
            assert_eq!(found.location(), &Location::new(text(&place.region), text(&place.zone), text(&place.campus)));
            let pairs = instance.metadata.iter().map(|(key, value)| (&**key, &**value));
            assert_eq!(found.metadata().iter().collect::<Vec<_>>(), pairs.collect::<Vec<_>>());
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} captured instances");
}

#[test]
fn an_answer_is_decoded_and_encoded_as_the_generated_code_does() {
    for bytes in captures() {
        let generated = v1::DiscoverResponse::decode(&*bytes).unwrap();
        let kept = DiscoverAnswer::from(generated.clone());
        assert_eq!(v1::DiscoverResponse::decode(&*kept.encode_to_vec()).unwrap(), generated);
    }
}

fn any_answer(bytes: &[u8]) {
    let Ok(response) = DiscoverAnswer::decode(bytes) else { return };
    for kind in ResourceKind::ALL {
        let mut response = response.clone();
        response.head.code = Some(200_000);
        response.head.r#type = super::request::type_of(kind);
        let said = answer(&key(kind), response);
        let Answer::Full { resource, .. } = said else { panic!("{kind}: {said:?}") };
        assert_kept(&key(kind), &resource);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        any_answer(&bytes);
        for kind in ResourceKind::ALL {
            let _ = decode(&key(kind), &bytes);
        }
    }

    #[test]
    fn damaged_captures_are_an_answer_or_an_error(
        which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let captures = captures();
        let mut bytes = which.get(&captures).clone();
        for (place, byte) in damage {
            if !bytes.is_empty() {
                *place.get_mut(&mut bytes) = byte;
            }
        }
        any_answer(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        any_answer(&bytes);
    }

    #[test]
    fn any_snapshot_comes_back_from_its_bytes(
        instances in proptest::collection::vec(
            ("[a-z:.]{1,8}", any::<u16>(), any::<u32>(), any::<bool>(), any::<bool>(), ".{0,3}", ".{0,3}"), 0..6),
        revision in ".{0,4}",
        metadata in proptest::collection::btree_map(".{0,3}", ".{0,3}", 0..4),
    ) {
        let pairs = || metadata.iter().map(|(key, value)| (&**key, &**value));
        let mut builder = SnapshotBuilder::new(key(ResourceKind::Instances).service);
        for (index, (host, port, weight, healthy, isolated, one, two)) in instances.iter().enumerate() {
            let parts = InstanceParts {
                id: &index.to_string(),
                host,
                port: u32::from(*port),
                protocol: one,
                version: two,
                weight: *weight,
                healthy: *healthy,
                isolated: *isolated,
                location: (one, two, one),
            };
            builder.push(parts, pairs()).unwrap();
        }
        let alias = Some(ServiceKey::new("n", "real")).filter(|_| instances.len() % 2 == 0);
        let snapshot = builder.finish(Revision::new(&revision), pairs(), alias);
        assert_kept(&key(ResourceKind::Instances), &Resource::Instances(Arc::new(snapshot)));
    }
}
