//! The vocabulary: what a service, an instance, a request and an answer are.
//!
//! A domain type knows nothing of protobuf, YAML, sockets or clocks. Snapshots are immutable once built and shared by
//! pointer; whatever changes (health by breaker, load, freshness) lives beside them, with its owner.

pub(crate) mod build;
pub(crate) mod call;
pub(crate) mod candidates;
pub(crate) mod health;
pub(crate) mod instance;
pub(crate) mod key;
pub(crate) mod label;
mod label_http;
pub(crate) mod label_set;
pub(crate) mod limiter;
pub(crate) mod limiter_answer;
pub(crate) mod location;
pub(crate) mod matcher;
pub(crate) mod metadata;
pub(crate) mod namespace;
mod path_template;
pub(crate) mod request;
pub(crate) mod rule;
pub(crate) mod rule_kind;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod snapshot;
pub(crate) mod subset;
pub(crate) mod variables;
