//! Keeps one registration true: writes what is wanted, beats, restores what was lost, and removes it in order.
//!
//! One task per instance, one write at a time, so that a beat is never in flight while the instance is removed and
//! exactly one registration is under way. Beats go on while a write waits for its answer. It lives on the liveness
//! runtime: an application whose own runtime is starved stays registered.
//!
//! ```text
//! Present:  write ── accepted ──> beat every TTL ── not found (4th on) ──> write (async-regis)
//!             └── refused ──> wait for an update        └── no answer for 3 TTL ──> lost, beats go on
//! Gone:     write isolated ──> beat until drained ──> deregister
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::heartbeat::Pulse;
use crate::engine::record::{Desired, Goal, Record, RegistrationState, Wish};
use crate::engine::remove::remove;
use crate::engine::world::World;
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::InstanceId;
use crate::model::location::Location;
use crate::model::request::registration::{Registrant, Target};
use crate::util::backoff::Backoff;
use crate::util::deadline::after;

/// The longest wait between two tries to register while no server answers: short, because the instance is missing for
/// as long, and full jitter keeps many clients apart.
const MAX_RETRY: Duration = Duration::from_secs(5);

/// The longest wait between two tries that a server refused.
const MAX_REFUSED: Duration = Duration::from_secs(60);

/// Looks again after this long where nothing else wakes it.
const IDLE: Duration = Duration::from_secs(60);

/// Tells those who wait for a registration that nobody keeps it any more, however its keeper ended.
pub(crate) struct End(pub(crate) Arc<Record>);

/// The task's state. What beats change of it is in `beat.rs`.
pub(super) struct Keeper {
    pub(super) record: Arc<Record>,
    pub(super) world: Arc<World>,
    /// Between tries that no server answered, and between those that one refused.
    backoff: Backoff,
    refusals: Backoff,
    /// The registration as it was last written; none before the first was accepted.
    pub(super) written: Option<Registrant>,
    written_at: Instant,
    pub(super) applied: u64,
    /// A write may have reached a server, whatever was answered.
    attempted: bool,
    /// The version that was refused for good: not written again.
    pub(super) refused: Option<u64>,
    pub(super) retry_at: Instant,
    /// A server has forgotten the instance, and `retried` since then.
    pub(super) restoring: bool,
    pub(super) retried: bool,
    pub(super) pulse: Option<Pulse>,
    drain_end: Option<Instant>,
}

/// Runs until the registration is not wanted any more and removed. Begins when `before` is gone: an earlier registration
/// of the same instance, whose removal must not meet this one.
pub(crate) async fn keep(record: Arc<Record>, world: Arc<World>, before: Option<Arc<Record>>) {
    if let Some(before) = before {
        // How its removal went does not matter here, and is told to those who asked for it.
        let _ = before.wait_gone().await;
    }
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

impl Drop for End {
    fn drop(&mut self) {
        let why = "the context was shut down, dropped, or lost its runtime before the instance was removed";
        self.0.end(Err(Error::new(ErrorKind::Closed, why).with_service(self.0.key().text())));
    }
}

impl Keeper {
    fn new(record: Arc<Record>, world: Arc<World>) -> Self {
        Self {
            backoff: Backoff::new(world.retry_interval, MAX_RETRY),
            refusals: Backoff::new(world.retry_interval, MAX_REFUSED),
            written: None,
            written_at: Instant::now(),
            applied: 0,
            // A keeper that is started again after a panic knows of its predecessor's tries by this.
            attempted: record.host().is_some(),
            refused: None,
            retry_at: Instant::now(),
            restoring: false,
            retried: false,
            pulse: None,
            drain_end: None,
            record,
            world,
        }
    }

    /// Does what is due, and answers when to look again; nothing when the work is over.
    async fn step(&mut self, wish: Wish) -> Option<Instant> {
        match wish.goal {
            Goal::Present => self.register_if_due(wish.version).await,
            Goal::Undone => return self.remove(wish).await,
            Goal::Drained | Goal::Gone if self.nobody_calls() => return self.remove(wish).await,
            Goal::Drained | Goal::Gone => {
                self.begin_drain().await;
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

    /// No server shows the instance to callers, so there is nobody to drain: it was never written, or it is forgotten.
    fn nobody_calls(&self) -> bool {
        self.written.is_none() || self.restoring && !self.retried
    }

    async fn register_if_due(&mut self, version: u64) {
        let settled = self.applied == version && !self.restoring || self.refused == Some(version);
        if settled || Instant::now() < self.retry_at {
            return;
        }
        let desired = self.record.desired();
        match self.write(&desired).await {
            Ok(()) => {
                if std::mem::take(&mut self.restoring) {
                    tracing::info!(service = %self.record.key(), "the registration is restored");
                }
                self.refused = None;
                self.backoff.reset();
                self.applied = desired.version;
                self.record.set_state(RegistrationState::Registered);
                self.record.applied(&desired);
            }
            Err(error) => self.registration_failed(desired.version, error),
        }
    }

    fn registration_failed(&mut self, version: u64, error: Error) {
        if error.server_code().is_some() {
            self.world.contact.reached();
        } else {
            self.world.contact.failed(&error);
        }
        // What time can mend: tokens and services that come to be, and what the server had accepted before.
        let passing = matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::ServiceNotFound) || self.restoring;
        // Only a server that blames the request refuses: what failed on the way, a token file that is not mounted yet
        // included, is tried again.
        let refused = error.server_code().is_some() && !error.is_retryable();
        if refused && !passing {
            // Repeating what a server refused cannot mend it: only an update can.
            self.refused = Some(version);
            self.record.report(|p| p.refused = Some((version, error.clone())));
        }
        if refused {
            // A crowd whose token was revoked must not become a storm.
            self.refusals.saturate();
        }
        let backoff = if refused { &mut self.refusals } else { &mut self.backoff };
        let mut pause = backoff.next_delay(&mut rand::rng());
        if error.kind() == ErrorKind::Timeout {
            // The server may be at it still, and one that holds the same instance twice may not survive it.
            pause = pause.max(self.world.long_patience);
        }
        self.retry_at = Instant::now() + pause;
        let state = match (refused, &self.written) {
            (true, _) => RegistrationState::Rejected(error.clone()),
            (false, Some(_)) => RegistrationState::Lost(error.clone()),
            (false, None) => RegistrationState::Pending,
        };
        if std::mem::discriminant(&state) != std::mem::discriminant(&self.record.state()) {
            tracing::warn!(service = %self.record.key(), %error, "the registration failed");
        }
        self.record.set_state(state);
        self.record.report(|p| p.failed = Some((version, error)));
    }

    /// Writes the registration as it is wanted.
    async fn write(&mut self, desired: &Desired) -> Result<()> {
        let world = Arc::clone(&self.world);
        let register = desired.register.clone();
        let host = self.host(desired).await?;
        let location = register.location.clone().unwrap_or_else(|| (*world.location.load()).clone());
        let (ttl, beats) = (register.ttl, !register.manual_heartbeat);
        // A wish to be in service is told once, so that people at the console can take it out again.
        let isolated = desired.isolated.filter(|isolated| *isolated || desired.isolated_in > self.applied);
        let registrant = Registrant { register, host, location, isolated };
        let patience = if self.attempted { world.long_patience } else { world.patience };
        let first = !std::mem::replace(&mut self.attempted, true);
        self.retried = self.restoring;
        let answer = self.beside(Box::pin(world.write(&registrant, self.restoring, patience))).await;
        if let Err(error) = &answer
            && first
            && error.server_code().is_some()
            && !error.is_retryable()
            && error.attempts() == Some(1)
        {
            // Refused by the only server that was asked: there is nothing to undo.
            self.attempted = false;
        }
        self.is_written(answer?, registrant, beats.then_some(ttl));
        Ok(())
    }

    fn is_written(&mut self, id: InstanceId, registrant: Registrant, ttl: Option<Duration>) {
        self.world.contact.reached();
        self.record.set_id(id);
        // Beats go on in their rhythm through an update; they start anew where a server may not know of any.
        let fresh = self.written.is_none() || self.restoring || self.pulse.as_ref().map(Pulse::ttl) != ttl;
        if fresh {
            self.pulse = ttl.map(|ttl| Pulse::start(ttl, Instant::now()));
        }
        self.written = Some(registrant);
        self.written_at = Instant::now();
    }

    async fn host(&self, desired: &Desired) -> Result<String> {
        match self.record.host() {
            Some(host) => Ok(host.to_owned()),
            None => Ok(self.record.settle_host(Box::pin(self.world.host_of(&desired.register.at)).await?).to_owned()),
        }
    }

    async fn begin_drain(&mut self) {
        let Some(written) = self.written.clone().filter(|_| self.drain_end.is_none()) else { return };
        // Isolating drains callers a moment earlier, and makes the removal visible on servers whose store would hide it.
        // It is what was last accepted that is isolated. The removal goes on whatever becomes of it.
        let world = Arc::clone(&self.world);
        let isolating = async {
            let _turn = world.turns.0.acquire().await;
            world.isolate(&written).await
        };
        match self.beside(Box::pin(isolating)).await {
            Ok(()) => self.written_at = Instant::now(),
            Err(error) => {
                let service = self.record.key();
                tracing::warn!(%service, %error, "the instance could not be isolated before its removal");
            }
        }
        let drain = self.record.desired().register.drain.unwrap_or(self.world.drain);
        self.drain_end = Some(after(Instant::now(), drain));
    }

    fn drain_is_over(&mut self, wish: Wish) -> bool {
        let now = Instant::now();
        // A shutdown may cut short a drain that is under way.
        self.drain_end = self.drain_end.map(|end| wish.drain_by.map_or(end, |by| end.min(by)));
        self.drain_end.is_none_or(|end| now >= end)
    }

    /// Stops beating, removes the instance, and tells everyone. The keeper ends.
    async fn remove(&mut self, wish: Wish) -> Option<Instant> {
        self.pulse = None;
        if wish.goal == Goal::Drained {
            // There is nothing to drain, and the removal waits for its turn.
            self.record.report(|p| p.drained = true);
            return Some(Instant::now() + IDLE);
        }
        let result = self.deregister().await;
        if let Err(error) = &result {
            let service = self.record.key();
            if self.target().is_some_and(|target| self.world.isolated.holds(&target)) {
                tracing::warn!(
                    %service, %error,
                    "the instance could not be removed and is left to expire; it may stay isolated, also when another \
                     process registers it again, unless that does so with Register::isolated(false)"
                );
            } else {
                tracing::warn!(%service, %error, "the instance could not be removed and is left to expire");
            }
        }
        self.record.end(result);
        None
    }

    async fn deregister(&self) -> Result<()> {
        let Some(target) = self.target().filter(|_| self.attempted) else { return Ok(()) };
        // What the server has forgotten must not come back by being isolated.
        let written = self.written.as_ref().filter(|_| !self.nobody_calls());
        Box::pin(remove(&self.world, &target, written.map(|registrant| (registrant, self.written_at)))).await
    }

    /// The instance as it was written, or tried to be.
    fn target(&self) -> Option<Target> {
        let written = self.written.as_ref().map(Registrant::target);
        written.or_else(|| {
            let register = self.record.desired().register;
            let host = self.record.host()?.to_owned();
            Some(Registrant { register, host, location: Location::default(), isolated: None }.target())
        })
    }

    fn next_wake(&self, wish: Wish) -> Instant {
        let pending = wish.goal == Goal::Present
            && self.refused != Some(wish.version)
            && (self.restoring || self.applied != wish.version);
        let mut wake = Instant::now() + IDLE;
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
}
