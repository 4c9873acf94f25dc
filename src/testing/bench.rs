//! What the benches measure that users cannot reach. No part of the public API: it changes with any release.

use prost::bytes::Bytes;

use crate::api::handle::ServiceHandle;
use crate::context::feed::Feed as Intake;
use crate::context::{SdkContext, SdkContextBuilder};
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::Instance;
use crate::model::key::{ResourceKind, ServiceKey};
use crate::model::request::instance::Pick;
use crate::model::snapshot::Answer;
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
        Self::with(SdkContextBuilder::new())
    }

    /// As [`new`](Self::new), built by this builder.
    ///
    /// # Errors
    ///
    /// As [`SdkContextBuilder::build`].
    pub fn with(builder: SdkContextBuilder) -> Result<Self> {
        // A fixed service stands in for the server that a context must have.
        let (context, intake) = Intake::of(builder.fixed(("bench", "none"), [("127.0.0.1", 1)]))?;
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
        self.answer_of(ResourceKind::Instances, key, bytes)
    }

    /// The same for any kind of resource.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for bytes that are no answer.
    pub fn answer_of(&self, kind: ResourceKind, key: &ServiceKey, bytes: Bytes) -> Result<bool> {
        let answer = DiscoverAnswer::read(bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "no answer").with_source(error))?;
        let key = key.of(kind);
        Ok(self.intake.apply(&key, resource::answer(&key, answer)))
    }

    /// Says that a service has no rules, which its first view waits for.
    pub fn no_rules(&self, key: &ServiceKey) {
        for kind in [ResourceKind::Routing, ResourceKind::NearbyRoute] {
            self.intake.apply(&key.of(kind), Answer::Unsupported);
        }
    }
}

/// Picks and looks at what was picked, without handing it out.
///
/// # Errors
///
/// As [`ServiceHandle::pick`].
#[inline]
pub fn pick_with<T>(handle: &ServiceHandle, pick: &Pick<'_>, look: impl FnOnce(&Instance) -> T) -> Result<T> {
    handle.pick_with(pick, look)
}

/// Opens the breaker of one instance of a service, or closes it; whether there is such an instance.
#[must_use]
pub fn trip(handle: &ServiceHandle, id: &str, open: bool) -> bool {
    handle.trip(id, open)
}
