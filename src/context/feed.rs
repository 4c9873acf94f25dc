//! A context whose registry is fed by hand: what an answer costs behind the transport, measured without one.

use std::sync::Arc;

use crate::context::{SdkContext, SdkContextBuilder};
use crate::error::Result;
use crate::model::key::ServiceEventKey;
use crate::model::snapshot::Answer;
use crate::registry::Writer;
use crate::transport::discover::ResourceSink as _;

/// Where answers are put in, as the discover worker does.
#[derive(Debug)]
pub(crate) struct Feed(Arc<Writer>);

impl Feed {
    /// The context of this builder, which should name no server, and its feed.
    pub(crate) fn of(builder: SdkContextBuilder) -> Result<(SdkContext, Self)> {
        let (context, writer) = builder.assemble()?;
        Ok((context, Self(writer)))
    }

    /// Takes an answer about `key`; whether it changed what is served.
    pub(crate) fn apply(&self, key: &ServiceEventKey, answer: Answer) -> bool {
        self.0.apply(key, answer)
    }
}
