//! A runtime of its own, on a thread of its own: for what must go on while the application's runtime is starved.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// A current-thread runtime that runs until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct OwnRuntime {
    handle: Handle,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl OwnRuntime {
    /// Starts the thread `name`.
    pub(crate) fn start(name: &str) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // Shared with the thread to be, because a runtime that is dropped where blocking is not allowed panics, and a
        // thread that cannot be started drops what it was given.
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let given = Arc::clone(&runtime);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let Some(runtime) = take(&given) else { return };
            // Either a word or the drop of the sender ends it.
            let _ = runtime.block_on(stopped);
            // Tasks that are left are dropped here; nothing of theirs may block the thread.
            runtime.shutdown_background();
            let _ = end.send(());
        });
        if let Err(error) = thread {
            if let Some(runtime) = take(&runtime) {
                runtime.shutdown_background();
            }
            return Err(error);
        }
        Ok(Self { handle, running: Mutex::new(Some(Running { stop, ended })) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Stops the thread and waits for its end, at most `within`. Whether it ended in time; also true if it had ended.
    pub(crate) async fn stop(&self, within: Duration) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { stop, ended }) = running else { return true };
        let _ = stop.send(());
        tokio::time::timeout(within, ended).await.is_ok()
    }
}

fn take(runtime: &Mutex<Option<Runtime>>) -> Option<Runtime> {
    runtime.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_runs_while_the_callers_runtime_is_blocked_and_ends_when_told() {
        let own = OwnRuntime::start("test-own-runtime").unwrap();
        let (done, done_rx) = std::sync::mpsc::channel();
        let kept = Arc::new(());
        let inside = Arc::clone(&kept);
        drop(own.handle().spawn(async move {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(inside);
        }));
        // Blocks this runtime's only thread: the task can only have run on the other one.
        done_rx.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(own.stop(Duration::from_secs(10)).await);
        assert_eq!(Arc::strong_count(&kept), 1, "its tasks are dropped with it");
        assert!(own.stop(Duration::ZERO).await, "stopping twice is fine");
    }
}
