//! Requests for instances.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::model::key::{ServiceKey, ServiceKeyRef};
use crate::model::label::Labels;
use crate::model::label_set::LabelSet;
use crate::model::request::asks::{Asks, MetadataFailover, RuleFailover};
use crate::model::request::pairs::{OwnedPairs, Pairs};
use crate::model::request::tried::Tried;

/// What a pick may depend on. Borrowed, built on the stack.
///
/// ```
/// use polarismesh::{LabelSet, Pick, Tried};
///
/// let mut tried = Tried::default();
/// let labels = LabelSet::new().method("GET").header("uid", "42");
/// let pick = Pick::new().labels(&labels).metadata(&[("env", "prod")]).exclude(&tried);
/// # let _ = pick;
/// ```
#[derive(Clone, Copy, Default)]
#[must_use]
pub struct Pick<'a> {
    pub(crate) exclude: Option<&'a Tried>,
    pub(crate) balancer: Option<&'a str>,
    pub(crate) labels: Option<&'a dyn Labels>,
    pub(crate) caller: Option<&'a ServiceKey>,
    pub(crate) metadata: Pairs<'a>,
    pub(crate) hash_key: Option<&'a [u8]>,
    pub(crate) hash_value: Option<u64>,
    pub(crate) asks: Asks,
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
    labels: Option<Cow<'a, LabelSet>>,
    caller: Option<Cow<'a, ServiceKey>>,
    metadata: OwnedPairs<'a>,
    hash_key: Option<Cow<'a, [u8]>>,
    hash_value: Option<u64>,
    asks: Asks,
    timeout: Option<Duration>,
}

/// Asks for a list of instances of one service: those that such a [`GetOneInstance`] is answered from.
#[derive(Debug, Clone)]
#[must_use]
pub struct GetInstances<'a>(GetOneInstance<'a>);

// === impl Pick ===

impl<'a> Pick<'a> {
    /// A pick that depends on nothing but the data.
    pub const fn new() -> Self {
        Self {
            exclude: None,
            balancer: None,
            labels: None,
            caller: None,
            metadata: Pairs::NONE,
            hash_key: None,
            hash_value: None,
            asks: Asks::NONE,
        }
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

    /// What the call to be made is like: routing rules ask it for the labels that they need.
    pub const fn labels(mut self, labels: &'a dyn Labels) -> Self {
        self.labels = Some(labels);
        self
    }

    /// The service that makes the call: rules name callers, and the caller's own rules count too. Default: that of
    /// `provider.service`, or nobody.
    pub const fn caller(mut self, caller: &'a ServiceKey) -> Self {
        self.caller = Some(caller);
        self
    }

    /// Picks only instances whose metadata has all these pairs; see [`metadata_failover`](Self::metadata_failover) for
    /// the case that there are none. Their order does not matter.
    pub const fn metadata(mut self, pairs: &'a [(&'a str, &'a str)]) -> Self {
        self.metadata = Pairs::Borrowed(pairs);
        self.asks = self.asks.with_if(Asks::METADATA, !pairs.is_empty());
        self
    }

    /// What is hashed by policies that hash. Default: an empty key, which always hashes alike.
    pub const fn hash_key(mut self, key: &'a [u8]) -> Self {
        self.hash_key = Some(key);
        self
    }

    /// The hash itself, for requests without a key (or with an empty one).
    pub const fn hash_value(mut self, value: u64) -> Self {
        self.hash_value = Some(value);
        self
    }

    /// What is picked from if no instance has the wanted metadata. Default: what the service says, else the configuration.
    pub const fn metadata_failover(mut self, failover: MetadataFailover) -> Self {
        self.asks = self.asks.with_metadata_failover(failover);
        self
    }

    /// What is picked from if rules match the call and their destinations have no instances. Default: what the service
    /// says, else the configuration.
    pub const fn rule_failover(mut self, failover: RuleFailover) -> Self {
        self.asks = self.asks.with_rule_failover(failover);
        self
    }

    /// Prefers near instances even if the service does not ask for it.
    pub const fn nearby(mut self) -> Self {
        self.asks = self.asks.with(Asks::NEARBY);
        self
    }

    /// Picks among instances with an open breaker too.
    pub const fn include_broken(mut self) -> Self {
        self.asks = self.asks.with(Asks::BROKEN);
        self
    }
}

impl fmt::Debug for Pick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("exclude", &self.exclude)
            .field("balancer", &self.balancer)
            .field("labels", &self.labels.map(|_| ".."))
            .field("caller", &self.caller)
            .field("metadata", &self.metadata)
            .field("asks", &self.asks)
            .finish_non_exhaustive()
    }
}

// === impl GetOneInstance ===

impl<'a> GetOneInstance<'a> {
    /// One instance of `service` in `namespace`.
    pub fn new(namespace: impl Into<Cow<'a, str>>, service: impl Into<Cow<'a, str>>) -> Self {
        Self {
            namespace: namespace.into(),
            service: service.into(),
            exclude: None,
            balancer: None,
            labels: None,
            caller: None,
            metadata: OwnedPairs::default(),
            hash_key: None,
            hash_value: None,
            asks: Asks::NONE,
            timeout: None,
        }
    }

    /// As [`Pick::exclude`].
    pub fn exclude(mut self, tried: &'a Tried) -> Self {
        self.exclude = Some(Cow::Borrowed(tried));
        self
    }

    /// As [`Pick::balancer`].
    pub fn balancer(mut self, name: impl Into<Cow<'a, str>>) -> Self {
        self.balancer = Some(name.into());
        self
    }

    /// As [`Pick::labels`]; a [`LabelSet`], because a call that has to wait keeps it.
    pub fn labels(mut self, labels: impl Into<Cow<'a, LabelSet>>) -> Self {
        self.labels = Some(labels.into());
        self
    }

    /// As [`Pick::caller`].
    pub fn caller(mut self, caller: &'a ServiceKey) -> Self {
        self.caller = Some(Cow::Borrowed(caller));
        self
    }

    /// As [`Pick::metadata`].
    pub fn metadata(mut self, pairs: &'a [(&'a str, &'a str)]) -> Self {
        self.metadata = OwnedPairs::Borrowed(pairs);
        self.asks = self.asks.with_if(Asks::METADATA, !pairs.is_empty());
        self
    }

    /// As [`Pick::hash_key`].
    pub fn hash_key(mut self, key: impl Into<Cow<'a, [u8]>>) -> Self {
        self.hash_key = Some(key.into());
        self
    }

    /// As [`Pick::hash_value`].
    pub fn hash_value(mut self, value: u64) -> Self {
        self.hash_value = Some(value);
        self
    }

    /// As [`Pick::metadata_failover`].
    pub fn metadata_failover(mut self, failover: MetadataFailover) -> Self {
        self.asks = self.asks.with_metadata_failover(failover);
        self
    }

    /// As [`Pick::rule_failover`].
    pub fn rule_failover(mut self, failover: RuleFailover) -> Self {
        self.asks = self.asks.with_rule_failover(failover);
        self
    }

    /// As [`Pick::nearby`].
    pub fn nearby(mut self) -> Self {
        self.asks = self.asks.with(Asks::NEARBY);
        self
    }

    /// As [`Pick::include_broken`].
    pub fn include_broken(mut self) -> Self {
        self.asks = self.asks.with(Asks::BROKEN);
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
    #[inline]
    pub fn pick(&self) -> Pick<'_> {
        Pick {
            exclude: self.exclude.as_deref(),
            balancer: self.balancer.as_deref(),
            labels: self.labels.as_deref().map(|labels| labels as &dyn Labels),
            caller: self.caller.as_deref(),
            metadata: self.metadata.borrow(),
            hash_key: self.hash_key.as_deref(),
            hash_value: self.hash_value,
            asks: self.asks,
        }
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
            labels: self.labels.map(|labels| Cow::Owned(labels.into_owned())),
            caller: self.caller.map(|caller| Cow::Owned(caller.into_owned())),
            metadata: self.metadata.into_owned(),
            hash_key: self.hash_key.map(|key| Cow::Owned(key.into_owned())),
            hash_value: self.hash_value,
            asks: self.asks,
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
    /// Instances of `service` in `namespace`. What the list is to depend on is said by a [`GetOneInstance`], which turns
    /// into this.
    pub fn new(namespace: impl Into<Cow<'a, str>>, service: impl Into<Cow<'a, str>>) -> Self {
        Self(GetOneInstance::new(namespace, service))
    }

    /// How long to wait for a service that is not loaded yet. Default: `global.api.timeout`, 1 s.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self(self.0.timeout(timeout))
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> ServiceKeyRef<'_> {
        self.0.key()
    }

    pub(crate) fn as_one(&self) -> &GetOneInstance<'a> {
        &self.0
    }
}

impl<'a> From<GetOneInstance<'a>> for GetInstances<'a> {
    fn from(request: GetOneInstance<'a>) -> Self {
        Self(request)
    }
}

impl<'a> From<(&'a str, &'a str)> for GetInstances<'a> {
    fn from(key: (&'a str, &'a str)) -> Self {
        Self(key.into())
    }
}

impl<'a> From<&'a ServiceKey> for GetInstances<'a> {
    fn from(key: &'a ServiceKey) -> Self {
        Self(key.into())
    }
}
