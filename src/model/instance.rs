//! One instance of a service, as the control plane delivered it.
//!
//! A pick hands an [`Instance`] out, so it is one pointer wide and cloning it is one increment. What instances share
//! (service, protocol, version, location, equal metadata) is interned while a snapshot is built, which keeps an
//! instance at about 200 bytes however long its labels are.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::key::ServiceKey;
use crate::model::location::Location;
use crate::model::metadata::Metadata;

/// The id of an instance within the control plane, and the service that it was found under.
///
/// Identity is the id alone: the control plane makes it unique over all services.
#[derive(Clone)]
pub struct InstanceId {
    text: Arc<str>,
    service: ServiceKey,
}

/// One instance of a service. One pointer wide; cloning is one increment.
#[derive(Clone, PartialEq, Eq)]
pub struct Instance(Arc<Data>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) id: InstanceId,
    /// `host:port`, with brackets around an IPv6 host: built once, because every call needs it.
    pub(crate) authority: Box<str>,
    pub(crate) port: u16,
    pub(crate) healthy: bool,
    pub(crate) isolated: bool,
    pub(crate) weight: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metadata: Metadata,
}

/// What many instances have in common.
#[derive(Debug, PartialEq, Eq, Hash, Default, Clone)]
pub(crate) struct Shared {
    pub(crate) protocol: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) location: Location,
}

/// Where an instance is reached: a host name or address, and a port.
///
/// Made from a port alone (all addresses of this host), a [`SocketAddr`] or a pair of host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceAddr {
    host: String,
    port: u16,
}

// === impl InstanceId ===

impl InstanceId {
    /// The id `text` of an instance of `service`.
    pub fn new(service: impl Into<ServiceKey>, text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), service: service.into() }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The service that the instance was found under.
    #[must_use]
    pub fn service(&self) -> &ServiceKey {
        &self.service
    }
}

impl PartialEq for InstanceId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for InstanceId {}

impl Hash for InstanceId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for InstanceId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InstanceId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({} of {})", self.text, self.service)
    }
}

// === impl Instance ===

impl Instance {
    pub(crate) fn from_data(data: Data) -> Self {
        Self(Arc::new(data))
    }

    /// The id within the control plane.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.0.id
    }

    /// The service that it was found under: of an alias, the alias.
    #[must_use]
    pub fn service(&self) -> &ServiceKey {
        self.0.id.service()
    }

    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.0.authority.rsplit_once(':').map_or(&*self.0.authority, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; 0 is what its provider registered.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// `host:port` as it stands in a URL, IPv6 in brackets. Built once.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.0.authority
    }

    /// The address, where the host is one and not a name.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host().parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.0.port))
    }

    /// The share of calls that it takes, relative to the others; 0 takes none.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// Whether the control plane holds it for healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.0.healthy
    }

    /// Whether it is taken out of service on purpose.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.0.isolated
    }

    /// The protocol that it speaks, empty if it did not say.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.0.shared.protocol
    }

    /// Its version, empty if it did not say.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.shared.version
    }

    /// Where it runs.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.0.shared.location
    }

    /// Its labels, with those that the control plane adds: `version`, `protocol`, `region`, `zone`, `campus`.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.authority)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("id", &self.id().as_str())
            .field("service", &format_args!("{}", self.service()))
            .field("authority", &self.authority())
            .field("weight", &self.weight())
            .field("healthy", &self.is_healthy())
            .field("isolated", &self.is_isolated())
            .field("metadata", self.metadata())
            .finish_non_exhaustive()
    }
}

// === impl InstanceAddr ===

impl InstanceAddr {
    /// Host name or address (brackets around IPv6 are taken off) and port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(str::to_owned);
        Self { host: bare.unwrap_or(host), port }
    }

    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host stands for all addresses of this machine, and is to be replaced by the one that is reached.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.host.is_empty() || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl From<u16> for InstanceAddr {
    fn from(port: u16) -> Self {
        Self { host: String::new(), port }
    }
}

impl From<SocketAddr> for InstanceAddr {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl<H: Into<String>> From<(H, u16)> for InstanceAddr {
    fn from((host, port): (H, u16)) -> Self {
        Self::new(host, port)
    }
}

impl fmt::Display for InstanceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

/// `host:port`, with brackets around an IPv6 host.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Instance {
        Instance::from_data(Data {
            id: InstanceId::new(("default", "a"), "1"),
            authority: authority(host, port).into(),
            port,
            healthy: true,
            isolated: false,
            weight: 100,
            shared: Arc::default(),
            metadata: Metadata::default(),
        })
    }

    #[test]
    fn an_ipv6_host_gets_its_brackets_in_the_authority_only() {
        let instance = at("::1", 80);
        assert_eq!((instance.host(), instance.authority()), ("::1", "[::1]:80"));
        assert_eq!(instance.socket_addr(), Some("[::1]:80".parse().unwrap()));
        let named = at("db.internal", 5432);
        assert_eq!((named.host(), named.authority()), ("db.internal", "db.internal:5432"));
        assert_eq!(named.socket_addr(), None);
    }

    #[test]
    fn an_instance_is_one_word_and_its_data_small() {
        assert_eq!(size_of::<Instance>(), 8);
        assert!(size_of::<Data>() <= 80, "{}", size_of::<Data>());
    }

    #[test]
    fn an_address_without_a_host_is_unspecified() {
        for addr in [InstanceAddr::from(80), InstanceAddr::new("0.0.0.0", 1), InstanceAddr::new("[::]", 1)] {
            assert!(addr.is_unspecified(), "{addr}");
        }
        assert!(!InstanceAddr::new("127.0.0.1", 1).is_unspecified());
    }
}
