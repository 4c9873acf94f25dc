//! The beats of a keeper: carried when they are due, also beside a write, and what their answers change.
//!
//! Only an answer says something of a registration: a server that does not know it, or refuses it. A failure on the way
//! says nothing but that the instance may be held for dead by now.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::heartbeat::{OnNotFound, Pulse};
use crate::engine::keep::Keeper;
use crate::engine::record::RegistrationState;
use crate::error::{Error, ErrorKind, ServerCode};

/// How far re-registrations of one process are spread, so that a server which forgot all of them is not run over.
const RESTORE_SPREAD: Duration = Duration::from_secs(1);

impl Keeper {
    /// Beats while `work` goes on: a server that is slow to answer a write must not cost the instance its life.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let due = self.pulse.as_ref().map(Pulse::due);
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = reached(due) => {}
            }
            let mut done = None;
            let mut beat = pin!(self.beat_if_due());
            loop {
                tokio::select! {
                    () = &mut beat => break,
                    value = &mut work, if done.is_none() => done = Some(value),
                }
            }
            if let Some(done) = done {
                return done;
            }
        }
    }

    pub(super) async fn beat_if_due(&mut self) {
        let now = Instant::now();
        let (Some(pulse), Some(written)) = (&mut self.pulse, &self.written) else { return };
        if now < pulse.due() {
            return;
        }
        let mut target = written.target();
        target.id = self.record.id().map(|id| id.as_str().to_owned()).or(target.id);
        // Boxed, as the writes are: a keeper is small while it sleeps, and it sleeps almost always.
        let answer = Box::pin(self.world.transport.heartbeat(&target, pulse.deadline())).await;
        let now = Instant::now();
        match answer {
            Ok(()) => {
                pulse.accepted(now);
                self.beats_are_accepted();
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if pulse.not_found(now) == OnNotFound::Register && !self.restoring {
                    self.lost(error);
                    self.restoring = true;
                    self.retried = false;
                    self.retry_at = now + RESTORE_SPREAD.mul_f64(rand::random());
                }
            }
            Err(error) if error.server_code().is_some_and(ServerCode::is_heartbeat_unwanted) => {
                // The server checks no health: it needs no beats, and the instance is in service.
                pulse.accepted(now);
                self.beats_are_accepted();
            }
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                pulse.refused(now);
                self.rejected(error);
            }
            Err(error) => {
                if pulse.failed(now) {
                    self.lost(error);
                }
            }
        }
    }

    fn beats_are_accepted(&self) {
        let written = !self.restoring && self.refused.is_none();
        let back = match self.record.state() {
            RegistrationState::Lost(_) => written,
            RegistrationState::Rejected(_) => written && self.applied == self.record.version(),
            _ => false,
        };
        if back {
            tracing::info!(service = %self.record.key(), "beats are accepted again");
            self.record.set_state(RegistrationState::Registered);
        }
    }

    fn lost(&self, error: Error) {
        if !matches!(self.record.state(), RegistrationState::Lost(_)) && self.record.is_wanted() {
            tracing::warn!(service = %self.record.key(), %error, "the registration is lost and is being restored");
            self.record.set_state(RegistrationState::Lost(error));
        }
    }

    fn rejected(&self, error: Error) {
        if !matches!(self.record.state(), RegistrationState::Rejected(_)) && self.record.is_wanted() {
            tracing::warn!(service = %self.record.key(), %error, "the beats of an instance are refused");
            self.record.set_state(RegistrationState::Rejected(error));
        }
    }
}

/// Resolves at `due`; never without it.
async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
