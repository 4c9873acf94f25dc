//! What tests set: instances as the console would take them.

use crate::model::instance::InstanceAddr;
use crate::model::location::Location;
use crate::pb::v1;

/// An instance as a test sets it, or reads it back.
///
/// Without more it has weight 100, is healthy, not isolated, and nobody checks its health.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct TestInstance {
    pub(super) message: v1::Instance,
}

/// An instance at this address.
///
/// ```
/// use polarismesh::testing::instance;
///
/// let canary = instance("10.0.0.7", 8080).weight(10).metadata("env", "canary");
/// assert_eq!(canary.addr().to_string(), "10.0.0.7:8080");
/// ```
pub fn instance(host: impl Into<String>, port: u16) -> TestInstance {
    TestInstance {
        message: v1::Instance {
            host: Some(host.into()),
            port: Some(port.into()),
            weight: Some(100),
            healthy: Some(true),
            isolate: Some(false),
            ..Default::default()
        },
    }
}

impl TestInstance {
    /// An id instead of the one that follows from the address.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.message.id = Some(id.into());
        self
    }

    /// Its share of calls; 0 gets none.
    pub fn weight(mut self, weight: u32) -> Self {
        self.message.weight = Some(weight);
        self
    }

    /// What the server thinks of its health.
    pub fn healthy(mut self, healthy: bool) -> Self {
        self.message.healthy = Some(healthy);
        self
    }

    /// Taken out by a person.
    pub fn isolated(mut self, isolated: bool) -> Self {
        self.message.isolate = Some(isolated);
        self
    }

    /// One more label.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.message.metadata.insert(key.into(), value.into());
        self
    }

    /// No label of this key.
    pub fn without_metadata(mut self, key: &str) -> Self {
        self.message.metadata.remove(key);
        self
    }

    /// Where it runs.
    pub fn location(mut self, location: &Location) -> Self {
        let level = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        self.message.location = Some(v1::Location {
            region: level(&location.region),
            zone: level(&location.zone),
            campus: level(&location.campus),
        });
        self
    }

    /// What it speaks, such as `grpc`.
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.message.protocol = Some(protocol.into());
        self
    }

    /// Its version.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.message.version = Some(version.into());
        self
    }

    /// It has to beat every `seconds`, or is found unhealthy.
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.message.health_check = Some(super::naming::heartbeat(seconds));
        self.message.enable_health_check = Some(true);
        self
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> InstanceAddr {
        let port = self.message.port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        InstanceAddr::new(self.message.host.clone().unwrap_or_default(), port)
    }

    /// Its id; empty before it is set on a server, unless it was given one.
    #[must_use]
    pub fn get_id(&self) -> &str {
        self.message.id.as_deref().unwrap_or_default()
    }

    /// Its weight.
    #[must_use]
    pub fn get_weight(&self) -> u32 {
        self.message.weight.unwrap_or_default()
    }

    /// Whether the server thinks it healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.message.healthy.unwrap_or(true)
    }

    /// Whether it is taken out.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.message.isolate.unwrap_or_default()
    }

    /// The label of this key.
    #[must_use]
    pub fn get_metadata(&self, key: &str) -> Option<&str> {
        self.message.metadata.get(key).map(String::as_str)
    }
}
