//! A value that is used and never shown.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::scalar;

/// What stands in the place of a secret.
pub(super) const MASK: &str = "******";

/// A secret of the configuration: `Debug`, `Display` of the configuration and every serializer show `******`.
///
/// ```
/// use polarismesh::config::Secret;
///
/// let token = Secret::new("k9-secret");
/// assert_eq!(token.expose(), "k9-secret");
/// assert!(!format!("{token:?}").contains("k9"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, to be sent and not to be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar::text(deserializer).map(Self)
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret)
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self::new(secret)
    }
}

/// Whether what stands under a key of this name is to be masked, in sections whose keys are not ours.
pub(super) fn is_secret_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "secret", "password", "passwd", "credential", "accesskey", "privatekey", "apikey"]
        .iter()
        .any(|word| key.contains(word))
}
