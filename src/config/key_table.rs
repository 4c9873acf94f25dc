//! The table of keys: what each key of the official SDKs' files means here.
//!
//! A key is *used* (it has an effect, and a field of [`Config`](super::Config) holds it), an *alias* of one that is, or
//! known and without an effect, with the reason: it belongs to a part that is *later*, or *never*. Any other is unknown.

/// What a key means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It has an effect.
    Used,
    /// It has an effect: a plug-in reads it among its options, which no field holds.
    Option,
    /// It is another spelling of keys that have one.
    Alias,
    /// It has none yet.
    Later(&'static str),
    /// It has none, and will not.
    Never(&'static str),
}

use Class::{Alias, Later, Never, Option, Used};

/// Keys of one section that mean the same. `[]` stands for an item of a list, `name.**` for anything at or below `name`.
pub(super) struct Row(pub(super) &'static str, pub(super) Class, pub(super) &'static str);

const BREAKER: Class = Later("circuit breaking is not built yet");
const CENTER: Class = Later("the config center is not built yet");
const ROUTING: Class = Later("this router is not built yet");
const NO_PERIOD: Class = Never("the average follows the last answers, without a period to begin anew");
const LOSSLESS: Class = Later("graceful start-up by rules is not built yet");
const REPORTING: Class = Later("statistics are not built yet");
const ONE_CONNECTOR: Class = Never("there is one connector");
const OWN_REPORTS: Class = Never("use is reported as often as the quota needs it");
const NO_LISTENER: Class = Never("no port is opened: the application serves what it wants to show");

/// Every key of polaris-go and polaris-java, and ours.
pub(super) const KEYS: &[Row] = &[
    Row("", Used, "strict"),
    // --- global
    Row("global.system.discoverCluster", Used, "namespace service"),
    Row("global.system.healthCheckCluster", Used, "namespace service"),
    Row("global.system.configCluster", Used, "namespace service"),
    Row("global.system.discoverCluster", Never(OWN_CHOICE), "routers lbPolicy sameAsBuiltin"),
    Row("global.system.discoverCluster", Never("its servers are followed as every service is"), "refreshInterval"),
    Row("global.system.healthCheckCluster", Never(OWN_CHOICE), "routers lbPolicy sameAsBuiltin"),
    Row("global.system.healthCheckCluster", Never("its servers are followed as every service is"), "refreshInterval"),
    Row("global.system.configCluster", Never(OWN_CHOICE), "routers lbPolicy sameAsBuiltin"),
    Row("global.system.configCluster", Never("its servers are followed as every service is"), "refreshInterval"),
    Row("global.system.monitorCluster", REPORTING, "namespace service refreshInterval routers lbPolicy sameAsBuiltin"),
    Row("global.system", Never("there is no agent to run with, and one engine"), "mode flow.name"),
    Row("global.system", Used, "variables.**"),
    Row("global.system.flowCache", Never("rules are compiled when they change"), "enable name expireInterval"),
    Row("global.api", Used, "timeout maxRetryTimes retryInterval reportEnable reportInterval bindIP"),
    Row("global.api", Never("interfaces are not looked up: bindIP says the address itself"), "bindIf"),
    Row("global.serverConnector", Used, "addresses protocol connectTimeout messageTimeout connectionIdleTimeout"),
    Row("global.serverConnector", Used, "serverSwitchInterval reconnectInterval token tokenFile"),
    Row("global.serverConnector", Used, "trustedCAFile certFile keyFile tlsServerName plugin.grpc.maxCallRecvMsgSize"),
    Row("global.serverConnector", ONE_CONNECTOR, "id metadata.** plugin.**"),
    Row("global.serverConnector", Never("requests in flight are bounded by the protocol"), "requestQueueSize"),
    Row("global.serverConnector", Never("servers take turns"), "lbPolicy"),
    Row("global.serverConnectors[]", Alias, "addresses protocol connectTimeout messageTimeout connectionIdleTimeout"),
    Row("global.serverConnectors[]", Alias, "serverSwitchInterval reconnectInterval token tokenFile"),
    Row("global.serverConnectors[]", Alias, "trustedCAFile certFile keyFile tlsServerName"),
    Row("global.serverConnectors[]", Alias, "plugin.grpc.maxCallRecvMsgSize"),
    Row("global.serverConnectors[]", ONE_CONNECTOR, "id metadata.** plugin.** requestQueueSize lbPolicy"),
    Row("global.location", Used, "region zone campus"),
    Row("global.location.providers[]", Alias, "type options.region options.zone options.campus"),
    Row("global.location.providers[]", Later("only local providers are built"), "options.target"),
    Row("global.client", Later("labels of the client are not built yet"), "id labels.**"),
    Row("global.statReporter", REPORTING, "enable chain plugin.**"),
    Row(
        "global.statReporter.plugin.prometheus",
        REPORTING,
        "type metricHost metricPort interval address path namespace",
    ),
    Row("global.statReporter.plugin.prometheus", REPORTING, "pushGatewayNamespace pushGatewayService pushInterval"),
    Row("global.statReporter.plugin.prometheus", REPORTING, "openGzip pathRegexList service overrideHost"),
    Row("global.statReporter.plugin.auditLog", REPORTING, "enable format"),
    Row("global.eventReporter", REPORTING, "enable chain reporters plugin.**"),
    Row(
        "global.eventReporter.plugin.pushgateway",
        REPORTING,
        "enable address overrideHost eventQueueSize maxBatchSize",
    ),
    Row("global.eventReporter.plugin.pushgateway", REPORTING, "namespace service namespaceName serviceName reportPath"),
    Row("global.eventReporter.plugin.tsf", REPORTING, "enable"),
    Row("global.traceReporter", Never("spans go to the application's subscriber"), "enable reporter plugin.**"),
    Row("global.admin", NO_LISTENER, "host port type plugin.**"),
    Row(
        "global.certificate",
        Never("certificates come from files"),
        "enable commonName validityDuration refreshBefore",
    ),
    Row("global.certificate", Never("certificates come from files"), "watchInterval pluginName plugin.**"),
    Row("global.reportClientRequestCustomizer", Never("a hook of polaris-java"), "plugin.**"),
    // --- consumer
    Row("consumer.localCache", Used, "serviceExpireEnable serviceExpireTime serviceRefreshInterval"),
    Row("consumer.localCache", Used, "persistEnable persistDir persistMaxWriteRetry persistMaxReadRetry"),
    Row("consumer.localCache", Used, "persistRetryInterval persistAvailableInterval startUseFileCache"),
    Row("consumer.localCache.emptyGuard", Used, "policy window shrinkPercent maxAge"),
    Row("consumer.localCache", Never("emptyGuard says more"), "pushEmptyProtection"),
    Row("consumer.localCache", Never("lists of services are polled as everything else"), "serviceListRefreshInterval"),
    Row("consumer.localCache", Never("there is one cache"), "type plugin.**"),
    Row("consumer.serviceRouter", Used, "beforeChain chain afterChain percentOfMinInstances enableRecoverAll"),
    Row("consumer.serviceRouter", Used, "plugin.**"),
    Row("consumer.serviceRouter", Used, "strictRules"),
    Row("consumer.serviceRouter.plugin.recoverRouter", Alias, "allRecoverEnable"),
    Row("consumer.serviceRouter.plugin.recoverRouter", BREAKER, "excludeCircuitBreakInstances"),
    Row("consumer.serviceRouter.plugin.metadataRouter", Option, "metadataFailOverType"),
    Row("consumer.serviceRouter.plugin.ruleBasedRouter", Option, "failoverType"),
    Row("consumer.serviceRouter.plugin.nearbyBasedRouter", Option, "matchLevel maxMatchLevel strictNearby"),
    Row("consumer.serviceRouter.plugin.nearbyBasedRouter", Option, "enableDegradeByUnhealthyPercent"),
    Row("consumer.serviceRouter.plugin.nearbyBasedRouter", Option, "unhealthyPercentToDegrade"),
    Row("consumer.serviceRouter.plugin.nearbyBasedRouter", Never("nobody reads it"), "enableReportLocalAddress"),
    Row("consumer.serviceRouter.plugin.laneRouter", ROUTING, "baseLaneMode"),
    Row("consumer.loadbalancer", Used, "type plugin.**"),
    Row("consumer.loadbalancer.plugin.ringHash", Option, "hashFunction vnodeCount"),
    Row("consumer.loadbalancer.plugin.maglev", Option, "hashFunction tableSize"),
    Row("consumer.loadbalancer.plugin.hash", Option, "hashFunction"),
    Row("consumer.loadbalancer.plugin.shortestResponseTime", NO_PERIOD, "slidePeriod"),
    Row("consumer.circuitBreaker", BREAKER, "enable chain checkPeriod sleepWindow successCountAfterHalfOpen"),
    Row("consumer.circuitBreaker", BREAKER, "requestCountAfterHalfOpen recoverWindow recoverNumBuckets"),
    Row("consumer.circuitBreaker", BREAKER, "defaultRuleEnable defaultErrorCount defaultErrorPercent defaultInterval"),
    Row("consumer.circuitBreaker", BREAKER, "defaultMinimumRequest countersExpireInterval enableRemotePull"),
    Row("consumer.circuitBreaker", BREAKER, "errorRateInterval ruleCheckInterval plugin.**"),
    Row("consumer.healthCheck", BREAKER, "when interval timeout concurrency chain plugin.**"),
    Row("consumer.outlierDetection", BREAKER, "when checkPeriod chain plugin.**"),
    Row("consumer.fault", Never("faults are injected by the test server"), "enable"),
    Row("consumer.weightAdjust", Later("warm-up is not built yet"), "enable chain plugin.**"),
    Row("consumer.zeroProtection", ROUTING, "enable needTestConnectivity testConnectivityExpiration"),
    Row("consumer.zeroProtection", ROUTING, "testConnectivityTimeout testConnectivityParallel"),
    Row("consumer.discoveries[]", ONE_CONNECTOR, "serverConnectorId enable"),
    Row("consumer.subscribe", Never("watches are streams, without callbacks"), "callbackConcurrency plugin.**"),
    Row("consumer", Later("settings of single services are not built yet"), "servicesSpecific.**"),
    // --- provider
    Row("provider", Used, "drain heartbeat.ownThread"),
    Row("provider", Never("an instance that was lost is registered again at once"), "minRegisterInterval"),
    Row("provider", Never("every instance has a beat of its own"), "heartbeatWorkerSize"),
    Row(
        "provider.registers[]",
        ONE_CONNECTOR,
        "serverConnectorId enable namespace service reportServiceContractEnable",
    ),
    Row("provider.service", Used, "namespace name"),
    Row("provider.lossless", LOSSLESS, "enable type strategy delayRegisterInterval healthCheckInterval plugin.**"),
    Row("provider.lossless", LOSSLESS, "healthCheckProtocol healthCheckPath healthCheckMethod"),
    Row("provider.auth", Later("block and allow lists are not built yet"), "enable chain plugin.**"),
    Row("provider.rateLimit", Used, "enable onUnknown maxQueuingTime maxWindowCount fallbackOnExceedWindowCount"),
    Row("provider.rateLimit", Used, "purgeInterval limiterNamespace limiterService limiterAddresses"),
    Row("provider.rateLimit", Alias, "maxWindowSize plugin.unirate.maxQueuingTime"),
    Row("provider.rateLimit", OWN_REPORTS, "remoteSyncTimeoutMilli remoteTaskIntervalMilli rangeDelayMilli"),
    Row("provider.rateLimit", Never("limiters are reached where they registered"), "limiterOverrideHost"),
    Row("provider.rateLimit", REPORTING, "reportMetrics"),
    Row("provider.rateLimit", Never("the ways to limit are those of the rules"), "plugin.**"),
    // --- config: polaris-go says configConnector and localCache, polaris-java says serverConnector
    Row("config", CENTER, "enable propertiesValueCacheSize propertiesValueExpireTime"),
    Row("config.configConnector", CENTER, CONNECTOR),
    Row("config.serverConnector", CENTER, CONNECTOR),
    Row("config.configConnector", CENTER, CONFIG_CACHE),
    Row("config.serverConnector", CENTER, CONFIG_CACHE),
    Row("config.localCache", CENTER, CONFIG_CACHE),
    Row("config.configFilter", CENTER, "enable chain plugin.**"),
];

const OWN_CHOICE: &str = "servers of the control plane are chosen as any instance";
const CONNECTOR: &str = "id connectorType addresses protocol connectTimeout messageTimeout connectionIdleTimeout \
     serverSwitchInterval reconnectInterval requestQueueSize lbPolicy token tokenFile trustedCAFile certFile keyFile \
     tlsServerName metadata.** plugin.** configFileGroupThreadNum emptyProtectionEnable emptyProtectionExpiredInterval";
const CONFIG_CACHE: &str = "persistEnable persistDir persistMaxWriteRetry persistMaxReadRetry persistRetryInterval \
     fallbackToLocalCache";
