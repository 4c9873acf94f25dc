//! A small ordered string map that is cheap to clone and shared between equal sets.

use std::fmt;
use std::sync::Arc;

/// Labels of an instance or a service: few, ordered by key, immutable, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata(Option<Arc<[Pair]>>);

type Pair = (Arc<str>, Arc<str>);

impl Metadata {
    /// Takes pairs in any order; of equal keys the last one stays.
    pub(crate) fn from_pairs(mut pairs: Vec<Pair>) -> Self {
        // The sort is stable, so the last of equal keys is the last of its run.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.reverse();
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        pairs.reverse();
        Self((!pairs.is_empty()).then(|| pairs.into()))
    }

    fn pairs(&self) -> &[Pair] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Where it is held: the same for sets that are shared.
    pub(crate) fn place(&self) -> usize {
        self.pairs().as_ptr().addr()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.pairs();
        let at = pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        pairs.get(at).map(|(_, value)| &**value)
    }

    /// All pairs, ordered by key.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.pairs().iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Metadata {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self::from_pairs(pairs.into_iter().map(|(k, v)| (k.as_ref().into(), v.as_ref().into())).collect())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_keys_the_last_stays_and_keys_are_ordered() {
        let metadata: Metadata = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!((metadata.get("b"), metadata.get("c"), metadata.len()), (Some("3"), None, 2));
        assert!(Metadata::default().is_empty());
    }
}
