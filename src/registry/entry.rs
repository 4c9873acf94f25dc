//! One key: what is served of it, how fresh that is, and who needs it.
//!
//! Readers load one pointer. The `watch` only wakes; what a waker finds is read from the same pointer, so there are no
//! two truths. What is done with answers is in [`intake`](super::intake).

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::model::key::ServiceEventKey;
use crate::model::snapshot::{Freshness, Resource, Source};
use crate::registry::intake::Intake;
use crate::registry::store::Store;
use crate::registry::view::{Origin, Standing, View};

/// Stands in place of the number of pins once the entry has left the store.
const EVICTED: usize = usize::MAX;

/// One resource of the store.
pub(crate) struct Entry {
    key: ServiceEventKey,
    pub(super) view: ArcSwap<View>,
    pub(super) intake: Mutex<Intake>,
    pub(super) store: Weak<Store>,
    /// What the entry needs of its store at any time, also when the store is gone.
    pub(super) shared: Arc<super::store::Shared>,
    wake: watch::Sender<u64>,
    /// When the control plane last confirmed what is served, in milliseconds since the store began.
    confirmed: AtomicU64,
    created: Instant,
    /// Used since the last sweep; the sweep turns it into the stamp, so that a use costs no look at the clock.
    used: AtomicBool,
    last_used: AtomicU64,
    pins: AtomicUsize,
    /// A caller has waited for the whole of its deadline in vain: the next ones are told at once.
    pub(super) given_up: AtomicBool,
    /// Whether the control plane is to be asked, which waits for the disk cache.
    pub(super) wanted: AtomicBool,
}

/// How a resource stands.
#[derive(Debug, Clone)]
pub(crate) enum EntryState {
    /// No answer yet.
    Loading,
    /// Something is served.
    Ready,
    /// The control plane says that the service does not exist.
    NotFound(Error),
    /// Nothing is served, and the last answer was a failure.
    Failed(Error),
}

/// Keeps an entry in the store, and its key subscribed, while it is held.
#[must_use = "the entry may expire once its pin is dropped"]
pub(crate) struct Pin(Arc<Entry>);

impl Entry {
    pub(super) fn new(key: ServiceEventKey, view: View, shared: Arc<super::store::Shared>, store: Weak<Store>) -> Self {
        let now = Instant::now();
        let stamp = shared.millis(now);
        Self {
            key,
            view: ArcSwap::from_pointee(view),
            intake: Mutex::default(),
            store,
            shared,
            wake: watch::Sender::new(0),
            confirmed: AtomicU64::new(stamp),
            created: now,
            used: AtomicBool::new(false),
            last_used: AtomicU64::new(stamp),
            pins: AtomicUsize::new(0),
            given_up: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
        }
    }

    pub(crate) fn key(&self) -> &ServiceEventKey {
        &self.key
    }

    /// What is served now: the last good data. None while loading, and of a service that does not exist.
    pub(crate) fn served(&self) -> Option<Resource> {
        let view = self.view.load();
        match view.standing {
            Standing::Ready => view.content.clone(),
            Standing::Loading | Standing::NotFound(_) => None,
        }
    }

    pub(crate) fn state(&self) -> EntryState {
        let view = self.view.load();
        match (&view.standing, &view.trouble) {
            (Standing::Ready, _) => EntryState::Ready,
            (Standing::NotFound(error), _) => EntryState::NotFound(error.clone()),
            (Standing::Loading, Some(trouble)) => EntryState::Failed(trouble.error.clone()),
            (Standing::Loading, None) => EntryState::Loading,
        }
    }

    /// How fresh it is at `now`; none while there is no answer.
    pub(crate) fn freshness(&self, now: Instant) -> Option<Freshness> {
        let view = self.view.load();
        let (source, age) = match view.origin {
            Origin::Nowhere => return None,
            Origin::Fixed => return Some(Freshness { source: Source::Fixed, age: Duration::ZERO, stale: false }),
            Origin::Live => (Source::Live, self.age(now)),
            Origin::Disk(written) => (Source::Disk, self.shared.clock.age(written, now)),
        };
        let stale = source == Source::Disk || view.trouble.is_some() || self.shared.link.is_lost();
        Some(Freshness { source, age, stale })
    }

    /// Keeps it in the store while the pin is held. Of an entry that has expired, its successor is pinned.
    pub(crate) fn pin(self: &Arc<Self>) -> Pin {
        let mut entry = Arc::clone(self);
        loop {
            // `EVICTED` is the one number that has no successor.
            let more = |pins: usize| pins.checked_add(1).filter(|pins| *pins != EVICTED);
            if entry.pins.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
                return Pin(entry);
            }
            match entry.store.upgrade() {
                Some(store) => {
                    // Whoever evicted it may not have taken it out of the map yet, and holds the lock until then.
                    store.entries.locked(&entry, || {});
                    entry = store.entry(&entry.key);
                }
                // The context is gone: nothing can expire, and nothing can change any more. The pin counts for nothing.
                None => return Pin(entry),
            }
        }
    }

    /// Says that it is in use: a store to a flag, and only when it is not set already, so that many threads share it.
    pub(crate) fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Wakes whenever something about the entry changed; carries no data.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    pub(super) fn wake(&self) {
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(super) fn confirm(&self, now: Instant) {
        self.confirmed.store(self.shared.millis(now), Ordering::Relaxed);
    }

    /// Since the control plane last confirmed it.
    pub(super) fn age(&self, now: Instant) -> Duration {
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        Duration::from_millis(self.shared.millis(now).saturating_sub(confirmed))
    }

    pub(super) fn created(&self) -> Instant {
        self.created
    }

    pub(super) fn is_pinned(&self) -> bool {
        !matches!(self.pins.load(Ordering::Acquire), 0 | EVICTED)
    }

    pub(crate) fn is_fixed(&self) -> bool {
        self.view.load().origin == Origin::Fixed
    }

    /// Whether nobody used it for `idle`, as far as sweeps until `now` have seen.
    pub(super) fn is_idle(&self, idle: Duration, now: Instant) -> bool {
        let now = self.shared.millis(now);
        if self.used.swap(false, Ordering::Relaxed) || self.is_pinned() {
            self.last_used.store(now, Ordering::Relaxed);
        }
        u128::from(now.saturating_sub(self.last_used.load(Ordering::Relaxed))) >= idle.as_millis()
    }

    /// Whether it has left the store: nothing about it will change any more. Only an entry that was not pinned can.
    #[cfg(test)]
    pub(crate) fn has_expired(&self) -> bool {
        self.pins.load(Ordering::Acquire) == EVICTED
    }

    /// Takes it out of use, unless somebody pinned it meanwhile.
    pub(super) fn evict(&self) -> bool {
        self.pins.compare_exchange(0, EVICTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What a caller is told now; none while it is worth waiting.
    pub(super) fn outcome(&self) -> Option<Result<Resource, Error>> {
        let view = self.view.load();
        match (&view.standing, &view.content) {
            (Standing::Ready, Some(resource)) => return Some(Ok(resource.clone())),
            (Standing::NotFound(error), _) => return Some(Err(error.clone())),
            _ => {}
        }
        let definite = |error: &Error| {
            matches!(
                error.kind(),
                ErrorKind::Unauthorized | ErrorKind::Unsupported | ErrorKind::InvalidArgument | ErrorKind::NotFound
            )
        };
        match &view.trouble {
            Some(trouble) if definite(&trouble.error) => Some(Err(trouble.error.clone())),
            _ if self.given_up.load(Ordering::Relaxed) => Some(Err(self.not_loaded())),
            _ => None,
        }
    }

    /// The last failure, of the key or of the link.
    pub(super) fn cause(&self) -> Option<Error> {
        let view = self.view.load();
        view.trouble.as_ref().map(|trouble| trouble.error.clone()).or_else(|| self.shared.link.view().lost.clone())
    }

    fn not_loaded(&self) -> Error {
        match self.cause() {
            Some(cause) => {
                let context = format!("the {} could not be loaded, and loading goes on", self.key.kind);
                self.described(cause.kind(), context, Some(cause))
            }
            None => self.described(ErrorKind::Timeout, format!("the {} are not loaded yet", self.key.kind), None),
        }
    }

    /// What a caller is told whose deadline has passed; if there is a known reason, later callers need not wait for it.
    pub(super) fn timed_out(&self, waited: Duration) -> Error {
        let cause = self.cause();
        if cause.is_some() {
            self.given_up.store(true, Ordering::Relaxed);
        }
        let why = cause.as_ref().map_or_else(|| "no answer yet".to_owned(), |cause| cause.kind().to_string());
        let context = format!("waiting for the {}: {why}", self.key.kind);
        self.described(ErrorKind::Timeout, context, cause).with_elapsed(waited)
    }

    fn described(&self, kind: ErrorKind, context: String, cause: Option<Error>) -> Error {
        let mut error = Error::new(kind, context).with_service(self.key.service.text());
        let server = cause.as_ref().and_then(|cause| cause.address().map(str::to_owned));
        if let Some(server) = server.or_else(|| self.shared.link.server().map(|server| server.to_string())) {
            error = error.with_address(server);
        }
        match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("state", &self.state()).finish_non_exhaustive()
    }
}

// === impl Pin ===

impl Pin {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Deref for Pin {
    type Target = Arc<Entry>;

    fn deref(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.0.pin()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // It was in use until now; idleness counts from here.
        self.0.touch();
        let less = |pins| (pins != EVICTED).then(|| usize::saturating_sub(pins, 1));
        let _ = self.0.pins.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.0.key).finish()
    }
}
