//! Connections: one plain lazily dialled channel per server, shared by its calls and its stream.
//!
//! A channel of tonic's would dial again by itself whenever its connection ended, with the certificates it was built
//! with, and once more for each call that waited. Here a channel is one connection: it dials once, all who wait share the
//! outcome, and whoever comes after its end gets a new channel, which resolves the name and reads the certificates
//! anew. There are no HTTP/2 pings: a stock Polaris server ends connections that ping.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Uri;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, ErrorKind, Result};
use crate::model::server::ServerAddr;
use crate::transport::dial::{Dial, Line};
use crate::transport::tls::Tls;
use crate::util::connect::Connector;
use crate::util::deadline::after;
use crate::util::task::TaskScope;

/// Names this client to servers; the transport adds its own.
const USER_AGENT: &str = concat!("polaris-rust/", env!("CARGO_PKG_VERSION"));

/// The connections of one context on one runtime. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Arc<Settings>,
    scope: TaskScope,
    links: Mutex<Links>,
    /// One connection at a time is made ready off the async workers: files that hang hold one thread.
    readers: Arc<Semaphore>,
}

/// What a connection is made with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) connector: Arc<dyn Connector>,
    /// Bounds resolving, TCP, TLS and the server's first byte.
    pub(crate) connect_timeout: Duration,
    /// How long a connection may be unused.
    pub(crate) idle_timeout: Duration,
    pub(crate) tls: Tls,
}

#[derive(Debug, Default)]
struct Links {
    by_server: HashMap<ServerAddr, Arc<Link>>,
    closed: bool,
    sweeping: bool,
}

/// One connection, dialled when it is first used.
#[derive(Debug)]
pub(crate) struct Link {
    server: ServerAddr,
    channel: Channel,
    line: Arc<Line>,
    used: Mutex<Instant>,
}

/// Runs tonic's tasks in the scope, wherever they are started from.
#[derive(Debug, Clone)]
struct ScopeExecutor(TaskScope);

// === impl Pool ===

impl Pool {
    /// `scope` is the pool's own: closing the pool cancels it.
    pub(crate) fn new(settings: Arc<Settings>, scope: TaskScope) -> Self {
        Self(Arc::new(Inner { settings, scope, links: Mutex::default(), readers: Arc::new(Semaphore::new(1)) }))
    }

    /// The same settings, with connections of its own in another scope.
    pub(crate) fn twin(&self, scope: TaskScope) -> Self {
        Self::new(Arc::clone(&self.0.settings), scope)
    }

    pub(crate) fn scope(&self) -> &TaskScope {
        &self.0.scope
    }

    /// The connection to `server`, new if there is none or it has ended; by `until`, and within the time for a dial.
    /// Dials nothing yet.
    pub(crate) async fn link(&self, server: &ServerAddr, until: Instant) -> Result<Arc<Link>> {
        if let Some(held) = self.held(server)? {
            return Ok(held);
        }
        if !server.tls {
            return self.keep(self.0.make(server)?);
        }
        let until = until.min(after(Instant::now(), self.0.settings.connect_timeout));
        let made = tokio::time::timeout_at(until, self.made_elsewhere(server)).await;
        made.unwrap_or_else(|_| {
            let why = format!("the files of the TLS settings for {server} were not read in time");
            Err(Error::new(ErrorKind::Timeout, why))
        })
    }

    /// Certificates are read, and roots gathered, off the async workers.
    async fn made_elsewhere(&self, server: &ServerAddr) -> Result<Arc<Link>> {
        let permit = Arc::clone(&self.0.readers).acquire_owned().await.ok();
        if let Some(held) = self.held(server)? {
            return Ok(held);
        }
        let (inner, to) = (Arc::clone(&self.0), server.clone());
        let make = move || {
            let _permit = permit;
            inner.make(&to)
        };
        match self.0.scope.blocking(make).await {
            Some(link) => self.keep(link?),
            None => Err(closed("the runtime that the context was built on is gone")),
        }
    }

    fn held(&self, server: &ServerAddr) -> Result<Option<Arc<Link>>> {
        self.check_open()?;
        let links = self.0.lock();
        let held = links.by_server.get(server).filter(|held| !held.line.has_ended()).cloned();
        Ok(held.inspect(|held| held.touch()))
    }

    /// Takes a new connection in; one that was made meanwhile goes before it.
    fn keep(&self, link: Arc<Link>) -> Result<Arc<Link>> {
        let mut links = self.0.lock();
        if links.closed {
            return Err(closed("the context was shut down"));
        }
        if let Some(held) = links.by_server.get(&link.server).filter(|held| !held.line.has_ended()) {
            held.touch();
            return Ok(Arc::clone(held));
        }
        links.by_server.insert(link.server.clone(), Arc::clone(&link));
        if !links.sweeping {
            links.sweeping = true;
            self.0.scope.spawn("idle-connections", sweep(Arc::downgrade(&self.0)));
        }
        Ok(link)
    }

    /// Takes a connection that failed out of use. Who still holds it may go on with it.
    pub(crate) fn discard(&self, link: &Arc<Link>) {
        let mut links = self.0.lock();
        if links.by_server.get(&link.server).is_some_and(|held| Arc::ptr_eq(held, link)) {
            links.by_server.remove(&link.server);
        }
    }

    /// Ends all connections, for good.
    pub(crate) fn close(&self) {
        let mut links = self.0.lock();
        links.closed = true;
        links.by_server.clear();
        drop(links);
        self.0.scope.cancel();
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.0.scope.runtime_is_gone() {
            return Err(closed("the runtime that the context was built on is gone"));
        }
        if self.0.scope.is_cancelled() {
            return Err(closed("the context was shut down"));
        }
        Ok(())
    }
}

impl Inner {
    fn make(&self, server: &ServerAddr) -> Result<Arc<Link>> {
        let line = Arc::new(Line::default());
        let dial = Dial::new(
            Arc::clone(&self.settings.connector),
            server.clone(),
            self.settings.connect_timeout,
            Arc::clone(&line),
        );
        let scheme = if server.tls { "https" } else { "http" };
        let uri: Uri = format!("{scheme}://{server}").parse().map_err(|error| invalid_address(server, error))?;
        let mut endpoint = Endpoint::from(uri)
            .user_agent(USER_AGENT)
            .map_err(|error| invalid_address(server, error))?
            .executor(ScopeExecutor(self.scope.clone()));
        if server.tls {
            endpoint = self.settings.tls.apply(endpoint, server, self.settings.connect_timeout)?;
        }
        let channel = endpoint.connect_with_connector_lazy(dial);
        Ok(Arc::new(Link { server: server.clone(), channel, line, used: Mutex::new(Instant::now()) }))
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        // A panic cannot leave the map half changed: its operations are single inserts and removals.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what nobody used for the idle time; false when nothing is left to look after.
    fn sweep(&self, now: Instant) -> bool {
        let mut links = self.lock();
        // Whoever uses a connection holds it, and then the pool's is not the only one.
        links.by_server.retain(|_, link| {
            Arc::strong_count(link) > 1 || now.saturating_duration_since(link.last_used()) < self.settings.idle_timeout
        });
        links.sweeping = !links.by_server.is_empty();
        links.sweeping
    }
}

/// Closes idle connections; ends with the last of them.
async fn sweep(pool: std::sync::Weak<Inner>) {
    loop {
        let Some(period) = pool.upgrade().map(|pool| pool.settings.idle_timeout / 2) else { return };
        tokio::time::sleep(period.max(Duration::from_millis(100))).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep(Instant::now())) {
            return;
        }
    }
}

// === impl Link ===

impl Link {
    pub(crate) fn server(&self) -> &ServerAddr {
        &self.server
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Why the connection could not be made, or ended.
    pub(crate) fn fault(&self) -> Option<String> {
        self.line.fault()
    }

    /// See [`Line::writes`].
    pub(crate) fn writes(&self) -> u64 {
        self.line.writes()
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ScopeExecutor ===

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for ScopeExecutor {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn_connection(task);
    }
}

fn closed(why: &'static str) -> Error {
    Error::new(ErrorKind::Closed, why)
}

fn invalid_address(server: &ServerAddr, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{server} is not the address of a server")).with_source(error)
}
