//! A part of a service's instances, never empty: what routers narrow and balancers pick from.
//!
//! A subset shares its snapshot and carries positions in it, so that no instance is cloned on the way down a chain. It
//! cannot be empty, so that "nothing to pick" is decided where a subset is made and never where one is used.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use crate::model::health::{Load, Slot};
use crate::model::instance::Instance;
use crate::model::metadata::Metadata;
use crate::model::service::ServiceInstances;
use crate::util::hash::NameHash;

/// A snapshot and the cells of its instances, position by position.
pub(crate) struct Base {
    instances: Arc<ServiceInstances>,
    slots: Box<[Arc<Slot>]>,
    /// Weights that take the place of the instances' own.
    weights: Option<Box<[u32]>>,
    classes: OnceLock<Classes>,
}

/// Instances by equal metadata, of which a service has few kinds; found when somebody asks by metadata.
struct Classes {
    metadata: Vec<Metadata>,
    /// By position.
    of: Box<[u32]>,
}

/// The instances that a balancer may choose from: some of one snapshot, at least one, sorted by id as bytes.
///
/// It never changes, but for the [`Load`] of its instances. Places are counted from 0. Cheap to clone.
#[derive(Clone)]
pub struct Subset {
    base: Arc<Base>,
    /// Ascending; without a list it is the whole snapshot.
    positions: Option<Arc<[u32]>>,
    len: NonZeroUsize,
}

// === impl Base ===

impl Base {
    /// Pairs a snapshot with its slots; instances beyond the shorter of the two would have none, so none may be missing.
    pub(crate) fn new(instances: Arc<ServiceInstances>, slots: Vec<Arc<Slot>>) -> Self {
        Self::with_weights(instances, slots, None)
    }

    /// As [`Self::new`], with weights by position that take the place of the instances' own; where the list ends, an
    /// instance keeps its own.
    pub(crate) fn with_weights(
        instances: Arc<ServiceInstances>,
        mut slots: Vec<Arc<Slot>>,
        weights: Option<Vec<u32>>,
    ) -> Self {
        slots.resize_with(instances.len(), Arc::default);
        Self { instances, slots: slots.into(), weights: weights.map(Vec::into_boxed_slice), classes: OnceLock::new() }
    }

    pub(crate) fn instances(&self) -> &Arc<ServiceInstances> {
        &self.instances
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    fn classes(&self) -> &Classes {
        self.classes.get_or_init(|| {
            // Equal sets are shared by their snapshot, so the place in memory tells them apart; two that are not shared
            // are merely asked about twice.
            let mut known: HashMap<usize, u32, NameHash> = HashMap::default();
            let mut metadata = Vec::new();
            let of = self.instances.instances().iter().map(|instance| {
                *known.entry(instance.metadata().place()).or_insert_with(|| {
                    metadata.push(instance.metadata().clone());
                    u32::try_from(metadata.len() - 1).unwrap_or(u32::MAX)
                })
            });
            let of = of.collect();
            Classes { metadata, of }
        })
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
    #[must_use]
    pub fn len(&self) -> NonZeroUsize {
        self.len
    }

    /// The instance at `index`; `None` beyond the end.
    #[inline]
    #[must_use]
    pub fn instance(&self, index: usize) -> Option<&Instance> {
        self.base.instances.instances().get(self.position(index)?)
    }

    /// The load that this client puts on the instance at `index`, as of now; `None` beyond the end.
    #[inline]
    #[must_use]
    pub fn load(&self, index: usize) -> Option<Load> {
        self.slot(index).map(|slot| slot.load())
    }

    /// The weight by which the instance at `index` is to be chosen: an adjusted one (of an instance that warms up), else
    /// [`Instance::weight`]. 0 takes no calls, unless nobody has a weight; 0 beyond the end.
    #[inline]
    #[must_use]
    pub fn weight(&self, index: usize) -> u32 {
        let Some(position) = self.position(index) else { return 0 };
        let adjusted = self.base.weights.as_ref().and_then(|weights| weights.get(position));
        let own = || self.base.instances.instances().get(position).map_or(0, Instance::weight);
        adjusted.copied().unwrap_or_else(own)
    }

    #[inline]
    pub(crate) fn slot(&self, index: usize) -> Option<&Arc<Slot>> {
        self.base.slots.get(self.position(index)?)
    }

    /// The instances in order.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        (0..self.len.get()).filter_map(|index| self.instance(index))
    }

    /// The snapshot that it is a part of.
    pub(crate) fn snapshot(&self) -> &Arc<ServiceInstances> {
        &self.base.instances
    }

    /// The instance at `index`, with its position in the snapshot.
    pub(crate) fn at(&self, index: usize) -> Option<(u32, &Instance)> {
        let position = self.position(index)?;
        Some((u32::try_from(position).ok()?, self.base.instances.instances().get(position)?))
    }

    /// The instances in order, with their positions in the snapshot.
    pub(crate) fn with_positions(&self) -> impl Iterator<Item = (u32, &Instance)> {
        (0..self.len.get()).filter_map(|index| self.at(index))
    }

    /// Those instances that `keep` says yes to; `None` if it never does.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&Instance) -> bool) -> Option<Self> {
        self.filter_at(|_, instance| keep(instance))
    }

    /// Those instances whose metadata `keep` says yes to. Instances with the same metadata are asked about once.
    pub(crate) fn filter_by_metadata(&self, mut keep: impl FnMut(&Metadata) -> bool) -> Option<Self> {
        let classes = self.base.classes();
        let mut answers = vec![None; classes.metadata.len()];
        self.filter_at(|position, _| {
            let Some(class) = classes.of.get(position as usize).map(|class| *class as usize) else { return false };
            match (answers.get_mut(class), classes.metadata.get(class)) {
                (Some(answer), Some(metadata)) => *answer.get_or_insert_with(|| keep(metadata)),
                _ => false,
            }
        })
    }

    /// Whether both have the same instances of the same snapshot.
    pub(crate) fn same_instances(&self, other: &Self) -> bool {
        let alike = match (&self.positions, &other.positions) {
            (Some(own), Some(others)) => own == others,
            (None, None) => true,
            _ => false,
        };
        alike && self.len == other.len && Arc::ptr_eq(&self.base, &other.base)
    }

    /// Equal for subsets with the same instances.
    pub(crate) fn positions_hash(&self) -> u64 {
        NameHash.hash_one((self.len, &self.positions))
    }

    /// Those instances that `keep` says yes to, given their position in the snapshot; `None` if it never does.
    pub(crate) fn filter_at(&self, mut keep: impl FnMut(u32, &Instance) -> bool) -> Option<Self> {
        let mut kept = Vec::new();
        for (position, instance) in self.with_positions() {
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

    /// [`weighted`], where the instance at each place carries the load that `edit` puts on its slot.
    pub(crate) fn loaded(weights: &[u32], edit: impl Fn(usize, &Slot)) -> Subset {
        let subset = weighted(weights);
        (0..weights.len()).for_each(|index| edit(index, subset.slot(index).unwrap()));
        subset
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
        assert!(weighted(&[1, 2]).filter_at(|_, _| false).is_none());
    }

    #[test]
    fn filters_narrow_and_keep_positions_of_the_snapshot() {
        let whole = subset(6, |_, _| {});
        let even = whole.filter_at(|position, _| position % 2 == 0).unwrap();
        assert_eq!(ids(&even), ["i00000", "i00002", "i00004"]);
        let last = even.filter_at(|position, _| position > 2).unwrap();
        assert_eq!((ids(&last), last.len().get()), (vec!["i00004"], 1));
        assert!(last.instance(1).is_none() && last.load(1).is_none());
        assert!(Arc::ptr_eq(last.slot(0).unwrap(), &whole.base.slots()[4]), "slots go with positions");
    }

    #[test]
    fn adjusted_weights_go_with_positions_and_own_ones_fill_in() {
        let instances = snapshot(4, |n, parts| parts.weight = [10, 20, 30, 40][n]);
        let adjusted = Arc::new(Base::with_weights(Arc::clone(&instances), Vec::new(), Some(vec![1, 0, 3])));
        let weights = |subset: &Subset| (0..5).map(|index| subset.weight(index)).collect::<Vec<_>>();
        let whole = Subset::whole(&adjusted).unwrap();
        assert_eq!(weights(&whole), [1, 0, 3, 40, 0]);
        assert_eq!(weights(&whole.filter_at(|position, _| position > 1).unwrap()), [3, 40, 0, 0, 0]);
        assert_eq!(weights(&Subset::whole(&base(&instances)).unwrap()), [10, 20, 30, 40, 0]);
    }

    #[test]
    fn a_filter_that_keeps_everything_copies_nothing() {
        let some = subset(4, |_, _| {}).filter_at(|position, _| position > 0).unwrap();
        let again = some.filter_at(|_, _| true).unwrap();
        assert!(Arc::ptr_eq(some.positions.as_ref().unwrap(), again.positions.as_ref().unwrap()));
    }
}
