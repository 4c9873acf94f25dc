//! `polaris.yaml`: one file for the Go, the Java and this SDK.
//!
//! **Problem.** A fleet speaks several languages and shares one configuration file. Each official SDK spells some keys
//! its own way, reads keys that the others do not, and ignores what it does not know, so that a typo has no effect and
//! nobody is told.
//!
//! **Choice.** Text becomes a plain tree first. On the tree, variables are expanded, other spellings become ours, and
//! every key is looked up in one table: *used*, *known and not used* (with the reason), or *unknown*, which is a WARN with
//! the nearest known key, or an error if the file says `strict: true`. Only then the tree becomes the typed [`Config`],
//! whose fields are public and whose defaults stand once, in `Default`. All problems are reported at once.
//!
//! **Invariant.** No message, `Debug` or dump shows a secret or quotes the file beyond its keys and the bad value of a
//! key that is no secret. Nothing outside the loader reads files or the environment.
//!
//! # What goes before what
//! 1. what the builder of a context is told (an address, a token, `set`),
//! 2. the environment, if the configuration comes [from it](Config::from_env): `POLARIS_SERVER_ADDRESS`, `POLARIS_TOKEN`,
//! 3. the file, with `${VAR}` and `${VAR:default}` expanded in its values,
//! 4. the defaults.
//!
//! An empty value (`token: ""`, `bindIP:`) means the default. Durations are `500ms`, `1s`, `1m30s`, `2h`, or a bare number
//! of milliseconds.

mod address;
mod assemble;
mod change;
mod consumer;
pub(crate) mod duration;
mod global;
mod key_table;
mod keys;
mod loader;
pub(crate) mod plugin;
mod provider;
mod rate_limit;
mod scalar;
mod secret;
mod tree;
mod untyped;
mod validate;

use serde::{Deserialize, Serialize};

pub use self::address::{InvalidAddress, ServerAddress};
pub use self::consumer::{Consumer, EmptyGuard, EmptyPolicy, LoadBalancer, LocalCache, ServiceRouter};
pub use self::global::{Api, Cluster, ConnectorPlugin, Global, Grpc, Location, Protocol, ServerConnector, System};
pub(crate) use self::loader::variable;
pub use self::plugin::{PluginOptions, PluginSection};
pub use self::provider::{CallerService, Heartbeat, Provider};
pub use self::rate_limit::{OnExceed, OnUnknown, RateLimit};
pub use self::secret::Secret;
pub(crate) use self::validate::Surroundings;

/// The whole configuration. `Display` is [`Config::to_yaml`].
///
/// Its fields may be set freely; the builder of a context checks them all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a section")]
#[non_exhaustive]
pub struct Config {
    /// Whether a key that no SDK knows is an error instead of a WARN. Default false.
    #[serde(deserialize_with = "scalar::flag")]
    pub strict: bool,
    /// The control plane, and where this process is.
    pub global: Global,
    /// What is kept of other services, and how one instance of them is picked.
    pub consumer: Consumer,
    /// How the instances of this process are kept registered, and the calls that it serves limited.
    pub provider: Provider,
}
