//! Snapshots: the instances of one service, the services of one namespace. Immutable once built.

use std::cmp::Ordering;
use std::fmt;

use crate::model::instance::Instance;
use crate::model::key::{Revision, ServiceKey};
use crate::model::metadata::Metadata;
use crate::model::namespace::Namespace;

/// All instances of one service at one revision, unhealthy and isolated ones included, ordered by id.
///
/// The order is that of the ids' bytes, so that two clients with the same data hash a key to the same instance.
#[derive(Clone)]
pub struct ServiceInstances {
    pub(crate) key: ServiceKey,
    pub(crate) revision: Revision,
    pub(crate) metadata: Metadata,
    pub(crate) alias_for: Option<ServiceKey>,
    pub(crate) instances: Box<[Instance]>,
}

/// The services of one namespace at one revision, ordered by name; aliases are among them under their own names.
#[derive(Clone)]
pub struct ServiceList {
    pub(crate) namespace: Namespace,
    pub(crate) revision: Revision,
    pub(crate) services: Box<[ServiceInfo]>,
}

/// A service as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    pub(crate) key: ServiceKey,
    pub(crate) metadata: Metadata,
}

/// What happened to one instance between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceChange<'a> {
    /// It was not there before.
    Added(&'a Instance),
    /// The same id with other content.
    #[non_exhaustive]
    Updated {
        /// As it was.
        old: &'a Instance,
        /// As it is.
        new: &'a Instance,
    },
    /// It is not there any more.
    Removed(&'a Instance),
}

// === impl ServiceInstances ===

impl ServiceInstances {
    /// A list of these instances, of the service that `like` is of.
    pub(crate) fn of(like: &Self, mut instances: Vec<Instance>) -> Self {
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        instances.dedup_by(|a, b| a.id() == b.id());
        Self { instances: instances.into(), ..like.clone() }
    }

    /// The service that was asked for; of an alias, the alias.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// The revision that the control plane gave it.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// The metadata of the service.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The service behind an alias.
    #[must_use]
    pub fn alias_for(&self) -> Option<&ServiceKey> {
        self.alias_for.as_ref()
    }

    /// All instances, ordered by id.
    #[must_use]
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Those that the control plane holds for healthy, without isolated ones and ones of weight 0.
    pub fn healthy(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|i| i.is_healthy() && !i.is_isolated() && i.weight() > 0)
    }

    /// How many instances there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The instance with this id. Takes time logarithmic in their number.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Instance> {
        self.instances.get(self.position(id)?)
    }

    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.instances.binary_search_by(|i| i.id().as_str().cmp(id)).ok()
    }

    /// What changed since `old`; without it, every instance is an addition. Ordered by id.
    ///
    /// ```
    /// # use polarismesh::{InstanceChange, ServiceInstances};
    /// fn apply(new: &ServiceInstances, old: Option<&ServiceInstances>) {
    ///     for change in new.diff(old) {
    ///         match change {
    ///             InstanceChange::Added(instance) => println!("+ {}", instance.authority()),
    ///             InstanceChange::Removed(instance) => println!("- {}", instance.authority()),
    ///             _ => {}
    ///         }
    ///     }
    /// }
    /// ```
    pub fn diff<'a>(&'a self, old: Option<&'a Self>) -> impl Iterator<Item = InstanceChange<'a>> {
        let mut old = old.map_or(&[][..], |old| &old.instances).iter().peekable();
        let mut new = self.instances.iter().peekable();
        // Both sides are ordered by id: one walk over the two. Equal pairs yield nothing.
        std::iter::from_fn(move || {
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some(before), Some(after)) => before.id().cmp(after.id()),
                };
                match order {
                    Ordering::Less => return old.next().map(InstanceChange::Removed),
                    Ordering::Greater => return new.next().map(InstanceChange::Added),
                    Ordering::Equal => match (old.next(), new.next()) {
                        (Some(before), Some(after)) if before != after => {
                            return Some(InstanceChange::Updated { old: before, new: after });
                        }
                        _ => {}
                    },
                }
            }
        })
    }

    /// Whether both say the same, whatever their revisions: servers number equal content anew at times.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.metadata == other.metadata && self.alias_for == other.alias_for && self.instances == other.instances
    }

    /// Takes over what did not change from `previous`, so that both share it in memory.
    pub(crate) fn share_with(&mut self, previous: &Self) {
        let mut before = previous.instances.iter().peekable();
        for instance in &mut self.instances {
            while before.next_if(|b| b.id() < instance.id()).is_some() {}
            if let Some(same) = before.next_if(|b| *b == instance) {
                *instance = same.clone();
            }
        }
    }
}

impl fmt::Debug for ServiceInstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceInstances")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

// === impl ServiceList ===

impl ServiceList {
    /// The namespace; empty where the services of all namespaces were asked for.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The revision that the control plane gave the list.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// The services, ordered by key.
    #[must_use]
    pub fn services(&self) -> &[ServiceInfo] {
        &self.services
    }

    /// How many services there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.services == other.services
    }
}

impl fmt::Debug for ServiceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceList")
            .field("namespace", &self.namespace)
            .field("revision", &self.revision)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

// === impl ServiceInfo ===

impl ServiceInfo {
    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// The metadata of the service.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{InstanceParts, SnapshotBuilder};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn snapshot(weights: &BTreeMap<u8, u32>) -> ServiceInstances {
        let mut builder = SnapshotBuilder::new(ServiceKey::new("default", "a"));
        for (id, weight) in weights {
            let id = id.to_string();
            let parts = InstanceParts { id: &id, host: "h", port: 1, weight: *weight, ..InstanceParts::default() };
            builder.push(parts, []).unwrap();
        }
        builder.finish(Revision::default(), [], None)
    }

    proptest! {
        #[test]
        fn a_diff_turns_the_old_list_into_the_new_one(
            before in proptest::collection::btree_map(0u8..20, 0u32..3, 0..12),
            after in proptest::collection::btree_map(0u8..20, 0u32..3, 0..12),
        ) {
            let (old, new) = (snapshot(&before), snapshot(&after));
            let mut replayed: BTreeMap<String, u32> =
                before.iter().map(|(id, weight)| (id.to_string(), *weight)).collect();
            for change in new.diff(Some(&old)) {
                let (i, fresh) = match change {
                    InstanceChange::Added(i) => (i, replayed.insert(i.id().to_string(), i.weight()).is_none()),
                    InstanceChange::Updated { old, new } => {
                        prop_assert_ne!(old, new);
                        (new, replayed.insert(new.id().to_string(), new.weight()) == Some(old.weight()))
                    }
                    InstanceChange::Removed(i) => (i, replayed.remove(i.id().as_str()).is_some()),
                };
                prop_assert!(fresh, "{i} is reported as what it is, once");
            }
            prop_assert_eq!(replayed, after.iter().map(|(id, weight)| (id.to_string(), *weight)).collect());
            prop_assert_eq!(new.diff(None).count(), new.len());
            prop_assert_eq!(new.diff(Some(&new)).count(), 0);
        }

        #[test]
        fn sharing_with_an_older_snapshot_changes_no_content(
            before in proptest::collection::btree_map(0u8..20, 0u32..3, 0..12),
            after in proptest::collection::btree_map(0u8..20, 0u32..3, 0..12),
        ) {
            let (old, plain) = (snapshot(&before), snapshot(&after));
            let mut shared = plain.clone();
            shared.share_with(&old);
            prop_assert!(shared.same_content(&plain));
        }
    }
}
