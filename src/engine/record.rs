//! One wanted registration: what is wanted, and how it stands. Shared by its handles and by the task that keeps it true.
//!
//! The record holds desired state only; the task (`keep.rs`) compares it with what it has written and acts. Every change
//! of the wish gets a version, so that whoever made it can wait until just that version is in force, and take back just
//! that version when it was refused. A wish that nobody confirmed yet is held by the callers that wait for it: the last
//! of them to fail takes the instance back.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// A server refused it, or its beats. What time can mend (a refused token, a service that does not exist yet, what
    /// was accepted before) is tried again, slowly; other refusals wait for an update.
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
    /// When a drain is over at the latest: a shutdown has a deadline.
    pub(crate) drain_by: Option<Instant>,
}

/// The data of the wish.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    pub(crate) register: Register,
    /// What the application last said of isolation; none: people at the console decide.
    pub(crate) isolated: Option<bool>,
    /// The version in which it said so.
    pub(crate) isolated_in: u64,
    pub(crate) version: u64,
}

/// What the keeper has done of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The version that is in force.
    pub(crate) applied: u64,
    /// The last failure to write a version, with that version.
    pub(crate) failed: Option<(u64, Error)>,
    /// The last version that a server refused for good.
    pub(crate) refused: Option<(u64, Error)>,
    /// The drain is over.
    pub(crate) drained: bool,
    /// It is removed, or as far as it went.
    pub(crate) gone: Option<Result<()>>,
}

#[derive(Debug)]
pub(crate) struct Record {
    key: ServiceKey,
    wanted: Mutex<Wanted>,
    /// Held while a change is made of what is wanted, so that no change is lost to another one.
    changing: Mutex<()>,
    wish: watch::Sender<Wish>,
    progress: watch::Sender<Progress>,
    state: watch::Sender<RegistrationState>,
    wake: watch::Sender<u64>,
    /// When the state last changed its kind.
    since: Mutex<Instant>,
    id: OnceLock<InstanceId>,
    host: OnceLock<String>,
}

#[derive(Debug)]
struct Wanted {
    /// Its version is that of the last change of the data; bumps of the wish leave it.
    desired: Desired,
    /// What to go back to when a newer wish is taken back: what is in force, or was wanted without condition.
    base: Option<Desired>,
    /// Callers that wait for the instance to be registered and take it back if it is not.
    callers: usize,
    /// Somebody was told that it is wanted: from then on no failure of a caller takes it away.
    kept: bool,
}

// === impl Record ===

impl Record {
    /// `wake` is told of every change of state.
    pub(crate) fn new(mut register: Register, keep: bool, wake: watch::Sender<u64>) -> Arc<Self> {
        let isolated = register.isolated.take();
        let key = register.key.clone();
        let desired = Desired { register, isolated, isolated_in: 1, version: 1 };
        let base = keep.then(|| desired.clone());
        Arc::new(Self {
            key,
            wanted: Mutex::new(Wanted { desired, base, callers: usize::from(!keep), kept: keep }),
            changing: Mutex::default(),
            wish: watch::Sender::new(Wish { goal: Goal::Present, version: 1, drain_by: None }),
            progress: watch::Sender::default(),
            state: watch::Sender::new(RegistrationState::Pending),
            wake,
            since: Mutex::new(Instant::now()),
            id: OnceLock::new(),
            host: OnceLock::new(),
        })
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// What to register, in which version.
    pub(crate) fn desired(&self) -> Desired {
        let wanted = lock(&self.wanted);
        Desired { version: self.wish.borrow().version, ..wanted.desired.clone() }
    }

    /// Wants `register` instead; answers the version to wait for, and what was wanted before. Nothing, if the instance
    /// is being removed. With `keep` the wish stays whatever comes of it; otherwise the caller confirms or takes it back.
    pub(crate) fn claim(&self, mut register: Register, keep: bool) -> Option<(u64, Desired)> {
        let mut wanted = lock(&self.wanted);
        if !self.is_wanted() {
            return None;
        }
        let version = self.bump();
        let before = wanted.desired.clone();
        if let Some(isolated) = register.isolated.take() {
            wanted.desired.isolated = Some(isolated);
            wanted.desired.isolated_in = version;
        }
        wanted.desired.register = register;
        wanted.desired.version = version;
        if keep {
            wanted.kept = true;
            wanted.base = Some(wanted.desired.clone());
        } else {
            wanted.callers += 1;
        }
        Some((version, before))
    }

    /// The caller of a claim got what it wanted.
    pub(crate) fn confirm(&self) {
        let mut wanted = lock(&self.wanted);
        wanted.callers = wanted.callers.saturating_sub(1);
        wanted.kept = true;
    }

    /// The caller of a claim gave up. The last to do so takes the instance away, unless somebody else wants it.
    pub(crate) fn give_up(&self, version: u64, before: Option<Desired>) {
        let mut wanted = lock(&self.wanted);
        wanted.callers = wanted.callers.saturating_sub(1);
        if wanted.callers == 0 && !wanted.kept {
            self.aim(Goal::Undone, Some(Instant::now()));
        } else {
            self.go_back(&mut wanted, version, before);
        }
    }

    /// Changes what is wanted by what `change` makes of it; answers the version, and what was wanted before.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Register) -> Result<()>) -> Result<(u64, Desired)> {
        let _changing = lock(&self.changing);
        let before = lock(&self.wanted).desired.clone();
        let mut register = before.register.clone();
        change(&mut register)?;
        register.isolated = None;
        let mut wanted = lock(&self.wanted);
        let version = self.bump();
        wanted.desired.register = register;
        wanted.desired.version = version;
        Ok((version, before))
    }

    /// Takes the change of `version` back, unless somebody wants something newer by now.
    pub(crate) fn take_back(&self, version: u64, before: Desired) {
        self.go_back(&mut lock(&self.wanted), version, Some(before));
    }

    fn go_back(&self, wanted: &mut Wanted, version: u64, before: Option<Desired>) {
        let (true, Some(back)) = (wanted.desired.version == version, wanted.base.clone().or(before)) else { return };
        let version = self.bump();
        let isolated_in = if back.isolated == wanted.desired.isolated { back.isolated_in } else { version };
        wanted.desired = Desired { isolated_in, version, ..back };
    }

    pub(crate) fn set_isolated(&self, yes: bool) -> u64 {
        let mut wanted = lock(&self.wanted);
        let version = self.bump();
        wanted.desired.isolated = Some(yes);
        wanted.desired.isolated_in = version;
        if let Some(base) = &mut wanted.base {
            (base.isolated, base.isolated_in) = (Some(yes), version);
        }
        version
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

    /// Moves the goal, and the end of a drain to `drain_by` at the latest; a goal never moves back from removal.
    pub(crate) fn aim(&self, goal: Goal, drain_by: Option<Instant>) {
        self.wish.send_if_modified(|wish| {
            let further = rank(goal) > rank(wish.goal);
            if further {
                wish.goal = goal;
            }
            let earlier = drain_by.is_some_and(|by| wish.drain_by.is_none_or(|before| by < before));
            if earlier {
                wish.drain_by = drain_by;
            }
            further || earlier
        });
    }

    /// Cuts the drain of a removal short.
    pub(crate) fn hurry(&self) {
        let goal = self.wish.borrow().goal;
        self.aim(goal, Some(Instant::now()));
    }

    pub(crate) fn wish(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    pub(crate) fn is_wanted(&self) -> bool {
        matches!(self.wish.borrow().goal, Goal::Present)
    }

    pub(crate) fn version(&self) -> u64 {
        self.wish.borrow().version
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
                Some((self.key.clone(), *lock(&self.since), error.clone()))
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

    /// The host it was first written with, or tried to be.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.get().map(String::as_str)
    }

    /// Settles the host: an instance must not move to another address, and so to another id, while it is kept.
    pub(crate) fn settle_host(&self, host: String) -> &str {
        self.host.get_or_init(|| host)
    }

    /// `desired` is in force.
    pub(crate) fn applied(&self, desired: &Desired) {
        let mut wanted = lock(&self.wanted);
        if wanted.base.as_ref().is_none_or(|base| base.version <= desired.version) {
            wanted.base = Some(desired.clone());
        }
        drop(wanted);
        self.report(|p| p.applied = desired.version);
    }

    pub(crate) fn report(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// The end: `result` says how the removal went. The first end counts.
    pub(crate) fn end(&self, result: Result<()>) {
        if self.is_gone() {
            return;
        }
        // The state first: whoever waits for the end looks at it next.
        self.set_state(RegistrationState::Gone);
        self.report(|p| {
            p.drained = true;
            p.gone = Some(result);
        });
    }

    /// Waits until `version` is in force; the first failure to write it ends the wait when `fail_fast`, otherwise only
    /// its removal does.
    pub(crate) async fn wait_applied(&self, version: u64, fail_fast: bool) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let seen = progress.wait_for(|p| {
            let failed = fail_fast && matches!(&p.failed, Some((v, _)) if *v >= version);
            let refused = matches!(&p.refused, Some((v, _)) if *v >= version);
            p.applied >= version || p.gone.is_some() || failed || refused
        });
        let Ok(seen) = seen.await else { return Err(closed()) };
        match &*seen {
            p if p.applied >= version => Ok(()),
            Progress { failed: Some((_, error)), gone: None, .. }
            | Progress { refused: Some((_, error)), gone: None, .. } => Err(error.clone()),
            Progress { gone: Some(Err(error)), .. } if error.kind() == ErrorKind::Closed => Err(error.clone()),
            _ => {
                Err(Error::new(ErrorKind::Closed, "the instance was deregistered meanwhile")
                    .with_service(self.key.text()))
            }
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
    // Nothing panics while it is held but a change of the user's, and that works on a copy.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
