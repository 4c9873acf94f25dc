//! Names to factories, and a configured chain to routers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::balance::LoadBalancer;
use crate::config::plugin::{PluginKind, canonical, is_known, known_names};
use crate::config::{self, PluginOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::builtin;
use crate::routing::{Chain, ServiceRouter};

type Make<T> = Box<dyn Fn(&PluginOptions) -> Result<Arc<T>> + Send + Sync>;

/// The plug-ins that a context has.
pub(crate) struct Manager {
    routers: BTreeMap<String, Make<dyn ServiceRouter>>,
    balancers: BTreeMap<String, Make<dyn LoadBalancer>>,
}

impl Manager {
    /// What is built in, set up as `consumer` says.
    pub(crate) fn new(consumer: &config::Consumer) -> Self {
        let mut manager = Self { routers: BTreeMap::new(), balancers: BTreeMap::new() };
        builtin::register(&mut manager, consumer);
        manager
    }

    /// Adds a router, in place of one of the same name.
    pub(crate) fn add_router<F>(&mut self, name: &str, make: F)
    where
        F: Fn(&PluginOptions) -> Result<Arc<dyn ServiceRouter>> + Send + Sync + 'static,
    {
        self.routers.insert(canonical(name).to_owned(), Box::new(make));
    }

    /// Adds a balancer, in place of one of the same name.
    pub(crate) fn add_balancer<F>(&mut self, name: &str, make: F)
    where
        F: Fn(&PluginOptions) -> Result<Arc<dyn LoadBalancer>> + Send + Sync + 'static,
    {
        self.balancers.insert(canonical(name).to_owned(), Box::new(make));
    }

    /// The chain that `section` names.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that nobody knows, and whatever a factory says of its options.
    pub(crate) fn chain(&self, section: &config::ServiceRouter) -> Result<Chain> {
        let chosen = chosen_names(section);
        let mut routers = Vec::new();
        for name in section.ordered() {
            match self.routers.get(name) {
                Some(make) => routers.push(make(&section.options(name))?),
                None if !is_known(PluginKind::Router, name) => {
                    return Err(unknown("consumer.serviceRouter", PluginKind::Router, name, &self.routers));
                }
                None if chosen.contains(&name) => {
                    tracing::warn!(router = name, "this router is not built yet: the chain goes on without it");
                }
                None => {}
            }
        }
        Ok(Chain::new(routers))
    }

    /// The balancer that `section` names, and its name.
    ///
    /// # Errors
    /// As those of [`Self::chain`].
    pub(crate) fn default_balancer(&self, section: &config::LoadBalancer) -> Result<(String, Arc<dyn LoadBalancer>)> {
        let mut name = canonical(&section.policy);
        if !self.balancers.contains_key(name) && is_known(PluginKind::LoadBalancer, name) {
            tracing::warn!(balancer = name, "this policy is not built yet: {} takes its place", builtin::BALANCER);
            name = builtin::BALANCER;
        }
        let Some(make) = self.balancers.get(name) else {
            return Err(unknown("consumer.loadbalancer.type", PluginKind::LoadBalancer, name, &self.balancers));
        };
        Ok((name.to_owned(), make(&section.options(name))?))
    }
}

/// The names of those parts of the chain that somebody wrote.
fn chosen_names(section: &config::ServiceRouter) -> Vec<&str> {
    let default = config::ServiceRouter::default();
    let parts = [
        (&section.before_chain, &default.before_chain),
        (&section.chain, &default.chain),
        (&section.after_chain, &default.after_chain),
    ];
    let chosen = parts.into_iter().filter(|(part, default)| part != default);
    chosen.flat_map(|(part, _)| part).map(|name| canonical(name)).collect()
}

fn unknown<T>(at: &str, kind: PluginKind, name: &str, own: &BTreeMap<String, T>) -> Error {
    let own: Vec<_> = own.keys().filter(|own| !is_known(kind, own)).map(String::as_str).collect();
    let own = if own.is_empty() { String::new() } else { format!(", {}", own.join(", ")) };
    let context = format!("{at}: nobody knows {name:?}; known are {}{own}", known_names(kind));
    Error::new(ErrorKind::InvalidConfig, context)
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("routers", &self.routers.keys())
            .field("balancers", &self.balancers.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::WeightedRandom;
    use std::sync::{Mutex, PoisonError};

    /// Runs `work` and returns what it logged at WARN and above.
    fn warnings<T>(work: impl FnOnce() -> T) -> (T, String) {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);

        impl std::io::Write for Log {
            fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        let done = tracing::subscriber::with_default(subscriber, work);
        let lines = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (done, String::from_utf8(lines).unwrap())
    }

    fn names(chain: &Chain) -> Vec<&str> {
        chain.routers().map(ServiceRouter::name).collect()
    }

    fn manager() -> Manager {
        Manager::new(&config::Consumer::default())
    }

    fn section(chain: &[&str]) -> config::ServiceRouter {
        let chain = chain.iter().copied().map(str::to_owned).collect();
        config::ServiceRouter { chain, ..config::ServiceRouter::default() }
    }

    #[test]
    fn the_default_chain_is_silent_about_what_is_not_built() {
        let (chain, warned) = warnings(|| manager().chain(&config::ServiceRouter::default()).unwrap());
        assert_eq!(names(&chain), ["isolatedRouter", "recoverRouter"]);
        assert_eq!(warned, "");
    }

    #[test]
    fn a_chosen_router_that_is_not_built_is_left_out_with_one_warning() {
        let (chain, warned) = warnings(|| manager().chain(&section(&["setDivisionRouter"])).unwrap());
        assert_eq!(names(&chain), ["isolatedRouter", "recoverRouter"]);
        assert_eq!((warned.matches("not built yet").count(), warned.matches("setRouter").count()), (1, 1), "{warned}");
    }

    #[test]
    fn names_of_both_dialects_mean_the_same_router() {
        let section = config::ServiceRouter { after_chain: vec!["filterOnlyRouter".into()], ..section(&[]) };
        assert_eq!(names(&manager().chain(&section).unwrap()), ["isolatedRouter", "recoverRouter"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let mut manager = manager();
        let error = manager.chain(&section(&["myRouter"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        for part in ["\"myRouter\"", "isolatedRouter", "dstMetaRouter"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        manager.add_balancer("mine", |_| Ok(Arc::new(WeightedRandom)));
        let policy = |name: &str| config::LoadBalancer { policy: name.into(), ..config::LoadBalancer::default() };
        let error = manager.default_balancer(&policy("yours")).unwrap_err();
        assert!(error.to_string().contains("weightedRandom") && error.to_string().ends_with(", mine"), "{error}");
        assert_eq!(manager.default_balancer(&policy("mine")).unwrap().0, "mine");
    }

    #[test]
    fn a_policy_that_is_not_built_is_replaced_with_one_warning() {
        let policy = config::LoadBalancer { policy: "maglev".into(), ..config::LoadBalancer::default() };
        let (balancer, warned) = warnings(|| manager().default_balancer(&policy).unwrap());
        assert_eq!((balancer.0.as_str(), warned.matches("not built yet").count()), ("weightedRandom", 1));
    }

    #[test]
    fn the_recover_router_follows_its_keys() {
        let consumer = config::Consumer {
            service_router: config::ServiceRouter { enable_recover_all: false, ..section(&[]) },
            ..config::Consumer::default()
        };
        let chain = Manager::new(&consumer).chain(&consumer.service_router).unwrap();
        assert!(format!("{chain:?}").contains("all_dead_all_alive: false"), "{chain:?}");
    }
}
