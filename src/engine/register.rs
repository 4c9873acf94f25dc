//! The registrations that this context keeps: one record and one keeper task per instance.
//!
//! The context owns them, not the handles: a handle that is dropped changes nothing. The same instance registered again
//! is the same record with a newer wish, so the latest request wins and nothing beats twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::keep::{End, keep};
use crate::engine::record::{Desired, Goal, Record};
use crate::engine::remove::remove;
use crate::engine::world::World;
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::{InstanceAddr, InstanceId};
use crate::model::key::ServiceKey;
use crate::model::location::Location;
use crate::model::request::registration::{Deregister, Heartbeat, Register, Registrant, Target};
use crate::util::task::TaskScope;

/// Which instance a registration is about: what its caller said, before hosts are filled in.
type Identity = (ServiceKey, InstanceAddr, Option<String>);

/// Time to remove instances that a shutdown with a short deadline leaves beside the drain.
const REMOVAL_SHARE: u32 = 3;

/// How much longer than the keeper a caller waits for it, so that it hears what went wrong instead of a bare time-out.
const GRACE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Registrar {
    world: Arc<World>,
    scope: TaskScope,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    records: HashMap<Identity, Arc<Record>>,
    /// A shutdown has begun: nothing new is wanted from then on. What is kept can still beat by hand and be removed.
    closed: bool,
}

/// Takes a registration back unless it came true: one that failed or was dropped leaves nothing wanted.
struct Claim {
    record: Arc<Record>,
    version: u64,
    before: Option<Desired>,
    armed: bool,
}

/// Takes a change back unless it came into force.
struct Change<'a> {
    record: &'a Record,
    version: u64,
    before: Option<Desired>,
}

impl Registrar {
    pub(crate) fn new(world: World, scope: TaskScope) -> Self {
        Self { world: Arc::new(world), scope, kept: Mutex::default() }
    }

    /// Wants the instance from now on, and waits until it is registered; a failure or a drop takes the wish back. Answers
    /// the record, and the version of the wish.
    pub(crate) async fn register(&self, register: Register) -> Result<(Arc<Record>, u64)> {
        let mut claim = self.want(register, false)?;
        self.settle(&claim.record, claim.version, |within| format!("the instance was not registered within {within}"))
            .await?;
        claim.armed = false;
        claim.record.confirm();
        Ok((Arc::clone(&claim.record), claim.version))
    }

    /// Wants the instance from now on.
    pub(crate) fn register_in_background(&self, register: Register) -> Result<(Arc<Record>, u64)> {
        self.want(register, true).map(|claim| (Arc::clone(&claim.record), claim.version))
    }

    /// Changes what is wanted, and waits until it is in force. What fails is taken back.
    pub(crate) async fn update(&self, record: &Record, change: impl FnOnce(&mut Register) + Send) -> Result<()> {
        let (version, before) = record.change(|wanted| {
            let before = identity(wanted);
            change(wanted);
            wanted.validate()?;
            if identity(wanted) != before {
                let why = "service, address and id of a registration do not change: deregister it and register another";
                return Err(Error::new(ErrorKind::InvalidArgument, why).with_service(before.0.text()));
            }
            warn_of_server_owned(wanted);
            Ok(())
        })?;
        let mut change = Change { record, version, before: Some(before) };
        self.settle(record, version, |within| {
            format!("the change was not accepted within {within}, and is taken back")
        })
        .await?;
        change.before = None;
        Ok(())
    }

    pub(crate) async fn set_isolated(&self, record: &Record, yes: bool) -> Result<()> {
        let version = record.set_isolated(yes);
        self.settle(record, version, |within| format!("the change was not accepted within {within}, and stays wanted"))
            .await
    }

    /// Waits until `version` is in force; `what` says what was not, within which time.
    async fn settle(&self, record: &Record, version: u64, what: impl FnOnce(String) -> String) -> Result<()> {
        let patience = self.world.patience;
        let applied = record.wait_applied(version, true);
        tokio::time::timeout(patience.saturating_add(GRACE), applied).await.unwrap_or_else(|_| {
            let what = what(format!("{patience:?}"));
            Err(Error::new(ErrorKind::Timeout, what).with_service(record.key().text()))
        })
    }

    /// Isolates, drains and removes an instance of this context. Goes on when the caller stops waiting.
    pub(crate) async fn remove(&self, record: &Record) -> Result<()> {
        record.aim(Goal::Gone, None);
        record.wait_gone().await
    }

    /// Removes an instance by name: one of this context in order, any other one as well as it goes without its data.
    pub(crate) async fn deregister(&self, request: Deregister) -> Result<()> {
        request.target.validate()?;
        if let Some(record) = self.find(&request.target)? {
            if record.is_wanted() || record.id().is_some() {
                return self.remove(&record).await;
            }
            // A registration that just failed: there is no removal of it that answers for what the server has.
            let _ = record.wait_gone().await;
        }
        let mut target = request.target;
        let Some(at) = target.at.take() else { return remove(&self.world, &target, None).await };
        let at = self.resolved(at).await?;
        target.at = Some(at.clone());
        // The same instance under another name: "all addresses" of this host.
        if let Some(record) = self.find(&target)? {
            return self.remove(&record).await;
        }
        let mut register = Register::new(&target.key, at.clone()).manual_heartbeat();
        register.id.clone_from(&target.id);
        let host = at.host().to_owned();
        let registrant = Registrant { register, host, location: Location::default(), isolated: Some(true) };
        // When it was last written is not known: long ago is the safe guess.
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or_else(Instant::now);
        remove(&self.world, &target, Some((&registrant, long_ago))).await
    }

    /// One beat by hand.
    pub(crate) async fn heartbeat(&self, request: Heartbeat) -> Result<()> {
        request.target.validate()?;
        let mut target = request.target;
        if let Some(record) = self.find(&target)? {
            target.id = record.id().map(|id| id.as_str().to_owned()).or(target.id);
        }
        if let Some(at) = target.at.take() {
            target.at = Some(self.resolved(at).await?);
        }
        self.world.transport.heartbeat(&target, self.world.patience).await
    }

    /// Whether a registration is wanted.
    pub(crate) fn keeps_any(&self) -> bool {
        self.lock().records.values().any(|record| record.is_wanted())
    }

    /// The registrations that do not stand as they should.
    pub(crate) fn troubled(&self) -> Vec<(ServiceKey, Instant, Error)> {
        let kept = self.lock();
        kept.records.values().filter_map(|record| record.trouble()).collect()
    }

    /// Registers everything again whose location is that of the context: it is known anew.
    pub(crate) fn location_changed(&self) {
        for record in self.lock().records.values() {
            if record.desired().register.location.is_none() && record.is_wanted() {
                record.bump();
            }
        }
    }

    /// The first half of a shutdown: takes nothing new, isolates all, and waits until all have drained.
    pub(crate) async fn drain(&self, deadline: Instant) -> Vec<Arc<Record>> {
        let records: Vec<_> = {
            let mut kept = self.lock();
            kept.closed = true;
            kept.records.values().cloned().collect()
        };
        // The rest is for the removals: those of instances that drained in time are not to wait for one that did not.
        let now = Instant::now();
        let drain_by = deadline - deadline.saturating_duration_since(now) / REMOVAL_SHARE;
        for record in &records {
            record.aim(Goal::Drained, Some(drain_by));
        }
        let drained = async {
            for record in &records {
                record.wait_drained().await;
            }
        };
        let _ = tokio::time::timeout_at(drain_by, drained).await;
        records
    }

    /// The second half: removes all; answers those that could not be removed in time.
    pub(crate) async fn finish(&self, records: Vec<Arc<Record>>, deadline: Instant) -> Vec<(ServiceKey, Error)> {
        for record in &records {
            record.aim(Goal::Gone, Some(Instant::now()));
        }
        let mut left = Vec::new();
        for record in records {
            let result = tokio::time::timeout_at(deadline, record.wait_gone()).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, "the instance was not removed before the deadline of the shutdown"))
            });
            if let Err(error) = result {
                left.push((record.key().clone(), error));
            }
        }
        left
    }

    /// Forgets everything without a word to a server, which nothing can reach any more; answers what was kept.
    pub(crate) fn abandon(&self) -> Vec<ServiceKey> {
        let mut kept = self.lock();
        kept.closed = true;
        std::mem::take(&mut kept.records)
            .into_values()
            .filter(|record| !record.is_gone())
            .map(|record| record.key().clone())
            .collect()
    }

    fn want(&self, register: Register, keep_it: bool) -> Result<Claim> {
        register.validate()?;
        warn_of_server_owned(&register);
        let mut kept = self.lock();
        if kept.closed {
            return Err(closed(&register.key));
        }
        let records = &mut kept.records;
        records.retain(|_, record| !record.is_gone());
        let identity = identity(&register);
        let before = records.get(&identity).cloned();
        if let Some(record) = &before {
            if let Some((version, before)) = record.claim(register.clone(), keep_it) {
                return Ok(Claim { record: Arc::clone(record), version, before: Some(before), armed: !keep_it });
            }
            // It is being removed, and the new registration waits for that: nobody has to drain any more.
            record.hurry();
        }
        let record = Record::new(register, keep_it, self.world.wake.clone());
        records.insert(identity, Arc::clone(&record));
        let (end, world) = (End(Arc::clone(&record)), Arc::clone(&self.world));
        self.scope.supervise("registration", move || keep(Arc::clone(&end.0), Arc::clone(&world), before.clone()));
        Ok(Claim { record, version: 1, before: None, armed: !keep_it })
    }

    fn find(&self, target: &Target) -> Result<Option<Arc<Record>>> {
        let kept = self.lock();
        let matches = |(identity, record): &(&Identity, &Arc<Record>)| {
            let (key, at, id) = identity;
            let by_id = target.id.is_some() && record.id().map(InstanceId::as_str) == target.id.as_deref();
            let here = |wanted: &InstanceAddr| {
                wanted == at || wanted.port() == at.port() && record.host() == Some(wanted.host())
            };
            let by_address = target.at.as_ref().is_some_and(here) && (target.id.is_none() || target.id == *id);
            *key == target.key && (by_id || by_address) && !record.is_gone()
        };
        match kept.records.iter().find(matches) {
            Some((_, record)) => Ok(Some(Arc::clone(record))),
            None if kept.closed => Err(closed(&target.key)),
            None => Ok(None),
        }
    }

    async fn resolved(&self, at: InstanceAddr) -> Result<InstanceAddr> {
        Ok(InstanceAddr::new(self.world.host_of(&at).await?, at.port()))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // The map is changed by single inserts and removals: a panic cannot leave it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.armed {
            self.record.give_up(self.version, self.before.take());
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.record.take_back(self.version, before);
        }
    }
}

fn identity(register: &Register) -> Identity {
    (register.key.clone(), register.at.clone(), register.id.clone())
}

fn closed(key: &ServiceKey) -> Error {
    Error::new(ErrorKind::Closed, "the context is shut down or shutting down").with_service(key.text())
}

fn warn_of_server_owned(register: &Register) {
    for key in register.server_owned_metadata() {
        tracing::warn!(service = %register.key, key, "the control plane owns this metadata key and overwrites it");
    }
}
