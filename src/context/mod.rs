//! The context: owns everything, wires it once, and takes it down in order.
//!
//! Everything below is built from plain parts, so this is the only place that knows all of them. A context is a handle;
//! its parts run on the runtime that was current when it was built, and are started by their first use: a context that
//! nobody uses has no connection, no thread, and a few tasks that sleep.

mod builder;
#[cfg(feature = "testing")]
pub(crate) mod feed;
mod liveness;
mod options;
mod shutdown;
mod start;
mod state;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use builder::SdkContextBuilder;
pub use shutdown::ShutdownError;
pub use state::{ContextState, StateWatch, Trouble};

use crate::config::Config;
use crate::context::liveness::Liveness;
use crate::engine::Engine;
use crate::engine::contact::{Contact, Known};
use crate::engine::location::LocationCell;
use crate::engine::quota::Quotas;
use crate::engine::register::Registrar;
use crate::engine::world::{LeftIsolated, Turns, World};
use crate::error::{Error, ErrorKind, Result};
use crate::registry::LocalRegistry;
use crate::transport::Transport;
use crate::transport::discover::LinkState;
use crate::util::clock::WallClock;
use crate::util::task::TaskScope;

/// How long the state tells of a task that panicked and was started again.
const PANIC_IS_NEWS: Duration = Duration::from_secs(60);

/// The SDK in one handle: configuration, connections, caches and tasks. Cheap to clone; several contexts in one process
/// are independent of each other.
///
/// Build one per process, and ask it for the APIs. Building reads configuration and does no network I/O; it needs a
/// tokio runtime, the current one or one that is given to the builder, on which all tasks of the context then run.
///
/// Call [`shutdown`](Self::shutdown) at the end: dropping the last handle stops everything too, but leaves the
/// registrations of this context to expire on the server.
///
/// ```no_run
/// use polarismesh::{Register, SdkContext};
/// use std::time::Duration;
///
/// # async fn example() -> polarismesh::Result<()> {
/// let context = SdkContext::builder().address("127.0.0.1:8091").build()?;
///
/// let registration = context.provider().register(Register::new(("default", "payments"), 8080)).await?;
/// let instance = context.consumer().get_one_instance(("default", "payments")).await?;
/// println!("calling {}", instance.authority());
///
/// context.shutdown(Duration::from_secs(10)).await.ok();
/// # let _ = registration;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SdkContext(Arc<Inner>);

pub(crate) struct Inner {
    config: Config,
    scope: TaskScope,
    /// Outlives the other one by the shutdown that it runs.
    exit: TaskScope,
    transport: Transport,
    registry: LocalRegistry,
    engine: Engine,
    quotas: Quotas,
    location: LocationCell,
    contact: Contact,
    clock: WallClock,
    provider: OnceLock<Provider>,
    /// Serialises the start of the provider side: two first registrations start one thread.
    starting: Mutex<()>,
    /// What goes on in the background of a context that is used: client reports, the servers of clusters.
    started: AtomicBool,
    closing: AtomicBool,
    closed: watch::Sender<bool>,
    /// What the shutdown could not end, for all who called it.
    left_over: OnceLock<ShutdownError>,
    wake: watch::Sender<u64>,
}

struct Provider {
    registrar: Arc<Registrar>,
    liveness: Liveness,
}

// === impl SdkContext ===

impl SdkContext {
    /// Starts the construction of a context.
    pub fn builder() -> SdkContextBuilder {
        SdkContextBuilder::new()
    }

    /// A context configured by the file, a `polaris.yaml`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` names the file, and every problem in it with its path; also outside of a tokio runtime.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().config(Config::from_file(path)?).build()
    }

    /// A context configured by the environment: the file that `POLARIS_CONFIG_FILE` names, else `./polaris.yaml`, else
    /// the server at `POLARIS_SERVER_ADDRESS`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` lists what was tried, and every problem of what was found; also outside of a tokio runtime.
    pub fn from_env() -> Result<Self> {
        Self::builder().config(Config::from_env()?).build()
    }

    /// The configuration that is in force. Its `Display` is YAML with secrets masked.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// How the context stands right now.
    #[must_use]
    pub fn state(&self) -> ContextState {
        self.0.state()
    }

    /// Follows the state. The watch does not keep the context alive.
    pub fn watch_state(&self) -> StateWatch {
        let wakes = [self.0.wake.subscribe(), self.0.registry.watch_health(), self.0.engine.troubles().watch()];
        StateWatch::new(Arc::downgrade(&self.0), wakes)
    }

    /// Waits until the context is [`Ready`](ContextState::Ready), at most `within`. Makes first contact with a control
    /// plane if nothing has been asked for yet.
    ///
    /// # Errors
    ///
    /// `Timeout` says what is wrong so far, with the oldest trouble as its source; `Closed` after a shutdown.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and to call again.
    pub async fn ready(&self, within: Duration) -> Result<()> {
        self.0.start();
        self.0.make_contact(within);
        let mut watch = self.watch_state();
        let ready = async {
            while let Some(state) = watch.next().await {
                if state.is_ready() {
                    return Ok(());
                }
            }
            Err(Inner::closed_error())
        };
        let ready = async { tokio::time::timeout(within, ready).await };
        self.0.inside(ready).await.unwrap_or_else(|_| {
            let state = self.state();
            let error = Error::new(ErrorKind::Timeout, format!("not ready within {within:?}; {state}"));
            Err(match state {
                ContextState::Degraded { troubles } => match troubles.into_iter().next() {
                    Some(oldest) => error.with_source(oldest.error),
                    None => error,
                },
                _ => error,
            })
        })
    }

    /// Takes the context down in order: isolates its instances and lets callers drain while everything still works,
    /// refuses new calls, stops beating, removes the instances, ends all tasks, closes all connections.
    ///
    /// It is done after `within` at the latest; with less than a drain and a removal need, the drain is cut short.
    /// Calling it again, or from several places, waits for the same shutdown.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] names the registrations that could not be removed, and the tasks that did not end in time.
    ///
    /// # Cancel safety
    ///
    /// A shutdown that has begun goes on when the future is dropped.
    pub async fn shutdown(&self, within: Duration) -> Result<(), ShutdownError> {
        self.0.inside(shutdown::shutdown(&self.0, within)).await
    }

    fn of(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl fmt::Debug for SdkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkContext").field("state", &self.state()).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    /// Awaits `work` inside of the context's runtime: callers may be on another one, or on none.
    pub(crate) fn inside<T>(&self, work: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
        self.scope.inside(work)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// The provider side, started by its first use.
    pub(crate) fn registrar(&self) -> Result<&Arc<Registrar>> {
        if self.scope.runtime_is_gone() {
            return Err(Self::runtime_gone_error());
        }
        if let Some(provider) = self.provider.get() {
            return Ok(&provider.registrar);
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closing.load(Ordering::Acquire) {
            return Err(Self::closed_error());
        }
        if let Some(provider) = self.provider.get() {
            return Ok(&provider.registrar);
        }
        self.start();
        let provider = self.start_provider()?;
        Ok(&self.provider.get_or_init(|| provider).registrar)
    }

    fn start_provider(&self) -> Result<Provider> {
        let own_thread = self.config.provider.heartbeat.own_thread;
        let liveness = Liveness::start(&self.scope, own_thread)?;
        let transport = if own_thread { self.transport.on_scope(liveness.scope()) } else { self.transport.clone() };
        let api = &self.config.global.api;
        let world = World {
            transport,
            location: self.location.clone(),
            contact: self.contact.clone(),
            turns: Turns::default(),
            isolated: LeftIsolated::default(),
            wake: self.wake.clone(),
            patience: api.timeout,
            long_patience: self.config.global.server_connector.message_timeout.max(api.timeout),
            retry_interval: api.retry_interval,
            drain: self.config.provider.drain,
            bind_ip: api.bind_ip,
        };
        let registrar = Arc::new(Registrar::new(world, liveness.scope().clone()));
        self.follow_location(&registrar);
        Ok(Provider { registrar, liveness })
    }

    fn follow_location(&self, registrar: &Arc<Registrar>) {
        let mut changed = self.location.changed();
        changed.mark_unchanged();
        let registrar = Arc::downgrade(registrar);
        self.scope.spawn("location", async move {
            while changed.changed().await.is_ok() {
                let Some(registrar) = registrar.upgrade() else { return };
                registrar.location_changed();
            }
        });
    }

    pub(crate) fn state(&self) -> ContextState {
        if self.closing.load(Ordering::Acquire) && *self.closed.borrow() {
            return ContextState::Closed;
        }
        let health = self.registry.health();
        let up = matches!(health.link, LinkState::Up { .. });
        let known = self.contact.known();
        // Without a server there is none to wait for: all services are fixed.
        let nobody = self.config.global.server_connector.addresses.is_empty();
        let reached = up || nobody || matches!(known, Known::Reached);
        let mut troubles = state::of_registry(&health, &self.clock);
        if let Known::Failing { error, since } = known
            && !up
        {
            troubles.push(Trouble::of_server(error, self.clock.system_time(since)));
        }
        let routing = self.engine.troubles().list().into_iter();
        troubles.extend(routing.map(|(key, error, since)| Trouble {
            // What concerns no service in particular has none.
            service: (!key.service.service().is_empty()).then_some(key.service),
            kind: Some(key.kind),
            server: None,
            since: self.clock.system_time(since),
            error,
        }));
        for (service, since, error) in self.provider.get().map(|p| p.registrar.troubled()).unwrap_or_default() {
            troubles.push(Trouble::of_registration(service, error, self.clock.system_time(since)));
        }
        let tasks = self.provider.get().map(|p| p.liveness.scope().clone()).into_iter().chain([self.scope.clone()]);
        let panics = tasks.filter_map(|scope| scope.last_panic()).filter(|(_, at)| at.elapsed() < PANIC_IS_NEWS);
        troubles.extend(panics.map(|(name, at)| Trouble::of_task(name, self.clock.system_time(at))));
        troubles.sort_by_key(|trouble| trouble.since);
        match (troubles.is_empty(), reached) {
            (false, _) => ContextState::Degraded { troubles },
            (true, true) => ContextState::Ready,
            (true, false) => ContextState::Starting,
        }
    }

    /// The intake of calls is closed from here on; what is under way goes on.
    pub(crate) fn refuse_calls(&self) {
        self.engine.close();
    }

    /// Tells those who follow the state to look again.
    pub(crate) fn wake(&self) {
        self.wake.send_modify(|n| *n += 1);
    }

    pub(crate) fn runtime_is_gone(&self) -> bool {
        self.scope.runtime_is_gone()
    }

    pub(crate) fn runtime_gone_error() -> Error {
        Error::new(ErrorKind::Closed, "the tokio runtime that the context was built on is gone")
    }

    pub(crate) fn closed_error() -> Error {
        Error::new(ErrorKind::Closed, "the context was shut down")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let clean = self.closing.load(Ordering::Acquire);
        if !clean && self.provider.get().is_some_and(|provider| provider.registrar.keeps_any()) {
            tracing::warn!(
                "the last handle of a context was dropped without a shutdown: its registrations are left to expire"
            );
        }
        self.scope.cancel();
    }
}
