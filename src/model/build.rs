//! Builds snapshots: checks each instance, interns what instances share, and orders them by id.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::instance::{Data, Instance, InstanceId, Shared, authority};
use crate::model::key::{Revision, ServiceKey};
use crate::model::location::Location;
use crate::model::metadata::Metadata;
use crate::model::service::ServiceInstances;

/// One instance in borrowed parts, from whatever source: the wire, a data file, a fixed list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstanceParts<'a> {
    pub(crate) id: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: u32,
    pub(crate) protocol: &'a str,
    pub(crate) version: &'a str,
    pub(crate) weight: u32,
    pub(crate) healthy: bool,
    pub(crate) isolated: bool,
    pub(crate) location: (&'a str, &'a str, &'a str),
}

/// Why an instance cannot be used. It is left out; its neighbours stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidInstance {
    #[error("instance {0:?} has no host")]
    NoHost(String),
    #[error("instance {id:?} has port {port}, above 65535")]
    Port { id: String, port: u32 },
}

/// Collects the instances of one service into a snapshot.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    key: ServiceKey,
    instances: Vec<Instance>,
    strings: HashSet<Arc<str>>,
    shared: HashSet<Arc<Shared>>,
    metadata: HashSet<Metadata>,
}

impl Default for InstanceParts<'_> {
    fn default() -> Self {
        // Weight and health as a server reads a registration that does not name them.
        Self {
            id: "",
            host: "",
            port: 0,
            protocol: "",
            version: "",
            weight: 100,
            healthy: true,
            isolated: false,
            location: ("", "", ""),
        }
    }
}

impl SnapshotBuilder {
    pub(crate) fn new(key: ServiceKey) -> Self {
        Self { key, instances: Vec::new(), strings: HashSet::new(), shared: HashSet::new(), metadata: HashSet::new() }
    }

    pub(crate) fn reserve(&mut self, instances: usize) {
        self.instances.reserve_exact(instances);
    }

    /// Adds an instance. Without an id it gets `host:port` for one: a server always sends ids, a fixed list need not.
    pub(crate) fn push<'m>(
        &mut self,
        parts: InstanceParts<'_>,
        metadata: impl IntoIterator<Item = (&'m str, &'m str)>,
    ) -> Result<(), InvalidInstance> {
        if parts.host.is_empty() {
            return Err(InvalidInstance::NoHost(parts.id.to_owned()));
        }
        let port = u16::try_from(parts.port)
            .map_err(|_| InvalidInstance::Port { id: parts.id.to_owned(), port: parts.port })?;
        let authority = authority(parts.host, port);
        let id: Arc<str> = if parts.id.is_empty() { authority.as_str().into() } else { parts.id.into() };
        let shared = self.intern_shared(&parts);
        let pairs = metadata.into_iter().map(|(key, value)| (self.intern(key), self.intern(value))).collect();
        let metadata = intern_in(&mut self.metadata, Metadata::from_pairs(pairs));
        self.instances.push(Instance::from_data(Data {
            id: InstanceId::new(&self.key, id),
            authority: authority.into(),
            port,
            healthy: parts.healthy,
            isolated: parts.isolated,
            weight: parts.weight,
            shared,
            metadata,
        }));
        Ok(())
    }

    /// The snapshot. Of instances with equal ids the last one stays.
    pub(crate) fn finish<'m>(
        mut self,
        revision: Revision,
        metadata: impl IntoIterator<Item = (&'m str, &'m str)>,
        alias_for: Option<ServiceKey>,
    ) -> ServiceInstances {
        // The sort is stable and the reversal puts the last of equal ids first, which is the one that dedup keeps.
        self.instances.reverse();
        self.instances.sort_by(|a, b| a.id().cmp(b.id()));
        self.instances.dedup_by(|later, kept| later.id() == kept.id());
        ServiceInstances {
            key: self.key,
            revision,
            metadata: metadata.into_iter().collect(),
            alias_for,
            instances: self.instances.into(),
        }
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&text));
        text
    }

    fn intern_shared(&mut self, parts: &InstanceParts<'_>) -> Arc<Shared> {
        let (region, zone, campus) = parts.location;
        intern_in(
            &mut self.shared,
            Arc::new(Shared {
                protocol: parts.protocol.into(),
                version: parts.version.into(),
                location: Location::new(region, zone, campus),
            }),
        )
    }
}

fn intern_in<T: Hash + Eq + Clone>(set: &mut HashSet<T>, value: T) -> T {
    match set.get(&value) {
        Some(known) => known.clone(),
        None => {
            set.insert(value.clone());
            value
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ServiceKey {
        ServiceKey::new("default", "a")
    }

    #[test]
    fn instances_are_ordered_by_id_and_share_equal_metadata() {
        let mut builder = SnapshotBuilder::new(key());
        for id in ["c", "a", "b"] {
            let parts = InstanceParts { id, host: "h", port: 1, ..InstanceParts::default() };
            builder.push(parts, [("env", "prod")]).unwrap();
        }
        let snapshot = builder.finish(Revision::new("r"), [], None);
        let ids: Vec<_> = snapshot.instances().iter().map(|i| i.id().as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        assert_eq!(snapshot.get("b").unwrap().metadata().get("env"), Some("prod"));
        assert!(snapshot.get("d").is_none());
    }

    #[test]
    fn of_equal_ids_the_last_stays() {
        let mut builder = SnapshotBuilder::new(key());
        for weight in [1, 2] {
            builder.push(InstanceParts { id: "x", host: "h", weight, ..InstanceParts::default() }, []).unwrap();
        }
        let snapshot = builder.finish(Revision::default(), [], None);
        assert_eq!((snapshot.len(), snapshot.instances()[0].weight()), (1, 2));
    }

    #[test]
    fn an_unusable_instance_is_refused_and_named() {
        let mut builder = SnapshotBuilder::new(key());
        let no_host = builder.push(InstanceParts { id: "x", ..InstanceParts::default() }, []).unwrap_err();
        assert_eq!(no_host.to_string(), "instance \"x\" has no host");
        let port = InstanceParts { id: "y", host: "h", port: 70_000, ..InstanceParts::default() };
        assert_eq!(builder.push(port, []).unwrap_err().to_string(), "instance \"y\" has port 70000, above 65535");
        assert!(builder.finish(Revision::default(), [], None).is_empty());
    }
}
