//! What every registration of a context works with, and the one way to write one.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::engine::contact::Contact;
use crate::engine::location::LocationCell;
use crate::error::Result;
use crate::model::instance::{InstanceAddr, InstanceId};
use crate::model::request::registration::{Registrant, Target};
use crate::transport::Transport;

/// How many registrations and removals of one context are under way at once.
const WRITES_AT_ONCE: usize = 64;

/// What every keeper works with.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) transport: Transport,
    pub(crate) location: LocationCell,
    pub(crate) contact: Contact,
    pub(crate) turns: Turns,
    pub(crate) isolated: LeftIsolated,
    /// Told of every change of a registration's state.
    pub(crate) wake: watch::Sender<u64>,
    /// How long a caller waits for a registration, and so how long the first try of one may take, retries included.
    pub(crate) patience: Duration,
    /// The same for what nobody waits for: a server that is slow under load is given the time.
    pub(crate) long_patience: Duration,
    /// The base of the back-off between failed registrations.
    pub(crate) retry_interval: Duration,
    /// The drain of a registration that names none.
    pub(crate) drain: Duration,
    /// This host's own address, where the configuration names it.
    pub(crate) bind_ip: Option<IpAddr>,
}

/// Bounds the writes that are under way at once: a thousand instances that start together must not run over a server
/// that writes each to disk, time out together and come back together.
#[derive(Debug)]
pub(crate) struct Turns(pub(crate) Semaphore);

/// Instances that this context may have left isolated on the server, because it isolated them and then could not remove
/// them. A registration says nothing of isolation unless it is told to, so that people at the console have their say;
/// one of these must, or it would stay out of service without anybody having wanted that.
#[derive(Debug, Default)]
pub(crate) struct LeftIsolated(Mutex<HashSet<Target>>);

impl World {
    /// The host that others reach `at` by: this host's own address where it says "all addresses".
    pub(crate) async fn host_of(&self, at: &InstanceAddr) -> Result<String> {
        match self.bind_ip {
            _ if !at.is_unspecified() => Ok(at.host().to_owned()),
            Some(ip) => Ok(ip.to_string()),
            None => Ok(self.transport.local_address(self.patience).await?.to_string()),
        }
    }

    /// Writes a registration. Only a restoration is in the `background` (`async-regis`): servers answer such a request
    /// before they have written it, so that an isolation or an update could be overtaken by the removal after it.
    pub(crate) async fn write(
        &self,
        registrant: &Registrant,
        background: bool,
        within: Duration,
    ) -> Result<InstanceId> {
        let target = registrant.target();
        let left = (registrant.isolated.is_none() && self.isolated.holds(&target))
            .then(|| Registrant { isolated: Some(false), ..registrant.clone() });
        let _turn = self.turns.0.acquire().await;
        let id = self.transport.register(left.as_ref().unwrap_or(registrant), background, within).await?;
        self.isolated.forget(&target);
        Ok(id)
    }

    /// Takes an instance that is going away out of service. It counts as isolated from here on, whatever is answered.
    pub(crate) async fn isolate(&self, registrant: &Registrant) -> Result<()> {
        self.isolated.note(registrant.target());
        let isolated = Registrant { isolated: Some(true), ..registrant.clone() };
        self.transport.register(&isolated, false, self.long_patience).await.map(|_| ())
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(WRITES_AT_ONCE))
    }
}

impl LeftIsolated {
    fn note(&self, target: Target) {
        self.lock().insert(target);
    }

    pub(crate) fn forget(&self, target: &Target) {
        self.lock().remove(target);
    }

    pub(crate) fn holds(&self, target: &Target) -> bool {
        self.lock().contains(target)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Target>> {
        // The set is changed by single inserts and removals: a panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
