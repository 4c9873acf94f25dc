//! Where a server of the control plane is.

use std::fmt;
use std::sync::Arc;

/// Host, port, and whether TLS is spoken there. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServerAddr {
    /// A name or an IP address, without brackets.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl ServerAddr {
    pub(crate) fn new(host: impl Into<Arc<str>>, port: u16, tls: bool) -> Self {
        Self { host: host.into(), port, tls }
    }
}

/// `host:port`, with the brackets that an IPv6 address needs.
impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_written_in_brackets() {
        for (host, text) in [("::1", "[::1]:8091"), ("10.0.0.1", "10.0.0.1:8091"), ("polaris", "polaris:8091")] {
            assert_eq!(ServerAddr::new(host, 8091, false).to_string(), text);
        }
    }
}
