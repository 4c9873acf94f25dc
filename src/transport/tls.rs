//! TLS to the control plane: whom to trust, and who we are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::Endpoint;

use crate::error::{Error, ErrorKind, Result};
use crate::model::server::ServerAddr;

/// How the control plane is spoken to over TLS.
///
/// Certificates and keys are PEM files, and are read again for every new connection, so that they can rotate without a
/// restart. TLS needs one of the crate's features `tls-ring` and `tls-aws-lc`; without, a context that asks for TLS is
/// [`ErrorKind::InvalidConfig`]: it never falls back to plain text.
///
/// ```
/// use polarismesh::Tls;
///
/// let tls = Tls::new().ca_file("/etc/polaris/ca.pem").identity_files("/etc/polaris/tls.crt", "/etc/polaris/tls.key");
/// # let _ = tls;
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Tls {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    system_roots: bool,
}

impl Tls {
    /// TLS that trusts the roots of the features `tls-native-roots` and `tls-webpki-roots`, until told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates of this PEM file, instead of the system's roots.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Presents this certificate with this key, for servers or proxies that ask for one (mutual TLS).
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the server's certificate must carry. Default: the host of the server's address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Trusts the system's roots in addition to a CA file.
    pub fn system_roots(mut self) -> Self {
        self.system_roots = true;
        self
    }

    fn wants_roots(&self) -> bool {
        self.system_roots || self.ca.is_none()
    }

    /// Refuses what this build cannot do, before anything is dialled.
    pub(crate) fn check(&self) -> Result<()> {
        if !cfg!(any(feature = "tls-ring", feature = "tls-aws-lc")) {
            let why = "TLS is asked for, and this program was built without it: enable the feature `tls-ring` or \
                       `tls-aws-lc` of polarismesh";
            return Err(Error::new(ErrorKind::InvalidConfig, why));
        }
        if self.wants_roots() && !cfg!(any(feature = "tls-native-roots", feature = "tls-webpki-roots")) {
            let why = "TLS has nobody to trust: name a CA file, or enable the feature `tls-native-roots` or \
                       `tls-webpki-roots` of polarismesh";
            return Err(Error::new(ErrorKind::InvalidConfig, why));
        }
        Ok(())
    }

    /// Without a TLS feature there is no connection, never a plain one.
    #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
    pub(crate) fn apply(&self, endpoint: Endpoint, _: &ServerAddr, _: Duration) -> Result<Endpoint> {
        self.check().map(|()| endpoint)
    }

    /// Reads the files as they are now.
    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    pub(crate) fn apply(&self, endpoint: Endpoint, server: &ServerAddr, within: Duration) -> Result<Endpoint> {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};

        self.check()?;
        let name = self.server_name.as_deref().unwrap_or(&server.host);
        let mut tls = ClientTlsConfig::new().domain_name(name).timeout(within);
        if let Some(path) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
        }
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if self.wants_roots() {
            tls = tls.with_enabled_roots();
        }
        endpoint.tls_config(tls).map_err(|error| {
            let why = format!("the TLS settings for {server} cannot be used: {}", root_cause(&error));
            Error::new(ErrorKind::InvalidConfig, why).with_address(server.to_string())
        })
    }
}

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
fn read(path: &std::path::Path) -> Result<String> {
    crate::util::fs::read_text(path).map_err(|error| {
        Error::new(ErrorKind::InvalidConfig, format!("the file {} cannot be read: {error}", path.display()))
    })
}

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Paths only: what is in the files is never held here.
        f.debug_struct("Tls")
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("server_name", &self.server_name)
            .field("system_roots", &self.wants_roots())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
    #[test]
    fn without_a_tls_feature_there_is_an_error_and_no_plain_connection() {
        let error = Tls::new().ca_file("ca.pem").check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("tls-ring"), "{error}");
    }

    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    #[test]
    fn a_certificate_file_that_is_not_there_is_named() {
        let server = ServerAddr::new("localhost", 1, true);
        let endpoint = Endpoint::from_static("https://localhost:1");
        let error = Tls::new().ca_file("/no/ca.pem").apply(endpoint, &server, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("/no/ca.pem"), "{error}");
    }
}
