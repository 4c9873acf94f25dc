//! Requests of providers: register, heartbeat, deregister.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::model::instance::{InstanceAddr, InstanceId};
use crate::model::key::ServiceKey;
use crate::model::location::Location;

/// The bounds that the control plane holds a registration to, in characters and counts.
mod limit {
    pub(super) const HOST: usize = 128;
    pub(super) const PROTOCOL: usize = 32;
    pub(super) const VERSION: usize = 32;
    pub(super) const METADATA: usize = 64;
    pub(super) const METADATA_KEY: usize = 128;
    pub(super) const METADATA_VALUE: usize = 4096;
    pub(super) const WEIGHT: u32 = 65_535;
    pub(super) const TTL_SECS: u64 = 60;
    pub(super) const DRAIN: std::time::Duration = std::time::Duration::from_secs(600);
}

/// Metadata keys that the control plane sets itself, whatever a registration says.
const SERVER_OWNED: [&str; 5] = ["version", "protocol", "region", "zone", "campus"];

/// What a provider wants to be registered as.
///
/// ```
/// use polarismesh::Register;
/// use std::time::Duration;
///
/// let register = Register::new(("default", "payments"), ("10.0.0.7", 8080))
///     .weight(200)
///     .protocol("grpc")
///     .version("1.4.2")
///     .metadata("env", "prod")
///     .ttl(Duration::from_secs(5));
/// # let _ = register;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Register {
    pub(crate) key: ServiceKey,
    pub(crate) at: InstanceAddr,
    pub(crate) id: Option<String>,
    pub(crate) weight: u32,
    pub(crate) protocol: String,
    pub(crate) version: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) location: Option<Location>,
    pub(crate) ttl: Duration,
    pub(crate) healthy: bool,
    pub(crate) drain: Option<Duration>,
    pub(crate) manual_heartbeat: bool,
    pub(crate) isolated: Option<bool>,
}

/// Names an instance that is to be deregistered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Deregister {
    pub(crate) target: Target,
}

/// Names an instance whose provider beats by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Heartbeat {
    pub(crate) target: Target,
}

/// An instance by what its provider knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) key: ServiceKey,
    pub(crate) at: Option<InstanceAddr>,
    pub(crate) id: Option<String>,
}

/// A registration with everything filled in that the wire needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registrant {
    pub(crate) register: Register,
    /// The host that callers reach: that of the request, or the address of this machine that reaches the control plane.
    pub(crate) host: String,
    pub(crate) location: Location,
    /// None leaves isolation as people at the console have set it.
    pub(crate) isolated: Option<bool>,
}

/// What this client tells the control plane of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientReport {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) location: Location,
}

// === impl Register ===

impl Register {
    /// An instance of the service at this address, with weight 100, healthy, beating every 5 s.
    ///
    /// A bare port, `0.0.0.0` and `[::]` become the address of this host that reaches the control plane.
    pub fn new(key: impl Into<ServiceKey>, at: impl Into<InstanceAddr>) -> Self {
        Self {
            key: key.into(),
            at: at.into(),
            id: None,
            weight: 100,
            protocol: String::new(),
            version: String::new(),
            metadata: BTreeMap::new(),
            location: None,
            ttl: Duration::from_secs(5),
            healthy: true,
            drain: None,
            manual_heartbeat: false,
            isolated: None,
        }
    }

    /// The share of calls, relative to the other instances: 0 (none) to 65535. Default 100.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The protocol that is spoken at the address, such as `grpc` or `http`; up to 32 characters.
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = protocol.into();
        self
    }

    /// The version of the program; up to 32 characters.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds a label: up to 64 of them, keys up to 128 and values up to 4096 characters.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Where the instance runs. Default: the location of the context.
    pub fn location(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// The heartbeat's period, 1 to 60 whole seconds. Default 5 s. The control plane holds an instance for dead after
    /// three of them without a beat.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The id, instead of the one that the control plane derives from service, host and port.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The health it is registered with. Default true; the beats take over from there.
    pub fn healthy(mut self, healthy: bool) -> Self {
        self.healthy = healthy;
        self
    }

    /// How long callers get to notice, between isolating the instance and removing it; at most 10 minutes. Default:
    /// `provider.drain`, 5 s.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = Some(drain);
        self
    }

    /// Registers the instance out of service, or explicitly in service; `Registration::set_isolated` changes it later.
    ///
    /// By default a registration says nothing of isolation: a new instance is in service, and one that people at the
    /// console have isolated stays isolated. So does one that a former process isolated on its way out and then could
    /// not remove, because the control plane was lost in between: a process that always wants to start in service says
    /// `isolated(false)`, and overrides the console by that. Within one context this is remembered and needs no word.
    pub fn isolated(mut self, isolated: bool) -> Self {
        self.isolated = Some(isolated);
        self
    }

    /// Leaves the beats to the caller, by `ProviderApi::heartbeat`.
    pub fn manual_heartbeat(mut self) -> Self {
        self.manual_heartbeat = true;
        self
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// The address.
    #[must_use]
    pub fn addr(&self) -> &InstanceAddr {
        &self.at
    }

    /// Removes a label, for use in `Registration::update`.
    pub fn remove_metadata(&mut self, key: &str) -> &mut Self {
        self.metadata.remove(key);
        self
    }

    /// Sets a label in place, for use in `Registration::update`.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the weight in place, for use in `Registration::update`.
    pub fn set_weight(&mut self, weight: u32) -> &mut Self {
        self.weight = weight;
        self
    }

    /// Labels that will not arrive as given, because the control plane owns their keys.
    pub(crate) fn server_owned_metadata(&self) -> impl Iterator<Item = &str> {
        self.metadata
            .keys()
            .map(String::as_str)
            .filter(|key| SERVER_OWNED.contains(key) || key.starts_with("internal-"))
    }

    /// Holds the registration to the control plane's bounds before anything is sent.
    pub(crate) fn validate(&self) -> Result<()> {
        self.key.validate()?;
        self.check().map_err(|why| Error::new(ErrorKind::InvalidArgument, why).with_service(self.key.text()))
    }

    fn check(&self) -> Result<(), String> {
        check_addr(&self.at)?;
        if let Some(id) = &self.id
            && id.is_empty()
        {
            return Err("the id is empty: leave it out and the control plane makes one".to_owned());
        }
        check_length("protocol", &self.protocol, limit::PROTOCOL)?;
        check_length("version", &self.version, limit::VERSION)?;
        if self.weight > limit::WEIGHT {
            return Err(format!("the weight is {}: it goes from 0 to {}", self.weight, limit::WEIGHT));
        }
        if self.metadata.len() > limit::METADATA {
            return Err(format!("there are {} metadata: at most {} are allowed", self.metadata.len(), limit::METADATA));
        }
        for (key, value) in &self.metadata {
            check_length("metadata key", key, limit::METADATA_KEY)?;
            check_length(&format!("value of the metadata {key:?}"), value, limit::METADATA_VALUE)?;
        }
        if self.drain.is_some_and(|drain| drain > limit::DRAIN) {
            return Err(format!("the drain is {:?}: it goes from 0 to 10 minutes", self.drain.unwrap_or_default()));
        }
        let whole_seconds = self.ttl.subsec_nanos() == 0;
        if !whole_seconds || !(1..=limit::TTL_SECS).contains(&self.ttl.as_secs()) {
            return Err(format!("the TTL is {:?}: it goes from 1 s to 60 s in whole seconds", self.ttl));
        }
        Ok(())
    }
}

// === impl Deregister, Heartbeat ===

impl Deregister {
    /// The instance of the service at this address.
    pub fn new(key: impl Into<ServiceKey>, at: impl Into<InstanceAddr>) -> Self {
        Self { target: Target { key: key.into(), at: Some(at.into()), id: None } }
    }
}

impl From<&InstanceId> for Deregister {
    fn from(id: &InstanceId) -> Self {
        Self { target: id.into() }
    }
}

impl From<&Register> for Deregister {
    fn from(register: &Register) -> Self {
        Self { target: register.into() }
    }
}

impl Heartbeat {
    /// The instance of the service at this address.
    pub fn new(key: impl Into<ServiceKey>, at: impl Into<InstanceAddr>) -> Self {
        Self { target: Target { key: key.into(), at: Some(at.into()), id: None } }
    }
}

impl From<&InstanceId> for Heartbeat {
    fn from(id: &InstanceId) -> Self {
        Self { target: id.into() }
    }
}

impl From<&Register> for Heartbeat {
    fn from(register: &Register) -> Self {
        Self { target: register.into() }
    }
}

// === impl Registrant ===

impl Registrant {
    pub(crate) fn target(&self) -> Target {
        let at = InstanceAddr::new(self.host.clone(), self.register.at.port());
        Target { key: self.register.key.clone(), at: Some(at), id: self.register.id.clone() }
    }
}

// === impl Target ===

impl Target {
    pub(crate) fn validate(&self) -> Result<()> {
        self.key.validate()?;
        match (&self.at, &self.id) {
            (Some(at), _) => check_addr(at),
            (None, Some(id)) if !id.is_empty() => Ok(()),
            _ => Err("neither an address nor an id is given".to_owned()),
        }
        .map_err(|why| Error::new(ErrorKind::InvalidArgument, why).with_service(self.key.text()))
    }
}

impl From<&InstanceId> for Target {
    fn from(id: &InstanceId) -> Self {
        Self { key: id.service().clone(), at: None, id: Some(id.as_str().to_owned()) }
    }
}

impl From<&Register> for Target {
    fn from(register: &Register) -> Self {
        Self { key: register.key.clone(), at: Some(register.at.clone()), id: register.id.clone() }
    }
}

fn check_addr(at: &InstanceAddr) -> Result<(), String> {
    if at.port() == 0 {
        return Err(format!("the port of {at} is 0: give the port that the listener was bound to"));
    }
    check_length("host", at.host(), limit::HOST)
}

fn check_length(what: &str, text: &str, max: usize) -> Result<(), String> {
    match text.chars().count() {
        count if count > max => Err(format!("the {what} has {count} characters: at most {max} are allowed")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Register {
        Register::new(("default", "payments"), ("10.0.0.7", 8080))
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_bound() {
        let many = (0..65).fold(valid(), |r, n| r.metadata(n.to_string(), ""));
        for (register, needle) in [
            (Register::new(("default", "a"), ("h", 0)), "the port of h:0 is 0"),
            (valid().weight(65_536), "0 to 65535"),
            (valid().ttl(Duration::from_millis(1500)), "whole seconds"),
            (valid().ttl(Duration::from_secs(61)), "1 s to 60 s"),
            (valid().ttl(Duration::ZERO), "1 s to 60 s"),
            (valid().drain(Duration::MAX), "10 minutes"),
            (valid().protocol("p".repeat(33)), "at most 32"),
            (valid().version("v".repeat(33)), "at most 32"),
            (valid().metadata("k".repeat(129), ""), "at most 128"),
            (valid().metadata("k", "v".repeat(4097)), "at most 4096"),
            (valid().id(""), "the id is empty"),
            (many, "at most 64"),
            (Register::new(("default", "a"), ("h".repeat(129), 1)), "at most 128"),
        ] {
            let error = register.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(needle), "{error}");
        }
        assert!(valid().validate().is_ok());
    }

    #[test]
    fn keys_that_the_server_owns_are_named() {
        let register = valid().metadata("zone", "a").metadata("internal-x", "b").metadata("env", "c");
        assert_eq!(register.server_owned_metadata().collect::<Vec<_>>(), ["internal-x", "zone"]);
    }
}
