//! Pairs of a key and a value that a request brings: borrowed where they can be, owned where a call has to wait.

use std::fmt;

/// Pairs, borrowed.
#[derive(Clone, Copy)]
pub(crate) enum Pairs<'a> {
    Borrowed(&'a [(&'a str, &'a str)]),
    Owned(&'a [(String, String)]),
}

/// Pairs that may be owned.
#[derive(Debug, Clone)]
pub(crate) enum OwnedPairs<'a> {
    Borrowed(&'a [(&'a str, &'a str)]),
    Owned(Vec<(String, String)>),
}

// === impl Pairs ===

impl<'a> Pairs<'a> {
    pub(crate) const NONE: Self = Self::Borrowed(&[]);

    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let (borrowed, owned) = match self {
            Self::Borrowed(pairs) => (pairs, &[][..]),
            Self::Owned(pairs) => (&[][..], pairs),
        };
        borrowed.iter().copied().chain(owned.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    pub(crate) fn get(self, key: &str) -> Option<&'a str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

impl Default for Pairs<'_> {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Debug for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

// === impl OwnedPairs ===

impl OwnedPairs<'_> {
    #[inline]
    pub(crate) fn borrow(&self) -> Pairs<'_> {
        match self {
            Self::Borrowed(pairs) => Pairs::Borrowed(pairs),
            Self::Owned(pairs) => Pairs::Owned(pairs),
        }
    }

    pub(crate) fn into_owned(self) -> OwnedPairs<'static> {
        OwnedPairs::Owned(match self {
            Self::Borrowed(pairs) => {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
            }
            Self::Owned(pairs) => pairs,
        })
    }
}

impl Default for OwnedPairs<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}
