//! Names of plug-ins in both official dialects, and their free-form options.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::secret::{MASK, is_secret_name};
use super::{duration, tree};
use crate::error::{Error, ErrorKind};

/// What a plug-in does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PluginKind {
    /// Leaves a part of the instances.
    Router,
    /// Picks one of them.
    LoadBalancer,
}

/// One plug-in that an official SDK knows, whether or not it is built here: [`crate::config`] knows names only.
#[derive(Debug)]
pub(crate) struct PluginName {
    pub(crate) kind: PluginKind,
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
}

/// Every plug-in name of both official SDKs, and ours. What is no alias of another is the canonical name.
pub(crate) const NAMES: &[PluginName] = {
    use PluginKind::{LoadBalancer, Router};
    const fn known(kind: PluginKind, name: &'static str, aliases: &'static [&'static str]) -> PluginName {
        PluginName { kind, name, aliases }
    }
    &[
        known(Router, "isolatedRouter", &[]),
        known(Router, "metadataRouter", &["dstMetaRouter"]),
        known(Router, "ruleBasedRouter", &[]),
        known(Router, "nearbyBasedRouter", &[]),
        known(Router, "recoverRouter", &["filterOnlyRouter"]),
        known(Router, "setRouter", &["setDivisionRouter"]),
        known(Router, "laneRouter", &[]),
        known(Router, "canaryRouter", &[]),
        known(Router, "namespaceRouter", &[]),
        known(Router, "zeroProtectRouter", &[]),
        known(Router, "trafficMirroringRouter", &[]),
        known(LoadBalancer, "weightedRandom", &[]),
        known(LoadBalancer, "weightedRoundRobin", &[]),
        known(LoadBalancer, "ringHash", &[]),
        known(LoadBalancer, "maglev", &[]),
        known(LoadBalancer, "hash", &[]),
        known(LoadBalancer, "l5cst", &[]),
        known(LoadBalancer, "leastConnection", &[]),
        known(LoadBalancer, "shortestResponseTime", &[]),
        // Ours alone.
        known(LoadBalancer, "powerOfTwo", &[]),
    ]
};

/// The canonical name; a name that is not in the table (a user's own) is its own.
pub(crate) fn canonical(name: &str) -> &str {
    NAMES.iter().find(|known| known.aliases.contains(&name)).map_or(name, |known| known.name)
}

/// Whether an official SDK knows a plug-in of this kind and name.
pub(crate) fn is_known(kind: PluginKind, name: &str) -> bool {
    NAMES.iter().any(|known| known.kind == kind && (known.name == name || known.aliases.contains(&name)))
}

/// All names of one kind, for messages.
pub(crate) fn known_names(kind: PluginKind) -> String {
    let of_kind = NAMES.iter().filter(|known| known.kind == kind);
    of_kind
        .flat_map(|known| [known.name].into_iter().chain(known.aliases.iter().copied()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A section `plugin`: options by the canonical name of the plug-in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PluginSection(BTreeMap<String, PluginOptions>);

/// The free-form options of one plug-in, with typed extraction; what a factory of routers or balancers is given.
///
/// `Debug` and serializers mask values whose key looks like that of a secret (token, password, …).
///
/// ```
/// use polarismesh::config::PluginOptions;
///
/// let options = PluginOptions::new().with("vnodeCount", "500").with("window", "1m30s");
/// assert_eq!(options.get::<u32>("vnodeCount")?, Some(500));
/// assert_eq!(options.duration("window")?.map(|w| w.as_secs()), Some(90));
/// assert_eq!(options.get::<bool>("absent")?, None);
/// assert!(options.get::<bool>("vnodeCount").is_err());
/// # Ok::<(), polarismesh::Error>(())
/// ```
#[derive(Clone, Default, PartialEq)]
pub struct PluginOptions {
    /// Where they stand, for messages.
    at: String,
    values: Map<String, Value>,
}

// === impl PluginSection ===

impl PluginSection {
    /// Names of the plug-ins that have options.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Replaces the options of one plug-in.
    pub fn insert(&mut self, name: &str, options: PluginOptions) {
        self.0.insert(canonical(name).to_owned(), PluginOptions { at: String::new(), ..options });
    }

    pub(super) fn options(&self, section: &str, name: &str) -> PluginOptions {
        let name = canonical(name);
        let values = self.0.get(name).map(|options| options.values.clone()).unwrap_or_default();
        PluginOptions { at: format!("{section}.plugin.{name}"), values }
    }

    /// The options with their secrets in clear.
    pub(super) fn exposed(&self) -> Value {
        self.0.iter().map(|(name, options)| (name.clone(), Value::Object(options.values.clone()))).collect()
    }
}

// === impl PluginOptions ===

impl PluginOptions {
    /// No options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one option, as it would be written in YAML.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.values.insert(key.to_owned(), Value::String(value.to_owned()));
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Their keys, so that a plug-in can refuse what it does not know.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Reads one option; `None` if it is not set. A number or a switch may be written as text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if the value is not a `T`; the message names the key and never the value.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let retyped = || value.as_str().and_then(|text| serde_json::from_str(text).ok());
        match T::deserialize(value) {
            Ok(read) => Ok(Some(read)),
            Err(error) => retyped().map(Some).ok_or_else(|| self.invalid(key, tree::explain(&error, value))),
        }
    }

    /// Reads one option that is a duration: `1m30s`, or a bare number of milliseconds; `None` if it is not set.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if the value is not a duration.
    pub fn duration(&self, key: &str) -> Result<Option<Duration>, Error> {
        self.get::<Value>(key)?
            .map(|value| duration::deserialize(value).map_err(|error| self.invalid(key, error.to_string())))
            .transpose()
    }

    /// Reads one option that is one of a few words, in any case (`ZONE` and `zone`); `None` if it is not set.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] if the value is none of them; the message lists them.
    pub fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(text) = self.get::<String>(key)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text));
        let expected = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        found.map(|(_, value)| Some(*value)).ok_or_else(|| self.invalid(key, format!("expected one of {}", expected())))
    }

    /// An error about one option, which it names by its whole path.
    pub(crate) fn invalid(&self, key: &str, problem: impl fmt::Display) -> Error {
        let dot = if self.at.is_empty() { "" } else { "." };
        Error::new(ErrorKind::InvalidConfig, format!("{}{dot}{key}: {problem}", self.at))
    }

    fn masked(&self) -> Value {
        let mut values = Value::Object(self.values.clone());
        mask(&mut values);
        values
    }
}

impl<'de> Deserialize<'de> for PluginOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(|values| Self { at: String::new(), values })
    }
}

impl fmt::Debug for PluginOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.masked(), f)
    }
}

impl Serialize for PluginOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.masked().serialize(serializer)
    }
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if is_secret_name(key) {
                    *value = Value::from(MASK);
                } else {
                    mask(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_two_plug_ins() {
        let mut names: Vec<_> =
            NAMES.iter().flat_map(|known| known.aliases.iter().copied().chain([known.name])).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn both_dialects_name_the_same_plug_in() {
        for (alias, name) in [
            ("dstMetaRouter", "metadataRouter"),
            ("filterOnlyRouter", "recoverRouter"),
            ("setDivisionRouter", "setRouter"),
            ("maglev", "maglev"),
            ("mine", "mine"),
        ] {
            assert_eq!(canonical(alias), name);
        }
        assert!(is_known(PluginKind::Router, "dstMetaRouter") && !is_known(PluginKind::LoadBalancer, "dstMetaRouter"));
        assert!(!is_known(PluginKind::Router, "mine"));
    }

    #[test]
    fn a_wrong_option_is_named_by_its_whole_path_and_not_repeated() {
        let mut section = PluginSection::default();
        section.insert("filterOnlyRouter", PluginOptions::new().with("a", "hunter2"));
        let options = section.options("consumer.serviceRouter", "recoverRouter");
        for error in [
            options.get::<u32>("a").unwrap_err(),
            options.get::<Vec<String>>("a").unwrap_err(),
            options.one_of("a", &[("all", 1), ("none", 2)]).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("consumer.serviceRouter.plugin.recoverRouter.a: expected"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn words_are_read_in_any_case_and_durations_in_any_form() {
        let options = PluginOptions::new().with("level", "ZONE").with("period", "30000ms").with("bare", "5");
        assert_eq!(options.one_of("level", &[("zone", 7)]).unwrap(), Some(7));
        assert_eq!(options.duration("period").unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(options.duration("bare").unwrap(), Some(Duration::from_millis(5)));
        assert_eq!(options.duration("absent").unwrap(), None);
        assert!(options.duration("level").is_err());
    }

    #[test]
    fn what_looks_like_a_secret_is_masked_at_any_depth() {
        let text = r#"{"a": 1, "b": [{"apiToken": "hunter2"}], "password": {"x": "hunter2"}}"#;
        let options: PluginOptions = serde_json::from_str(text).unwrap();
        let shown = format!("{options:?} {}", serde_json::to_string(&options).unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("\"a\":1"), "{shown}");
    }
}
