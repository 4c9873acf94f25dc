//! Section `global`: the control plane, how it is spoken to, and where this process is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::ServerAddress;
use super::secret::Secret;
use super::{duration, scalar};

/// Section `global`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Global {
    /// The clusters of the control plane that are found through discovery.
    pub system: System,
    /// Deadlines and retries of calls, and what this process says of itself.
    pub api: Api,
    /// The servers to start from.
    pub server_connector: ServerConnector,
    /// Where this process runs.
    pub location: Location,
}

/// Section `global.system`: variables of rules, and dedicated clusters of the control plane. A cluster that is not named (the default) is not used,
/// and its traffic stays on `global.serverConnector.addresses`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct System {
    /// Serves registration and discovery.
    pub discover_cluster: Cluster,
    /// Receives heartbeats.
    pub health_check_cluster: Cluster,
    /// Serves configuration files.
    pub config_cluster: Cluster,
    /// Values that routing rules name as variables; one that is not set here is taken from the environment.
    #[serde(deserialize_with = "scalar::texts")]
    pub variables: BTreeMap<String, String>,
}

/// One dedicated cluster of the control plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Cluster {
    /// Namespace of the cluster's service, usually `Polaris`; empty: the cluster is not used.
    #[serde(deserialize_with = "scalar::text")]
    pub namespace: String,
    /// Name of the cluster's service, such as `polaris.discover`; empty: the cluster is not used.
    #[serde(deserialize_with = "scalar::text")]
    pub service: String,
}

/// Section `global.api`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Api {
    /// The deadline of a call that brings none of its own, over all its tries. Default 1 s, at least 1 ms.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// How often a failed call is tried again; 0 means never. Default 1.
    #[serde(deserialize_with = "scalar::number")]
    pub max_retry_times: u32,
    /// The pause before such another try. Default 500 ms.
    #[serde(with = "duration")]
    pub retry_interval: Duration,
    /// Whether this process tells the control plane about itself and learns its location in return. Default true.
    #[serde(deserialize_with = "scalar::flag")]
    pub report_enable: bool,
    /// How often it does so. Default 60 s, at least 1 s.
    #[serde(with = "duration")]
    pub report_interval: Duration,
    /// This process's own address. Default: the local address that reaches the server.
    #[serde(rename = "bindIP", deserialize_with = "scalar::optional")]
    pub bind_ip: Option<IpAddr>,
}

/// Section `global.serverConnector`; the first of `global.serverConnectors` is read as this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct ServerConnector {
    /// The servers to start from, at least one. A list, or one text with commas between them.
    #[serde(deserialize_with = "scalar::list")]
    pub addresses: Vec<ServerAddress>,
    /// How they are spoken to.
    pub protocol: Protocol,
    /// How long a connection may take to stand. Default 500 ms.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long an answer may take before the server is left for another. Default 5 s.
    #[serde(with = "duration")]
    pub message_timeout: Duration,
    /// After how long without use a connection is closed. Default 60 s, at least 100 ms.
    #[serde(with = "duration")]
    pub connection_idle_timeout: Duration,
    /// How often long-lived connections move to another server, so that servers share the load. Default 10 minutes,
    /// longer than `connectionIdleTimeout`.
    #[serde(with = "duration")]
    pub server_switch_interval: Duration,
    /// The first delay of the exponential back-off between attempts to reconnect. Default 500 ms.
    #[serde(with = "duration")]
    pub reconnect_interval: Duration,
    /// The access token, sent with every request. Default none.
    pub token: Option<Secret>,
    /// A file that holds the token instead, read again when it may have rotated.
    #[serde(deserialize_with = "scalar::optional")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that the servers' certificates are judged by; switches TLS on.
    #[serde(rename = "trustedCAFile", deserialize_with = "scalar::optional")]
    pub trusted_ca_file: Option<PathBuf>,
    /// PEM file of this client's own certificate chain (mutual TLS); switches TLS on.
    #[serde(deserialize_with = "scalar::optional")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of the private key of `certFile`.
    #[serde(deserialize_with = "scalar::optional")]
    pub key_file: Option<PathBuf>,
    /// The name that the servers' certificates must carry, where it is not the host of the address.
    #[serde(deserialize_with = "scalar::optional")]
    pub tls_server_name: Option<String>,
    /// Options of single protocols.
    pub plugin: ConnectorPlugin,
}

/// The protocols of a connector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
}

/// Section `global.serverConnector.plugin`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct ConnectorPlugin {
    /// Options of gRPC.
    pub grpc: Grpc,
}

/// Section `global.serverConnector.plugin.grpc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Grpc {
    /// The largest answer that is decoded, in bytes. Default 50 MiB, at most 500 MiB.
    #[serde(deserialize_with = "scalar::number")]
    pub max_call_recv_msg_size: usize,
}

/// Section `global.location`: where this process runs; a part that is empty is not known.
///
/// The peers' form, the first `local` provider of `global.location.providers`, is read as these three. A file without
/// the section takes them from the environment (`REGION`, `ZONE`, `CAMPUS`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Location {
    /// The widest part, such as a country or a provider's region.
    #[serde(deserialize_with = "scalar::text")]
    pub region: String,
    /// A part of the region that fails on its own.
    #[serde(deserialize_with = "scalar::text")]
    pub zone: String,
    /// The narrowest part: a data centre.
    #[serde(deserialize_with = "scalar::text")]
    pub campus: String,
}

// === impl Cluster ===

impl Cluster {
    /// Namespace and service, if the cluster is to be used.
    #[must_use]
    pub fn key(&self) -> Option<(&str, &str)> {
        (!self.namespace.is_empty() && !self.service.is_empty()).then_some((&self.namespace, &self.service))
    }
}

// === impl Api ===

impl Default for Api {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            max_retry_times: 1,
            retry_interval: Duration::from_millis(500),
            report_enable: true,
            report_interval: Duration::from_secs(60),
            bind_ip: None,
        }
    }
}

// === impl ServerConnector ===

impl ServerConnector {
    /// Whether the servers are spoken to over TLS: a key about certificates is set, or an address is `https://`.
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        self.trusted_ca_file.is_some()
            || self.cert_file.is_some()
            || self.key_file.is_some()
            || self.tls_server_name.is_some()
            || self.addresses.iter().any(ServerAddress::is_tls)
    }
}

impl Default for ServerConnector {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            protocol: Protocol::Grpc,
            connect_timeout: Duration::from_millis(500),
            message_timeout: Duration::from_secs(5),
            connection_idle_timeout: Duration::from_secs(60),
            server_switch_interval: Duration::from_secs(600),
            reconnect_interval: Duration::from_millis(500),
            token: None,
            token_file: None,
            trusted_ca_file: None,
            cert_file: None,
            key_file: None,
            tls_server_name: None,
            plugin: ConnectorPlugin::default(),
        }
    }
}

// === impl Grpc ===

impl Default for Grpc {
    fn default() -> Self {
        Self { max_call_recv_msg_size: 50 << 20 }
    }
}
