//! An owned set of labels.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use crate::model::label::{LabelKind, Labels};
use crate::util::text::same;

/// How many labels are looked through one by one.
const FEW: usize = 16;

/// Labels of a request that are collected rather than looked up: for requests that are not HTTP, and for tests.
///
/// Holds one value a label; a later one takes the place of an earlier one. Names of headers are compared ignoring ASCII
/// case, all other keys and all values as they are.
///
/// ```
/// use polarismesh::{LabelKind, LabelSet, Labels};
///
/// let labels = LabelSet::new().method("/orders.Orders/Create").header("Uid", "17").custom("tenant", "blue");
/// assert_eq!(labels.get(LabelKind::Header, "uid").as_deref(), Some("17"));
/// assert_eq!(labels.get(LabelKind::Query, "uid"), None);
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct LabelSet {
    /// Ordered by name.
    labels: Vec<Label>,
}

#[derive(Clone)]
struct Label {
    kind: LabelKind,
    /// As it was given; empty for kinds without a key.
    key: Box<str>,
    value: Box<str>,
}

// === impl LabelSet ===

impl LabelSet {
    /// No labels yet.
    pub const fn new() -> Self {
        Self { labels: Vec::new() }
    }

    /// A label of the application's own.
    pub fn custom(self, key: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.with(LabelKind::Custom, key, value)
    }

    /// What is called: the verb of an HTTP request, or the method of an RPC.
    pub fn method(self, method: impl Into<String>) -> Self {
        self.with(LabelKind::Method, "", method)
    }

    /// A header, whose name is compared ignoring ASCII case.
    pub fn header(self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.with(LabelKind::Header, name, value)
    }

    /// A parameter of the query, decoded.
    pub fn query(self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.with(LabelKind::Query, name, value)
    }

    /// A cookie.
    pub fn cookie(self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.with(LabelKind::Cookie, name, value)
    }

    /// The path, without the query.
    pub fn path(self, path: impl Into<String>) -> Self {
        self.with(LabelKind::Path, "", path)
    }

    /// Where the call comes from: an `IpAddr`, or its text.
    pub fn caller_ip(self, ip: impl fmt::Display) -> Self {
        self.with(LabelKind::CallerIp, "", ip.to_string())
    }

    /// The calling service; one a namespace.
    pub fn caller_service(self, namespace: impl AsRef<str>, service: impl Into<String>) -> Self {
        self.with(LabelKind::CallerService, namespace, service)
    }

    /// Metadata of the caller.
    pub fn caller_metadata(self, key: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.with(LabelKind::CallerMetadata, key, value)
    }

    /// A variable that rules refer to by this name.
    pub fn variable(self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.with(LabelKind::Variable, name, value)
    }

    /// Adds a label of any kind; returns the value it had. The key is ignored for kinds that have none.
    pub fn insert(&mut self, kind: LabelKind, key: impl AsRef<str>, value: impl Into<String>) -> Option<String> {
        let key = if kind.is_keyed() { key.as_ref() } else { "" };
        let value: Box<str> = value.into().into();
        match self.position(kind, key) {
            Ok(at) => {
                let label = self.labels.get_mut(at)?;
                label.key = key.into();
                Some(std::mem::replace(&mut label.value, value).into())
            }
            Err(at) => {
                self.labels.insert(at, Label { kind, key: key.into(), value });
                None
            }
        }
    }

    /// All labels as kind, key and value, ordered by kind and key.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (LabelKind, &str, &str)> {
        self.labels.iter().map(|label| (label.kind, &*label.key, &*label.value))
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn with(mut self, kind: LabelKind, key: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.insert(kind, key, value);
        self
    }

    fn position(&self, kind: LabelKind, key: &str) -> Result<usize, usize> {
        self.labels.binary_search_by(|label| label.order(kind, key))
    }
}

impl Labels for LabelSet {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        let key = if kind.is_keyed() { key } else { "" };
        // Nearly always there are few, and names are spelt alike: then this is faster than any search in order.
        let spelt_alike = |label: &&Label| label.kind == kind && same(&label.key, key);
        let found = self.labels.iter().take(FEW).find(spelt_alike);
        if found.is_none() && kind != LabelKind::Header && self.labels.len() <= FEW {
            return None;
        }
        let label = found.or_else(|| self.labels.get(self.position(kind, key).ok()?))?;
        Some(Cow::Borrowed(&label.value))
    }
}

impl PartialEq for LabelSet {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Label, &Label)| a.order(b.kind, &b.key).is_eq() && a.value == b.value;
        self.len() == other.len() && self.labels.iter().zip(&other.labels).all(same)
    }
}

impl Eq for LabelSet {}

/// Names only: headers and cookies carry secrets.
impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(kind, key, _)| (kind, key))).finish()
    }
}

// === impl Label ===

impl Label {
    /// How this label's name stands to another.
    fn order(&self, kind: LabelKind, key: &str) -> Ordering {
        self.kind.cmp(&kind).then_with(|| match kind {
            LabelKind::Header => lower(&self.key).cmp(lower(key)),
            _ => (*self.key).cmp(key),
        })
    }
}

fn lower(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

impl<'a> From<&'a LabelSet> for Cow<'a, LabelSet> {
    fn from(labels: &'a LabelSet) -> Self {
        Cow::Borrowed(labels)
    }
}

impl From<LabelSet> for Cow<'_, LabelSet> {
    fn from(labels: LabelSet) -> Self {
        Cow::Owned(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    #[test]
    fn every_builder_sets_the_label_of_its_name() {
        let labels = LabelSet::new()
            .custom("k", "1")
            .method("GET")
            .header("h", "2")
            .query("q", "3")
            .cookie("c", "4")
            .path("/p")
            .caller_ip(Ipv4Addr::LOCALHOST)
            .caller_service("ns", "svc")
            .caller_metadata("m", "5")
            .variable("v", "6");
        let expected = [
            (LabelKind::Custom, "k", "1"),
            (LabelKind::Method, "", "GET"),
            (LabelKind::Header, "h", "2"),
            (LabelKind::Query, "q", "3"),
            (LabelKind::CallerService, "ns", "svc"),
            (LabelKind::CallerIp, "", "127.0.0.1"),
            (LabelKind::Path, "", "/p"),
            (LabelKind::Cookie, "c", "4"),
            (LabelKind::CallerMetadata, "m", "5"),
            (LabelKind::Variable, "v", "6"),
        ];
        assert_eq!(labels.iter().collect::<Vec<_>>(), expected);
        assert_eq!((labels.len(), labels.is_empty()), (10, false));
    }

    #[test]
    fn names_of_headers_ignore_case_and_other_keys_do_not() {
        let labels = LabelSet::new().header("X-Id", "1").query("Q", "2");
        assert_eq!(labels.get(LabelKind::Header, "x-iD").as_deref(), Some("1"));
        assert_eq!(labels.get(LabelKind::Query, "q"), None);
        assert_eq!(labels, LabelSet::new().query("Q", "2").header("x-id", "1"));
        assert_ne!(labels, LabelSet::new().query("q", "2").header("x-id", "1"));
        assert_ne!(labels, LabelSet::new().query("Q", "3").header("x-id", "1"));
        assert_ne!(labels, LabelSet::new());
    }

    #[test]
    fn the_last_of_equal_labels_stays() {
        let mut labels = LabelSet::new().header("a", "1");
        assert_eq!(labels.insert(LabelKind::Header, "A", "2").as_deref(), Some("1"));
        assert_eq!(labels.insert(LabelKind::Header, "b", "3"), None);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [(LabelKind::Header, "A", "2"), (LabelKind::Header, "b", "3")]);
    }

    #[test]
    fn a_kind_without_a_key_has_one_label_whatever_key_is_said() {
        let mut labels = LabelSet::new().method("a");
        assert_eq!(labels.insert(LabelKind::Method, "zzz", "b").as_deref(), Some("a"));
        assert_eq!(labels.get(LabelKind::Method, "yyy").as_deref(), Some("b"));
    }

    #[test]
    fn debug_shows_no_value() {
        let text = format!("{:?}", LabelSet::new().header("authorization", "Bearer 123").cookie("session", "456"));
        assert!(text.contains("authorization") && text.contains("session"), "{text}");
        assert!(!text.contains("123") && !text.contains("456"), "{text}");
    }

    proptest! {
        #[test]
        fn a_set_is_a_map_by_kind_and_name(
            inserted in proptest::collection::vec((0..3_usize, "[aAbB\u{0}é]{0,2}", "\\PC{0,2}"), 0..20),
            asked in "[aAbB\u{0}é]{0,2}",
        ) {
            const KINDS: [LabelKind; 3] = [LabelKind::Custom, LabelKind::Header, LabelKind::Method];
            let name = |at: usize, key: &str| match at {
                0 => (at, key.to_owned()),
                1 => (at, key.to_ascii_lowercase()),
                _ => (at, String::new()),
            };
            let (mut labels, mut naive) = (LabelSet::new(), BTreeMap::new());
            for (at, key, value) in &inserted {
                prop_assert_eq!(labels.insert(KINDS[*at], key, value), naive.insert(name(*at, key), value.clone()));
            }
            prop_assert_eq!(labels.len(), naive.len());
            for (at, kind) in KINDS.into_iter().enumerate() {
                let expected = naive.get(&name(at, &asked)).map(String::as_str);
                let found = labels.get(kind, &asked);
                prop_assert_eq!(found.as_deref(), expected);
            }
        }
    }
}
