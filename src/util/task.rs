//! The only place that spawns: every task has a name, a scope that owns it, and an end.
//!
//! A [`TaskScope`] is built over a runtime's handle that was captured when the context was built, so a task never lands
//! on the runtime of whichever caller came first. Cancelling a scope ends its tasks at their next await; joining waits
//! for them and names those that did not stop. A scope notices when its runtime is shut down under it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{EnterGuard, Handle};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long a supervised task that panicked waits before it starts again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Owns tasks. Clones share them; a child scope is cancelled with its parent and can be cancelled alone.
#[derive(Debug, Clone)]
pub(crate) struct TaskScope {
    handle: Handle,
    token: CancellationToken,
    tracker: TaskTracker,
    tasks: Arc<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    next: AtomicU64,
    alive: Mutex<BTreeMap<u64, &'static str>>,
    runtime_gone: AtomicBool,
    panicked: AtomicU64,
}

/// Takes a task off the list when its future goes, however it goes.
struct Entry {
    id: u64,
    tasks: Arc<Tasks>,
}

/// Set off when the runtime drops the task that holds it.
struct Sentinel {
    token: CancellationToken,
    tasks: Arc<Tasks>,
}

// === impl TaskScope ===

impl TaskScope {
    pub(crate) fn new(handle: Handle) -> Self {
        let scope = Self {
            handle,
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            tasks: Arc::new(Tasks::default()),
        };
        scope.watch_runtime();
        scope
    }

    /// A scope that ends with this one, and can end before it. Joining the parent joins its tasks too.
    pub(crate) fn child(&self) -> Self {
        Self { token: self.token.child_token(), ..self.clone() }
    }

    /// A scope of its own on the same runtime: cancelling one leaves the other, joining one does not wait for the other.
    pub(crate) fn apart(&self) -> Self {
        Self::new(self.handle.clone())
    }

    /// Runs `task` until it returns or the scope is cancelled.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let entry = self.list(name);
        let cancelled = self.token.clone().cancelled_owned();
        let task = async move {
            let _entry = entry;
            until_cancelled(cancelled, task).await;
        };
        self.run(task.instrument(tracing::debug_span!("task", name)));
    }

    /// Runs `task` to its end, also when the scope is cancelled: for what must finish, such as a deregistration. The
    /// task needs a deadline of its own.
    pub(crate) fn spawn_to_end(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let entry = self.list(name);
        let task = async move {
            let _entry = entry;
            task.await;
        };
        self.run(task.instrument(tracing::debug_span!("task", name)));
    }

    /// Runs what `make` makes, and makes it again a second after it panicked: once per panic, until it returns or the
    /// scope is cancelled.
    pub(crate) fn supervise<F, T>(&self, name: &'static str, mut make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let scope = self.clone();
        self.spawn(name, async move {
            loop {
                // Tracked and cancelled by itself, so that it ends with the scope whatever becomes of its supervisor.
                let task = until_cancelled(scope.token.clone().cancelled_owned(), make());
                match scope.handle.spawn(scope.tracker.track_future(task)).await {
                    Err(error) if error.is_panic() => {
                        scope.tasks.panicked.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(task = name, "a task panicked and is started again");
                        tokio::time::sleep(RESTART_DELAY).await;
                    }
                    _ => return,
                }
            }
        });
    }

    /// Runs blocking work, such as a write to disk, off the async workers.
    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.handle.spawn_blocking(work).await.ok()
    }

    /// Makes timers that are created in the meantime those of the scope's runtime, wherever the caller runs.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Ends all tasks of the scope at their next await.
    pub(crate) fn cancel(&self) {
        self.token.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(crate) fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Whether the runtime was shut down under the scope, so that nothing can run any more.
    pub(crate) fn runtime_is_gone(&self) -> bool {
        self.tasks.runtime_gone.load(Ordering::Relaxed)
    }

    /// How often a supervised task panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.tasks.panicked.load(Ordering::Relaxed)
    }

    /// The names of the tasks that run, of this scope and all that share its tree.
    pub(crate) fn alive(&self) -> Vec<&'static str> {
        self.tasks.lock().values().copied().collect()
    }

    /// Waits until all tasks have ended, at most `within`; the error names those that have not.
    pub(crate) async fn join(&self, within: Duration) -> Result<(), Vec<&'static str>> {
        self.tracker.close();
        match tokio::time::timeout(within, self.tracker.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.alive()),
        }
    }

    fn list(&self, name: &'static str) -> Entry {
        let id = self.tasks.next.fetch_add(1, Ordering::Relaxed);
        self.tasks.lock().insert(id, name);
        Entry { id, tasks: Arc::clone(&self.tasks) }
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(self.tracker.track_future(task));
    }

    fn watch_runtime(&self) {
        let sentinel = Sentinel { token: self.token.clone(), tasks: Arc::clone(&self.tasks) };
        // Not tracked: it lives exactly as long as the scope is not cancelled, and holds nothing.
        self.handle.spawn(async move { sentinel.token.cancelled().await });
    }
}

// === impl Tasks, Entry, Sentinel ===

impl Tasks {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, &'static str>> {
        // A panic cannot leave the map half changed: its operations are single inserts and removals.
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tasks.lock().remove(&self.id);
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if !self.token.is_cancelled() {
            self.tasks.runtime_gone.store(true, Ordering::Relaxed);
        }
    }
}

async fn until_cancelled(cancelled: WaitForCancellationFutureOwned, task: impl Future<Output = ()> + Send) {
    tokio::select! {
        () = cancelled => {}
        () = task => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const SHORT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn cancelling_ends_every_task_and_joining_sees_it() {
        let scope = TaskScope::new(Handle::current());
        scope.spawn("first", std::future::pending());
        scope.child().spawn("second", std::future::pending());
        assert_eq!(scope.alive(), ["first", "second"]);
        assert_eq!(scope.join(SHORT).await, Err(vec!["first", "second"]));
        scope.cancel();
        assert_eq!(scope.join(SHORT).await, Ok(()));
        assert!(scope.alive().is_empty() && !scope.runtime_is_gone());
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_is_cancelled_alone() {
        let scope = TaskScope::new(Handle::current());
        let child = scope.child();
        child.spawn("child", std::future::pending());
        scope.spawn("parent", std::future::pending());
        child.cancel();
        tokio::time::sleep(SHORT).await;
        assert_eq!(scope.alive(), ["parent"]);
        scope.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_that_panics_is_started_again() {
        let scope = TaskScope::new(Handle::current());
        let (ran, mut runs) = mpsc::unbounded_channel();
        let mut times = 0;
        scope.supervise("flaky", move || {
            times += 1;
            let (ran, times) = (ran.clone(), times);
            async move {
                ran.send(times).unwrap();
                assert!(times > 2, "planned");
            }
        });
        let mut seen = vec![];
        while let Some(run) = runs.recv().await {
            seen.push(run);
        }
        assert_eq!((seen, scope.panics()), (vec![1, 2, 3], 2));
        assert_eq!(scope.join(SHORT).await, Ok(()));
    }

    #[test]
    fn a_scope_notices_that_its_runtime_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let scope = TaskScope::new(runtime.handle().clone());
        scope.spawn("task", std::future::pending());
        assert!(!scope.runtime_is_gone());
        drop(runtime);
        assert!(scope.runtime_is_gone());
        assert!(scope.alive().is_empty());
    }
}
