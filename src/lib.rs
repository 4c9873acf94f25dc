//! SDK for Polaris Mesh.

mod error;

pub use crate::error::{Error, ErrorKind, Result, ServerCode};
