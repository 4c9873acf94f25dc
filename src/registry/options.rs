//! What the registry needs to know, and how the configuration says it.

use std::time::Duration;

use crate::config::{EmptyPolicy, LocalCache};
use crate::model::service::ServiceInstances;
use crate::registry::cache::CacheOptions;
use crate::registry::guard::GuardPolicy;
use crate::util::clock::WallClock;

/// Everything that a registry is made of.
#[derive(Debug)]
pub(crate) struct RegistryOptions {
    /// After how long without use a key is forgotten; none: never.
    pub(crate) expire_after: Option<Duration>,
    pub(crate) guard: GuardPolicy,
    /// None: nothing is read from or written to disk.
    pub(crate) cache: Option<CacheOptions>,
    pub(crate) clock: WallClock,
    /// Services whose instances are given, and that no control plane is asked for.
    pub(crate) fixed: Vec<ServiceInstances>,
}

impl RegistryOptions {
    /// What `consumer.localCache` says.
    pub(crate) fn new(config: &LocalCache, clock: WallClock, fixed: Vec<ServiceInstances>) -> Self {
        let directory = config.persist_dir.clone().filter(|_| config.persist_enable);
        Self {
            expire_after: config.service_expire_enable.then_some(config.service_expire_time),
            guard: guard(config),
            cache: directory.map(|directory| CacheOptions {
                directory,
                serve_at_start: config.start_use_file_cache,
                fresh_for: config.persist_available_interval,
                write_retries: config.persist_max_write_retry,
                read_retries: config.persist_max_read_retry,
                retry_interval: config.persist_retry_interval,
            }),
            clock,
            fixed,
        }
    }
}

fn guard(config: &LocalCache) -> GuardPolicy {
    let guard = &config.empty_guard;
    match guard.policy {
        EmptyPolicy::Accept => GuardPolicy::Accept,
        EmptyPolicy::KeepLast => GuardPolicy::KeepLast { max_age: guard.max_age.unwrap_or(Duration::MAX) },
        EmptyPolicy::Guard => {
            GuardPolicy::Guard { window: config.guard_window(), shrink_percent: guard.shrink_percent }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut LocalCache)) -> RegistryOptions {
        let mut config = LocalCache::default();
        change(&mut config);
        RegistryOptions::new(&config, WallClock::start(), Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn by_default_nothing_is_written_and_losses_are_guarded_for_three_polls() {
        let options = options(|_| {});
        assert!(options.cache.is_none());
        assert_eq!(options.expire_after, Some(Duration::from_secs(24 * 3600)));
        assert_eq!(options.guard, GuardPolicy::Guard { window: Duration::from_secs(6), shrink_percent: 80 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_disk_cache_needs_a_directory_and_the_switch() {
        let with_directory = |enable| {
            options(|config| {
                config.persist_dir = Some("cache".into());
                config.persist_enable = enable;
            })
        };
        assert!(with_directory(true).cache.is_some_and(|cache| cache.directory.ends_with("cache")));
        assert!(with_directory(false).cache.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn every_policy_can_be_configured() {
        let of = |policy, max_age| {
            options(|config| {
                config.empty_guard.policy = policy;
                config.empty_guard.max_age = max_age;
                config.service_expire_enable = false;
            })
        };
        assert_eq!(of(EmptyPolicy::Accept, None).guard, GuardPolicy::Accept);
        assert_eq!(of(EmptyPolicy::KeepLast, None).guard, GuardPolicy::KeepLast { max_age: Duration::MAX });
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(of(EmptyPolicy::KeepLast, Some(day)).guard, GuardPolicy::KeepLast { max_age: day });
        assert_eq!(of(EmptyPolicy::Guard, None).expire_after, None);
    }
}
