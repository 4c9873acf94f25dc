//! A part of a service's instances, never empty: what routers narrow and balancers pick from.
//!
//! A subset shares its snapshot and carries positions in it, so that no instance is cloned on the way down a chain. It
//! cannot be empty, so that "nothing to pick" is decided where a subset is made and never where one is used.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::model::health::{Load, Slot};
use crate::model::instance::Instance;
use crate::model::service::ServiceInstances;

/// A snapshot and the cells of its instances, position by position.
pub(crate) struct Base {
    instances: Arc<ServiceInstances>,
    slots: Box<[Arc<Slot>]>,
}

/// Some of the instances of one snapshot, at least one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Subset {
    base: Arc<Base>,
    /// Ascending; without a list it is the whole snapshot.
    positions: Option<Arc<[u32]>>,
    len: NonZeroUsize,
}

// === impl Base ===

impl Base {
    /// Pairs a snapshot with its slots; instances beyond the shorter of the two would have none, so none may be missing.
    pub(crate) fn new(instances: Arc<ServiceInstances>, mut slots: Vec<Arc<Slot>>) -> Self {
        slots.resize_with(instances.len(), Arc::default);
        Self { instances, slots: slots.into() }
    }

    pub(crate) fn instances(&self) -> &Arc<ServiceInstances> {
        &self.instances
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// The slot of the instance with this id.
    pub(crate) fn slot_of(&self, id: &str) -> Option<&Arc<Slot>> {
        self.slots.get(self.instances.position(id)?)
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Base").field(&self.instances).finish()
    }
}

// === impl Subset ===

impl Subset {
    /// All instances of a snapshot; `None` if it has none.
    pub(crate) fn whole(base: &Arc<Base>) -> Option<Self> {
        let len = NonZeroUsize::new(base.instances.len())?;
        Some(Self { base: Arc::clone(base), positions: None, len })
    }

    /// How many instances it has.
    pub(crate) fn len(&self) -> NonZeroUsize {
        self.len
    }

    /// The instance at `index`, which counts within the subset; `None` beyond its end.
    #[inline]
    pub(crate) fn instance(&self, index: usize) -> Option<&Instance> {
        self.base.instances.instances().get(self.position(index)?)
    }

    /// The load of the instance at `index`.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by balancers that look at load"))]
    pub(crate) fn load(&self, index: usize) -> Option<Load> {
        self.slot(index).map(|slot| slot.load())
    }

    #[inline]
    pub(crate) fn slot(&self, index: usize) -> Option<&Arc<Slot>> {
        self.base.slots.get(self.position(index)?)
    }

    /// The instances in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Instance> {
        (0..self.len.get()).filter_map(|index| self.instance(index))
    }

    /// The snapshot that it is a part of.
    pub(crate) fn snapshot(&self) -> &Arc<ServiceInstances> {
        &self.base.instances
    }

    /// Those instances that `keep` says yes to, given their position in the snapshot; `None` if it never does.
    pub(crate) fn filter(&self, mut keep: impl FnMut(u32, &Instance) -> bool) -> Option<Self> {
        let mut kept = Vec::new();
        for index in 0..self.len.get() {
            let Some(position) = self.position(index) else { continue };
            let Some(instance) = self.base.instances.instances().get(position) else { continue };
            let Ok(position) = u32::try_from(position) else { continue };
            if keep(position, instance) {
                kept.push(position);
            }
        }
        let len = NonZeroUsize::new(kept.len())?;
        // What keeps everything shares the list, which spares four bytes an instance a router.
        if len == self.len {
            return Some(self.clone());
        }
        Some(Self { base: Arc::clone(&self.base), positions: Some(kept.into()), len })
    }

    #[inline]
    fn position(&self, index: usize) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(index).map(|position| *position as usize),
            None => (index < self.len.get()).then_some(index),
        }
    }
}

impl fmt::Debug for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subset")
            .field("service", &format_args!("{}", self.base.instances.key()))
            .field("len", &self.len)
            .field("of", &self.base.instances.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Snapshots for the tests of the layers above.

    use super::*;
    use crate::model::build::{InstanceParts, SnapshotBuilder};
    use crate::model::key::{Revision, ServiceKey};

    /// A service of instances `i00000`, `i00001`, … each changed by `edit`.
    pub(crate) fn snapshot(count: usize, edit: impl Fn(usize, &mut InstanceParts<'_>)) -> Arc<ServiceInstances> {
        let mut builder = SnapshotBuilder::new(ServiceKey::new("default", "a"));
        for n in 0..count {
            let id = format!("i{n:05}");
            let mut parts = InstanceParts { id: &id, host: "10.0.0.1", port: 80, ..InstanceParts::default() };
            edit(n, &mut parts);
            builder.push(parts, []).unwrap();
        }
        Arc::new(builder.finish(Revision::new("r"), [], None))
    }

    pub(crate) fn base(instances: &Arc<ServiceInstances>) -> Arc<Base> {
        Arc::new(Base::new(Arc::clone(instances), Vec::new()))
    }

    /// The whole of [`snapshot`].
    pub(crate) fn subset(count: usize, edit: impl Fn(usize, &mut InstanceParts<'_>)) -> Subset {
        Subset::whole(&base(&snapshot(count, edit))).unwrap()
    }

    /// One instance for each weight.
    pub(crate) fn weighted(weights: &[u32]) -> Subset {
        subset(weights.len(), |n, parts| parts.weight = weights[n])
    }

    pub(crate) fn ids(subset: &Subset) -> Vec<&str> {
        subset.iter().map(|instance| instance.id().as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{base, ids, snapshot, subset, weighted};
    use super::*;

    #[test]
    fn an_empty_subset_cannot_be_made() {
        assert!(Subset::whole(&base(&snapshot(0, |_, _| {}))).is_none());
        assert!(weighted(&[1, 2]).filter(|_, _| false).is_none());
    }

    #[test]
    fn filters_narrow_and_keep_positions_of_the_snapshot() {
        let whole = subset(6, |_, _| {});
        let even = whole.filter(|position, _| position % 2 == 0).unwrap();
        assert_eq!(ids(&even), ["i00000", "i00002", "i00004"]);
        let last = even.filter(|position, _| position > 2).unwrap();
        assert_eq!((ids(&last), last.len().get()), (vec!["i00004"], 1));
        assert!(last.instance(1).is_none() && last.load(1).is_none());
        assert!(Arc::ptr_eq(last.slot(0).unwrap(), &whole.base.slots()[4]), "slots go with positions");
    }

    #[test]
    fn a_filter_that_keeps_everything_copies_nothing() {
        let some = subset(4, |_, _| {}).filter(|position, _| position > 0).unwrap();
        let again = some.filter(|_, _| true).unwrap();
        assert!(Arc::ptr_eq(some.positions.as_ref().unwrap(), again.positions.as_ref().unwrap()));
    }
}
