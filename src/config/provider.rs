//! Section `provider`: how the instances of this process are kept registered, and the calls that it serves limited.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate_limit::RateLimit;
use super::{duration, scalar};
use crate::model::key::ServiceKey;

/// Section `provider`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Provider {
    /// How an instance that is going away stays up after it was isolated, so that callers see that it goes and leave
    /// it. Default 5 s, at most 10 minutes; a registration may bring its own.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// How heartbeats are sent.
    pub heartbeat: Heartbeat,
    /// The service that this process is, as routing rules know callers.
    pub service: CallerService,
    /// How the calls that this process serves are limited.
    pub rate_limit: RateLimit,
}

/// Section `provider.service`: who calls, where a request does not say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct CallerService {
    /// Its namespace. Default none: calls come from nobody in particular.
    #[serde(deserialize_with = "scalar::text")]
    pub namespace: String,
    /// Its name.
    #[serde(deserialize_with = "scalar::text")]
    pub name: String,
}

/// Section `provider.heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Heartbeat {
    /// Whether heartbeats have a thread and connections of their own, so that an application that starves its runtime
    /// stays registered. Default true.
    #[serde(deserialize_with = "scalar::flag")]
    pub own_thread: bool,
}

impl CallerService {
    /// The service, if it is named.
    pub(crate) fn key(&self) -> Option<ServiceKey> {
        (!self.namespace.is_empty() && !self.name.is_empty()).then(|| ServiceKey::new(&self.namespace, &self.name))
    }
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(5),
            heartbeat: Heartbeat::default(),
            service: CallerService::default(),
            rate_limit: RateLimit::default(),
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { own_thread: true }
    }
}
