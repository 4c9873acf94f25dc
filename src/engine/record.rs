//! One wanted registration: what is wanted, and how it stands. Shared by its handles and by the task that keeps it true.
//!
//! The record holds desired state only; the task (`keep.rs`) compares it with what it has written and acts. Every change
//! of the wish gets a version, so that whoever made it can wait until just that version is in force.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::InstanceId;
use crate::model::key::ServiceKey;
use crate::model::request::registration::Register;

/// How a registration stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RegistrationState {
    /// Wanted, and not accepted by a control plane yet.
    Pending,
    /// Registered, and beats are accepted.
    Registered,
    /// It was registered and is not known to be any more: a server forgot it, or no beat got through for three TTL. It
    /// is being restored.
    Lost(Error),
    /// A server refused it. A refused token is tried again, slowly; other refusals wait for an update.
    Rejected(Error),
    /// Not wanted any more, and removed as far as a server was reached.
    Gone,
}

/// What is wanted of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Be registered.
    Present,
    /// Be isolated, and keep beating while callers leave.
    Drained,
    /// Be removed, after a drain.
    Gone,
    /// Be removed at once, what was written undone: a registration that its caller gave up.
    Undone,
}

/// The wish, in the version that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) goal: Goal,
    pub(crate) version: u64,
    /// The longest that a drain may still take: a shutdown has a deadline.
    pub(crate) drain_cap: Duration,
}

/// What the keeper has done of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The version that is in force.
    pub(crate) applied: u64,
    /// The last failure to write a version, with that version.
    pub(crate) failed: Option<(u64, Error)>,
    /// The drain is over.
    pub(crate) drained: bool,
    /// It is removed, or as far as it went.
    pub(crate) gone: Option<Result<()>>,
}

#[derive(Debug)]
pub(crate) struct Record {
    desired: Mutex<Register>,
    /// None until the application says so: people at the console may have a say.
    isolated: Mutex<Option<bool>>,
    wish: watch::Sender<Wish>,
    progress: watch::Sender<Progress>,
    state: watch::Sender<RegistrationState>,
    wake: watch::Sender<u64>,
    /// When the state last changed its kind.
    since: Mutex<Instant>,
    id: OnceLock<InstanceId>,
}

impl Record {
    /// `wake` is told of every change of state.
    pub(crate) fn new(register: Register, wake: watch::Sender<u64>) -> Arc<Self> {
        Arc::new(Self {
            desired: Mutex::new(register),
            isolated: Mutex::new(None),
            wish: watch::Sender::new(Wish { goal: Goal::Present, version: 1, drain_cap: Duration::MAX }),
            progress: watch::Sender::default(),
            state: watch::Sender::new(RegistrationState::Pending),
            wake,
            since: Mutex::new(Instant::now()),
            id: OnceLock::new(),
        })
    }

    /// What to register, and whether isolated.
    pub(crate) fn desired(&self) -> (Register, Option<bool>) {
        (lock(&self.desired).clone(), *lock(&self.isolated))
    }

    /// Replaces what is wanted; answers the version to wait for, and what was wanted before.
    pub(crate) fn replace(&self, register: Register) -> (u64, Register) {
        let mut desired = lock(&self.desired);
        let before = std::mem::replace(&mut *desired, register);
        (self.bump(), before)
    }

    /// Takes `version` back to what was wanted before it, unless somebody wants something newer by now.
    pub(crate) fn revert(&self, version: u64, before: Register) {
        let mut desired = lock(&self.desired);
        if self.wish.borrow().version == version {
            *desired = before;
            self.bump();
        }
    }

    pub(crate) fn set_isolated(&self, yes: bool) -> u64 {
        *lock(&self.isolated) = Some(yes);
        self.bump()
    }

    /// Asks for the same to be written again, because something around it changed.
    pub(crate) fn bump(&self) -> u64 {
        let mut version = 0;
        self.wish.send_modify(|wish| {
            wish.version += 1;
            version = wish.version;
        });
        version
    }

    /// Moves the goal; a goal never moves back from removal.
    pub(crate) fn aim(&self, goal: Goal, drain_cap: Duration) {
        self.wish.send_if_modified(|wish| {
            let further = rank(goal) > rank(wish.goal);
            if further {
                wish.goal = goal;
            }
            let shorter = drain_cap < wish.drain_cap;
            wish.drain_cap = wish.drain_cap.min(drain_cap);
            further || shorter
        });
    }

    pub(crate) fn wish(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    pub(crate) fn is_wanted(&self) -> bool {
        matches!(self.wish.borrow().goal, Goal::Present)
    }

    pub(crate) fn state(&self) -> RegistrationState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch_state(&self) -> watch::Receiver<RegistrationState> {
        self.state.subscribe()
    }

    pub(crate) fn set_state(&self, state: RegistrationState) {
        let changed = self.state.send_if_modified(|now| {
            let changed = std::mem::discriminant(now) != std::mem::discriminant(&state);
            if changed {
                *lock(&self.since) = Instant::now();
            }
            *now = state;
            changed
        });
        if changed {
            self.wake.send_modify(|n| *n += 1);
        }
    }

    /// What is wrong with it, and since when.
    pub(crate) fn trouble(&self) -> Option<(ServiceKey, Instant, Error)> {
        match &*self.state.borrow() {
            RegistrationState::Lost(error) | RegistrationState::Rejected(error) => {
                Some((lock(&self.desired).key.clone(), *lock(&self.since), error.clone()))
            }
            _ => None,
        }
    }

    pub(crate) fn id(&self) -> Option<&InstanceId> {
        self.id.get()
    }

    pub(crate) fn set_id(&self, id: InstanceId) {
        // The id follows from service and address, which never change: a later answer says the same.
        let _ = self.id.set(id);
    }

    pub(crate) fn report(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// Waits until `version` is in force; the first failure to write it ends the wait when `fail_fast`, otherwise only
    /// its removal does.
    pub(crate) async fn wait_applied(&self, version: u64, fail_fast: bool) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let seen = progress.wait_for(|p| {
            p.applied >= version || p.gone.is_some() || fail_fast && matches!(&p.failed, Some((v, _)) if *v >= version)
        });
        let Ok(seen) = seen.await else { return Err(closed()) };
        match &*seen {
            p if p.applied >= version => Ok(()),
            Progress { failed: Some((_, error)), gone: None, .. } => Err(error.clone()),
            _ => Err(Error::new(ErrorKind::Closed, "the instance was deregistered meanwhile")),
        }
    }

    pub(crate) async fn wait_drained(&self) {
        let _ = self.progress.subscribe().wait_for(|p| p.drained || p.gone.is_some()).await;
    }

    pub(crate) async fn wait_gone(&self) -> Result<()> {
        match self.progress.subscribe().wait_for(|p| p.gone.is_some()).await {
            Ok(seen) => seen.gone.clone().unwrap_or(Ok(())),
            Err(_) => Err(closed()),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.progress.borrow().gone.is_some()
    }
}

fn rank(goal: Goal) -> u8 {
    match goal {
        Goal::Present => 0,
        Goal::Drained => 1,
        Goal::Gone => 2,
        Goal::Undone => 3,
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the context was shut down")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held, and a value is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the drain that begins at `now` is over.
pub(crate) fn drain_end(now: Instant, drain: Duration, cap: Duration) -> Instant {
    now + drain.min(cap)
}
