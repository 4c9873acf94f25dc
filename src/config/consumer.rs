//! Section `consumer`: what is kept of other services, and how one instance of them is picked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plugin::{self, PluginOptions, PluginSection};
use super::{duration, scalar};

/// Section `consumer`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Consumer {
    /// What is kept in memory and on disk.
    pub local_cache: LocalCache,
    /// Which instances may be picked.
    pub service_router: ServiceRouter,
    /// Which one of them is.
    pub loadbalancer: LoadBalancer,
}

/// Section `consumer.localCache`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct LocalCache {
    /// Whether a service that nobody asked for during `serviceExpireTime` is forgotten. Default true.
    #[serde(deserialize_with = "scalar::flag")]
    pub service_expire_enable: bool,
    /// See `serviceExpireEnable`; watched services are never forgotten. Default 24 h, at least 5 s.
    #[serde(with = "duration")]
    pub service_expire_time: Duration,
    /// How often the control plane is asked whether something changed, for each service in use, with jitter.
    /// Default 2 s, at least 100 ms.
    #[serde(with = "duration")]
    pub service_refresh_interval: Duration,
    /// Whether what is known is also kept on disk. Default true, and without an effect until `persistDir` is set.
    #[serde(deserialize_with = "scalar::flag")]
    pub persist_enable: bool,
    /// The directory to keep it in. Default none: nothing is written unasked.
    #[serde(deserialize_with = "scalar::optional")]
    pub persist_dir: Option<PathBuf>,
    /// How often a failed write is tried again. Default 1.
    #[serde(deserialize_with = "scalar::number")]
    pub persist_max_write_retry: u32,
    /// How often a failed read is tried again. Default 0.
    #[serde(deserialize_with = "scalar::number")]
    pub persist_max_read_retry: u32,
    /// The pause before such another try. Default 500 ms.
    #[serde(with = "duration")]
    pub persist_retry_interval: Duration,
    /// How old a file may be to be served right at the start; an older one serves when the control plane does not
    /// answer. Default 60 s.
    #[serde(with = "duration")]
    pub persist_available_interval: Duration,
    /// Whether files are served right at the start, before the control plane has answered. Default true.
    #[serde(deserialize_with = "scalar::flag")]
    pub start_use_file_cache: bool,
    /// What is done with an answer that suddenly has no instances, or far fewer.
    pub empty_guard: EmptyGuard,
}

/// Section `consumer.localCache.emptyGuard`: an answer without instances may be a fault of the control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct EmptyGuard {
    /// Which of the policies is in force. Default [`EmptyPolicy::Guard`].
    pub policy: EmptyPolicy,
    /// `guard`: how long such an answer must stay the same before it is believed.
    /// Default: three times `serviceRefreshInterval`, see [`LocalCache::guard_window`].
    #[serde(with = "duration::optional")]
    pub window: Option<Duration>,
    /// `guard`: the loss, in percent of a list of 5 instances or more, from which an answer counts as suspicious.
    /// Default 80, from 1 to 100.
    #[serde(deserialize_with = "scalar::number")]
    pub shrink_percent: u8,
    /// `keepLast`: for how long the last good list is kept. Default: without a limit.
    #[serde(with = "duration::optional")]
    pub max_age: Option<Duration>,
}

/// What is done with an answer that suddenly has no instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum EmptyPolicy {
    /// It is served only when it was seen again for a whole window, and so is an answer that shrank by `shrinkPercent`;
    /// until then the last good list is served, marked stale.
    #[default]
    Guard,
    /// It is served at once.
    Accept,
    /// The last good list is served in its place until `maxAge` has passed.
    KeepLast,
}

/// Section `consumer.serviceRouter`: the chain of routers, each seeing the instances that the one before left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct ServiceRouter {
    /// Routers that go first. Default `[isolatedRouter]`.
    #[serde(deserialize_with = "scalar::list")]
    pub before_chain: Vec<String>,
    /// Routers in the middle. Default `[metadataRouter, ruleBasedRouter, nearbyBasedRouter]`.
    #[serde(deserialize_with = "scalar::list")]
    pub chain: Vec<String>,
    /// Routers that go last. Default `[recoverRouter]`.
    #[serde(deserialize_with = "scalar::list")]
    pub after_chain: Vec<String>,
    /// The share of healthy instances at or below which all are used. Default 0: only when none is healthy. Less
    /// than 1.
    #[serde(deserialize_with = "scalar::fraction")]
    pub percent_of_min_instances: f64,
    /// Whether unhealthy instances are used when there are no others. Default true.
    #[serde(deserialize_with = "scalar::flag")]
    pub enable_recover_all: bool,
    /// Whether a pick fails while rules that it should follow cannot be had. Default false: it goes on without them, and
    /// the state of the context says so.
    #[serde(deserialize_with = "scalar::flag")]
    pub strict_rules: bool,
    /// Options of single routers, by name.
    pub plugin: PluginSection,
}

/// Section `consumer.loadbalancer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct LoadBalancer {
    /// Name of the policy of requests that do not name one. Default `weightedRandom`.
    #[serde(rename = "type", deserialize_with = "scalar::text")]
    pub policy: String,
    /// Options of single policies, by name.
    pub plugin: PluginSection,
}

// === impl LocalCache ===

impl LocalCache {
    /// How long a suspicious answer must stay the same before it is believed: what is configured, or three polls.
    #[must_use]
    pub fn guard_window(&self) -> Duration {
        self.empty_guard.window.unwrap_or(self.service_refresh_interval.saturating_mul(3))
    }
}

impl Default for LocalCache {
    fn default() -> Self {
        Self {
            service_expire_enable: true,
            service_expire_time: Duration::from_secs(24 * 3600),
            service_refresh_interval: Duration::from_secs(2),
            persist_enable: true,
            persist_dir: None,
            persist_max_write_retry: 1,
            persist_max_read_retry: 0,
            persist_retry_interval: Duration::from_millis(500),
            persist_available_interval: Duration::from_secs(60),
            start_use_file_cache: true,
            empty_guard: EmptyGuard::default(),
        }
    }
}

// === impl EmptyGuard ===

impl Default for EmptyGuard {
    fn default() -> Self {
        Self { policy: EmptyPolicy::Guard, window: None, shrink_percent: 80, max_age: None }
    }
}

// === impl ServiceRouter ===

impl ServiceRouter {
    pub(super) const AT: &'static str = "consumer.serviceRouter";

    /// The whole chain in its order, each router by its canonical name and once: where it stands first.
    #[must_use]
    pub fn ordered(&self) -> Vec<&str> {
        let mut order = Vec::new();
        for name in self.before_chain.iter().chain(&self.chain).chain(&self.after_chain) {
            let name = plugin::canonical(name);
            if !order.contains(&name) {
                order.push(name);
            }
        }
        order
    }

    /// The options of one router, by any of its names; empty if there are none.
    #[must_use]
    pub fn options(&self, name: &str) -> PluginOptions {
        self.plugin.options(Self::AT, name)
    }
}

impl Default for ServiceRouter {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().copied().map(str::to_owned).collect();
        Self {
            before_chain: names(&["isolatedRouter"]),
            chain: names(&["metadataRouter", "ruleBasedRouter", "nearbyBasedRouter"]),
            after_chain: names(&["recoverRouter"]),
            percent_of_min_instances: 0.0,
            enable_recover_all: true,
            strict_rules: false,
            plugin: PluginSection::default(),
        }
    }
}

// === impl LoadBalancer ===

impl LoadBalancer {
    pub(super) const AT: &'static str = "consumer.loadbalancer";

    /// The options of one policy, by any of its names; empty if there are none.
    #[must_use]
    pub fn options(&self, name: &str) -> PluginOptions {
        self.plugin.options(Self::AT, name)
    }
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self { policy: "weightedRandom".to_owned(), plugin: PluginSection::default() }
    }
}
