//! The end of a context, in order.
//!
//! ```text
//! isolate all ─> drain (everything still works) ─> refuse new calls ─> stop beats ─> deregister ─> end tasks ─> close
//! ```
//!
//! It runs as a task that nobody can drop, so a caller that stops waiting does not undo it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::context::Inner;
use crate::error::Error;
use crate::model::key::ServiceKey;

/// The part of a shutdown's time that is kept for ending tasks after instances were removed.
const TASKS_SHARE: u32 = 10;

/// How many registrations a message names: there may be thousands, and all for the same reason.
const NAMED: usize = 4;

/// What a shutdown could not end in time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShutdownError {
    /// Registrations that could not be removed, with the reason; their instances expire on the server.
    pub registrations: Vec<(ServiceKey, Error)>,
    /// Tasks that had not ended at the deadline.
    pub tasks: Vec<&'static str>,
}

pub(super) async fn shutdown(inner: &Arc<Inner>, within: Duration) -> Result<(), ShutdownError> {
    let deadline = Instant::now() + within;
    if inner.closing.swap(true, Ordering::AcqRel) {
        return wait_for_the_first(inner, deadline).await;
    }
    let (done, result) = oneshot::channel();
    let work = take_down(Arc::clone(inner), deadline);
    // On its own scope: the context's is cancelled by it.
    inner.exit.spawn_to_end("shutdown", async move {
        let _ = done.send(work.await);
    });
    result.await.unwrap_or_else(|_| {
        // The runtime is gone and took everything with it.
        inner.closed.send_replace(true);
        Ok(())
    })
}

async fn wait_for_the_first(inner: &Inner, deadline: Instant) -> Result<(), ShutdownError> {
    let mut closed = inner.closed.subscribe();
    match tokio::time::timeout_at(deadline, closed.wait_for(|closed| *closed)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(ShutdownError { registrations: Vec::new(), tasks: vec!["shutdown"] }),
    }
}

async fn take_down(inner: Arc<Inner>, deadline: Instant) -> Result<(), ShutdownError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let removed_by = deadline - left / TASKS_SHARE;
    // A first registration that is just starting is let through or refused as a whole.
    drop(inner.starting.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let mut registrations = Vec::new();
    let provider = inner.provider.get();
    if let Some(provider) = provider {
        let draining = provider.registrar.drain(removed_by).await;
        inner.refuse_calls();
        registrations = provider.registrar.finish(draining, removed_by).await;
    }
    inner.refuse_calls();
    inner.scope.cancel();
    let mut tasks = Vec::new();
    if let Some(provider) = provider {
        tasks.extend(provider.liveness.stop(deadline.saturating_duration_since(Instant::now())).await);
    }
    tasks.extend(inner.scope.join(deadline.saturating_duration_since(Instant::now())).await.err().unwrap_or_default());
    inner.transport.close();
    inner.closed.send_replace(true);
    inner.wake();
    if registrations.is_empty() && tasks.is_empty() { Ok(()) } else { Err(ShutdownError { registrations, tasks }) }
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shutdown is not complete")?;
        for (service, error) in self.registrations.iter().take(NAMED) {
            write!(f, "; a registration in {service} remains: {error}")?;
        }
        if self.registrations.len() > NAMED {
            write!(f, "; and {} more", self.registrations.len() - NAMED)?;
        }
        if !self.tasks.is_empty() {
            write!(f, "; still running: {}", self.tasks.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for ShutdownError {}
