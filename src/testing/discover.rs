//! What is answered on the discover stream: instances and services.

use std::sync::Arc;

use super::answer::{NO_CHANGE, OK, echo, encode, unsupported};
use super::behaviour::Release;
use super::sha1;
use super::store::{InstanceRow, ServiceRow, State, ttl};
use crate::model::key::ServiceKey;
use crate::pb::v1;
use crate::pb::v1::discover_request::DiscoverRequestType as Kind;

/// The list of instances that a service shows, encoded.
#[derive(Debug)]
pub(super) struct InstanceAnswer {
    revision: String,
    bytes: Vec<u8>,
    /// The services whose instances are in it, the asked one included.
    sources: Vec<ServiceKey>,
}

/// A service that is shown under the asked name, and its instances.
struct Shown {
    key: ServiceKey,
    row: Arc<ServiceRow>,
    instances: Vec<Arc<InstanceRow>>,
}

impl InstanceAnswer {
    pub(super) fn shows(&self, service: &ServiceKey) -> bool {
        self.sources.contains(service)
    }
}

impl State {
    /// The bytes of the answer; none ends the stream, as the server's does where its handler panics.
    pub(super) fn discover(&mut self, request: &v1::DiscoverRequest) -> Option<Vec<u8>> {
        let kind = Kind::try_from(request.r#type).unwrap_or(Kind::Unknown);
        if !self.serves(kind) {
            return Some(encode(unsupported(request), false));
        }
        let mut request = request.clone();
        let Some(service) = request.service.as_mut() else {
            return (kind != Kind::Instance).then(|| encode(echo(400_002, &request), false));
        };
        if kind == Kind::Instance && service.namespace.as_deref().unwrap_or_default().is_empty() {
            service.namespace = Some("default".to_owned());
        }
        let namespace = service.namespace.clone().unwrap_or_default();
        let name = service.name.clone().unwrap_or_default();
        let refused = match kind {
            Kind::Services => None,
            _ if name.is_empty() => Some(400_120),
            _ if namespace.is_empty() => Some(400_110),
            _ => None,
        };
        if let Some(code) = refused {
            return Some(encode(echo(code, &request), false));
        }
        let key = ServiceKey::new(namespace, name);
        match kind {
            Kind::Instance => self.discover_instances(&request, &key),
            Kind::Services => Some(encode(self.discover_services(&request), false)),
            _ => Some(encode(self.discover_rules(kind, &request, &key), false)),
        }
    }

    fn serves(&self, kind: Kind) -> bool {
        match kind {
            Kind::Instance | Kind::Services | Kind::Routing | Kind::RateLimit | Kind::CircuitBreaker => true,
            Kind::FaultDetector => self.behaviour.release >= Release::V1_14,
            Kind::Unknown | Kind::Cluster | Kind::Namespaces => false,
            _ => self.behaviour.newer_kinds,
        }
    }

    fn discover_instances(&mut self, request: &v1::DiscoverRequest, key: &ServiceKey) -> Option<Vec<u8>> {
        let answer = if let Some(answer) = self.answers.get(key) {
            Arc::clone(answer)
        } else {
            let shown = self.shown(key);
            if shown.is_empty() {
                return Some(encode(echo(400_202, request), false));
            }
            // Where a namespace has only what others export, the handler of main panics.
            let foreign = shown.iter().all(|shown| shown.key != *key) && !self.is_alias(key);
            if self.behaviour.release == Release::Main && foreign {
                return None;
            }
            let mut answer = Arc::new(self.instance_answer(key, &shown));
            if self.behaviour.stale_empty_lists && shown.iter().all(|shown| shown.instances.is_empty()) {
                answer = Arc::clone(self.first_told.entry(key.clone()).or_insert(answer));
            }
            self.answers.insert(key.clone(), Arc::clone(&answer));
            answer
        };
        let known = request.service.as_ref().and_then(|service| service.revision.as_deref()).unwrap_or_default();
        if known == answer.revision {
            return Some(encode(echo(NO_CHANGE, request), false));
        }
        Some(answer.bytes.clone())
    }

    fn is_alias(&self, key: &ServiceKey) -> bool {
        self.services.seen().get(key).is_some_and(|row| row.alias_of.is_some())
    }

    /// The asked service, or the one behind the alias, and what other namespaces export under the name.
    fn shown(&self, key: &ServiceKey) -> Vec<Shown> {
        let release = self.behaviour.release;
        let shown = |(key, row): (ServiceKey, Arc<ServiceRow>)| {
            let mut instances: Vec<_> = self.seen_instances(&key).cloned().collect();
            // In no order that means anything, and yet the same every time.
            instances.sort_by(|a, b| a.message.revision.cmp(&b.message.revision));
            Shown { key, row, instances }
        };
        let own = self.resolve(key).map(shown);
        let exports = match (release, &own) {
            (Release::Main, _) | (Release::V1_18, None) => self.exported(key),
            _ => Vec::new(),
        };
        own.into_iter().chain(exports.into_iter().map(shown)).collect()
    }

    fn exported(&self, key: &ServiceKey) -> Vec<(ServiceKey, Arc<ServiceRow>)> {
        let reaches = |list: &[String]| list.iter().any(|to| to == "*" || to == key.namespace());
        let exports = |of: &ServiceKey, row: &ServiceRow| {
            let namespace = self.namespaces.seen().get(of.namespace());
            reaches(&row.message.export_to) || namespace.is_some_and(|namespace| reaches(&namespace.service_export_to))
        };
        let others = self.services.seen().iter().filter(|(of, row)| {
            of.service() == key.service()
                && of.namespace() != key.namespace()
                && row.alias_of.is_none()
                && exports(of, row)
        });
        others.map(|(of, row)| (of.clone(), Arc::clone(row))).collect()
    }

    fn instance_answer(&self, key: &ServiceKey, shown: &[Shown]) -> InstanceAnswer {
        let release = self.behaviour.release;
        let revision = revision(release, shown);
        let mut ports: Vec<_> =
            shown.iter().flat_map(|shown| &shown.instances).filter_map(|row| row.message.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let ports: Vec<_> = ports.iter().map(u32::to_string).collect();
        let source = shown.first();
        let own = source.is_some_and(|source| source.key == *key || self.is_alias(key));
        let full = source.map(|source| source.row.message.clone()).unwrap_or_default();
        let service = v1::Service {
            namespace: Some(key.namespace().to_owned()),
            name: Some(key.service().to_owned()),
            revision: Some(revision.clone()),
            ports: Some(ports.join(",")),
            ..full.clone()
        };
        let alias_for = match release {
            Release::V1_14 => None,
            Release::V1_16 => source.map(|source| named(&source.key, std::collections::BTreeMap::new())),
            _ => Some(v1::Service { revision: full.revision.clone().filter(|_| own), ..full }),
        };
        let instances = shown.iter().flat_map(|shown| {
            let under = if release == Release::Main { &shown.key } else { key };
            shown.instances.iter().map(move |row| delivered(&row.message, under))
        });
        let response = v1::DiscoverResponse {
            instances: instances.collect(),
            alias_for,
            ..answered(Kind::Instance, Some(service))
        };
        let sources = shown.iter().map(|shown| shown.key.clone()).chain([key.clone()]).collect();
        InstanceAnswer { revision, bytes: encode(response, release == Release::Main), sources }
    }

    fn discover_services(&self, request: &v1::DiscoverRequest) -> v1::DiscoverResponse {
        let asked = request.service.clone().unwrap_or_default();
        let namespace = asked.namespace.clone().unwrap_or_default();
        let in_scope = |key: &ServiceKey| namespace.is_empty() || key.namespace() == namespace;
        let mut rows: Vec<_> = self.services.seen().iter().filter(|(key, _)| in_scope(key)).collect();
        if rows.is_empty() {
            return echo(OK, request);
        }
        rows.sort_by(|(_, a), (_, b)| a.message.revision.cmp(&b.message.revision));
        let revision = sha1::hex(rows.iter().filter_map(|(_, row)| row.message.revision.as_ref()));
        if asked.revision.as_ref() == Some(&revision) {
            return echo(NO_CHANGE, request);
        }
        let services = rows.into_iter().map(|(key, row)| {
            let metadata =
                self.resolve(key).map_or_else(|| row.message.metadata.clone(), |(_, row)| row.message.metadata.clone());
            named(key, metadata)
        });
        let service = v1::Service {
            namespace: asked.namespace,
            name: Some(asked.name.unwrap_or_default()),
            revision: Some(revision),
            ..Default::default()
        };
        v1::DiscoverResponse { services: services.collect(), ..answered(Kind::Services, Some(service)) }
    }
}

/// A full answer, apart from what it carries.
pub(super) fn answered(kind: Kind, service: Option<v1::Service>) -> v1::DiscoverResponse {
    v1::DiscoverResponse { r#type: kind.into(), service, ..super::answer::bare(OK) }
}

fn named(key: &ServiceKey, metadata: std::collections::BTreeMap<String, String>) -> v1::Service {
    v1::Service {
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.service().to_owned()),
        metadata,
        ..Default::default()
    }
}

fn revision(release: Release, shown: &[Shown]) -> String {
    let of = |shown: &Shown| {
        let own = shown.row.message.revision.iter();
        sha1::hex(own.chain(shown.instances.iter().filter_map(|row| row.message.revision.as_ref())))
    };
    if release < Release::Main {
        return shown.first().map(of).unwrap_or_default();
    }
    let parts: Vec<_> = shown.iter().filter(|shown| !shown.instances.is_empty()).map(of).collect();
    match parts.as_slice() {
        [one] => one.clone(),
        parts => sha1::hex(parts),
    }
}

/// An instance as clients see it: the server writes version, protocol and place into the metadata.
fn delivered(stored: &v1::Instance, under: &ServiceKey) -> v1::Instance {
    let mut instance = stored.clone();
    instance.namespace = Some(under.namespace().to_owned());
    instance.service = Some(under.service().to_owned());
    instance.service_token = None;
    if ttl(stored).is_none() {
        (instance.health_check, instance.enable_health_check) = (None, None);
    }
    let texts = [("version", &stored.version), ("protocol", &stored.protocol)];
    let given = texts.into_iter().filter_map(|(key, text)| Some((key, text.clone().filter(|text| !text.is_empty())?)));
    instance.metadata.extend(given.map(|(key, text)| (key.to_owned(), text)));
    if let Some(v1::Location { region, zone, campus }) = &stored.location {
        let place = [("region", region), ("zone", zone), ("campus", campus)];
        instance.metadata.extend(place.map(|(key, text)| (key.to_owned(), text.clone().unwrap_or_default())));
    }
    instance
}
