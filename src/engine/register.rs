//! The registrations that this context keeps: one record and one keeper task per instance.
//!
//! The context owns them, not the handles: a handle that is dropped changes nothing. The same instance registered again
//! is the same record with a newer wish, so the latest request wins and nothing beats twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::keep::{World, keep};
use crate::engine::record::{Goal, Record};
use crate::engine::remove::remove;
use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::InstanceAddr;
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
    /// None once a shutdown has begun: nothing new is wanted from then on.
    records: Mutex<Option<HashMap<Identity, Arc<Record>>>>,
}

/// Takes a wish back unless it came true: a `register` that failed or was dropped leaves nothing wanted.
struct Undo {
    record: Arc<Record>,
    version: u64,
    before: Option<Register>,
    armed: bool,
}

impl Registrar {
    pub(crate) fn new(world: World, scope: TaskScope) -> Self {
        Self { world: Arc::new(world), scope, records: Mutex::new(Some(HashMap::new())) }
    }

    /// Wants the instance from now on, and waits until it is registered; a failure or a drop takes the wish back.
    pub(crate) async fn register(&self, register: Register) -> Result<Arc<Record>> {
        let (record, version, before) = self.want(register)?;
        let mut undo = Undo { record: Arc::clone(&record), version, before, armed: true };
        let patience = self.world.patience;
        match tokio::time::timeout(patience + GRACE, record.wait_applied(version, true)).await {
            Ok(result) => result?,
            Err(_) => {
                let what = format!("the instance was not registered within {patience:?}");
                return Err(Error::new(ErrorKind::Timeout, what).with_service(record.desired().0.key.text()));
            }
        }
        undo.armed = false;
        Ok(record)
    }

    /// Wants the instance from now on.
    pub(crate) fn register_in_background(&self, register: Register) -> Result<Arc<Record>> {
        self.want(register).map(|(record, ..)| record)
    }

    /// Changes what is wanted, and waits until it is in force. What a server refuses is taken back.
    pub(crate) async fn update(&self, record: &Arc<Record>, change: impl FnOnce(&mut Register) + Send) -> Result<()> {
        let (before, _) = record.desired();
        let mut wanted = before.clone();
        change(&mut wanted);
        wanted.validate()?;
        if identity(&wanted) != identity(&before) {
            let why = "service, address and id of a registration do not change: deregister it and register another";
            return Err(Error::new(ErrorKind::InvalidArgument, why).with_service(before.key.text()));
        }
        warn_of_server_owned(&wanted);
        let (version, _) = record.replace(wanted);
        let mut undo = Undo { record: Arc::clone(record), version, before: Some(before), armed: true };
        self.settle(record, version).await?;
        undo.armed = false;
        Ok(())
    }

    pub(crate) async fn set_isolated(&self, record: &Record, yes: bool) -> Result<()> {
        let version = record.set_isolated(yes);
        self.settle(record, version).await
    }

    async fn settle(&self, record: &Record, version: u64) -> Result<()> {
        let patience = self.world.patience;
        tokio::time::timeout(patience + GRACE, record.wait_applied(version, true)).await.unwrap_or_else(|_| {
            let what = format!("the change was not accepted within {patience:?}, and stays wanted");
            Err(Error::new(ErrorKind::Timeout, what).with_service(record.desired().0.key.text()))
        })
    }

    /// Isolates, drains and removes an instance of this context. Goes on when the caller stops waiting.
    pub(crate) async fn remove(&self, record: &Record) -> Result<()> {
        record.aim(Goal::Gone, Duration::MAX);
        record.wait_gone().await
    }

    /// Removes an instance by name: one of this context in order, any other one as well as it goes without its data.
    pub(crate) async fn deregister(&self, request: Deregister) -> Result<()> {
        request.target.validate()?;
        if let Some(record) = self.find(&request.target)? {
            return self.remove(&record).await;
        }
        let mut target = request.target;
        let Some(at) = target.at.take() else { return remove(&self.world, &target, None).await };
        let at = self.resolved(at).await?;
        let mut register = Register::new(&target.key, at.clone()).manual_heartbeat();
        register.id.clone_from(&target.id);
        let host = at.host().to_owned();
        let registrant = Registrant { register, host, location: Location::default(), isolated: Some(true) };
        target.at = Some(at);
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
        self.lock().iter().flat_map(HashMap::values).any(|record| record.is_wanted())
    }

    /// The registrations that do not stand as they should.
    pub(crate) fn troubled(&self) -> Vec<(ServiceKey, Instant, Error)> {
        let records = self.lock();
        records.iter().flat_map(HashMap::values).filter_map(|record| record.trouble()).collect()
    }

    /// Registers everything again whose location is that of the context: it is known anew.
    pub(crate) fn location_changed(&self) {
        for record in self.lock().iter().flat_map(HashMap::values) {
            if record.desired().0.location.is_none() && record.is_wanted() {
                record.bump();
            }
        }
    }

    /// The first half of a shutdown: takes nothing new, isolates all, and waits until all have drained.
    pub(crate) async fn drain(&self, deadline: Instant) -> Vec<Arc<Record>> {
        let records: Vec<_> = self.lock().take().into_iter().flat_map(HashMap::into_values).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        for record in &records {
            record.aim(Goal::Drained, left - left / REMOVAL_SHARE);
        }
        let drained = async {
            for record in &records {
                record.wait_drained().await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, drained).await;
        records
    }

    /// The second half: removes all; answers those that could not be removed in time.
    pub(crate) async fn finish(&self, records: Vec<Arc<Record>>, deadline: Instant) -> Vec<(ServiceKey, Error)> {
        for record in &records {
            record.aim(Goal::Gone, Duration::ZERO);
        }
        let mut left = Vec::new();
        for record in records {
            let result = tokio::time::timeout_at(deadline, record.wait_gone()).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, "the instance was not removed before the deadline of the shutdown"))
            });
            if let Err(error) = result {
                left.push((record.desired().0.key, error));
            }
        }
        left
    }

    fn want(&self, register: Register) -> Result<(Arc<Record>, u64, Option<Register>)> {
        register.validate()?;
        warn_of_server_owned(&register);
        let mut records = self.lock();
        let Some(records) = records.as_mut() else { return Err(closed(&register.key)) };
        records.retain(|_, record| !record.is_gone());
        let identity = identity(&register);
        if let Some(record) = records.get(&identity)
            && record.is_wanted()
        {
            let (version, before) = record.replace(register);
            return Ok((Arc::clone(record), version, Some(before)));
        }
        let record = Record::new(register, self.world.wake.clone());
        records.insert(identity, Arc::clone(&record));
        let (kept, world) = (Arc::clone(&record), Arc::clone(&self.world));
        self.scope.supervise("registration", move || keep(Arc::clone(&kept), Arc::clone(&world)));
        Ok((record, 1, None))
    }

    fn find(&self, target: &Target) -> Result<Option<Arc<Record>>> {
        let records = self.lock();
        let Some(records) = records.as_ref() else { return Err(closed(&target.key)) };
        let matches = |record: &&Arc<Record>| {
            let (register, _) = record.desired();
            let by_id = target.id.is_some() && record.id().map(|id| id.as_str()) == target.id.as_deref();
            let by_address =
                target.at.as_ref() == Some(&register.at) && (target.id.is_none() || target.id == register.id);
            register.key == target.key && (by_id || by_address) && !record.is_gone()
        };
        Ok(records.values().find(matches).cloned())
    }

    async fn resolved(&self, at: InstanceAddr) -> Result<InstanceAddr> {
        Ok(InstanceAddr::new(self.world.host_of(&at).await?, at.port()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<Identity, Arc<Record>>>> {
        // The map is changed by single inserts and removals: a panic cannot leave it half changed.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        match self.before.take() {
            Some(before) => self.record.revert(self.version, before),
            None => self.record.aim(Goal::Undone, Duration::ZERO),
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
