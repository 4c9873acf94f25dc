//! The instances that a call has tried already.

use crate::model::instance::InstanceId;

/// How many ids a [`Tried`] holds without allocating.
const INLINE: usize = 6;

/// The instances that a call has tried already. A pick that excludes it never returns one of them.
///
/// Allocates nothing for the first six.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    inline: [Option<InstanceId>; INLINE],
    more: Vec<InstanceId>,
}

impl Tried {
    /// Adds an instance; one that is in already stays once.
    pub fn insert(&mut self, id: &InstanceId) {
        if self.contains(id) {
            return;
        }
        match self.inline.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = Some(id.clone()),
            None => self.more.push(id.clone()),
        }
    }

    /// Whether the instance is in.
    #[must_use]
    pub fn contains(&self, id: &InstanceId) -> bool {
        self.iter().any(|tried| tried == id)
    }

    /// The instances, in the order they came in.
    pub fn iter(&self) -> impl Iterator<Item = &InstanceId> {
        self.inline.iter().flatten().chain(&self.more)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inline.first().is_none_or(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tried_keeps_every_instance_once_however_many() {
        let mut tried = Tried::default();
        assert!(tried.is_empty());
        let id = |n: usize| InstanceId::new(("default", "a"), n.to_string());
        for n in (0..10).chain(0..10) {
            tried.insert(&id(n));
        }
        assert_eq!(tried.len(), 10);
        assert!((0..10).all(|n| tried.contains(&id(n))) && !tried.contains(&id(10)));
    }
}
