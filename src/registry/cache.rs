//! The disk cache: reads at the first use of a key, and one writer that puts what changed on disk.
//!
//! One writer, so that files are written in order; the latest content of a key wins, so that a slow disk costs no
//! memory; and nobody waits for it. What cannot be written stays wanted and is tried again with the next change, while
//! everything goes on from memory.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::model::key::ServiceEventKey;
use crate::model::snapshot::Resource;
use crate::registry::cache_file::{self, Cached};
use crate::registry::entry::Entry;
use crate::registry::store::Store;
use crate::util::hash::NameHash;
use crate::util::task::TaskScope;

/// How long a key waits for the disk before the control plane is asked at the same time.
const DISK_PATIENCE: Duration = Duration::from_millis(100);
/// How long the end of the context may be put off to write what is still wanted.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// Where and how the disk cache works.
#[derive(Debug, Clone)]
pub(crate) struct CacheOptions {
    pub(crate) directory: PathBuf,
    /// Whether files are served before the control plane has answered; otherwise only when it fails.
    pub(crate) serve_at_start: bool,
    /// How old a file may be for that.
    pub(crate) fresh_for: Duration,
    /// How often a failed write or read is tried again, and after which pause.
    pub(crate) write_retries: u32,
    pub(crate) read_retries: u32,
    pub(crate) retry_interval: Duration,
}

#[derive(Debug)]
pub(super) struct Cache {
    queue: Arc<Queue>,
    scope: TaskScope,
}

#[derive(Debug)]
struct Queue {
    options: CacheOptions,
    wanted: Mutex<Wanted>,
    notify: Notify,
    health: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Wanted {
    jobs: HashMap<ServiceEventKey, Job, NameHash>,
    order: VecDeque<ServiceEventKey>,
    /// The last failure to write, and since when writing fails.
    error: Option<(Error, Instant)>,
}

#[derive(Debug, Clone)]
enum Job {
    Write { resource: Resource, written: u64 },
    Remove,
}

impl Cache {
    /// Starts the writer.
    pub(super) fn start(options: CacheOptions, scope: &TaskScope, health: watch::Sender<u64>) -> Self {
        let queue = Arc::new(Queue { options, wanted: Mutex::default(), notify: Notify::new(), health });
        let (theirs, scope) = (Arc::clone(&queue), scope.clone());
        let cache = Self { queue, scope: scope.clone() };
        // Not ended by cancellation but by its own look at it: a write under way is awaited, so that no other write of
        // the same file can overtake it, and what is wanted at the end is still written.
        scope.clone().spawn_to_end("registry-cache", async move {
            loop {
                tokio::select! {
                    biased;
                    () = scope.cancelled() => break,
                    () = theirs.notify.notified() => {}
                }
                let too_late = async {
                    scope.cancelled().await;
                    tokio::time::sleep(LAST_WRITES).await;
                };
                tokio::select! {
                    () = theirs.drain(&scope) => {}
                    () = too_late => return,
                }
            }
            let _ = tokio::time::timeout(LAST_WRITES, theirs.drain(&scope)).await;
        });
        cache
    }

    pub(super) fn write(&self, key: ServiceEventKey, resource: Resource, written: u64) {
        self.queue.want(key, Job::Write { resource, written });
    }

    pub(super) fn remove(&self, key: ServiceEventKey) {
        self.queue.want(key, Job::Remove);
    }

    /// Why the last write failed, and since when writes do, until one works again.
    pub(super) fn error(&self) -> Option<(Error, Instant)> {
        self.queue.lock().error.clone()
    }

    /// What the file of `key` has. A file that cannot be used is named in one WARN.
    async fn load(&self, key: &ServiceEventKey) -> Option<Cached> {
        let options = &self.queue.options;
        let mut tries = 0;
        loop {
            let (directory, key) = (options.directory.clone(), key.clone());
            let error = match self.scope.blocking(move || cache_file::load(&directory, &key)).await? {
                Ok(cached) => return cached,
                Err(error) => error,
            };
            tries += 1;
            if tries > options.read_retries {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, source, "the disk cache of this key is not used");
                return None;
            }
            tokio::time::sleep(options.retry_interval).await;
        }
    }
}

impl Queue {
    fn want(&self, key: ServiceEventKey, job: Job) {
        let mut wanted = self.lock();
        if wanted.jobs.insert(key.clone(), job).is_none() {
            wanted.order.push_back(key);
        }
        drop(wanted);
        self.notify.notify_one();
    }

    /// Does what is wanted, in rounds, until nothing is left or a round had a failure: what failed waits for the next
    /// change, and holds nothing else up.
    async fn drain(&self, scope: &TaskScope) {
        loop {
            let round = self.lock().order.len();
            if round == 0 {
                return;
            }
            let mut all_worked = true;
            for _ in 0..round {
                let Some((key, job)) = self.next() else { break };
                if let Err(error) = self.perform(&key, &job, scope).await {
                    self.lock().put_back(key, job);
                    self.failed(&error);
                    all_worked = false;
                }
            }
            if !all_worked {
                return;
            }
            self.worked();
        }
    }

    // By itself, because a guard in the head of a loop would live through its body.
    fn next(&self) -> Option<(ServiceEventKey, Job)> {
        self.lock().next()
    }

    async fn perform(&self, key: &ServiceEventKey, job: &Job, scope: &TaskScope) -> Result<(), Error> {
        // A directory that is known to fail is probed once a change, without patience.
        let retries = if self.lock().error.is_some() { 0 } else { self.options.write_retries };
        let mut tries = 0;
        loop {
            let directory = self.options.directory.clone();
            let (key, job) = (key.clone(), job.clone());
            let work = move || match job {
                Job::Write { resource, written } => cache_file::save(&directory, &key, &resource, written),
                Job::Remove => cache_file::remove(&directory, &key),
            };
            let done = scope.blocking(work).await.unwrap_or_else(|| {
                // Without an answer the runtime is going down, and nothing can be written any more; or it panicked.
                let gone = scope.is_cancelled() || scope.runtime_is_gone();
                if gone { Ok(()) } else { Err(Error::new(ErrorKind::CacheIo, "a write to the disk cache panicked")) }
            });
            if done.is_ok() || tries >= retries || scope.is_cancelled() {
                return done;
            }
            tries += 1;
            tokio::time::sleep(self.options.retry_interval).await;
        }
    }

    fn worked(&self) {
        if self.lock().error.take().is_some() {
            tracing::info!(directory = %self.options.directory.display(), "the disk cache is written again");
            self.bump();
        }
    }

    fn failed(&self, error: &Error) {
        let mut wanted = self.lock();
        let known = wanted.error.is_some();
        let since = wanted.error.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        wanted.error = Some((error.clone(), since));
        drop(wanted);
        if !known {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, source, "the disk cache cannot be written; everything goes on from memory");
            self.bump();
        }
    }

    fn bump(&self) {
        self.health.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn next(&mut self) -> Option<(ServiceEventKey, Job)> {
        let key = self.order.pop_front()?;
        let job = self.jobs.remove(&key)?;
        Some((key, job))
    }

    /// At the end of the queue, so that one bad file does not stand in the way; a newer job of the key stays.
    fn put_back(&mut self, key: ServiceEventKey, job: Job) {
        if !self.jobs.contains_key(&key) {
            self.jobs.insert(key.clone(), job);
            self.order.push_back(key);
        }
    }
}

impl Store {
    /// Loads a new entry from disk and then asks the control plane; if the disk is slow, both at once.
    pub(super) fn load_then_subscribe(self: Arc<Self>, entry: Arc<Entry>) {
        let scope = self.scope.clone();
        scope.spawn("registry-cache-load", async move {
            let Some(cache) = &self.cache else { return };
            let load = cache.load(entry.key());
            tokio::pin!(load);
            let early = tokio::time::timeout(DISK_PATIENCE, &mut load).await;
            let cached = if let Ok(cached) = early {
                cached
            } else {
                self.subscribe(&entry);
                load.await
            };
            if let Some(Cached { resource, written }) = cached {
                let (now, options) = (Instant::now(), &cache.queue.options);
                let fresh = self.shared.clock.age(written, now) <= options.fresh_for;
                let effect = entry.loaded(resource, written, options.serve_at_start && fresh);
                self.publish(&entry, effect, now);
            }
            self.subscribe(&entry);
        });
    }
}
