//! What the benches measure that users cannot reach. No part of the public API: it changes with any release.

use prost::bytes::Bytes;

use crate::context::feed::Feed as Intake;
use crate::context::{SdkContext, SdkContextBuilder};
use crate::error::{Error, ErrorKind, Result};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::wire::discovered::DiscoverAnswer;
use crate::wire::resource;

/// The generated messages and stubs, for baselines.
pub mod v1 {
    pub use crate::pb::v1::*;
}

/// A context without a server, whose lists of instances are put in as the bytes of answers.
#[derive(Debug)]
pub struct Fed {
    context: SdkContext,
    intake: Intake,
}

impl Fed {
    /// On the current runtime.
    ///
    /// # Errors
    ///
    /// As [`SdkContextBuilder::build`].
    pub fn new() -> Result<Self> {
        // A fixed service stands in for the server that a context must have.
        let builder = SdkContextBuilder::new().fixed(("bench", "none"), [("127.0.0.1", 1)]);
        let (context, intake) = Intake::of(builder)?;
        Ok(Self { context, intake })
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &SdkContext {
        &self.context
    }

    /// Decodes a `DiscoverResponse` as the discover worker does, and hands it to the registry; it is compiled on the
    /// runtime of the context. Whether it changed what is served.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for bytes that are no answer.
    pub fn answer(&self, key: &ServiceKey, bytes: Bytes) -> Result<bool> {
        let answer = DiscoverAnswer::read(bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "no answer").with_source(error))?;
        let key = key.of(ResourceKind::Instances);
        Ok(self.intake.apply(&key, resource::answer(&key, answer)))
    }
}
