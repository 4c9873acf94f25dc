//! Keeps one registration true: writes what is wanted, beats, restores what was lost, and removes it in order.
//!
//! One task per instance, one thing at a time, so that a beat is never in flight while the instance is removed and
//! exactly one registration is under way. It lives on the liveness runtime: an application whose own runtime is starved
//! stays registered.
//!
//! ```text
//! Present:  write ── accepted ──> beat every TTL ── not found (4th on) ──> write (async-regis)
//!             └── refused ──> wait for an update        └── no answer for 3 TTL ──> lost, beats go on
//! Gone:     write isolated ──> beat until drained ──> deregister
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::engine::contact::Contact;
use crate::engine::heartbeat::{OnNotFound, Pulse};
use crate::engine::location::LocationCell;
use crate::engine::record::{Goal, Record, RegistrationState, Wish, drain_end};
use crate::engine::remove::remove;
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::InstanceAddr;
use crate::model::location::Location;
use crate::model::request::registration::Registrant;
use crate::transport::Transport;
use crate::util::backoff::Backoff;

/// The longest wait between two tries to register.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How far re-registrations of one process are spread, so that a server which forgot all of them is not run over.
const RESTORE_SPREAD: Duration = Duration::from_secs(1);

/// How many registrations and removals of one context are under way at once.
pub(crate) const WRITES_AT_ONCE: usize = 64;

/// What every keeper works with.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) transport: Transport,
    pub(crate) location: LocationCell,
    pub(crate) contact: Contact,
    /// Bounds the writes that are under way at once: a thousand instances that start together must not run over a server
    /// that writes each to disk, time out together and come back together.
    pub(crate) writes: Semaphore,
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

impl World {
    /// The host that others reach `at` by: this host's own address where it says "all addresses".
    pub(crate) async fn host_of(&self, at: &InstanceAddr) -> Result<String> {
        match self.bind_ip {
            _ if !at.is_unspecified() => Ok(at.host().to_owned()),
            Some(ip) => Ok(ip.to_string()),
            None => Ok(self.transport.local_address(self.patience).await?.to_string()),
        }
    }
}

struct Keeper {
    record: Arc<Record>,
    world: Arc<World>,
    backoff: Backoff,
    /// The registration as it was last written; none before the first was accepted.
    written: Option<Registrant>,
    written_at: Instant,
    applied: u64,
    /// A write may have reached a server, whatever was answered.
    attempted: bool,
    /// The version that was refused for good: not written again.
    refused: Option<u64>,
    retry_at: Instant,
    restoring: bool,
    pulse: Option<Pulse>,
    drain_end: Option<Instant>,
}

/// Runs until the registration is not wanted any more and removed.
pub(crate) async fn keep(record: Arc<Record>, world: Arc<World>) {
    let mut wish = record.wish();
    let mut keeper = Keeper::new(record, world);
    loop {
        let wanted = *wish.borrow_and_update();
        match keeper.step(wanted).await {
            Some(wake) => tokio::select! {
                changed = wish.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(wake) => {}
            },
            None => return,
        }
    }
}

impl Keeper {
    fn new(record: Arc<Record>, world: Arc<World>) -> Self {
        let backoff = Backoff::new(world.retry_interval, MAX_RETRY);
        Self {
            record,
            world,
            backoff,
            written: None,
            written_at: Instant::now(),
            applied: 0,
            attempted: false,
            refused: None,
            retry_at: Instant::now(),
            restoring: false,
            pulse: None,
            drain_end: None,
        }
    }

    /// Does what is due, and answers when to look again; nothing when the work is over.
    async fn step(&mut self, wish: Wish) -> Option<Instant> {
        match wish.goal {
            Goal::Present => self.register_if_due(wish.version).await,
            Goal::Undone => return self.remove(wish).await,
            Goal::Drained | Goal::Gone if self.written.is_none() => return self.remove(wish).await,
            Goal::Drained | Goal::Gone => {
                self.begin_drain(wish).await;
                if self.drain_is_over(wish) {
                    self.record.report(|p| p.drained = true);
                    if wish.goal == Goal::Gone {
                        return self.remove(wish).await;
                    }
                }
            }
        }
        self.beat_if_due().await;
        Some(self.next_wake(wish))
    }

    async fn register_if_due(&mut self, version: u64) {
        let settled = self.applied == version && !self.restoring || self.refused == Some(version);
        if settled || Instant::now() < self.retry_at {
            return;
        }
        match self.write(None).await {
            Ok(()) => {
                if self.restoring {
                    tracing::info!(service = %self.key(), "the registration is restored");
                }
                self.restoring = false;
                self.refused = None;
                self.backoff.reset();
                self.applied = version;
                self.record.set_state(RegistrationState::Registered);
                self.record.report(|p| p.applied = version);
            }
            Err(error) => {
                self.world.contact.failed(&error);
                self.registration_failed(version, error);
            }
        }
    }

    fn registration_failed(&mut self, version: u64, error: Error) {
        let definite = !error.is_retryable() && error.kind() != ErrorKind::Unauthorized;
        if definite {
            // Repeating what a server refused cannot mend it: only an update can.
            self.refused = Some(version);
        } else if error.kind() == ErrorKind::Unauthorized {
            self.backoff.saturate();
        }
        self.retry_at = Instant::now() + self.backoff.next_delay(&mut rand::rng());
        let state = match (definite || error.kind() == ErrorKind::Unauthorized, &self.written) {
            (true, _) => RegistrationState::Rejected(error.clone()),
            (false, Some(_)) => RegistrationState::Lost(error.clone()),
            (false, None) => RegistrationState::Pending,
        };
        if std::mem::discriminant(&state) != std::mem::discriminant(&self.record.state()) {
            tracing::warn!(service = %self.key(), %error, "the registration failed");
        }
        self.record.set_state(state);
        self.record.report(|p| p.failed = Some((version, error)));
    }

    /// Writes the registration as it is wanted now; `isolated` overrides the wish.
    async fn write(&mut self, isolated: Option<bool>) -> Result<()> {
        let world = Arc::clone(&self.world);
        let (register, wanted_isolated) = self.record.desired();
        let host = world.host_of(&register.at).await?;
        let location = register.location.clone().unwrap_or_else(|| (*world.location.load()).clone());
        let ttl = register.ttl;
        let beats = !register.manual_heartbeat;
        let registrant = Registrant { register, host, location, isolated: isolated.or(wanted_isolated) };
        let _turn = world.writes.acquire().await;
        let patience = if self.attempted { world.long_patience } else { world.patience };
        self.attempted = true;
        // Only a restoration is `async-regis`: servers answer such a request before they have written it, so that an
        // isolation or an update could be overtaken by the removal after it.
        let id = world.transport.register(&registrant, self.restoring, patience).await?;
        world.contact.reached();
        self.record.set_id(id);
        // Beats go on in their rhythm through an update; they start anew where a server may not know of any.
        let fresh = self.written.is_none() || self.restoring || self.pulse.is_none();
        if beats && fresh {
            self.pulse = Some(Pulse::start(ttl, Instant::now()));
        }
        self.written = Some(registrant);
        self.written_at = Instant::now();
        Ok(())
    }

    async fn beat_if_due(&mut self) {
        let now = Instant::now();
        let (Some(pulse), Some(written)) = (&mut self.pulse, &self.written) else { return };
        if now < pulse.due() {
            return;
        }
        let mut target = written.target();
        target.id = self.record.id().map(|id| id.as_str().to_owned()).or(target.id);
        let answer = self.world.transport.heartbeat(&target, pulse.deadline()).await;
        let now = Instant::now();
        match answer {
            Ok(()) => {
                pulse.accepted(now);
                if !self.restoring
                    && self.refused.is_none()
                    && matches!(self.record.state(), RegistrationState::Lost(_))
                {
                    tracing::info!(service = %written.register.key, "beats are accepted again");
                    self.record.set_state(RegistrationState::Registered);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if pulse.not_found(now) == OnNotFound::Register && !self.restoring {
                    self.lost(error);
                    self.restoring = true;
                    let spread = RESTORE_SPREAD.mul_f64(rand::random());
                    self.retry_at = now + spread;
                }
            }
            Err(error) => {
                if pulse.failed(now) {
                    self.lost(error);
                }
            }
        }
    }

    fn lost(&self, error: Error) {
        if !matches!(self.record.state(), RegistrationState::Lost(_)) && self.record.is_wanted() {
            tracing::warn!(service = %self.key(), %error, "the registration is lost and is being restored");
            self.record.set_state(RegistrationState::Lost(error));
        }
    }

    async fn begin_drain(&mut self, wish: Wish) {
        if self.drain_end.is_none() {
            // Isolating drains callers a moment earlier, and makes the removal visible on servers whose store would
            // hide it. The removal goes on whatever becomes of it.
            if let Err(error) = self.write(Some(true)).await {
                tracing::warn!(service = %self.key(), %error, "the instance could not be isolated before its removal");
            }
            let drain = self.record.desired().0.drain.unwrap_or(self.world.drain);
            self.drain_end = Some(drain_end(Instant::now(), drain, wish.drain_cap));
        }
    }

    fn drain_is_over(&mut self, wish: Wish) -> bool {
        let now = Instant::now();
        // A shutdown may cut short a drain that is under way.
        let cap = now.checked_add(wish.drain_cap);
        let end = self.drain_end.map(|end| cap.map_or(end, |cap| end.min(cap)));
        self.drain_end = end;
        end.is_none_or(|end| now >= end)
    }

    /// Stops beating, removes the instance, and tells everyone. The keeper ends.
    async fn remove(&mut self, wish: Wish) -> Option<Instant> {
        self.pulse = None;
        if wish.goal == Goal::Drained {
            // Never written: there is nothing to drain, and the removal waits for its turn.
            self.record.report(|p| p.drained = true);
            return Some(Instant::now() + MAX_RETRY);
        }
        let result = self.deregister().await;
        if let Err(error) = &result {
            tracing::warn!(service = %self.key(), %error, "the instance could not be removed and is left to expire");
        }
        // The state first: whoever waits for the end looks at it next.
        self.record.set_state(RegistrationState::Gone);
        self.record.report(|p| {
            p.drained = true;
            p.gone = Some(result);
        });
        None
    }

    async fn deregister(&self) -> Result<()> {
        if !self.attempted {
            return Ok(());
        }
        let target = match &self.written {
            Some(written) => written.target(),
            None => {
                let (register, isolated) = self.record.desired();
                let host = self.world.host_of(&register.at).await?;
                Registrant { register, host, location: Location::default(), isolated }.target()
            }
        };
        let written = self.written.as_ref().map(|registrant| (registrant, self.written_at));
        remove(&self.world, &target, written).await
    }

    fn next_wake(&self, wish: Wish) -> Instant {
        let pending = wish.goal == Goal::Present
            && self.refused != Some(wish.version)
            && (self.restoring || self.applied != wish.version);
        let mut wake = Instant::now() + MAX_RETRY;
        if pending {
            wake = wake.min(self.retry_at);
        }
        if let Some(pulse) = &self.pulse {
            wake = wake.min(pulse.due());
        }
        if let (Some(end), Goal::Gone | Goal::Drained) = (self.drain_end, wish.goal)
            && end > Instant::now()
        {
            wake = wake.min(end);
        }
        wake
    }

    fn key(&self) -> String {
        self.record.desired().0.key.to_string()
    }
}
