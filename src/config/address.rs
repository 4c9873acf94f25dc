//! Addresses of control-plane servers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::scalar;

/// Host and port of a control-plane server, and whether it is spoken to over TLS.
///
/// Read from `host`, `host:port`, `1.2.3.4:8091`, `[::1]:8091`, `::1`, each after an optional `grpc://`, `http://` or
/// `https://`. Without a port it is 8091, where the server's discovery service listens. `https://` asks for TLS.
///
/// ```
/// use polarismesh::config::ServerAddress;
///
/// let address: ServerAddress = "https://polaris.example.com".parse()?;
/// assert_eq!((address.host(), address.port(), address.is_tls()), ("polaris.example.com", 8091, true));
/// assert_eq!("::1".parse::<ServerAddress>()?.authority(), "[::1]:8091");
/// # Ok::<(), polarismesh::config::InvalidAddress>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    host: Box<str>,
    port: u16,
    scheme: Scheme,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    /// None was written: the rest of the configuration says whether it is TLS.
    Any,
    Plain,
    Tls,
}

/// A text that is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a server address: {problem}")]
pub struct InvalidAddress {
    text: String,
    problem: &'static str,
}

// === impl ServerAddress ===

impl ServerAddress {
    /// Where a Polaris server offers registration and discovery over gRPC.
    pub const DEFAULT_PORT: u16 = 8091;

    /// The host: a name, or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the address itself asks for TLS (`https://`).
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::Tls
    }

    /// Whether the address itself forbids TLS (`http://`).
    #[must_use]
    pub fn is_plaintext(&self) -> bool {
        self.scheme == Scheme::Plain
    }

    /// `host:port`, with the brackets that an IPv6 address needs.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for ServerAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        split(text.trim()).map_err(|problem| InvalidAddress {
            // What stands before an @ would be a password.
            text: if text.contains('@') { "…@…".to_owned() } else { text.trim().chars().take(64).collect() },
            problem,
        })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Any => "",
            Scheme::Plain => "http://",
            Scheme::Tls => "https://",
        })?;
        f.write_str(&self.authority())
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar::text(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn split(text: &str) -> Result<ServerAddress, &'static str> {
    let (scheme, rest) = match text.split_once("://") {
        None => (Scheme::Any, text),
        Some(("grpc", rest)) => (Scheme::Any, rest),
        Some(("http", rest)) => (Scheme::Plain, rest),
        Some(("https", rest)) => (Scheme::Tls, rest),
        Some(_) => return Err("the scheme must be grpc, http or https, or left out"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("it must not hold credentials; use global.serverConnector.token");
    }
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']').ok_or("the bracket is not closed")?;
        host.parse::<Ipv6Addr>().map_err(|_| "what stands in brackets is not an IPv6 address")?;
        (
            host,
            if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("a :port must follow the bracket")?) },
        )
    } else if rest.parse::<Ipv6Addr>().is_ok() {
        (rest, None)
    } else {
        rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        None => ServerAddress::DEFAULT_PORT,
        // `parse` alone would take `+80`.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().unwrap_or(0),
        Some(_) => 0,
    };
    match port {
        0 => Err("the port must be a number from 1 to 65535"),
        _ if !is_host(host) => Err("the host must be an IP address or a name of letters, digits, '-', '_' and '.'"),
        _ => Ok(ServerAddress { host: host.into(), port, scheme }),
    }
}

fn is_host(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        matches!(label.len(), 1..=63) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label) && !looks_like_ipv4(name))
}

/// `1.2.3` and `256.1.1.1` are mistyped addresses, not names: no resolver should be asked for them.
fn looks_like_ipv4(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses_of_both_families_are_read() {
        for (text, authority, tls) in [
            ("polaris", "polaris:8091", false),
            ("polaris.default.svc.", "polaris.default.svc.:8091", false),
            ("my_host-1:9", "my_host-1:9", false),
            ("10.0.0.1:8091", "10.0.0.1:8091", false),
            ("::1", "[::1]:8091", false),
            ("[::1]", "[::1]:8091", false),
            ("[2001:db8::1]:80", "[2001:db8::1]:80", false),
            ("grpc://127.0.0.1", "127.0.0.1:8091", false),
            ("http://a:1/", "a:1", false),
            ("https://a", "a:8091", true),
            ("https://[::1]:65535", "[::1]:65535", true),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!((address.authority().as_str(), address.is_tls()), (authority, tls), "{text}");
            assert_eq!(address.to_string().parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn a_bad_address_is_named_with_what_would_be_right() {
        for (text, why) in [
            ("", "the host must be"),
            ("discover://a", "the scheme must be"),
            ("a:0", "the port must be"),
            ("a:65536", "the port must be"),
            ("a:+1", "the port must be"),
            ("a:", "the port must be"),
            ("a:b:c", "the port must be"),
            (":8091", "the host must be"),
            ("a b", "the host must be"),
            ("http://a/path", "the host must be"),
            ("256.1.1.1", "the host must be"),
            ("[::1", "the bracket"),
            ("[::1]8091", "a :port must"),
            ("[a]:1", "what stands in brackets"),
        ] {
            let error = text.parse::<ServerAddress>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        let error = "http://admin:hunter2@polaris:8091".parse::<ServerAddress>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_is_read_reads_back(text in "[a-z0-9:/.\\[\\]@ -]{0,30}") {
            if let Ok(address) = text.parse::<ServerAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
