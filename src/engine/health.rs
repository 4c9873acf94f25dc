//! Carries slots from one snapshot to the next, so that load and breakers outlive their snapshot.

use std::sync::Arc;

use crate::model::health::Slot;
use crate::model::service::ServiceInstances;
use crate::model::subset::Base;

/// After how many instances long work lets other tasks run.
pub(crate) const CHUNK: usize = 4096;

/// The slots for `next`: an instance that was in `previous` keeps its own, a new one gets an empty one.
///
/// Both lists are ordered by id, so it is one walk over the two.
pub(crate) async fn carry_over(next: &ServiceInstances, previous: Option<&Base>) -> Vec<Arc<Slot>> {
    let mut slots = Vec::with_capacity(next.len());
    let mut before =
        previous.map(|base| base.instances().instances().iter().zip(base.slots())).into_iter().flatten().peekable();
    for chunk in next.instances().chunks(CHUNK) {
        for instance in chunk {
            while before.next_if(|(old, _)| old.id() < instance.id()).is_some() {}
            let kept = before.next_if(|(old, _)| old.id() == instance.id());
            slots.push(kept.map_or_else(Arc::default, |(_, slot)| Arc::clone(slot)));
        }
        tokio::task::yield_now().await;
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::Breaker;
    use crate::model::subset::fixture::{base, snapshot};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn of(ids: &BTreeSet<u16>) -> Arc<ServiceInstances> {
        let all = snapshot(0, |_, _| {});
        let mut builder = crate::model::build::SnapshotBuilder::new(all.key().clone());
        for id in ids {
            let id = id.to_string();
            let parts = crate::model::build::InstanceParts { id: &id, host: "h", ..Default::default() };
            builder.push(parts, []).unwrap();
        }
        Arc::new(builder.finish(crate::model::key::Revision::default(), [], None))
    }

    proptest! {
        #[test]
        fn a_slot_goes_with_its_id_and_new_ids_get_empty_ones(
            old in proptest::collection::btree_set(0u16..40, 0..30),
            new in proptest::collection::btree_set(0u16..40, 0..30),
        ) {
            let before = base(&of(&old));
            before.slots().iter().for_each(|slot| slot.enter());
            let next = of(&new);
            let slots = run(carry_over(&next, Some(&before)));
            prop_assert_eq!(slots.len(), next.len());
            for (instance, slot) in next.instances().iter().zip(&slots) {
                let kept = before.slot_of(instance.id().as_str());
                prop_assert!(kept.is_none_or(|kept| Arc::ptr_eq(kept, slot)));
                prop_assert_eq!(slot.load().in_flight, u32::from(kept.is_some()));
            }
        }
    }

    #[test]
    fn long_lists_are_walked_in_chunks_that_lose_nothing() {
        let list = snapshot(2 * CHUNK + 7, |_, _| {});
        let before = base(&list);
        before.slots().last().unwrap().set_breaker(Breaker::Open);
        let slots = run(carry_over(&list, Some(&before)));
        assert_eq!((slots.len(), slots.last().unwrap().breaker()), (2 * CHUNK + 7, Breaker::Open));
    }
}
