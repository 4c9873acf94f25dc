//! Keys: which service, and which kind of resource of it.
//!
//! Identity is the text: two keys are equal when namespace and service are. A [`ServiceKey`] is one pointer wide, so
//! that every instance can carry its own, and a [`ServiceKeyRef`] looks a key up in a map without building one.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

pub(super) const MAX_NAMESPACE: usize = 64;
const MAX_SERVICE: usize = 128;

/// A service by namespace and name. One pointer wide, cheap to clone.
///
/// ```
/// use polarismesh::ServiceKey;
///
/// let key = ServiceKey::new("default", "payments");
/// assert_eq!(key.to_string(), "default/payments");
/// assert_eq!(key, ServiceKey::from(("default", "payments")));
/// ```
#[derive(Clone)]
pub struct ServiceKey(Arc<KeyRepr>);

struct KeyRepr {
    /// `namespace/service`. Names may hold slashes themselves, so the split is kept.
    text: Arc<str>,
    split: usize,
}

/// A borrowed [`ServiceKey`], for look-ups that allocate nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceKeyRef<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The service's name.
    pub service: &'a str,
}

/// What makes a service's name in a map: lets `HashMap<ServiceKey, _>` be asked with a [`ServiceKeyRef`].
pub(crate) trait KeyParts {
    fn parts(&self) -> (&str, &str);
}

/// The kinds of resource that the control plane serves over its Discover stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ResourceKind {
    /// The instances of a service.
    Instances,
    /// The services of a namespace.
    Services,
    /// Rule-based routing.
    Routing,
    /// Rate limits.
    RateLimit,
    /// Circuit breaking.
    CircuitBreaker,
    /// Active probing.
    FaultDetector,
    /// Traffic lanes; newer servers only.
    Lane,
    /// Custom routing; newer servers only.
    CustomRoute,
    /// Nearby routing; newer servers only.
    NearbyRoute,
    /// Lossless start and stop; newer servers only.
    Lossless,
    /// Allow and block lists; newer servers only.
    BlockAllow,
    /// Traffic mirroring; newer servers only.
    TrafficMirroring,
    /// Fault injection; newer servers only.
    FaultInjection,
}

/// One resource: a service and the kind of resource that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceEventKey {
    pub(crate) service: ServiceKey,
    pub(crate) kind: ResourceKind,
}

/// The state of a resource as the control plane numbers it: opaque, compared for equality only.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Revision(Option<Arc<str>>);

// === impl ServiceKey ===

impl ServiceKey {
    /// The key of `service` in `namespace`; nothing is checked before it is used.
    #[must_use]
    pub fn new(namespace: impl AsRef<str>, service: impl AsRef<str>) -> Self {
        let (namespace, service) = (namespace.as_ref(), service.as_ref());
        let mut text = String::with_capacity(namespace.len() + 1 + service.len());
        text.push_str(namespace);
        text.push('/');
        text.push_str(service);
        Self(Arc::new(KeyRepr { text: text.into(), split: namespace.len() }))
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.text.get(..self.0.split).unwrap_or_default()
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        self.0.text.get(self.0.split + 1..).unwrap_or_default()
    }

    /// `namespace/service`, shared.
    pub(crate) fn text(&self) -> Arc<str> {
        Arc::clone(&self.0.text)
    }

    /// The key borrowed.
    #[must_use]
    pub fn as_ref(&self) -> ServiceKeyRef<'_> {
        ServiceKeyRef { namespace: self.namespace(), service: self.service() }
    }

    pub(crate) fn of(&self, kind: ResourceKind) -> ServiceEventKey {
        ServiceEventKey { service: self.clone(), kind }
    }

    /// Holds the name to the control plane's rules before anything is sent.
    pub(crate) fn validate(&self) -> Result<()> {
        check_name("namespace", self.namespace(), MAX_NAMESPACE)?;
        check_name("service", self.service(), MAX_SERVICE)
    }
}

impl<N: AsRef<str>, S: AsRef<str>> From<(N, S)> for ServiceKey {
    fn from((namespace, service): (N, S)) -> Self {
        Self::new(namespace, service)
    }
}

impl From<&Self> for ServiceKey {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}

impl From<ServiceKeyRef<'_>> for ServiceKey {
    fn from(key: ServiceKeyRef<'_>) -> Self {
        Self::new(key.namespace, key.service)
    }
}

impl PartialEq for ServiceKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.split == other.0.split && self.0.text == other.0.text)
    }
}

impl Eq for ServiceKey {}

impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_parts(self.parts(), state);
    }
}

impl PartialOrd for ServiceKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServiceKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceKey({})", self.0.text)
    }
}

// === impl ServiceKeyRef ===

impl<'a> ServiceKeyRef<'a> {
    /// The key of `service` in `namespace`.
    #[must_use]
    pub const fn new(namespace: &'a str, service: &'a str) -> Self {
        Self { namespace, service }
    }
}

impl<'a> From<(&'a str, &'a str)> for ServiceKeyRef<'a> {
    fn from((namespace, service): (&'a str, &'a str)) -> Self {
        Self { namespace, service }
    }
}

impl<'a> From<&'a ServiceKey> for ServiceKeyRef<'a> {
    fn from(key: &'a ServiceKey) -> Self {
        key.as_ref()
    }
}

impl fmt::Display for ServiceKeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

// === impl KeyParts ===

impl KeyParts for ServiceKey {
    fn parts(&self) -> (&str, &str) {
        (self.namespace(), self.service())
    }
}

impl KeyParts for ServiceKeyRef<'_> {
    fn parts(&self) -> (&str, &str) {
        (self.namespace, self.service)
    }
}

impl<'a> Borrow<dyn KeyParts + 'a> for ServiceKey {
    fn borrow(&self) -> &(dyn KeyParts + 'a) {
        self
    }
}

impl Hash for dyn KeyParts + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_parts(self.parts(), state);
    }
}

impl PartialEq for dyn KeyParts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn KeyParts + '_ {}

/// The same for a key and for a borrowed one. `NameHash` counts each write with its length, so that names which differ
/// in their split only hash apart.
fn hash_parts<H: Hasher>((namespace, service): (&str, &str), state: &mut H) {
    state.write(namespace.as_bytes());
    state.write(service.as_bytes());
}

// === impl ResourceKind ===

impl ResourceKind {
    /// The kind in words, for messages and names of cache files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Services => "services",
            Self::Routing => "routing",
            Self::RateLimit => "rate-limit",
            Self::CircuitBreaker => "circuit-breaker",
            Self::FaultDetector => "fault-detector",
            Self::Lane => "lane",
            Self::CustomRoute => "custom-route",
            Self::NearbyRoute => "nearby-route",
            Self::Lossless => "lossless",
            Self::BlockAllow => "block-allow",
            Self::TrafficMirroring => "traffic-mirroring",
            Self::FaultInjection => "fault-injection",
        }
    }

    /// Every kind, in the order of their numbers on the wire.
    pub(crate) const ALL: [Self; 13] = [
        Self::Instances,
        Self::Services,
        Self::Routing,
        Self::RateLimit,
        Self::CircuitBreaker,
        Self::FaultDetector,
        Self::Lane,
        Self::CustomRoute,
        Self::NearbyRoute,
        Self::Lossless,
        Self::BlockAllow,
        Self::TrafficMirroring,
        Self::FaultInjection,
    ];

    /// Whether the resource is a set of rules.
    #[must_use]
    pub const fn is_rule(self) -> bool {
        !matches!(self, Self::Instances | Self::Services)
    }

    /// Kinds that no public server serves: they are probed before they are asked for.
    pub(crate) const fn is_newer(self) -> bool {
        matches!(
            self,
            Self::Lane
                | Self::CustomRoute
                | Self::NearbyRoute
                | Self::Lossless
                | Self::BlockAllow
                | Self::TrafficMirroring
                | Self::FaultInjection
        )
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl ServiceEventKey ===

impl fmt::Display for ServiceEventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.kind, self.service)
    }
}

// === impl Revision ===

impl Revision {
    /// The revision as the server wrote it; an empty one is none.
    pub(crate) fn new(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }

    /// The text, empty where there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({})", self.as_str())
    }
}

/// The control plane takes `[0-9A-Za-z-./:_]+` in names of namespaces and services, up to `max` characters.
pub(crate) fn check_name(what: &str, name: &str, max: usize) -> Result<()> {
    let error = |why: String| Err(Error::new(ErrorKind::InvalidArgument, why));
    if name.is_empty() {
        return error(format!("the {what} is empty: give 1 to {max} characters of `0-9 A-Z a-z - . / : _`"));
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-./:_".contains(*c))) {
        return error(format!("the {what} {name:?} has {bad:?} in it: only `0-9 A-Z a-z - . / : _` are allowed"));
    }
    if name.len() > max {
        return error(format!("the {what} {name:?} has {} characters: at most {max} are allowed", name.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_map_of_keys_is_asked_with_a_borrowed_key() {
        let map = HashMap::from([(ServiceKey::new("default", "a/b"), 1)]);
        let get = |ns, svc| map.get(&ServiceKeyRef::new(ns, svc) as &dyn KeyParts).copied();
        assert_eq!(get("default", "a/b"), Some(1));
        assert_eq!(get("default/a", "b"), None, "the split is part of the identity");
    }

    #[test]
    fn a_key_is_one_word() {
        assert_eq!(size_of::<ServiceKey>(), size_of::<usize>());
    }

    #[test]
    fn bad_names_are_refused_with_the_character_or_the_bound() {
        let message = |ns: &str, svc: &str| ServiceKey::new(ns, svc).validate().unwrap_err().to_string();
        assert!(ServiceKey::new("default", "a.b-c_d:e/f9").validate().is_ok());
        assert!(message("default", "pay ments").contains("' '"));
        assert!(message("", "x").contains("the namespace is empty"));
        assert!(message("n", &"x".repeat(129)).contains("at most 128"));
        assert!(message("n", "zahlung€").contains('€'));
    }
}
