//! Section `provider.rateLimit`: how the calls that this process serves are limited.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::ServerAddress;
use super::{duration, scalar};
use crate::model::key::ServiceKey;

/// Section `provider.rateLimit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct RateLimit {
    /// Whether calls are limited at all. Default true; without, every quota is granted.
    #[serde(deserialize_with = "scalar::flag")]
    pub enable: bool,
    /// What becomes of a call whose rules are not known: not loaded yet, and the control plane not reached. Default
    /// `admit`.
    pub on_unknown: OnUnknown,
    /// How long a call queues at most under a rule that paces calls and does not say so itself. Default 1 s, at most 1 h.
    #[serde(with = "duration")]
    pub max_queuing_time: Duration,
    /// How many windows are kept, of all rules that count calls of different labels apart. Each
    /// takes about 700 bytes. Default 20,000, at least 1.
    #[serde(deserialize_with = "scalar::number")]
    pub max_window_count: u32,
    /// What becomes of a call that would need one window more. Default `pass`.
    pub fallback_on_exceed_window_count: OnExceed,
    /// How often windows that are not used any more are dropped. Default 1 minute, at least 1 s.
    #[serde(with = "duration")]
    pub purge_interval: Duration,
    /// The namespace of the service of limiters, which count the calls of rules of type GLOBAL. Default `Polaris`.
    #[serde(deserialize_with = "scalar::text")]
    pub limiter_namespace: String,
    /// The name of that service; a rule may name another one. Default `polaris.limiter`.
    #[serde(deserialize_with = "scalar::text")]
    pub limiter_service: String,
    /// Limiters that are not looked up but given, each as `host:port`. Default none.
    #[serde(deserialize_with = "scalar::list")]
    pub limiter_addresses: Vec<ServerAddress>,
}

/// What becomes of a call whose quota cannot be known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum OnUnknown {
    /// It is admitted, and its permit says why.
    #[default]
    Admit,
    /// It is refused with the reason.
    Reject,
}

/// What becomes of a call for which there is no window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum OnExceed {
    /// The rule lets it pass.
    #[default]
    Pass,
    /// The rule refuses it.
    Reject,
}

impl RateLimit {
    /// The service of limiters.
    pub(crate) fn limiter(&self) -> ServiceKey {
        ServiceKey::new(&self.limiter_namespace, &self.limiter_service)
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            enable: true,
            on_unknown: OnUnknown::Admit,
            max_queuing_time: Duration::from_secs(1),
            max_window_count: 20_000,
            fallback_on_exceed_window_count: OnExceed::Pass,
            purge_interval: Duration::from_secs(60),
            limiter_namespace: "Polaris".to_owned(),
            limiter_service: "polaris.limiter".to_owned(),
            limiter_addresses: Vec::new(),
        }
    }
}
