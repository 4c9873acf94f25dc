//! Builds a context: gathers, checks everything at once, wires; no network I/O.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::{self, Config, PluginOptions, Surroundings};
use crate::context::options::{self, Given};
use crate::context::{Inner, SdkContext};
use crate::engine::contact::Contact;
use crate::engine::location::LocationCell;
use crate::engine::quota::{QuotaOptions, Quotas};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::model::build::{InstanceParts, SnapshotBuilder};
use crate::model::instance::InstanceAddr;
use crate::model::key::{Revision, ServiceKey};
use crate::model::location::Location;
use crate::model::service::ServiceInstances;
use crate::model::variables::Variables;
use crate::plugin::Manager;
use crate::plugin::manager::{MakeBalancer, MakeRouter};
use crate::plugin::{LoadBalancer, ServiceRouter, WeightAdjuster};
use crate::registry::{LocalRegistry, RegistryOptions, Writer};
use crate::transport::discover::ResourceSink;
use crate::transport::{Tls, TokenSource, Transport};
use crate::util::clock::WallClock;
use crate::util::connect::{Connector, Tcp};
use crate::util::task::TaskScope;

/// Builds an [`SdkContext`]. What is set here wins over the configuration, whatever the order of the calls.
///
/// ```no_run
/// use polarismesh::SdkContext;
///
/// # fn example() -> polarismesh::Result<()> {
/// let context = SdkContext::builder()
///     .address("polaris.internal:8091")
///     .set("consumer.localCache.serviceRefreshInterval", "1s")
///     .build()?;
/// # let _ = context;
/// # Ok(())
/// # }
/// ```
#[must_use]
#[derive(Default)]
pub struct SdkContextBuilder {
    config: Option<Config>,
    addresses: Vec<String>,
    settings: Vec<(String, String)>,
    token: Option<TokenSource>,
    tls: Option<Tls>,
    runtime: Option<Handle>,
    fixed: Vec<(ServiceKey, Vec<InstanceAddr>)>,
    connector: Option<Arc<dyn Connector>>,
    routers: Vec<(String, MakeRouter)>,
    balancers: Vec<(String, MakeBalancer)>,
    adjuster: Option<Arc<dyn WeightAdjuster>>,
    exact_clock: bool,
}

impl SdkContextBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Starts from this configuration instead of the defaults.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Adds a server, as `host:port`; the port is 8091 if none is given. Given addresses replace those of the
    /// configuration.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Sets one key of the configuration by its path in `polaris.yaml`.
    ///
    /// ```
    /// # use polarismesh::SdkContext;
    /// SdkContext::builder().set("consumer.localCache.serviceRefreshInterval", "1s");
    /// ```
    pub fn set(mut self, path: &str, value: impl Into<String>) -> Self {
        self.settings.push((path.to_owned(), value.into()));
        self
    }

    /// The access token: fixed text, a file that is read again as it rotates, or a function.
    pub fn token(mut self, token: impl Into<TokenSource>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Encrypts the connections to the control plane. Needs one of the `tls-*` features.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The runtime that all tasks of the context run on. Default: the current one. It needs time and I/O enabled.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Gives a service a fixed list of instances, for development without a server: the service is never asked for.
    pub fn fixed<A: Into<InstanceAddr>>(mut self, key: impl Into<ServiceKey>, at: impl IntoIterator<Item = A>) -> Self {
        self.fixed.push((key.into(), at.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds a router of your own under a name, in place of one that is built in under it. It takes part in routing where
    /// `consumer.serviceRouter` names it, with the options that stand there under `plugin`; `make` is called once.
    ///
    /// ```
    /// use polarismesh::{Result, Routed, SdkContext, ServiceRouter, Subset, Surroundings};
    /// use std::sync::Arc;
    ///
    /// #[derive(Debug)]
    /// struct Everybody;
    ///
    /// impl ServiceRouter for Everybody {
    ///     fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
    ///         Ok(Routed::alike(subset.clone()))
    ///     }
    /// }
    ///
    /// let builder = SdkContext::builder()
    ///     .service_router("everybody", |_| Ok(Arc::new(Everybody)))
    ///     .set("consumer.serviceRouter.chain", "everybody, ruleBasedRouter");
    /// # let _ = builder;
    /// ```
    pub fn service_router<F>(mut self, name: &str, make: F) -> Self
    where
        F: Fn(&PluginOptions) -> Result<Arc<dyn ServiceRouter>> + Send + Sync + 'static,
    {
        self.routers.push((name.to_owned(), Box::new(make)));
        self
    }

    /// Adds a policy of balancing of your own under a name, in place of one that is built in under it. Requests name it, or
    /// `consumer.loadbalancer.type` does; `make` is called once, with the options that stand under
    /// `consumer.loadbalancer.plugin`.
    pub fn load_balancer<F>(mut self, name: &str, make: F) -> Self
    where
        F: Fn(&PluginOptions) -> Result<Arc<dyn LoadBalancer>> + Send + Sync + 'static,
    {
        self.balancers.push((name.to_owned(), Box::new(make)));
        self
    }

    /// Adjusts the weights of instances, for all policies that go by weight. Default: the weights that were registered.
    pub fn weight_adjuster(mut self, adjuster: impl WeightAdjuster) -> Self {
        self.adjuster = Some(Arc::new(adjuster));
        self
    }

    /// Connects in another way than by TCP: how the in-memory server is reached.
    #[cfg(feature = "testing")]
    pub(crate) fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Reads the clock for each quota: how limits follow the clock of a test.
    #[cfg(feature = "testing")]
    pub(crate) fn exact_clock(mut self) -> Self {
        self.exact_clock = true;
        self
    }

    /// Builds the context. No network I/O, nothing is started that the first use does not need.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` lists every problem of the configuration with its path; it also says so when there is no tokio
    /// runtime, no server address, or TLS without a `tls-*` feature.
    pub fn build(self) -> Result<SdkContext> {
        Ok(self.assemble()?.0)
    }

    /// The context, and what its registry is fed through.
    pub(super) fn assemble(self) -> Result<(SdkContext, Arc<Writer>)> {
        let config = self.effective_config()?;
        let fixed = self.fixed_services()?;
        let mut plugins = Manager::new(&config.consumer);
        self.routers.into_iter().for_each(|(name, make)| plugins.add_foreign_router(&name, make));
        self.balancers.into_iter().for_each(|(name, make)| plugins.add_foreign_balancer(&name, make));
        let engine = EngineOptions::new(&plugins, &config, self.adjuster)?;
        let runtime = self.runtime.map_or_else(Handle::try_current, Ok).map_err(|error| {
            let what = "a context needs a tokio runtime: build it inside of one, or give one by `runtime(handle)`";
            Error::new(ErrorKind::InvalidConfig, what).with_source(error)
        })?;
        let connector = self.connector.unwrap_or_else(|| Arc::new(Tcp));
        let given = Given { token: self.token, tls: self.tls, connector, exact_clock: self.exact_clock };
        wire(config, engine, runtime, fixed, given)
    }

    fn effective_config(&self) -> Result<Config> {
        // Not the bare defaults: a location may stand in the environment.
        let mut config = self.config.clone().map_or_else(|| Config::from_yaml(""), Ok)?;
        let mut problems: Vec<Error> = Vec::new();
        for (path, value) in &self.settings {
            problems.extend(config.set(path, value).err());
        }
        if !self.addresses.is_empty() {
            config.global.server_connector.addresses.clear();
        }
        for address in &self.addresses {
            match address.parse() {
                Ok(address) => config.global.server_connector.addresses.push(address),
                Err(error) => {
                    problems.push(Error::new(ErrorKind::InvalidConfig, format!("SdkContextBuilder::address: {error}")));
                }
            }
        }
        let no_server = !self.fixed.is_empty() || !self.addresses.is_empty();
        let routers: Vec<_> = self.routers.iter().map(|(name, _)| name.as_str()).collect();
        let balancers: Vec<_> = self.balancers.iter().map(|(name, _)| name.as_str()).collect();
        let around = Surroundings { routers: &routers, balancers: &balancers, no_server };
        problems.extend(config.validate_in(&around).err());
        all_at_once(problems)?;
        Ok(config)
    }

    fn fixed_services(&self) -> Result<Vec<ServiceInstances>> {
        let service = |(key, addresses): &(ServiceKey, Vec<InstanceAddr>)| {
            key.validate()?;
            let mut builder = SnapshotBuilder::new(key.clone());
            for at in addresses {
                let parts = InstanceParts { host: at.host(), port: at.port().into(), ..InstanceParts::default() };
                builder.push(parts, []).map_err(|error| {
                    Error::new(ErrorKind::InvalidArgument, format!("fixed: {error}")).with_service(key.text())
                })?;
            }
            Ok(builder.finish(Revision::default(), [], None))
        };
        self.fixed.iter().map(service).collect()
    }
}

/// One error that lists all problems, each as it stands in its own.
fn all_at_once(mut problems: Vec<Error>) -> Result<()> {
    if problems.len() < 2 {
        return problems.pop().map_or(Ok(()), Err);
    }
    let prefix = format!("{}: ", ErrorKind::InvalidConfig);
    let list: Vec<_> = problems.iter().map(|error| error.to_string().replacen(&prefix, "", 1)).collect();
    Err(Error::new(ErrorKind::InvalidConfig, list.join("; ")))
}

/// Makes all parts and joins them. Nothing of it does I/O or waits.
fn wire(
    config: Config,
    engine_options: EngineOptions,
    runtime: Handle,
    fixed: Vec<ServiceInstances>,
    given: Given,
) -> Result<(SdkContext, Arc<Writer>)> {
    let scope = TaskScope::new(runtime);
    let exit = scope.apart();
    let clock = WallClock::start();
    let exact_clock = given.exact_clock;
    let transport = Transport::new(options::transport(&config, given), &scope)?;
    let kept = RegistryOptions::new(&config.consumer.local_cache, clock, fixed);
    let (registry, writer) = LocalRegistry::new(kept, scope.clone());
    if !config.global.server_connector.addresses.is_empty() {
        registry.attach(transport.discover(Arc::clone(&writer) as Arc<dyn ResourceSink>));
    }
    let location = &config.global.location;
    let location = LocationCell::new(Location::new(&*location.region, &*location.zone, &*location.campus));
    let engine = Engine::new(registry.clone(), scope.clone(), location.clone(), engine_options);
    let variables = Variables::new(config.global.system.variables.clone(), config::variable);
    let quotas =
        Quotas::new(&engine, transport.clone(), QuotaOptions { exact_clock, ..QuotaOptions::new(&config, variables) });
    let inner = Arc::new(Inner {
        config,
        scope,
        exit,
        transport,
        registry,
        engine,
        quotas,
        location,
        contact: Contact::new(),
        clock,
        provider: OnceLock::new(),
        starting: Mutex::new(()),
        started: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        closed: watch::Sender::new(false),
        left_over: OnceLock::new(),
        wake: watch::Sender::new(0),
    });
    Ok((SdkContext::of(inner), writer))
}

impl fmt::Debug for SdkContextBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkContextBuilder").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_problems_of_a_builder_are_reported_at_once() {
        let error = SdkContext::builder()
            .address("polaris:99999")
            .address("good:8091")
            .set("global.api.timeout", "soon")
            .set("provider.drain", "11m")
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let text = error.to_string();
        for needle in ["polaris:99999", "global.api.timeout", "provider.drain"] {
            assert!(text.contains(needle), "{needle} is missing: {text}");
        }
    }

    #[test]
    fn a_context_outside_of_a_runtime_is_an_error_and_no_panic() {
        let error = SdkContext::builder().address("127.0.0.1:8091").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("runtime(handle)"), "{error}");
    }
}
