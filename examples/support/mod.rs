//! What the examples share: a control plane. Not part of what they show.

#![allow(dead_code, reason = "not every example needs all of it")]

use polarismesh::testing::Server;
use polarismesh::{Result, SdkContext, SdkContextBuilder};

/// The server that `POLARIS_SERVER_ADDRESS` names, or one that is embedded in the example.
pub(crate) struct ControlPlane {
    address: String,
    embedded: Option<Server>,
}

impl ControlPlane {
    pub(crate) async fn start() -> Result<Self> {
        if let Ok(address) = std::env::var("POLARIS_SERVER_ADDRESS") {
            return Ok(Self { address, embedded: None });
        }
        let embedded = Server::listen("127.0.0.1:0").await?;
        Ok(Self { address: embedded.address().to_owned(), embedded: Some(embedded) })
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// The start of a context that talks to it.
    pub(crate) fn builder(&self) -> SdkContextBuilder {
        SdkContext::builder().address(&self.address)
    }

    pub(crate) fn context(&self) -> Result<SdkContext> {
        self.builder().build()
    }
}
