//! Requests for quota.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::model::key::{ServiceKey, ServiceKeyRef};
use crate::model::label::{LabelKind, Labels};
use crate::model::label_set::LabelSet;

/// What a quota is asked for: a call of this process's, as rate-limit rules see it. Borrowed, built on the stack.
///
/// ```
/// use polarismesh::{LabelSet, Quota};
///
/// let labels = LabelSet::new().header("uid", "42");
/// let quota = Quota::new().method("/pay").labels(&labels);
/// # let _ = quota;
/// ```
#[derive(Clone, Copy, Default)]
#[must_use]
pub struct Quota<'a> {
    method: &'a str,
    labels: Option<&'a dyn Labels>,
    caller: Option<&'a ServiceKey>,
}

/// Asks for a quota of one service, by its name.
///
/// ```
/// use polarismesh::{GetQuota, LabelSet};
/// use std::time::Duration;
///
/// let request = GetQuota::new("default", "payments")
///     .method("/pay")
///     .labels(LabelSet::new().header("uid", "42"))
///     .timeout(Duration::from_millis(300));
/// let plain: GetQuota<'_> = ("default", "payments").into();
/// # let _ = (request, plain);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct GetQuota<'a> {
    namespace: Cow<'a, str>,
    service: Cow<'a, str>,
    method: Cow<'a, str>,
    labels: Option<Cow<'a, LabelSet>>,
    caller: Option<Cow<'a, ServiceKey>>,
    timeout: Option<Duration>,
}

// === impl Quota ===

impl<'a> Quota<'a> {
    /// A call of which nothing is known but the service.
    pub const fn new() -> Self {
        Self { method: "", labels: None, caller: None }
    }

    /// What is called: the path of an HTTP request, or `/package.Service/Method`. Rules that name a method do not apply to
    /// calls without one.
    pub const fn method(mut self, method: &'a str) -> Self {
        self.method = method;
        self
    }

    /// What the call is like: rules ask it for the labels that they need.
    pub const fn labels(mut self, labels: &'a dyn Labels) -> Self {
        self.labels = Some(labels);
        self
    }

    /// The service that makes the call, where the labels do not say so.
    pub const fn caller(mut self, caller: &'a ServiceKey) -> Self {
        self.caller = Some(caller);
        self
    }
}

/// As the conditions of rules ask. The method is found under `PATH`, a kind that rate-limit rules cannot name.
impl Labels for Quota<'_> {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        match kind {
            LabelKind::Path => self.called().map(Cow::Borrowed),
            LabelKind::Custom | LabelKind::CallerService => self.get_or_instead(kind, key),
            // Handed on as it comes: to look into it would mean to copy it, at each label of each call.
            _ => self.labels?.get(kind, key),
        }
    }
}

impl<'a> Quota<'a> {
    /// What is called, if that is said.
    #[inline]
    pub(crate) fn called(&self) -> Option<&'a str> {
        (!self.method.is_empty()).then_some(self.method)
    }

    /// A label that is found elsewhere where the labels do not say it.
    fn get_or_instead(&self, kind: LabelKind, key: &str) -> Option<Cow<'a, str>> {
        if let Some(value) = self.labels.and_then(|labels| labels.get(kind, key)) {
            return Some(value);
        }
        match kind {
            // Rules have no arguments of this kind: who wants a cookie counted asks for a label of its own.
            LabelKind::Custom => self.labels?.get(LabelKind::Cookie, key),
            LabelKind::CallerService => {
                let caller = self.caller?;
                (key == caller.namespace() || key == "*").then(|| Cow::Borrowed(caller.service()))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Quota<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("method", &self.method).field("caller", &self.caller).finish_non_exhaustive()
    }
}

// === impl GetQuota ===

impl<'a> GetQuota<'a> {
    /// A call to `service`, of which nothing else is known.
    pub fn new(namespace: impl Into<Cow<'a, str>>, service: impl Into<Cow<'a, str>>) -> Self {
        Self {
            namespace: namespace.into(),
            service: service.into(),
            method: Cow::Borrowed(""),
            labels: None,
            caller: None,
            timeout: None,
        }
    }

    /// What is called; see [`Quota::method`].
    pub fn method(mut self, method: impl Into<Cow<'a, str>>) -> Self {
        self.method = method.into();
        self
    }

    /// What the call is like. Where labels are looked up rather than collected, use [`Quota::labels`].
    pub fn labels(mut self, labels: impl Into<Cow<'a, LabelSet>>) -> Self {
        self.labels = Some(labels.into());
        self
    }

    /// The service that makes the call, where the labels do not say so.
    pub fn caller(mut self, caller: &'a ServiceKey) -> Self {
        self.caller = Some(Cow::Borrowed(caller));
        self
    }

    /// How long to wait for rules that are not loaded yet. Default: `global.api.timeout`. The wait in the queue of a rule
    /// that paces calls is bounded by the rule.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> ServiceKeyRef<'_> {
        ServiceKeyRef { namespace: &self.namespace, service: &self.service }
    }

    /// What is asked of it.
    pub fn quota(&self) -> Quota<'_> {
        Quota {
            method: &self.method,
            labels: self.labels.as_deref().map(|labels| labels as &dyn Labels),
            caller: self.caller.as_deref(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timeout
    }

    /// The request without borrows.
    pub fn into_owned(self) -> GetQuota<'static> {
        GetQuota {
            namespace: Cow::Owned(self.namespace.into_owned()),
            service: Cow::Owned(self.service.into_owned()),
            method: Cow::Owned(self.method.into_owned()),
            labels: self.labels.map(|labels| Cow::Owned(labels.into_owned())),
            caller: self.caller.map(|caller| Cow::Owned(caller.into_owned())),
            timeout: self.timeout,
        }
    }
}

impl<'a> From<(&'a str, &'a str)> for GetQuota<'a> {
    fn from((namespace, service): (&'a str, &'a str)) -> Self {
        Self::new(namespace, service)
    }
}

impl<'a> From<&'a ServiceKey> for GetQuota<'a> {
    fn from(key: &'a ServiceKey) -> Self {
        Self::new(key.namespace(), key.service())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(quota: &'a Quota<'_>, kind: LabelKind, key: &str) -> Option<Cow<'a, str>> {
        quota.get(kind, key)
    }

    #[test]
    fn a_method_is_no_verb_and_an_empty_one_is_none() {
        let labels = LabelSet::new().method("GET").path("/other");
        let quota = Quota::new().method("/pay").labels(&labels);
        assert_eq!(get(&quota, LabelKind::Path, "").as_deref(), Some("/pay"));
        assert_eq!(get(&quota, LabelKind::Method, "").as_deref(), Some("GET"));
        assert_eq!(get(&Quota::new().labels(&labels), LabelKind::Path, ""), None);
    }

    #[test]
    fn a_caller_is_known_by_its_namespace_or_by_any() {
        let caller = ServiceKey::new("ns", "web");
        let quota = Quota::new().caller(&caller);
        for (key, expected) in [("ns", Some("web")), ("*", Some("web")), ("other", None)] {
            assert_eq!(get(&quota, LabelKind::CallerService, key).as_deref(), expected, "{key}");
        }
        let labels = LabelSet::new().caller_service("ns", "told");
        assert_eq!(get(&quota.labels(&labels), LabelKind::CallerService, "ns").as_deref(), Some("told"));
    }

    #[test]
    fn a_cookie_is_found_as_a_custom_label_where_there_is_none() {
        let labels = LabelSet::new().cookie("a", "1").cookie("b", "1").custom("b", "2");
        let quota = Quota::new().labels(&labels);
        assert_eq!(get(&quota, LabelKind::Custom, "a").as_deref(), Some("1"));
        assert_eq!(get(&quota, LabelKind::Custom, "b").as_deref(), Some("2"));
    }

    #[test]
    fn an_owned_request_asks_the_same() {
        let caller = ServiceKey::new("ns", "web");
        let request = GetQuota::from(("a", "b")).method("/m").labels(LabelSet::new().header("h", "1")).caller(&caller);
        let owned = request.clone().timeout(Duration::from_secs(3)).into_owned();
        assert_eq!((owned.key(), owned.deadline()), (request.key(), Some(Duration::from_secs(3))));
        for (kind, key) in [(LabelKind::Path, ""), (LabelKind::Header, "h"), (LabelKind::CallerService, "ns")] {
            assert_eq!(get(&owned.quota(), kind, key), get(&request.quota(), kind, key));
        }
    }
}
