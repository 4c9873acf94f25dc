//! How a context stands, as one value: for readiness probes, and for whoever asks why a call fails.

use std::fmt;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, StreamMap, wrappers::WatchStream};

use crate::context::Inner;
use crate::error::{Error, ErrorKind};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::registry::{RegistryHealth, TroubleKind};
use crate::util::clock::WallClock;

/// How a context stands.
///
/// ```text
/// Starting ──> Ready <──> Degraded ──> Closed
///     └───────────────────────^
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ContextState {
    /// No control plane was reached yet and none failed: a context does nothing before it is first used.
    Starting,
    /// A control plane answers, and everything that was asked for is current.
    Ready,
    /// Something is not as it should be. What was known before stays in use.
    #[non_exhaustive]
    Degraded {
        /// What is wrong, the oldest first; never empty.
        troubles: Vec<Trouble>,
    },
    /// The context was shut down.
    Closed,
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trouble {
    /// The service that it concerns; none where it is a server, the disk cache or a task of the context.
    pub service: Option<ServiceKey>,
    /// The kind of resource of the service; none where it is a registration, or no service.
    pub kind: Option<ResourceKind>,
    /// The server that was tried last, as `host:port`.
    pub server: Option<String>,
    /// Since when.
    pub since: SystemTime,
    /// What happened.
    pub error: Error,
}

/// Follows the state of a context. The first item is the current state; equal states are not repeated; it ends after
/// `Closed`.
#[must_use = "a watch yields nothing unless it is polled"]
pub struct StateWatch {
    context: Weak<Inner>,
    wakes: StreamMap<usize, WatchStream<u64>>,
    last: Option<ContextState>,
}

// === impl Trouble ===

impl PartialEq for Trouble {
    /// Equal where the same thing is wrong for the same reason; the wording of the error does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service
            && self.kind == other.kind
            && self.server == other.server
            && self.since == other.since
            && self.error.kind() == other.error.kind()
    }
}

impl Trouble {
    pub(super) fn of_server(error: Error, since: SystemTime) -> Self {
        Self { service: None, kind: None, server: error.address().map(str::to_owned), since, error }
    }

    pub(super) fn of_task(name: &str, since: SystemTime) -> Self {
        let error = Error::new(ErrorKind::Internal, format!("the task {name} panicked and was started again"));
        Self { service: None, kind: None, server: None, since, error }
    }

    pub(super) fn of_registration(service: ServiceKey, error: Error, since: SystemTime) -> Self {
        Self { service: Some(service), kind: None, server: error.address().map(str::to_owned), since, error }
    }
}

/// What is wrong with the link to the control plane and with what is held of it.
///
/// A key that is being loaded for the first time is not: a program asks for new services while it runs.
pub(super) fn of_registry(health: &RegistryHealth, clock: &WallClock) -> Vec<Trouble> {
    let mut troubles: Vec<_> = health
        .troubles
        .iter()
        .filter(|trouble| trouble.kind != TroubleKind::Loading)
        .map(|trouble| Trouble {
            service: Some(trouble.key.service.clone()),
            kind: Some(trouble.key.kind),
            server: trouble.error.address().map(str::to_owned),
            since: clock.system_time(trouble.since),
            error: trouble.error.clone(),
        })
        .collect();
    if let Some((error, since)) = &health.cache {
        let since = clock.system_time(*since);
        troubles.push(Trouble { service: None, kind: None, server: None, since, error: error.clone() });
    }
    if let Some(error) = &health.lost {
        troubles.push(Trouble::of_server(error.clone(), clock.system_time(health.link_since)));
    }
    troubles
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, self.kind) {
            (Some(service), Some(kind)) => write!(f, "{kind} of {service}: {}", self.error),
            (Some(service), None) => write!(f, "registration in {service}: {}", self.error),
            (None, Some(kind)) => write!(f, "{kind}: {}", self.error),
            (None, None) => match &self.server {
                Some(server) => write!(f, "server {server}: {}", self.error),
                None => write!(f, "{}", self.error),
            },
        }
    }
}

// === impl ContextState ===

impl ContextState {
    /// Whether a readiness probe may say yes: `Ready`, or degraded by nothing but a disk cache that cannot be written,
    /// which no call depends on.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Ready => true,
            Self::Degraded { troubles } => troubles.iter().all(|trouble| trouble.error.kind() == ErrorKind::CacheIo),
            Self::Starting | Self::Closed => false,
        }
    }
}

impl fmt::Display for ContextState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Ready => f.write_str("ready"),
            Self::Closed => f.write_str("closed"),
            Self::Degraded { troubles } => {
                f.write_str("degraded")?;
                for (n, trouble) in troubles.iter().enumerate() {
                    write!(f, "{} {trouble}", if n == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
        }
    }
}

// === impl StateWatch ===

impl StateWatch {
    pub(crate) fn new(context: Weak<Inner>, wakes: impl IntoIterator<Item = watch::Receiver<u64>>) -> Self {
        let wakes = wakes.into_iter().map(WatchStream::new).enumerate().collect();
        Self { context, wakes, last: None }
    }

    /// The next state, at once the first time. `None` after `Closed`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped: the next call answers the state that is current then.
    pub async fn next(&mut self) -> Option<ContextState> {
        StreamExt::next(self).await
    }
}

impl Stream for StateWatch {
    type Item = ContextState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ContextState>> {
        if self.last == Some(ContextState::Closed) {
            return Poll::Ready(None);
        }
        loop {
            let wakes = Pin::new(&mut self.wakes).poll_next(cx);
            let state = self.context.upgrade().map_or(ContextState::Closed, |context| context.state());
            if self.last.as_ref() != Some(&state) {
                self.last = Some(state.clone());
                return Poll::Ready(Some(state));
            }
            match wakes {
                Poll::Ready(Some(_)) => {}
                // All sources are gone: the context is.
                Poll::Ready(None) => {
                    self.last = Some(ContextState::Closed);
                    return Poll::Ready(Some(ContextState::Closed));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWatch").field("last", &self.last).finish_non_exhaustive()
    }
}
