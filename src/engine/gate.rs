//! Whether calls are taken: open until the context is shut down or its runtime is gone.
//!
//! Every pick asks, so asking is one relaxed load of a byte that is written once. The scope's own token has a lock, which
//! picks of many threads would share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::util::task::TaskScope;

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const RUNTIME_GONE: u8 = 2;

/// The gate of one context.
#[derive(Debug)]
pub(crate) struct Gate {
    state: AtomicU8,
    scope: TaskScope,
    wake: watch::Sender<()>,
}

/// Closes the gate when the task that holds it ends, however it does.
#[derive(Debug)]
pub(crate) struct CloseOnDrop(pub(crate) Arc<Gate>);

impl Gate {
    pub(crate) fn new(scope: TaskScope) -> Self {
        Self { state: AtomicU8::new(OPEN), scope, wake: watch::Sender::new(()) }
    }

    /// # Errors
    /// `Closed`, with the reason.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        match self.state.load(Ordering::Relaxed) {
            OPEN => Ok(()),
            state => Err(refusal(state)),
        }
    }

    /// As [`Self::check`], looking at the scope too: for calls that are about to wait.
    pub(crate) fn check_scope(&self) -> Result<()> {
        if self.scope.is_cancelled() {
            self.close();
        } else if self.scope.runtime_is_gone() {
            self.shut(RUNTIME_GONE);
        }
        self.check()
    }

    pub(crate) fn close(&self) {
        self.shut(CLOSED);
    }

    /// Waits until the gate is shut, and says why.
    pub(crate) async fn shut_down(&self) -> Error {
        let mut wake = self.wake.subscribe();
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            // The sender is ours, so this ends by a change only.
            let _ = wake.changed().await;
        }
    }

    fn shut(&self, state: u8) {
        // The first reason stays: what follows from it is no news.
        if self.state.compare_exchange(OPEN, state, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.wake.send_replace(());
        }
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // A task that is dropped without having been cancelled was dropped by its runtime.
        self.0.shut(if self.0.scope.is_cancelled() { CLOSED } else { RUNTIME_GONE });
    }
}

#[cold]
fn refusal(state: u8) -> Error {
    let why = match state {
        RUNTIME_GONE => "the tokio runtime that the context was built on is gone",
        _ => "the context was shut down",
    };
    Error::new(ErrorKind::Closed, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Handle;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_when_the_gate_shuts() {
        let gate = Gate::new(TaskScope::new(Handle::current()));
        let (error, ()) = tokio::join!(gate.shut_down(), async { gate.close() });
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(gate.check().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_scope_shuts_the_gate() {
        let scope = TaskScope::new(Handle::current());
        let gate = Gate::new(scope.clone());
        assert!(gate.check_scope().is_ok());
        scope.cancel();
        assert!(gate.check_scope().unwrap_err().to_string().contains("shut down"));
        assert!(gate.check().is_err());
    }

    #[test]
    fn a_lost_runtime_is_told_as_such() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let gate = Gate::new(TaskScope::new(runtime.handle().clone()));
        drop(runtime);
        assert!(gate.check_scope().unwrap_err().to_string().contains("runtime"));
    }
}
