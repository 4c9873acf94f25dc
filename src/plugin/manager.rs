//! Names to factories, and a configured chain to routers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::balance::LoadBalancer;
use crate::config::plugin::{PluginKind, canonical, is_known, known_names};
use crate::config::{self, PluginOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::plugin::builtin;
use crate::plugin::guard::Guarded;
use crate::plugin::roster::Roster;
use crate::routing::{Chain, ServiceRouter};
use crate::util::panic::caught;

type Make<T> = Box<dyn Fn(&PluginOptions) -> Result<Arc<T>> + Send + Sync>;

/// Makes a router out of its options.
pub(crate) type MakeRouter = Make<dyn ServiceRouter>;
/// Makes a balancer out of its options.
pub(crate) type MakeBalancer = Make<dyn LoadBalancer>;

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

    /// Adds a router of a user's.
    pub(crate) fn add_foreign_router(&mut self, name: &str, make: MakeRouter) {
        let named: Arc<str> = name.into();
        self.add_router(name, move |options| {
            let panicked = |said| Error::new(ErrorKind::Plugin, format!("making {named} panicked: {said}"));
            let inner = caught(|| make(options)).map_err(panicked)??;
            Ok(Arc::new(Guarded { name: Arc::clone(&named), inner }))
        });
    }

    /// Adds a balancer of a user's.
    pub(crate) fn add_foreign_balancer(&mut self, name: &str, make: MakeBalancer) {
        let named: Arc<str> = name.into();
        self.add_balancer(name, move |options| {
            let panicked = |said| Error::new(ErrorKind::Plugin, format!("making {named} panicked: {said}"));
            let inner = caught(|| make(options)).map_err(panicked)??;
            Ok(Arc::new(Guarded { name: Arc::clone(&named), inner }))
        });
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

    /// All routers, whether or not they are in the chain.
    ///
    /// # Errors
    /// Whatever a factory says of its options.
    pub(crate) fn routers(&self, section: &config::ServiceRouter) -> Result<Chain> {
        let made = self.routers.iter().map(|(name, make)| Ok((name.as_str().into(), make(&section.options(name))?)));
        made.collect::<Result<_>>().map(Chain::new)
    }

    /// The chain that `section` names, of these routers.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that nobody knows.
    pub(crate) fn chain(&self, section: &config::ServiceRouter, routers: &Chain) -> Result<Chain> {
        let chosen = chosen_names(section);
        let mut names = Vec::new();
        for name in section.ordered() {
            if routers.has(name) {
                names.push(name);
            } else if !is_known(PluginKind::Router, name) {
                return Err(unknown("consumer.serviceRouter", PluginKind::Router, name, &self.routers));
            } else if chosen.contains(&name) {
                tracing::warn!(router = name, "this router is not built yet: the chain goes on without it");
            }
        }
        Ok(routers.of(&names))
    }

    /// All balancers, with the one that `section` names as the default.
    ///
    /// # Errors
    /// As those of [`Self::chain`].
    pub(crate) fn balancers(&self, section: &config::LoadBalancer) -> Result<Roster> {
        let chosen = canonical(&section.policy);
        let mut policies = Vec::with_capacity(self.balancers.len());
        for (name, make) in &self.balancers {
            policies.push((name.clone(), make(&section.options(name))?));
        }
        let Some(default) = policies.iter().position(|(name, _)| name == chosen) else {
            return Err(unknown("consumer.loadbalancer.type", PluginKind::LoadBalancer, chosen, &self.balancers));
        };
        Ok(Roster::new(policies, default))
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
    use crate::model::subset::Subset;
    use crate::model::subset::fixture::weighted;
    use crate::routing::Surroundings;
    use crate::routing::router::Routed;
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
        chain.names().collect()
    }

    fn chain_of(manager: &Manager, section: &config::ServiceRouter) -> Result<Chain> {
        manager.chain(section, &manager.routers(section)?)
    }

    fn manager() -> Manager {
        Manager::new(&config::Consumer::default())
    }

    fn section(chain: &[&str]) -> config::ServiceRouter {
        let chain = chain.iter().copied().map(str::to_owned).collect();
        config::ServiceRouter { chain, ..config::ServiceRouter::default() }
    }

    #[test]
    fn the_default_chain_is_built_and_silent() {
        let (chain, warned) = warnings(|| chain_of(&manager(), &config::ServiceRouter::default()).unwrap());
        let all = ["isolatedRouter", "metadataRouter", "ruleBasedRouter", "nearbyBasedRouter", "recoverRouter"];
        assert_eq!(names(&chain), all);
        assert_eq!(warned, "");
    }

    #[test]
    fn a_chosen_router_that_is_not_built_is_left_out_with_one_warning() {
        let (chain, warned) = warnings(|| chain_of(&manager(), &section(&["setDivisionRouter"])).unwrap());
        assert_eq!(names(&chain), ["isolatedRouter", "recoverRouter"]);
        assert_eq!((warned.matches("not built yet").count(), warned.matches("setRouter").count()), (1, 1), "{warned}");
    }

    #[test]
    fn names_of_both_dialects_mean_the_same_router() {
        let section = config::ServiceRouter { after_chain: vec!["filterOnlyRouter".into()], ..section(&[]) };
        assert_eq!(names(&chain_of(&manager(), &section).unwrap()), ["isolatedRouter", "recoverRouter"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        let mut manager = manager();
        let error = chain_of(&manager, &section(&["myRouter"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        for part in ["\"myRouter\"", "isolatedRouter", "dstMetaRouter"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        manager.add_balancer("mine", |_| Ok(Arc::new(WeightedRandom)));
        let policy = |name: &str| config::LoadBalancer { policy: name.into(), ..config::LoadBalancer::default() };
        let error = manager.balancers(&policy("yours")).unwrap_err();
        assert!(error.to_string().contains("weightedRandom") && error.to_string().ends_with(", mine"), "{error}");
        let roster = manager.balancers(&policy("mine")).unwrap();
        assert_eq!(roster.default_name(), "mine");
        let error = roster.find("yours").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("maglev"), "{error}");
    }

    #[test]
    fn every_balancer_that_both_sdks_know_is_built() {
        for name in known_names(PluginKind::LoadBalancer).split(", ") {
            let policy = config::LoadBalancer { policy: name.into(), ..config::LoadBalancer::default() };
            assert_eq!(manager().balancers(&policy).unwrap().default_name(), name);
        }
    }

    #[test]
    fn a_bad_option_is_told_by_its_path() {
        let mut consumer = config::Consumer::default();
        consumer.service_router.plugin.insert("nearbyBasedRouter", PluginOptions::new().with("matchLevel", "street"));
        let error = chain_of(&Manager::new(&consumer), &consumer.service_router).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let text = error.to_string();
        assert!(text.contains("consumer.serviceRouter.plugin.nearbyBasedRouter.matchLevel"), "{text}");
        consumer.loadbalancer.plugin.insert("maglev", PluginOptions::new().with("tableSize", "10"));
        let error = Manager::new(&consumer).balancers(&consumer.loadbalancer).unwrap_err();
        assert!(error.to_string().contains("consumer.loadbalancer.plugin.maglev.tableSize"), "{error}");
    }

    #[derive(Debug)]
    struct Panics;

    impl ServiceRouter for Panics {
        fn compile(&self, _: &Subset, _: &Surroundings) -> Result<Routed> {
            panic!("at noon")
        }
    }

    #[test]
    fn a_plug_in_that_panics_is_an_error_that_names_it() {
        let mut manager = manager();
        manager.add_foreign_router("mine", Box::new(|_| Ok(Arc::new(Panics))));
        let chain = chain_of(&manager, &section(&["mine"])).unwrap();
        let router = chain.router(1).unwrap();
        let error = router.compile(&weighted(&[1]), &Surroundings::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Plugin);
        assert!(error.to_string().contains("mine panicked: at noon"), "{error}");
        manager.add_foreign_balancer("theirs", Box::new(|_| panic!("in the making")));
        let error = manager.balancers(&config::LoadBalancer::default()).unwrap_err();
        assert!(error.to_string().contains("theirs panicked: in the making"), "{error}");
    }

    #[test]
    fn the_recover_router_follows_its_keys() {
        let consumer = config::Consumer {
            service_router: config::ServiceRouter { enable_recover_all: false, ..section(&[]) },
            ..config::Consumer::default()
        };
        let chain = chain_of(&Manager::new(&consumer), &consumer.service_router).unwrap();
        assert!(format!("{chain:?}").contains("all_dead_all_alive: false"), "{chain:?}");
    }
}
