//! Labels: what a request says of itself, and what a rule asks of it.
//!
//! A rule asks for a few labels by name, and a request may have hundreds of them (every header is one). So nothing is
//! collected: [`Labels`] answers one question at a time from whatever the caller has at hand.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Where a label of a request comes from. Most kinds hold several labels, told apart by a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LabelKind {
    /// Whatever the application says; the key is its own.
    Custom,
    /// What is called: the verb of an HTTP request, or the method of an RPC. No key.
    Method,
    /// A header; the key is its name, in which ASCII case does not count.
    Header,
    /// A parameter of the query string; the key is its name.
    Query,
    /// The calling service; the key is its namespace, the value its name.
    CallerService,
    /// The address that the call comes from, without a port. No key.
    CallerIp,
    /// The path of the request, without the query. No key.
    Path,
    /// A cookie; the key is its name.
    Cookie,
    /// Metadata of the calling instance or service; the key is that of the metadata.
    CallerMetadata,
    /// A variable that rules refer to by name; the key is that name.
    ///
    /// It goes before a variable of that name in the configuration, and that before one in the environment.
    Variable,
}

/// Answers what rules ask of a request.
///
/// Implemented for `()` (says nothing), [`LabelSet`](crate::LabelSet) (owned), [`http::HeaderMap`] (headers alone) and
/// [`http::request::Parts`] (method, path, headers, query, cookies). Implement it for what your application has at hand
/// rather than copying into a set: a pick asks for only those labels that the rules of the service name.
///
/// ```
/// use polarismesh::{LabelKind, Labels};
/// use std::borrow::Cow;
///
/// struct Call {
///     tenant: String,
/// }
///
/// impl Labels for Call {
///     fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
///         (kind == LabelKind::Custom && key == "tenant").then(|| Cow::Borrowed(self.tenant.as_str()))
///     }
/// }
/// ```
pub trait Labels: Sync {
    /// The value of a label; `None` if the request has no such label.
    ///
    /// The key is as the rule spells it, and is to be ignored for kinds that have none. An empty value is a value: a
    /// rule that asks for the label to be there is content with it.
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>>;
}

/// The label that a rule asks for.
///
/// Rules of the first version write kind and key in one: `$method`, `$header.uid`. Whatever has no known form is the key
/// of a custom label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LabelKey {
    pub(crate) kind: LabelKind,
    /// As the rule spells it; empty for kinds without a key.
    pub(crate) key: Arc<str>,
}

// === impl LabelKind ===

impl LabelKind {
    /// Whether there are several labels of this kind, told apart by a key.
    #[must_use]
    pub const fn is_keyed(self) -> bool {
        !matches!(self, Self::Method | Self::CallerIp | Self::Path)
    }

    /// The name that rules and the control plane use: `CUSTOM`, `METHOD`, `CALLER_SERVICE`, …
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Method => "METHOD",
            Self::Header => "HEADER",
            Self::Query => "QUERY",
            Self::CallerService => "CALLER_SERVICE",
            Self::CallerIp => "CALLER_IP",
            Self::Path => "PATH",
            Self::Cookie => "COOKIE",
            Self::CallerMetadata => "CALLER_METADATA",
            Self::Variable => "VARIABLE",
        }
    }

    /// What a flat key of this kind begins with, and all of it if the kind has no key.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Custom => "",
            Self::Method => "$method",
            Self::Header => "$header.",
            Self::Query => "$query.",
            Self::CallerService => "$caller_service.",
            Self::CallerIp => "$caller_ip",
            Self::Path => "$path",
            Self::Cookie => "$cookie.",
            Self::CallerMetadata => "$caller_metadata.",
            Self::Variable => "$variable.",
        }
    }
}

impl fmt::Display for LabelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Labels ===

impl Labels for () {
    fn get(&self, _: LabelKind, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        (**self).get(kind, key)
    }
}

// === impl LabelKey ===

/// The kinds that rules of the first version know by a prefix. Variables are referred to by values, not by keys.
const FLAT: [LabelKind; 8] = [
    LabelKind::Method,
    LabelKind::Header,
    LabelKind::Query,
    LabelKind::CallerService,
    LabelKind::CallerIp,
    LabelKind::Path,
    LabelKind::Cookie,
    LabelKind::CallerMetadata,
];

impl LabelKey {
    pub(crate) fn new(kind: LabelKind, key: &str) -> Self {
        Self { kind, key: if kind.is_keyed() { key.into() } else { "".into() } }
    }

    /// Reads the flat key of a rule of the first version. polaris-go writes `$Path`, everybody else `$path`.
    pub(crate) fn from_flat(flat: &str) -> Self {
        let of_kind = |kind: LabelKind| {
            let key = flat.strip_prefix(kind.prefix())?;
            (kind.is_keyed() || key.is_empty()).then(|| Self::new(kind, key))
        };
        match flat {
            "$Path" => Self::new(LabelKind::Path, ""),
            _ => FLAT.into_iter().find_map(of_kind).unwrap_or_else(|| Self::new(LabelKind::Custom, flat)),
        }
    }

    /// As a rule of the first version would write it.
    #[cfg(test)]
    pub(crate) fn flat(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [LabelKind; 10] = [
        LabelKind::Custom,
        LabelKind::Method,
        LabelKind::Header,
        LabelKind::Query,
        LabelKind::CallerService,
        LabelKind::CallerIp,
        LabelKind::Path,
        LabelKind::Cookie,
        LabelKind::CallerMetadata,
        LabelKind::Variable,
    ];

    #[test]
    fn a_flat_key_names_its_kind_or_is_custom() {
        for (flat, kind, key) in [
            ("$method", LabelKind::Method, ""),
            ("$header.X-Id", LabelKind::Header, "X-Id"),
            ("$header.a.b", LabelKind::Header, "a.b"),
            ("$header.", LabelKind::Header, ""),
            ("$query.q", LabelKind::Query, "q"),
            ("$caller_service.ns", LabelKind::CallerService, "ns"),
            ("$caller_ip", LabelKind::CallerIp, ""),
            ("$path", LabelKind::Path, ""),
            ("$Path", LabelKind::Path, ""),
            ("$cookie.c", LabelKind::Cookie, "c"),
            ("$caller_metadata.k", LabelKind::CallerMetadata, "k"),
            ("$header", LabelKind::Custom, "$header"),
            ("$method.x", LabelKind::Custom, "$method.x"),
            ("$PATH", LabelKind::Custom, "$PATH"),
            ("$variable.v", LabelKind::Custom, "$variable.v"),
            ("uid", LabelKind::Custom, "uid"),
            ("", LabelKind::Custom, ""),
        ] {
            assert_eq!(LabelKey::from_flat(flat), LabelKey::new(kind, key), "{flat}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), ALL.len());
        let keyless: Vec<_> = ALL.iter().filter(|kind| !kind.is_keyed()).collect();
        assert_eq!(keyless, [&LabelKind::Method, &LabelKind::CallerIp, &LabelKind::Path]);
    }

    #[test]
    fn nothing_says_nothing_and_a_reference_says_what_it_points_to() {
        struct Always;
        impl Labels for Always {
            fn get(&self, _: LabelKind, key: &str) -> Option<Cow<'_, str>> {
                Some(key.to_owned().into())
            }
        }
        assert_eq!(().get(LabelKind::Method, ""), None);
        let dynamic: &dyn Labels = &Always;
        assert_eq!((&dynamic).get(LabelKind::Custom, "k").as_deref(), Some("k"));
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(at in 1..9_usize, key in "[^.$]{0,3}[.$a-z\\PC]{0,6}") {
            let key = LabelKey::new(ALL[at], &key);
            prop_assert_eq!(LabelKey::from_flat(&key.flat()), key);
        }

        #[test]
        fn whatever_is_no_known_form_stays_as_it_is(flat in "\\$?[a-z_]{0,9}[.]?\\PC{0,4}") {
            let key = LabelKey::from_flat(&flat);
            prop_assert!(key.flat() == flat || flat == "$Path", "{} is not {}", key, flat);
        }
    }
}
