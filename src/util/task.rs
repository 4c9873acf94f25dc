//! The only place that spawns: every task has a name, a scope that owns it, and an end.
//!
//! A [`TaskScope`] is built over a runtime's handle that was captured when the context was built, so a task never lands
//! on the runtime of whichever caller came first. Cancelling a scope ends its tasks at their next await; joining waits
//! for them and names those that did not stop. A scope notices when its runtime is shut down under it.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{EnterGuard, Handle};
use tokio::time::Instant;
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
    /// Tasks of connections.
    connections: AtomicUsize,
    runtime_gone: AtomicBool,
    last_panic: Mutex<Option<(&'static str, Instant)>>,
}

/// Takes a task off the list when its future goes, however it goes.
struct Entry {
    id: u64,
    tasks: Arc<Tasks>,
}

/// Counts the task of a connection for as long as its future is there.
struct Counted(Arc<Tasks>);

/// Set off when the runtime drops the task that holds it.
struct Sentinel {
    token: CancellationToken,
    tasks: Arc<Tasks>,
}

// === impl TaskScope ===

impl TaskScope {
    pub(crate) fn new(handle: Handle) -> Self {
        let scope = Self::unwatched(handle);
        scope.watch_runtime();
        scope
    }

    /// A scope that ends with this one, and can end before it. Joining the parent joins its tasks too.
    pub(crate) fn child(&self) -> Self {
        Self { token: self.token.child_token(), ..self.clone() }
    }

    /// A scope of its own on the same runtime: cancelling one leaves the other, joining one does not wait for the other.
    pub(crate) fn apart(&self) -> Self {
        Self::unwatched(self.handle.clone())
    }

    fn unwatched(handle: Handle) -> Self {
        let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
        Self { handle, token, tracker, tasks: Arc::default() }
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

    /// Like [`spawn`](Self::spawn), for the tasks of connections, of which every call makes one: they are cancelled and
    /// waited for as any other, and only counted instead of listed.
    pub(crate) fn spawn_connection(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(&self.tasks);
        let cancelled = self.token.clone().cancelled_owned();
        self.run(async move {
            let _counted = counted;
            until_cancelled(cancelled, task).await;
        });
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
                        *lock(&scope.tasks.last_panic) = Some((name, Instant::now()));
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

    /// Polls `work` inside of the scope's runtime, whatever runs the caller: its timers are that runtime's. Boxed, so that
    /// the futures of callers stay small.
    pub(crate) fn inside<T>(&self, work: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
        let mut work = Box::pin(work);
        poll_fn(move |cx| {
            let _entered = self.enter();
            work.as_mut().poll(cx)
        })
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

    /// The supervised task that panicked last, and when.
    pub(crate) fn last_panic(&self) -> Option<(&'static str, Instant)> {
        *lock(&self.tasks.last_panic)
    }

    /// The names of the tasks that run, of this scope and all that share its tree.
    pub(crate) fn alive(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = lock(&self.tasks.alive).values().copied().collect();
        names.extend(std::iter::repeat_n("connection", self.tasks.connections.load(Ordering::Acquire)));
        names
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
        lock(&self.tasks.alive).insert(id, name);
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

// === impl Tasks, Counted, Entry, Sentinel ===

/// Nothing that is locked here can be left half changed by a panic: changes are single writes, inserts and removals.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counted {
    fn new(tasks: &Arc<Tasks>) -> Self {
        tasks.connections.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(tasks))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.tasks.alive).remove(&self.id);
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
        assert_eq!((seen, scope.last_panic().unwrap().0), (vec![1, 2, 3], "flaky"));
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
