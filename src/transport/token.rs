//! Where the access token comes from.

use std::borrow::Cow;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::util::fs;

/// Where the access token of the control plane comes from.
///
/// A file and a function are asked again within a minute, and at once when a server refuses the token, so a token can
/// rotate without a restart. `Debug` never shows a token.
///
/// ```
/// use polarismesh::TokenSource;
///
/// let fixed = TokenSource::fixed("nu/0WRA4EqSR1FagrjRj0fZwPXuGlMpX+zCuWu4uMqy8xr1vRjisSbA25aAC3mtU8MeeRsKhQiDAynUR09I=");
/// assert_eq!(format!("{fixed:?}"), "TokenSource(fixed)");
/// let file = TokenSource::file("/var/run/secrets/polaris/token");
/// let function = TokenSource::from_fn(|| std::env::var("TOKEN").unwrap_or_default());
/// # let _ = (file, function);
/// ```
#[derive(Clone)]
pub struct TokenSource(Kind);

#[derive(Clone)]
enum Kind {
    Fixed(Arc<str>),
    File(Arc<Path>),
    Function(Arc<dyn Fn() -> String + Send + Sync>),
}

// === impl TokenSource ===

impl TokenSource {
    /// This token; an empty one is none.
    pub fn fixed(token: impl Into<String>) -> Self {
        let token: String = token.into();
        Self(Kind::Fixed(token.trim().into()))
    }

    /// The content of a file, without the white space around it.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let path: PathBuf = path.into();
        Self(Kind::File(path.into()))
    }

    /// What a function returns. It may block for up to 2 s; when it takes longer or panics, the token that was used
    /// last stays in use, and without one the call fails with [`ErrorKind::Plugin`].
    pub fn from_fn(token: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(token)))
    }

    /// The token, where it is always the same.
    pub(super) fn as_fixed(&self) -> Option<&str> {
        match &self.0 {
            Kind::Fixed(token) => Some(token),
            Kind::File(_) | Kind::Function(_) => None,
        }
    }

    /// Asks the source. Blocks.
    pub(super) fn read(&self) -> Result<Cow<'_, str>> {
        match &self.0 {
            Kind::Fixed(token) => Ok(Cow::Borrowed(token)),
            Kind::File(path) => fs::read_text(path).map(Cow::Owned).map_err(|error| {
                let why = format!("the token file {} cannot be read: {error}", path.display());
                Error::new(ErrorKind::InvalidConfig, why)
            }),
            Kind::Function(function) => std::panic::catch_unwind(AssertUnwindSafe(|| function()))
                .map(Cow::Owned)
                .map_err(|_| Error::new(ErrorKind::Plugin, "the token source panicked")),
        }
    }
}

impl Default for TokenSource {
    /// No token.
    fn default() -> Self {
        Self::fixed("")
    }
}

impl From<&str> for TokenSource {
    fn from(token: &str) -> Self {
        Self::fixed(token)
    }
}

impl From<String> for TokenSource {
    fn from(token: String) -> Self {
        Self::fixed(token)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(token) if token.is_empty() => f.write_str("TokenSource(none)"),
            Kind::Fixed(_) => f.write_str("TokenSource(fixed)"),
            Kind::File(path) => write!(f, "TokenSource(file {})", path.display()),
            Kind::Function(_) => f.write_str("TokenSource(function)"),
        }
    }
}
