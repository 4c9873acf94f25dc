//! SDK for Polaris Mesh.

// While the layers are being stacked, what the upper ones will call is dead code for now.
#![allow(dead_code, reason = "wired up by the layers above")]

mod api;
mod balance;
pub mod config;
mod context;
mod engine;
mod error;
mod model;
mod pb;
mod plugin;
mod registry;
mod routing;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod util;
mod wire;

pub use crate::error::{Error, ErrorKind, Result, ServerCode};
pub use crate::model::call::{Classify, Outcome};
pub use crate::model::instance::{Instance, InstanceAddr, InstanceId};
pub use crate::model::key::{Namespace, ResourceKind, Revision, ServiceKey, ServiceKeyRef};
pub use crate::model::location::Location;
pub use crate::model::metadata::Metadata;
pub use crate::model::request::instance::{GetInstances, GetOneInstance, Pick, Tried};
pub use crate::model::request::registration::{Deregister, Heartbeat, Register};
pub use crate::model::service::{InstanceChange, ServiceInfo, ServiceInstances, ServiceList};
pub use crate::model::snapshot::{Freshness, RuleSet, Source};
