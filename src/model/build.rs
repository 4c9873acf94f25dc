//! Builds snapshots: checks each instance, interns what instances share, and orders them by id.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::model::instance::{Data, Instance, InstanceId, Shared};
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
///
/// What instances share is looked up by the hash of the borrowed parts, so that an instance like those before it costs
/// its own three allocations (id, authority, data) and no more. Two sets with equal hashes are compared, and merely not
/// shared when they differ.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    key: ServiceKey,
    /// With the first bytes of the id, by which nearly every comparison of the sort is decided.
    instances: Vec<(u64, Data)>,
    hasher: RandomState,
    strings: HashSet<Arc<str>>,
    shared: HashMap<u64, Arc<Shared>>,
    metadata: HashMap<u64, Metadata>,
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
        Self {
            key,
            instances: Vec::new(),
            hasher: RandomState::new(),
            strings: HashSet::new(),
            shared: HashMap::new(),
            metadata: HashMap::new(),
        }
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
        let metadata = self.intern_metadata(metadata);
        let data = Data {
            id: InstanceId::new(&self.key, id),
            authority: authority.into(),
            port,
            healthy: parts.healthy,
            isolated: parts.isolated,
            weight: parts.weight,
            shared,
            metadata,
        };
        self.instances.push((prefix(data.id.as_str()), data));
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
        self.instances.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)));
        self.instances.dedup_by(|later, kept| later.0 == kept.0 && later.1.id == kept.1.id);
        ServiceInstances {
            key: self.key,
            revision,
            metadata: metadata.into_iter().collect(),
            alias_for,
            // Allocated one after the other, in order: a pick touches one of them at random, and what lies close together
            // is found in fewer pages.
            instances: self.instances.into_iter().map(|(_, data)| Instance::from_data(data)).collect(),
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

    fn intern_metadata<'m>(&mut self, pairs: impl IntoIterator<Item = (&'m str, &'m str)>) -> Metadata {
        let pairs: Vec<_> = pairs.into_iter().collect();
        if pairs.is_empty() {
            return Metadata::default();
        }
        // In the order given: the same pairs in another order are found again only after they were put in order.
        let hash = self.hasher.hash_one(&pairs);
        if let Some(known) = self.metadata.get(&hash).filter(|known| known.iter().eq(pairs.iter().copied())) {
            return known.clone();
        }
        let pairs = pairs.into_iter().map(|(key, value)| (self.intern(key), self.intern(value))).collect();
        let metadata = Metadata::from_pairs(pairs);
        let hash = self.hasher.hash_one(metadata.iter().collect::<Vec<_>>());
        let known = self.metadata.entry(hash).or_insert_with(|| metadata.clone());
        if *known == metadata { known.clone() } else { metadata }
    }

    fn intern_shared(&mut self, parts: &InstanceParts<'_>) -> Arc<Shared> {
        let hash = self.hasher.hash_one((parts.protocol, parts.version, parts.location));
        let (region, zone, campus) = parts.location;
        let same = |known: &Shared| {
            let place = &known.location;
            *known.protocol == *parts.protocol
                && *known.version == *parts.version
                && place.region == region
                && place.zone == zone
                && place.campus == campus
        };
        if let Some(known) = self.shared.get(&hash).filter(|known| same(known)) {
            return Arc::clone(known);
        }
        let shared = Arc::new(Shared {
            protocol: parts.protocol.into(),
            version: parts.version.into(),
            location: Location::new(region, zone, campus),
        });
        self.shared.insert(hash, Arc::clone(&shared));
        shared
    }
}

/// The first bytes of an id as a number that orders as they do; equal numbers say nothing yet.
fn prefix(id: &str) -> u64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(id.bytes()) {
        *to = from;
    }
    u64::from_be_bytes(first)
}

/// `host:port`, with brackets around an IPv6 host, in one allocation of the size it keeps.
fn authority(host: &str, port: u16) -> String {
    let brackets = host.contains(':');
    let digits = port.checked_ilog10().map_or(1, |tens| tens as usize + 1);
    let mut text = String::with_capacity(host.len() + 1 + digits + if brackets { 2 } else { 0 });
    text.push_str(if brackets { "[" } else { "" });
    text.push_str(host);
    text.push_str(if brackets { "]:" } else { ":" });
    // Writing to a string cannot fail.
    let _ = write!(text, "{port}");
    text
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
    fn equal_labels_are_held_once_whatever_their_order() {
        let mut builder = SnapshotBuilder::new(key());
        for (id, pairs) in
            [("a", [("k", "1"), ("l", "2")]), ("b", [("l", "2"), ("k", "1")]), ("c", [("k", "1"), ("l", "2")])]
        {
            builder.push(InstanceParts { id, host: "h", version: "1", ..InstanceParts::default() }, pairs).unwrap();
        }
        let snapshot = builder.finish(Revision::default(), [], None);
        let address = |id: &str| snapshot.get(id).unwrap().metadata().get("k").unwrap().as_ptr();
        assert!(address("a") == address("b") && address("b") == address("c"));
        let versions = ["a", "b", "c"].map(|id| snapshot.get(id).unwrap().version().as_ptr());
        assert!(versions[0] == versions[1] && versions[1] == versions[2]);
    }

    #[test]
    fn ids_that_begin_alike_are_ordered_by_their_ends() {
        let mut builder = SnapshotBuilder::new(key());
        for id in ["12345678b", "12345678", "1234567", "12345678a", "12345678\0"] {
            builder.push(InstanceParts { id, host: "h", ..InstanceParts::default() }, []).unwrap();
        }
        let snapshot = builder.finish(Revision::default(), [], None);
        let ids: Vec<_> = snapshot.instances().iter().map(|i| i.id().as_str()).collect();
        assert_eq!(ids, ["1234567", "12345678", "12345678\0", "12345678a", "12345678b"]);
    }

    #[test]
    fn the_authority_is_the_one_of_an_address() {
        for (host, port) in [("h", 0), ("h", 9), ("h", 10), ("::1", 65_535), ("", 1)] {
            let text = authority(host, port);
            assert_eq!(text, crate::model::instance::authority(host, port));
            assert_eq!(text.len(), text.capacity());
        }
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
