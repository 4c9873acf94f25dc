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
use crate::util::deadline::after;

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
    let now = Instant::now();
    let deadline = after(now, within);
    if inner.closing.swap(true, Ordering::AcqRel) {
        return wait_for_the_first(inner, deadline).await;
    }
    let (done, result) = oneshot::channel();
    let work = take_down(Arc::clone(inner), deadline);
    // On its own scope: the context's is cancelled by it.
    inner.exit.spawn_to_end("shutdown", async move {
        let _ = done.send(work.await);
    });
    match result.await {
        Ok(result) => result,
        Err(_) => inner.closed_with(abandon(inner)),
    }
}

/// The runtime is gone and took everything with it; nothing can tell a server any more.
fn abandon(inner: &Inner) -> ShutdownError {
    inner.refuse_calls();
    inner.scope.cancel();
    let mut registrations = Vec::new();
    if let Some(provider) = inner.provider.get() {
        registrations = provider.registrar.abandon();
        provider.liveness.scope().cancel();
    }
    inner.transport.close();
    let registrations = registrations.into_iter().map(|key| (key, Inner::runtime_gone_error())).collect();
    ShutdownError { registrations, tasks: Vec::new() }
}

async fn wait_for_the_first(inner: &Inner, deadline: Instant) -> Result<(), ShutdownError> {
    let mut closed = inner.closed.subscribe();
    match tokio::time::timeout_at(deadline, closed.wait_for(|closed| *closed)).await {
        Ok(_) => inner.left_over.get().cloned().map_or(Ok(()), Err),
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
    inner.closed_with(ShutdownError { registrations, tasks })
}

impl Inner {
    /// The shutdown is over, and this is what remained.
    fn closed_with(&self, left: ShutdownError) -> Result<(), ShutdownError> {
        let clean = left.registrations.is_empty() && left.tasks.is_empty();
        let result = if clean { Ok(()) } else { Err(self.left_over.get_or_init(|| left).clone()) };
        self.closed.send_replace(true);
        self.wake();
        result
    }
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
