//! The runtime of beats and registrations, started with the first of them.
//!
//! An application that starves its own runtime (a long computation on a worker, a blocked current-thread runtime) must
//! not lose its registration, so what keeps it alive runs on a thread of its own, with connections of its own.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::util::runtime::OwnRuntime;
use crate::util::task::TaskScope;

/// Where beats run, and what ends with it.
#[derive(Debug)]
pub(crate) struct Liveness {
    scope: TaskScope,
    own: Option<Arc<OwnRuntime>>,
}

/// Ends a scope when the runtime that holds this drops it.
struct EndWith(TaskScope);

impl Drop for EndWith {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Liveness {
    /// Starts the thread where `own_thread` asks for it; otherwise beats run in a child of `parent`.
    pub(crate) fn start(parent: &TaskScope, own_thread: bool) -> Result<Self> {
        if !own_thread {
            return Ok(Self { scope: parent.child(), own: None });
        }
        let own = OwnRuntime::start("polaris-liveness").map_err(|error| {
            let what = "the thread for heartbeats could not be started: free threads, or set \
                        provider.heartbeat.ownThread to false";
            Error::new(ErrorKind::Internal, what).with_source(error)
        })?;
        let scope = TaskScope::new(own.handle().clone());
        // Beats must not outlive the runtime of the application: they would promise a service that nobody serves.
        let end = EndWith(scope.clone());
        parent.spawn("liveness", async move {
            let _end = end;
            std::future::pending::<()>().await;
        });
        Ok(Self { scope, own: Some(Arc::new(own)) })
    }

    pub(crate) fn scope(&self) -> &TaskScope {
        &self.scope
    }

    /// Ends what runs there, and the thread; answers the names of tasks that did not end in time.
    pub(crate) async fn stop(&self, within: Duration) -> Vec<&'static str> {
        self.scope.cancel();
        let mut left = Vec::new();
        if self.own.is_some() {
            left = self.scope.join(within).await.err().unwrap_or_default();
        }
        if let Some(own) = &self.own
            && !own.stop(within).await
        {
            left.push("liveness thread");
        }
        left
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}
