//! Contexts that talk to this server.

use super::server::Server;
use crate::context::{SdkContext, SdkContextBuilder};
use crate::error::Result;

/// Contexts.
impl Server {
    /// The start of a context that talks to this server. Its instances do not drain before they are removed; in memory
    /// its heartbeats have no thread of their own, so that they follow the clock of the test.
    pub fn builder(&self) -> SdkContextBuilder {
        let builder =
            SdkContextBuilder::new().address(self.address()).set("provider.drain", "0s").connector(self.connector());
        if self.is_in_memory() { builder.set("provider.heartbeat.ownThread", "false").exact_clock() } else { builder }
    }

    /// A context that talks to this server, on the current runtime.
    ///
    /// ```
    /// use polarismesh::testing::{Server, instance};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> polarismesh::Result<()> {
    /// let server = Server::in_memory();
    /// server.service(("default", "payments")).instance(instance("10.0.0.1", 8080));
    ///
    /// let context = server.context()?;
    /// let picked = context.consumer().get_one_instance(("default", "payments")).await?;
    /// assert_eq!(picked.authority(), "10.0.0.1:8080");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidConfig` outside of a tokio runtime.
    pub fn context(&self) -> Result<SdkContext> {
        self.builder().build()
    }
}
