//! What providers call: register, beat, deregister.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

use crate::context::SdkContext;
use crate::engine::record::{Record, RegistrationState};
use crate::error::Result;
use crate::model::instance::InstanceId;
use crate::model::key::ServiceKey;
use crate::model::request::registration::{Deregister, Heartbeat, Register};

/// Registers instances of this program, and keeps them registered. Cheap to clone.
///
/// What is registered is *wanted* from then on: the context beats, notices when a server forgot the instance and
/// registers it again with the latest data, until it is deregistered or the context is shut down.
#[derive(Debug, Clone)]
pub struct ProviderApi {
    context: SdkContext,
}

/// A view of one registration. Cheap to clone; keeps the context alive; dropping it never deregisters.
#[derive(Clone)]
pub struct Registration {
    context: SdkContext,
    record: Arc<Record>,
    /// The version of the wish that it was made by.
    version: u64,
}

/// Follows the state of a registration: the first item is the current one, later ones the latest; ends after `Gone`.
#[must_use = "a watch yields nothing unless it is polled"]
pub struct RegistrationWatch {
    states: WatchStream<RegistrationState>,
    done: bool,
}

// === impl ProviderApi ===

impl ProviderApi {
    pub(crate) fn new(context: SdkContext) -> Self {
        Self { context }
    }

    /// Registers an instance, and keeps it registered. The first heartbeat follows at once.
    ///
    /// The same service, address and id registered again is the same registration with newer data.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` before anything is sent, naming the field and its bound; what the server refused, such as
    /// `Unauthorized`, or `InvalidArgument` for a service that is an alias; `Network` and `Timeout` after
    /// `global.api.maxRetryTimes` retries; `Closed` after a shutdown. After an error nothing is wanted any more.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped nothing is wanted any more, and what was sent is undone in the background.
    pub async fn register(&self, register: impl Into<Register>) -> Result<Registration> {
        let (record, version) =
            self.context.inner().inside(self.context.inner().registrar()?.register(register.into())).await?;
        Ok(Registration { context: self.context.clone(), record, version })
    }

    /// Wants an instance from now on, whenever a server is reached; how it stands is told by its
    /// [`state`](Registration::state).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` names the field and its bound; `Closed` after a shutdown.
    pub fn register_in_background(&self, register: impl Into<Register>) -> Result<Registration> {
        let (record, version) = self.context.inner().registrar()?.register_in_background(register.into())?;
        Ok(Registration { context: self.context.clone(), record, version })
    }

    /// Isolates an instance, waits for its drain where this context registered it, and removes it. One that a server
    /// does not know counts as removed.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register). Beats have stopped all the same, so the instance expires.
    ///
    /// # Cancel safety
    ///
    /// The removal of an instance of this context goes on when the future is dropped.
    pub async fn deregister(&self, request: impl Into<Deregister>) -> Result<()> {
        self.context.inner().inside(self.context.inner().registrar()?.deregister(request.into())).await
    }

    /// Beats once, for instances that were registered with [`Register::manual_heartbeat`] or by others.
    ///
    /// # Errors
    ///
    /// `NotFound` when the server does not know the instance; servers say so from the fifth such beat on only. Otherwise
    /// as [`register`](Self::register).
    ///
    /// # Cancel safety
    ///
    /// Safe to drop; the beat may have reached the server.
    pub async fn heartbeat(&self, request: impl Into<Heartbeat>) -> Result<()> {
        self.context.inner().inside(self.context.inner().registrar()?.heartbeat(request.into())).await
    }
}

// === impl Registration ===

impl Registration {
    /// The service.
    #[must_use]
    pub fn service(&self) -> ServiceKey {
        self.record.key().clone()
    }

    /// How it stands right now.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        self.record.state()
    }

    /// Follows how it stands.
    pub fn watch(&self) -> RegistrationWatch {
        RegistrationWatch { states: WatchStream::new(self.record.watch_state()), done: false }
    }

    /// Waits until the instance is registered as it was wanted by the call that made this handle, for as long as that
    /// takes: there may be no server yet.
    ///
    /// # Errors
    ///
    /// What a server refused for good, such as the name of an alias; `Closed` when it was deregistered meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and to call again.
    pub async fn registered(&self) -> Result<()> {
        self.record.wait_applied(self.version, false).await
    }

    /// The id, once a server has told it.
    #[must_use]
    pub fn instance_id(&self) -> Option<InstanceId> {
        self.record.id().cloned()
    }

    /// Changes what is registered (weight, metadata, version, …) and waits until it is in force. Changes that are made
    /// while an earlier one is under way are written together.
    ///
    /// ```no_run
    /// # async fn example(registration: polarismesh::Registration) -> polarismesh::Result<()> {
    /// registration.update(|wanted| { wanted.set_weight(20).set_metadata("color", "blue"); }).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is out of bounds, and for a change of service, address or id. What a server refuses is
    /// taken back.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the change is taken back.
    pub async fn update(&self, change: impl FnOnce(&mut Register) + Send) -> Result<()> {
        self.context.inner().inside(self.context.inner().registrar()?.update(&self.record, change)).await
    }

    /// Takes the instance out of service, or back into it, while it stays registered.
    ///
    /// # Errors
    ///
    /// As [`ProviderApi::register`]; the wish stays.
    ///
    /// # Cancel safety
    ///
    /// The wish stays when the future is dropped.
    pub async fn set_isolated(&self, yes: bool) -> Result<()> {
        self.context.inner().inside(self.context.inner().registrar()?.set_isolated(&self.record, yes)).await
    }

    /// Isolates the instance, lets callers drain for as long as the registration says (5 s by default), and removes it.
    /// Beats go on until then. Calling it again waits for the same removal.
    ///
    /// # Errors
    ///
    /// `Network`, `Timeout` and what the server refused. Beats have stopped all the same, so the instance expires.
    ///
    /// # Cancel safety
    ///
    /// The removal goes on when the future is dropped.
    pub async fn deregister(&self) -> Result<()> {
        match self.context.inner().registrar() {
            Ok(registrar) => registrar.remove(&self.record).await,
            // A shutdown removes everything itself: wait for it. Without a runtime nothing will.
            Err(_) if !self.context.inner().runtime_is_gone() => self.record.wait_gone().await,
            Err(error) => Err(error),
        }
    }

    /// Waits for `signal`, then deregisters: fits the graceful shutdown of axum and tonic, which stop serving when the
    /// future ends, that is after callers have drained. A failure is logged, and does not keep the server from stopping.
    pub async fn deregister_when<S>(self, signal: S)
    where
        S: Future<Output = ()> + Send + 'static,
    {
        signal.await;
        if let Err(error) = self.deregister().await {
            tracing::warn!(service = %self.service(), %error, "deregistering before the stop failed");
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("service", &self.service())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

// === impl RegistrationWatch ===

impl RegistrationWatch {
    /// The next state, at once the first time. `None` after `Gone`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<RegistrationState> {
        StreamExt::next(self).await
    }
}

impl Stream for RegistrationWatch {
    type Item = RegistrationState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RegistrationState>> {
        if self.done {
            return Poll::Ready(None);
        }
        let next = Pin::new(&mut self.states).poll_next(cx);
        self.done = matches!(&next, Poll::Ready(None | Some(RegistrationState::Gone)));
        next
    }
}

impl fmt::Debug for RegistrationWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationWatch").field("done", &self.done).finish_non_exhaustive()
    }
}
