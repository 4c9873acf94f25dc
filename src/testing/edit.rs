//! What a console would do: services and instances.

#![allow(clippy::must_use_candidate, reason = "setters that are called for their effect hand themselves back")]

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::fixtures::TestInstance;
use super::naming::computed_id;
use super::store::{InstanceKey, ServiceRow, State, Store, of_service};
use crate::model::key::ServiceKey;
use crate::pb::v1;

/// One service of the control plane, to be changed. Every change is in force at once, or after the visibility delay.
#[derive(Debug)]
pub struct ServiceEditor<'a> {
    pub(super) store: &'a Store,
    pub(super) key: ServiceKey,
}

impl ServiceEditor<'_> {
    /// Creates the service if it is not there.
    pub fn create(&self) -> &Self {
        self.store.with(|state, now| state.ensure_service(&self.key, now));
        self
    }

    /// The service has exactly these instances, whoever registered others. An instance that is there already and equal
    /// keeps its revision.
    pub fn instances(&self, instances: impl IntoIterator<Item = TestInstance>) -> &Self {
        let instances: Vec<_> = instances.into_iter().map(|instance| self.owned(instance)).collect();
        self.store.with(|state, now| state.set_instances(&self.key, instances, now));
        self
    }

    /// Adds an instance, or replaces the one of the same id.
    pub fn instance(&self, instance: TestInstance) -> &Self {
        let (key, message) = self.owned(instance);
        self.store.with(|state, now| {
            state.ensure_service(&self.key, now);
            state.put_instance(key, message, false, now);
        });
        self
    }

    /// Changes the instance at this address, as a person does at the console; nothing if there is none.
    pub fn edit(&self, host: &str, port: u16, change: impl FnOnce(TestInstance) -> TestInstance) -> &Self {
        self.store.with(|state, now| {
            let Some((key, message)) = state.at(&self.key, host, port) else { return };
            let changed = change(TestInstance { message }).message;
            state.put_instance(key, changed, false, now);
        });
        self
    }

    /// Takes the instance at this address away.
    pub fn remove(&self, host: &str, port: u16) -> &Self {
        self.store.with(|state, now| {
            if let Some((key, _)) = state.at(&self.key, host, port) {
                let at = state.visible_at(now);
                state.instances.remove(&key, at);
            }
        });
        self
    }

    /// Sets a label of the service itself.
    pub fn metadata(&self, key: impl Into<String>, value: impl Into<String>) -> &Self {
        let (key, value) = (key.into(), value.into());
        self.change(|row| drop(row.message.metadata.insert(key, value)))
    }

    /// Lets these namespaces see the service; `*` is all.
    pub fn export_to<S: Into<String>>(&self, namespaces: impl IntoIterator<Item = S>) -> &Self {
        let namespaces = namespaces.into_iter().map(Into::into).collect();
        self.change(|row| row.message.export_to = namespaces)
    }

    /// Makes this name an alias of `source`.
    pub fn alias_of(&self, source: impl Into<ServiceKey>) -> &Self {
        let source = source.into();
        self.change(|row| row.alias_of = Some(source))
    }

    /// Gives the service, and so its list of instances, a new revision and changes nothing else.
    pub fn touch(&self) -> &Self {
        self.change(|_| {})
    }

    /// Takes the service away with its instances.
    pub fn delete(&self) {
        self.store.with(|state, now| {
            let at = state.visible_at(now);
            let keys: Vec<_> = of_service(state.instances.stored(), &self.key).map(|(key, _)| key.clone()).collect();
            for key in keys {
                state.instances.remove(&key, at);
            }
            state.services.remove(&self.key, at);
        });
    }

    /// The instances that clients are told of, by id.
    #[must_use]
    pub fn list(&self) -> Vec<TestInstance> {
        let copy = |row: &std::sync::Arc<super::store::InstanceRow>| TestInstance { message: row.message.clone() };
        self.store.read(|state, _| state.seen_instances(&self.key).map(copy).collect())
    }

    fn change(&self, change: impl FnOnce(&mut ServiceRow)) -> &Self {
        self.store.with(|state, now| {
            let mut row = state.services.stored().get(&self.key).map(|row| (**row).clone()).unwrap_or_default();
            change(&mut row);
            state.put_service(&self.key, row, now);
        });
        self
    }

    fn owned(&self, instance: TestInstance) -> (InstanceKey, v1::Instance) {
        owned(&self.key, instance.message)
    }
}

/// An instance as one of this service, with its id.
pub(super) fn owned(key: &ServiceKey, mut message: v1::Instance) -> (InstanceKey, v1::Instance) {
    message.namespace = Some(key.namespace().to_owned());
    message.service = Some(key.service().to_owned());
    let id = message.id.take().filter(|id| !id.is_empty()).unwrap_or_else(|| computed_id(&message));
    message.id = Some(id.clone());
    ((key.clone(), id), message)
}

impl State {
    /// The service is there.
    pub(super) fn ensure_service(&mut self, key: &ServiceKey, now: Instant) {
        if !self.services.stored().contains_key(key) {
            self.put_service(key, ServiceRow::default(), now);
        }
    }

    /// The service has exactly these instances.
    pub(super) fn set_instances(
        &mut self,
        service: &ServiceKey,
        instances: Vec<(InstanceKey, v1::Instance)>,
        now: Instant,
    ) {
        self.ensure_service(service, now);
        let at = self.visible_at(now);
        let kept: BTreeSet<_> = instances.iter().map(|(key, _)| key).collect();
        let gone: Vec<_> = of_service(self.instances.stored(), service)
            .map(|(key, _)| key.clone())
            .filter(|key| !kept.contains(key))
            .collect();
        for key in gone {
            self.instances.remove(&key, at);
        }
        for (key, message) in instances {
            let same = self.instances.stored().get(&key).is_some_and(|row| says_the_same(&row.message, &message));
            if !same {
                self.put_instance(key, message, false, now);
            }
        }
    }

    fn at(&self, service: &ServiceKey, host: &str, port: u16) -> Option<(InstanceKey, v1::Instance)> {
        let here =
            |message: &v1::Instance| message.host.as_deref() == Some(host) && message.port == Some(u32::from(port));
        let found = of_service(self.instances.stored(), service).find(|(_, row)| here(&row.message))?;
        Some((found.0.clone(), found.1.message.clone()))
    }
}

/// Whether two instances differ in nothing but what the server writes.
fn says_the_same(stored: &v1::Instance, given: &v1::Instance) -> bool {
    let bare = |message: &v1::Instance| v1::Instance { revision: None, ctime: None, mtime: None, ..message.clone() };
    bare(stored) == bare(given)
}
