//! Requests for instances.

use std::borrow::Cow;
use std::time::Duration;

use crate::model::instance::InstanceId;
use crate::model::key::{ServiceKey, ServiceKeyRef};

/// How many ids a [`Tried`] holds without allocating.
const INLINE: usize = 6;

/// What a pick may depend on. Borrowed, built on the stack.
///
/// ```
/// use polarismesh::{Pick, Tried};
///
/// let mut tried = Tried::default();
/// let pick = Pick::new().exclude(&tried);
/// # let _ = pick;
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use]
pub struct Pick<'a> {
    pub(crate) exclude: Option<&'a Tried>,
    pub(crate) balancer: Option<&'a str>,
}

/// The instances that a call has tried already. A pick that excludes it never returns one of them.
///
/// Allocates nothing for the first six.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    inline: [Option<InstanceId>; INLINE],
    more: Vec<InstanceId>,
}

/// Asks for one instance: which service, and what the pick depends on.
///
/// ```
/// use polarismesh::GetOneInstance;
/// use std::time::Duration;
///
/// let request = GetOneInstance::new("default", "payments").timeout(Duration::from_millis(300));
/// let plain: GetOneInstance<'_> = ("default", "payments").into();
/// # let _ = (request, plain);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct GetOneInstance<'a> {
    namespace: Cow<'a, str>,
    service: Cow<'a, str>,
    exclude: Option<Cow<'a, Tried>>,
    balancer: Option<Cow<'a, str>>,
    timeout: Option<Duration>,
}

/// Asks for a list of instances of one service.
#[derive(Debug, Clone)]
#[must_use]
pub struct GetInstances<'a> {
    namespace: Cow<'a, str>,
    service: Cow<'a, str>,
    timeout: Option<Duration>,
}

// === impl Pick ===

impl<'a> Pick<'a> {
    /// A pick that depends on nothing but the data.
    pub const fn new() -> Self {
        Self { exclude: None, balancer: None }
    }

    /// Never picks one of these; with none left the pick fails with `Exhausted`.
    pub const fn exclude(mut self, tried: &'a Tried) -> Self {
        self.exclude = Some(tried);
        self
    }

    /// Balances by the policy of this name instead of the configured one. An unknown name is `InvalidArgument`.
    pub const fn balancer(mut self, name: &'a str) -> Self {
        self.balancer = Some(name);
        self
    }
}

// === impl Tried ===

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

// === impl GetOneInstance ===

impl<'a> GetOneInstance<'a> {
    /// One instance of `service` in `namespace`.
    pub fn new(namespace: impl Into<Cow<'a, str>>, service: impl Into<Cow<'a, str>>) -> Self {
        Self { namespace: namespace.into(), service: service.into(), exclude: None, balancer: None, timeout: None }
    }

    /// Never one of these; with none left the call fails with `Exhausted`.
    pub fn exclude(mut self, tried: &'a Tried) -> Self {
        self.exclude = Some(Cow::Borrowed(tried));
        self
    }

    /// Balances by the policy of this name instead of the configured one. An unknown name is `InvalidArgument`.
    pub fn balancer(mut self, name: impl Into<Cow<'a, str>>) -> Self {
        self.balancer = Some(name.into());
        self
    }

    /// How long to wait for a service that is not loaded yet. Default: `global.api.timeout`, 1 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> ServiceKeyRef<'_> {
        ServiceKeyRef::new(&self.namespace, &self.service)
    }

    /// What the pick depends on, borrowed.
    pub fn pick(&self) -> Pick<'_> {
        Pick { exclude: self.exclude.as_deref(), balancer: self.balancer.as_deref() }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timeout
    }

    /// The same request, borrowing nothing.
    pub fn into_owned(self) -> GetOneInstance<'static> {
        GetOneInstance {
            namespace: Cow::Owned(self.namespace.into_owned()),
            service: Cow::Owned(self.service.into_owned()),
            exclude: self.exclude.map(|tried| Cow::Owned(tried.into_owned())),
            balancer: self.balancer.map(|name| Cow::Owned(name.into_owned())),
            timeout: self.timeout,
        }
    }
}

impl<'a> From<(&'a str, &'a str)> for GetOneInstance<'a> {
    fn from((namespace, service): (&'a str, &'a str)) -> Self {
        Self::new(namespace, service)
    }
}

impl<'a> From<&'a ServiceKey> for GetOneInstance<'a> {
    fn from(key: &'a ServiceKey) -> Self {
        Self::new(key.namespace(), key.service())
    }
}

// === impl GetInstances ===

impl<'a> GetInstances<'a> {
    /// Instances of `service` in `namespace`.
    pub fn new(namespace: impl Into<Cow<'a, str>>, service: impl Into<Cow<'a, str>>) -> Self {
        Self { namespace: namespace.into(), service: service.into(), timeout: None }
    }

    /// How long to wait for a service that is not loaded yet. Default: `global.api.timeout`, 1 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> ServiceKeyRef<'_> {
        ServiceKeyRef::new(&self.namespace, &self.service)
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timeout
    }
}

impl<'a> From<(&'a str, &'a str)> for GetInstances<'a> {
    fn from((namespace, service): (&'a str, &'a str)) -> Self {
        Self::new(namespace, service)
    }
}

impl<'a> From<&'a ServiceKey> for GetInstances<'a> {
    fn from(key: &'a ServiceKey) -> Self {
        Self::new(key.namespace(), key.service())
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
