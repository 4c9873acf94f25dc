//! Registration, deregistration, beats, and clients that report themselves.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::{OK, response};
use super::behaviour::Release;
use super::health::Beat;
use super::sha1;
use super::store::{InstanceKey, State};
use crate::model::key::ServiceKey;
use crate::pb::v1;

/// A deregistration stays unseen when the instance last changed this long before the newest change of another.
const LOOK_BACK: Duration = Duration::from_secs(5);
const DEFAULT_TTL: u32 = 5;
const MAX_TTL: u32 = 60;

impl State {
    /// Registers an instance.
    pub(super) fn register(&mut self, request: &v1::Instance, now: Instant) -> v1::Response {
        if let Err(code) = check_registration(request) {
            return refused(code, request);
        }
        let key = ServiceKey::new(text(request.namespace.as_ref()), text(request.service.as_ref()));
        match self.services.stored().get(&key) {
            Some(row) if row.alias_of.is_some() => return response(400_000),
            None if !self.behaviour.auto_create => return refused(400_301, request),
            _ => {}
        }
        let id = request.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| computed_id(request));
        let place = (key, id);
        if !self.gather(&place.1, now) {
            return refused(400_208, request);
        }
        self.take_over(&place, now);
        let before = self.instances.stored().get(&place).map(|row| row.message.clone());
        let message = self.completed(request, &place, before.as_ref());
        self.put_instance(place.clone(), message, false, now);
        let instance = v1::Instance {
            id: Some(place.1),
            service: request.service.clone(),
            namespace: request.namespace.clone(),
            vpc_id: request.vpc_id.clone(),
            host: request.host.clone(),
            port: request.port,
            ..Default::default()
        };
        v1::Response { instance: Some(instance), ..response(OK) }
    }

    /// Whether no other registration of this id is waiting for its answer.
    fn gather(&mut self, id: &str, now: Instant) -> bool {
        self.gathering.retain(|_, until| *until > now);
        let free = !self.gathering.contains_key(id);
        if free && !self.behaviour.batch_window.is_zero() {
            self.gathering.insert(id.to_owned(), now + self.behaviour.batch_window);
        }
        free
    }

    /// An id belongs to one service at a time.
    fn take_over(&mut self, place: &InstanceKey, now: Instant) {
        let Some((other, _)) = self.seen_instance(&place.1) else { return };
        if other != *place {
            let at = self.visible_at(now);
            self.instances.remove(&other, at);
        }
    }

    /// What is stored of a registration: defaults filled in, and what a person set before kept.
    fn completed(&self, request: &v1::Instance, place: &InstanceKey, before: Option<&v1::Instance>) -> v1::Instance {
        let checked = request.enable_health_check != Some(false);
        let beat = request.health_check.as_ref().and_then(|check| check.heartbeat.as_ref()).filter(|_| checked);
        let ttl = beat.map(|beat| match beat.ttl.unwrap_or_default() {
            0 => DEFAULT_TTL,
            ttl if ttl > MAX_TTL => DEFAULT_TTL,
            ttl => ttl,
        });
        let location = request.location.clone();
        let known = self.locations.get(text(request.host.as_ref())).cloned();
        v1::Instance {
            id: Some(place.1.clone()),
            weight: request.weight.or(Some(100)),
            healthy: request.healthy.or(Some(true)),
            isolate: request.isolate.or_else(|| before.and_then(|before| before.isolate)).or(Some(false)),
            location: location.or(known),
            health_check: ttl.map(heartbeat),
            enable_health_check: ttl.map(|_| true),
            service_token: None,
            ..request.clone()
        }
    }

    /// Takes an instance away; that nobody knows it is fine.
    pub(super) fn deregister(&mut self, request: &v1::Instance, now: Instant) -> v1::Response {
        let id = match target(request) {
            Ok(id) => id,
            Err(code) => return refused(code, request),
        };
        let unseen = || self.instances.stored().keys().find(|(_, held)| *held == id).cloned();
        if let Some(key) = self.seen_instance(&id).map(|(key, _)| key).or_else(unseen) {
            self.remove_instance(&key, now);
        }
        let mut echo = request.clone();
        if self.behaviour.release == Release::Main {
            echo.id = Some(id);
        }
        v1::Response { instance: Some(echo), ..response(OK) }
    }

    /// Takes an instance away as the store does.
    pub(super) fn remove_instance(&mut self, key: &InstanceKey, now: Instant) {
        let Some(row) = self.instances.stored().get(key) else { return };
        let late = || {
            let others = self.instances.stored().iter().filter(|(other, row)| *other != key && !row.own);
            let newest = others.map(|(_, row)| row.changed).max();
            newest.is_some_and(|newest| row.changed + LOOK_BACK < newest)
        };
        if self.behaviour.bolt_store && late() {
            self.instances.remove_unseen(key);
        } else {
            let at = self.visible_at(now);
            self.instances.remove(key, at);
        }
    }

    /// Takes a beat.
    pub(super) fn heartbeat(&mut self, request: &v1::Instance, now: Instant) -> v1::Response {
        if !self.behaviour.health_checks {
            return refused(400_140, request);
        }
        let code = match target(request) {
            Ok(id) => match self.beat(&id, now) {
                Beat::Taken => OK,
                Beat::Unknown => 400_202,
                Beat::Disabled => 400_141,
            },
            Err(code) => code,
        };
        refused(code, request)
    }

    /// Takes a batch of beats, which are never answered one by one.
    pub(super) fn heartbeats(&mut self, request: &v1::HeartbeatsRequest, now: Instant) {
        for beat in &request.heartbeats {
            let computed =
                || sha1::hex([&beat.namespace, "##", &beat.service, "##", &beat.host, "##", &beat.port.to_string()]);
            let id = if beat.instance_id.is_empty() { computed() } else { beat.instance_id.clone() };
            self.beat(&id, now);
        }
    }

    /// A client introduces itself and hears where it is.
    pub(super) fn report_client(&mut self, request: &v1::Client, now: Instant) -> v1::Response {
        let known = self.locations.get(text(request.host.as_ref())).cloned();
        let location = known.or_else(|| request.location.clone());
        let client = match request.id.as_ref().filter(|id| !id.is_empty()) {
            Some(id) => {
                self.clients.insert(id.clone(), now);
                v1::Client { location, ..request.clone() }
            }
            None => v1::Client { host: request.host.clone(), location, ..Default::default() },
        };
        v1::Response { client: Some(client), ..response(OK) }
    }
}

/// An answer that shows the request again.
fn refused(code: u32, request: &v1::Instance) -> v1::Response {
    v1::Response { instance: Some(request.clone()), ..response(code) }
}

/// The health check of an instance with this TTL.
pub(super) fn heartbeat(ttl: u32) -> v1::HealthCheck {
    v1::HealthCheck {
        r#type: v1::health_check::HealthCheckType::Heartbeat.into(),
        heartbeat: Some(v1::HeartbeatHealthCheck { ttl: Some(ttl) }),
    }
}

fn text(field: Option<&String>) -> &str {
    field.map_or("", String::as_str)
}

/// The id that follows from an address.
pub(super) fn computed_id(instance: &v1::Instance) -> String {
    let port = instance.port.unwrap_or_default().to_string();
    let vpc = text(instance.vpc_id.as_ref());
    let mut parts = vec![text(instance.namespace.as_ref()), text(instance.service.as_ref())];
    parts.extend(Some(vpc).filter(|vpc| !vpc.is_empty()));
    parts.extend([text(instance.host.as_ref()), &port]);
    sha1::hex([parts.join("##")])
}

/// The id of the instance that a beat or a deregistration means.
fn target(request: &v1::Instance) -> Result<String, u32> {
    match &request.id {
        Some(id) if id.is_empty() => Err(400_130),
        Some(id) => Ok(id.clone()),
        None => {
            check_address(request)?;
            Ok(computed_id(request))
        }
    }
}

fn check_registration(request: &v1::Instance) -> Result<(), u32> {
    let too_long = |field: &Option<String>, most: usize| text(field.as_ref()).chars().count() > most;
    let metadata = &request.metadata;
    let limits = [
        (metadata.len() > 64, 400_150),
        (too_long(&request.service, 128), 400_120),
        (too_long(&request.namespace, 64), 400_110),
        (too_long(&request.host, 128), 400_131),
        (too_long(&request.protocol, 32), 400_136),
        (too_long(&request.version, 32), 400_137),
        (too_long(&request.logic_set, 128), 400_138),
        (metadata.iter().any(|(key, value)| key.chars().count() > 128 || value.chars().count() > 4096), 400_150),
        (request.port.is_some_and(|port| port > 65_535), 400_132),
        (request.weight.is_some_and(|weight| weight > 65_535), 400_103),
    ];
    match limits.into_iter().find(|(broken, _)| *broken) {
        Some((_, code)) => Err(code),
        None => check_address(request),
    }
}

fn check_address(request: &v1::Instance) -> Result<(), u32> {
    let nameless = |name: &Option<String>| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-./:_".contains(c);
        text(name.as_ref()).is_empty() || !text(name.as_ref()).chars().all(allowed)
    };
    match request {
        _ if nameless(&request.service) => Err(400_120),
        _ if nameless(&request.namespace) => Err(400_110),
        _ if text(request.host.as_ref()).is_empty() => Err(400_131),
        _ if request.port.is_none() => Err(400_132),
        _ => Ok(()),
    }
}
