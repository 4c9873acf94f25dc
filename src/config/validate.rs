//! What a configuration must keep to, beyond the types of its values. All problems are found, not only the first.

use std::fmt;
use std::time::Duration;

use super::address::ServerAddress;
use super::global::{Cluster, ServerConnector};
use super::plugin::{self, PluginKind};
use super::secret::MASK;
use super::{Config, Consumer, RateLimit, duration};
use crate::error::{Error, ErrorKind};

/// One problem and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    path: String,
    what: String,
}

/// All problems of a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems(Vec<Problem>);

/// What the caller knows beyond the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Routers that were plugged in by name.
    pub(crate) routers: &'a [&'a str],
    /// Balancers that were plugged in by name.
    pub(crate) balancers: &'a [&'a str],
    /// Whether a context without any address is wanted: all its services are fixed, or its server is in memory.
    pub(crate) no_server: bool,
}

impl Config {
    /// Checks everything that the types of the fields leave open, and reports all problems at once.
    ///
    /// Names of routers and balancers are checked against those of the official SDKs. Ones of your own are known to the
    /// builder of the context only, which makes this same check when it builds.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with every problem and its path.
    pub fn validate(&self) -> Result<(), Error> {
        self.validate_in(&Surroundings { routers: &[], balancers: &[], no_server: false })
    }

    /// [`Config::validate`] for a caller who knows more.
    pub(crate) fn validate_in(&self, around: &Surroundings<'_>) -> Result<(), Error> {
        let mut problems = self.ranges();
        if self.global.server_connector.addresses.is_empty() && !around.no_server {
            problems.push("global.serverConnector.addresses", "at least one server is needed, such as 127.0.0.1:8091");
        }
        names(&self.consumer, around, &mut problems);
        problems.into_result().map_err(|problems| Error::new(ErrorKind::InvalidConfig, problems.to_string()))
    }

    /// The problems of single values and of those that belong together.
    pub(super) fn ranges(&self) -> Problems {
        let mut problems = Problems::default();
        let system = &self.global.system;
        cluster("global.system.discoverCluster", &system.discover_cluster, &mut problems);
        cluster("global.system.healthCheckCluster", &system.health_check_cluster, &mut problems);
        cluster("global.system.configCluster", &system.config_cluster, &mut problems);
        let api = &self.global.api;
        problems.at_least("global.api.timeout", api.timeout, MILLISECOND);
        problems.at_least("global.api.reportInterval", api.report_interval, SECOND);
        connector(&self.global.server_connector, &mut problems);
        cache(&self.consumer, &mut problems);
        if self.provider.drain > 600 * SECOND {
            problems.push("provider.drain", "must be at most 10m");
        }
        rate_limit(&self.provider.rate_limit, &mut problems);
        problems
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn cluster(at: &str, cluster: &Cluster, problems: &mut Problems) {
    if cluster.namespace.is_empty() != cluster.service.is_empty() {
        problems.push(at, "namespace and service must both be set, or neither");
    }
}

fn connector(connector: &ServerConnector, problems: &mut Problems) {
    let at = |key: &str| format!("global.serverConnector.{key}");
    problems.at_least(&at("connectTimeout"), connector.connect_timeout, MILLISECOND);
    problems.at_least(&at("messageTimeout"), connector.message_timeout, MILLISECOND);
    problems.at_least(&at("reconnectInterval"), connector.reconnect_interval, MILLISECOND);
    problems.at_least(&at("connectionIdleTimeout"), connector.connection_idle_timeout, 100 * MILLISECOND);
    if connector.server_switch_interval <= connector.connection_idle_timeout {
        problems.push(&at("serverSwitchInterval"), "must be longer than connectionIdleTimeout");
    }
    if !matches!(connector.plugin.grpc.max_call_recv_msg_size, 1..=524_288_000) {
        problems.push(&at("plugin.grpc.maxCallRecvMsgSize"), "must be from 1 to 524288000 (500 MiB)");
    }
    if connector.token.is_some() && connector.token_file.is_some() {
        problems.push(&at("token"), "token and tokenFile exclude each other");
    }
    if connector.token.as_ref().is_some_and(|token| !token.expose().bytes().all(|b| b.is_ascii_graphic())) {
        problems.push(&at("token"), "must be visible ASCII characters only, to be sent in a header");
    }
    if connector.token.as_ref().is_some_and(|token| token.expose() == MASK) {
        problems.push(&at("token"), "is the mask of a printed configuration, not a token");
    }
    if connector.cert_file.is_some() != connector.key_file.is_some() {
        problems.push(&at("certFile"), "certFile and keyFile must both be set, or neither");
    }
    if connector.uses_tls() {
        if !cfg!(any(feature = "tls-ring", feature = "tls-aws-lc")) {
            problems.push("global.serverConnector", "TLS needs the crate feature tls-ring or tls-aws-lc");
        }
        if connector.addresses.iter().any(ServerAddress::is_plaintext) {
            problems.push(&at("addresses"), "http:// contradicts the TLS of the other addresses or keys");
        }
    }
}

fn cache(consumer: &Consumer, problems: &mut Problems) {
    let at = |key: &str| format!("consumer.localCache.{key}");
    let cache = &consumer.local_cache;
    problems.at_least(&at("serviceExpireTime"), cache.service_expire_time, 5 * SECOND);
    problems.at_least(&at("serviceRefreshInterval"), cache.service_refresh_interval, 100 * MILLISECOND);
    problems.at_least(&at("persistRetryInterval"), cache.persist_retry_interval, MILLISECOND);
    if !matches!(cache.empty_guard.shrink_percent, 1..=100) {
        problems.push(&at("emptyGuard.shrinkPercent"), "must be from 1 to 100");
    }
    if !(0.0..1.0).contains(&consumer.service_router.percent_of_min_instances) {
        problems.push("consumer.serviceRouter.percentOfMinInstances", "must be at least 0 and less than 1");
    }
}

fn rate_limit(config: &RateLimit, problems: &mut Problems) {
    let at = |key: &str| format!("provider.rateLimit.{key}");
    if config.max_queuing_time > 3600 * SECOND {
        problems.push(&at("maxQueuingTime"), "must be at most 1h");
    }
    if config.max_window_count == 0 {
        problems.push(&at("maxWindowCount"), "must be at least 1");
    }
    problems.at_least(&at("purgeInterval"), config.purge_interval, SECOND);
    for (key, name) in [("limiterNamespace", &config.limiter_namespace), ("limiterService", &config.limiter_service)] {
        if name.is_empty() {
            problems.push(&at(key), "must not be empty");
        }
    }
}

fn names(consumer: &Consumer, around: &Surroundings<'_>, problems: &mut Problems) {
    let router = &consumer.service_router;
    let chains = [("beforeChain", &router.before_chain), ("chain", &router.chain), ("afterChain", &router.after_chain)];
    let in_chains = chains.into_iter().flat_map(|(chain, names)| {
        names.iter().enumerate().map(move |(i, name)| (format!("consumer.serviceRouter.{chain}[{i}]"), name))
    });
    for (path, name) in in_chains {
        if !plugin::is_known(PluginKind::Router, name) && !around.routers.contains(&name.as_str()) {
            problems.push(&path, unknown_plugin(PluginKind::Router, name, around.routers));
        }
    }
    let policy = &consumer.loadbalancer.policy;
    if !plugin::is_known(PluginKind::LoadBalancer, policy) && !around.balancers.contains(&policy.as_str()) {
        let what = unknown_plugin(PluginKind::LoadBalancer, policy, around.balancers);
        problems.push("consumer.loadbalancer.type", what);
    }
}

fn unknown_plugin(kind: PluginKind, name: &str, own: &[&str]) -> String {
    let role = match kind {
        PluginKind::Router => "router",
        PluginKind::LoadBalancer => "load balancer",
    };
    let known = own.iter().fold(plugin::known_names(kind), |known, own| format!("{known}, {own}"));
    format!("{name:?} is no {role}; known are {known}")
}

// === impl Problem ===

impl Problem {
    pub(super) fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

// === impl Problems ===

impl Problems {
    pub(super) fn push(&mut self, path: &str, what: impl Into<String>) {
        self.0.push(Problem::new(path, what));
    }

    /// Adds a problem that may have been found before.
    pub(super) fn insert(&mut self, problem: Problem) {
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    fn at_least(&mut self, path: &str, value: Duration, least: Duration) {
        if value < least {
            self.push(path, format!("must be at least {}, not {}", duration::format(least), duration::format(value)));
        }
    }

    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = Problem>) {
        self.0.extend(more);
    }

    pub(super) fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 1 {
            write!(f, "{} problems: ", self.0.len())?;
        }
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Surroundings<'_> = Surroundings { routers: &["mine"], balancers: &["best"], no_server: true };

    #[test]
    fn the_default_lacks_nothing_but_an_address() {
        let config = Config::default();
        assert_eq!(config.validate_in(&AROUND).map_err(|e| e.to_string()), Ok(()));
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "invalid configuration: global.serverConnector.addresses: at least one server is needed, such as \
             127.0.0.1:8091"
        );
    }

    #[test]
    fn every_bound_is_kept_by_the_last_value_inside_and_broken_by_the_first_outside() {
        for (path, inside, outside) in [
            ("global.api.timeout", "1ms", "0"),
            ("global.api.reportInterval", "1s", "999"),
            ("global.serverConnector.connectTimeout", "1ms", "0"),
            ("global.serverConnector.messageTimeout", "1ms", "0"),
            ("global.serverConnector.reconnectInterval", "1ms", "0"),
            ("global.serverConnector.connectionIdleTimeout", "100ms", "99ms"),
            ("global.serverConnector.serverSwitchInterval", "61s", "60s"),
            ("global.serverConnector.plugin.grpc.maxCallRecvMsgSize", "524288000", "524288001"),
            ("global.serverConnector.plugin.grpc.maxCallRecvMsgSize", "1", "0"),
            ("global.serverConnector.token", "abc", "a c"),
            ("global.serverConnector.token", "*****", "******"),
            ("consumer.localCache.serviceExpireTime", "5s", "4999ms"),
            ("consumer.localCache.serviceRefreshInterval", "100ms", "99ms"),
            ("consumer.localCache.persistRetryInterval", "1ms", "0"),
            ("consumer.localCache.emptyGuard.shrinkPercent", "100", "101"),
            ("consumer.localCache.emptyGuard.shrinkPercent", "1", "0"),
            ("consumer.serviceRouter.percentOfMinInstances", "0.99", "1"),
            ("consumer.serviceRouter.percentOfMinInstances", "0", "-0.01"),
            ("consumer.serviceRouter.percentOfMinInstances", "0", "NaN"),
            ("provider.drain", "10m", "601s"),
            ("provider.rateLimit.maxQueuingTime", "1h", "3601s"),
            ("provider.rateLimit.maxWindowCount", "1", "0"),
            ("provider.rateLimit.purgeInterval", "1s", "999ms"),
        ] {
            let mut config = Config::default();
            config.set(path, inside).unwrap();
            assert_eq!(config.validate_in(&AROUND).map_err(|e| e.to_string()), Ok(()), "{path} {inside}");
            config.set(path, outside).unwrap();
            let error = config.validate_in(&AROUND).unwrap_err().to_string();
            assert!(error.contains(&format!("{path}: ")), "{path} {outside}: {error}");
        }
    }

    #[test]
    fn values_that_belong_together_are_judged_together() {
        for (pairs, path) in [
            (&[("global.system.configCluster.service", "s")][..], "global.system.configCluster"),
            (&[("global.serverConnector.certFile", "c")], "global.serverConnector.certFile"),
            (
                &[("global.serverConnector.token", "t"), ("global.serverConnector.tokenFile", "f")],
                "global.serverConnector.token",
            ),
            (
                &[("global.serverConnector.addresses", "http://a,b"), ("global.serverConnector.trustedCAFile", "c")],
                "global.serverConnector.addresses",
            ),
        ] {
            let mut config = Config::default();
            for (key, value) in pairs {
                config.set(key, *value).unwrap();
            }
            let error = config.validate_in(&AROUND).unwrap_err().to_string();
            assert!(error.contains(&format!("{path}: ")), "{error}");
        }
    }

    #[test]
    fn tls_without_the_feature_for_it_is_refused_and_never_becomes_plaintext() {
        let mut config = Config::default();
        config.set("global.serverConnector.addresses", "https://a").unwrap();
        let refused = config.validate_in(&AROUND).is_err();
        assert_eq!(refused, !cfg!(any(feature = "tls-ring", feature = "tls-aws-lc")));
    }

    #[test]
    fn an_unknown_plug_in_is_named_with_all_that_are_known() {
        let mut config = Config::default();
        config.set("consumer.serviceRouter.chain", "dstMetaRouter, mine, ringHash").unwrap();
        config.set("consumer.loadbalancer.type", "laneRouter").unwrap();
        let error = config.validate_in(&AROUND).unwrap_err().to_string();
        assert!(error.contains("2 problems: consumer.serviceRouter.chain[2]: \"ringHash\" is no router"), "{error}");
        assert!(error.contains("consumer.loadbalancer.type: \"laneRouter\" is no load balancer"), "{error}");
        for known in ["filterOnlyRouter", "trafficMirroringRouter", "mine", "l5cst", "best"] {
            assert!(error.contains(known), "{error}");
        }
        config.set("consumer.loadbalancer.type", "best").unwrap();
        config.set("consumer.serviceRouter.chain", "[mine]").unwrap();
        assert_eq!(config.validate_in(&AROUND).map_err(|e| e.to_string()), Ok(()));
    }
}
