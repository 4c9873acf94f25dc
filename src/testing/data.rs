//! The data file of a control plane that runs by itself.
//!
//! It holds what a person would set at the console, in the console's own field names, and nothing else: an unknown or
//! misspelt name is an error that says where. What clients register beside it is not touched when it changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use prost::{Message, Name};
use serde_json::Value;
use tokio::time::Instant;

use super::edit::owned;
use super::rules::{Dialect, Rule, Stamp, id_of};
use super::sha1;
use super::store::{InstanceKey, ServiceRow, State};
use crate::error::{Error, ErrorKind, Result};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::pb::{schema, v1};
use crate::wire::json;

const RULES: [(&str, ResourceKind); 5] = [
    ("routings", ResourceKind::Routing),
    ("nearbyroutings", ResourceKind::NearbyRoute),
    ("ratelimits", ResourceKind::RateLimit),
    ("circuitbreakers", ResourceKind::CircuitBreaker),
    ("faultdetectors", ResourceKind::FaultDetector),
];
const SECTIONS: &str = "namespaces, services, aliases, instances, locations, routings, nearbyroutings, ratelimits, \
                        circuitbreakers, faultdetectors";

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Data {
    namespaces: BTreeMap<String, v1::Namespace>,
    services: BTreeMap<ServiceKey, (v1::Service, Option<ServiceKey>)>,
    instances: BTreeMap<InstanceKey, v1::Instance>,
    locations: BTreeMap<String, v1::Location>,
    rules: BTreeMap<(ResourceKind, String), Value>,
    problems: Vec<String>,
}

/// JSON or YAML text as a value.
pub(super) fn value(text: &str) -> Result<Value> {
    serde_yaml::from_str(text)
        .map_err(|error| Error::new(ErrorKind::InvalidRule, format!("neither JSON nor YAML: {error}")))
}

/// What tells one state of a file from another.
pub(super) fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

// === impl Data ===

impl Data {
    pub(super) fn read(path: &Path, dialect: Dialect) -> Result<Self> {
        let place = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::InvalidConfig, format!("cannot read the data file {place}: {error}"))
                .with_source(error)
        })?;
        Self::parse(&text, dialect).map_err(|problems| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("the data file {place} cannot be used: {}", problems.join("; ")),
            )
        })
    }

    /// What the text says, or all that is wrong with it.
    fn parse(text: &str, dialect: Dialect) -> Result<Self, Vec<String>> {
        let root: Value = serde_yaml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut data = Self::default();
        match &root {
            Value::Null => {}
            Value::Object(sections) => sections.iter().for_each(|(name, section)| data.section(name, section, dialect)),
            other => data.problems.push(format!("expected a map of sections ({SECTIONS}), found {other}")),
        }
        if data.problems.is_empty() { Ok(data) } else { Err(data.problems) }
    }

    fn section(&mut self, name: &str, section: &Value, dialect: Dialect) {
        if section.is_null() {
            return;
        }
        if name == "locations" {
            return self.take_locations(section);
        }
        let kind = RULES.iter().find(|(section, _)| *section == name).map(|(_, kind)| *kind);
        if kind.is_none() && !["namespaces", "services", "aliases", "instances"].contains(&name) {
            return self.problems.push(format!("{name}: no such section, expected one of {SECTIONS}"));
        }
        let Some(items) = section.as_array() else {
            return self.problems.push(format!("{name}: expected a list, found {section}"));
        };
        for (index, item) in items.iter().enumerate() {
            let at = format!("{name}[{index}]");
            let taken = match (name, kind) {
                (_, Some(kind)) => self.take_rule(&at, kind, item, dialect),
                ("namespaces", _) => self.take_namespace(&at, item),
                ("services", _) => self.take_service(&at, item),
                ("aliases", _) => self.take_alias(&at, item),
                _ => self.take_instance(&at, item),
            };
            self.problems.extend(taken.err());
        }
    }

    fn take_locations(&mut self, section: &Value) {
        let Some(hosts) = section.as_object() else {
            return self.problems.push(format!("locations: expected a map from host to location, found {section}"));
        };
        for (host, item) in hosts {
            match message(&format!("locations.{host}"), item) {
                Ok(location) => drop(self.locations.insert(host.clone(), location)),
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    fn take_namespace(&mut self, at: &str, item: &Value) -> Result<(), String> {
        let namespace: v1::Namespace = message(at, item)?;
        let name = needed(at, "name", namespace.name.as_ref())?;
        unique(at, &mut self.namespaces, name, namespace)
    }

    fn take_service(&mut self, at: &str, item: &Value) -> Result<(), String> {
        let service: v1::Service = message(at, item)?;
        let namespace = needed(at, "namespace", service.namespace.as_ref())?;
        let key = ServiceKey::new(namespace, needed(at, "name", service.name.as_ref())?);
        key.validate().map_err(|error| format!("{at}: {error}"))?;
        unique(at, &mut self.services, key, (service, None))
    }

    fn take_alias(&mut self, at: &str, item: &Value) -> Result<(), String> {
        const FIELDS: [&str; 4] = ["service", "namespace", "alias", "alias_namespace"];
        let object = item.as_object().ok_or_else(|| format!("{at}: expected a map, found {item}"))?;
        if let Some(unknown) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            return Err(format!("{at}.{unknown}: an alias has no such field, expected {}", FIELDS.join(", ")));
        }
        let text = |name: &str| {
            let text = object.get(name).and_then(Value::as_str).map(str::to_owned);
            needed(at, name, text.as_ref())
        };
        let source = ServiceKey::new(text("namespace")?, text("service")?);
        let alias = ServiceKey::new(text("alias_namespace")?, text("alias")?);
        unique(at, &mut self.services, alias, (v1::Service::default(), Some(source)))
    }

    fn take_instance(&mut self, at: &str, item: &Value) -> Result<(), String> {
        let instance: v1::Instance = message(at, item)?;
        let namespace = needed(at, "namespace", instance.namespace.as_ref())?;
        let service = ServiceKey::new(namespace, needed(at, "service", instance.service.as_ref())?);
        service.validate().map_err(|error| format!("{at}: {error}"))?;
        needed(at, "host", instance.host.as_ref())?;
        match instance.port {
            Some(0..=65_535) => {}
            Some(port) => return Err(format!("{at}.port: {port} is above 65535")),
            None => return Err(format!("{at}.port: missing")),
        }
        if instance.weight.is_some_and(|weight| weight > 65_535) {
            return Err(format!("{at}.weight: above 65535"));
        }
        let checked = instance.enable_health_check != Some(false);
        let message = v1::Instance {
            weight: instance.weight.or(Some(100)),
            healthy: instance.healthy.or(Some(true)),
            isolate: instance.isolate.or(Some(false)),
            health_check: instance.health_check.filter(|_| checked),
            ..instance
        };
        let (key, message) = owned(&service, message);
        unique(at, &mut self.instances, key, message)
    }

    fn take_rule(&mut self, at: &str, kind: ResourceKind, item: &Value, dialect: Dialect) -> Result<(), String> {
        Rule::read(kind, item, Stamp::trial(dialect)).map_err(|error| format!("{at}: {error}"))?;
        let name = item.get("name").and_then(Value::as_str).unwrap_or(at);
        let id = id_of(kind, item).unwrap_or_else(|| sha1::hex([format!("{kind:?}##{name}")]));
        unique(at, &mut self.rules, (kind, id), item.clone())
    }
}

fn message<M: Message + Default + Name>(at: &str, item: &Value) -> Result<M, String> {
    let table = schema::find(&M::full_name()).ok_or_else(|| format!("{at}: no table of {}", M::full_name()))?;
    let bytes = json::to_bytes(table, item).map_err(|error| format!("{at}.{error}"))?;
    M::decode(bytes.as_slice()).map_err(|error| format!("{at}: {error}"))
}

fn needed(at: &str, field: &str, text: Option<&String>) -> Result<String, String> {
    text.filter(|text| !text.is_empty()).cloned().ok_or_else(|| format!("{at}.{field}: missing"))
}

fn unique<K: Ord, V>(at: &str, rows: &mut BTreeMap<K, V>, key: K, row: V) -> Result<(), String> {
    if rows.insert(key, row).is_some() { Err(format!("{at}: stands in the file twice")) } else { Ok(()) }
}

// === impl State ===

impl State {
    /// Brings what the file said before to what it says now; what did not change keeps its revision.
    pub(super) fn apply(&mut self, before: &Data, data: &Data, now: Instant) {
        let at = self.visible_at(now);
        for key in before.instances.keys().filter(|key| !data.instances.contains_key(*key)) {
            self.instances.remove(key, at);
        }
        for key in before.services.keys().filter(|key| !data.services.contains_key(*key)) {
            self.services.remove(key, at);
        }
        for key in before.rules.keys().filter(|key| !data.rules.contains_key(*key)) {
            self.rules.remove(key, at);
        }
        for host in before.locations.keys() {
            self.locations.remove(host);
        }
        self.locations.extend(data.locations.clone());
        for (_, namespace) in changed(&before.namespaces, &data.namespaces) {
            self.put_namespace(namespace.clone(), now, at);
        }
        for (key, (message, alias_of)) in changed(&before.services, &data.services) {
            self.put_service(key, ServiceRow { message: message.clone(), alias_of: alias_of.clone() }, now);
        }
        for (key, message) in changed(&before.instances, &data.instances) {
            self.put_instance(key.clone(), message.clone(), false, now);
        }
        for ((kind, id), rule) in changed(&before.rules, &data.rules) {
            // It was read once to be checked, so it can be read again.
            drop(self.put_rule(*kind, id.clone(), rule, now));
        }
    }
}

/// The rows that are new or different.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    now.iter().filter(|(key, row)| before.get(key) != Some(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Release, Server};

    const GOOD: &str = "
namespaces: [{name: shop}]
services:
  - {namespace: shop, name: orders, metadata: {team: blue}}
aliases:
  - {namespace: shop, service: orders, alias: orders-alias, alias_namespace: edge}
instances:
  - {namespace: shop, service: orders, host: 10.0.0.1, port: 8080, weight: 50, enable_health_check: false}
  - {namespace: shop, service: stock, host: 10.0.0.2, port: 9090, healthy: false,
     health_check: {type: HEARTBEAT, heartbeat: {ttl: 5}}}
locations:
  10.0.0.1: {region: south}
ratelimits:
  - {name: l1, namespace: shop, service: orders, amounts: [{maxAmount: 10, validDuration: 1s}]}
";

    const DIALECT: Dialect = Dialect { release: Release::Main, whole: false };

    #[test]
    fn every_problem_is_named_with_its_place() {
        for (text, expected) in [
            ("services: 3", "services: expected a list, found 3"),
            ("servces: []", "servces: no such section, expected one of namespaces, services"),
            ("- a", "expected a map of sections"),
            ("instances: [{namespace: a, service: b, host: h}]", "instances[0].port: missing"),
            ("instances: [{namespace: a, service: b, port: 1}]", "instances[0].host: missing"),
            (
                "instances: [{namespace: a, service: b, host: h, port: 70000}]",
                "instances[0].port: 70000 is above 65535",
            ),
            ("instances: [{namespace: a, service: b, host: h, port: 1, wieght: 1}]", "instances[0].wieght"),
            ("instances: [{namespace: a, service: b, host: h, port: x}]", "instances[0].port"),
            ("services: [{namespace: a, name: 'b c'}]", "services[0]"),
            ("services: [{namespace: a}]", "services[0].name: missing"),
            ("services: [{namespace: a, name: b}, {namespace: a, name: b}]", "services[1]: stands in the file twice"),
            ("aliases: [{namespace: a, service: b, alias: c}]", "aliases[0].alias_namespace: missing"),
            ("aliases: [{target: a}]", "aliases[0].target"),
            ("locations: {h: {county: x}}", "locations.h.county"),
            ("ratelimits: [{amount: 1}]", "ratelimits[0]"),
            ("a: [", "at line 2"),
        ] {
            let problems = Data::parse(text, DIALECT).unwrap_err().join("; ");
            assert!(problems.contains(expected), "{text}: {problems}");
        }
        let both = Data::parse("instances: [{}, {}]\nx: 1", DIALECT).unwrap_err();
        assert_eq!(both.len(), 3, "{both:?}");
        assert!(Data::parse("", DIALECT).is_ok() && Data::parse("services:", DIALECT).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_sets_what_it_says_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let server = Server::in_memory();
        server.service(("shop", "orders")).instance(crate::testing::instance("10.9.9.9", 1));
        server.load(&path).unwrap();
        let orders = server.instances(("shop", "orders"));
        assert_eq!(orders.len(), 2);
        let set = orders.iter().find(|instance| instance.addr().port() == 8080).unwrap();
        assert_eq!((set.get_weight(), set.is_healthy()), (50, true));
        assert!(!server.instances(("shop", "stock"))[0].is_healthy());
        let error = server.load(directory.path().join("none.yaml")).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidConfig && error.to_string().contains("none.yaml"), "{error}");
    }

    #[tokio::test]
    async fn a_followed_file_counts_when_it_changes_and_not_when_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.yaml");
        let write = |text: &str| crate::util::fs::replace(&path, text.as_bytes()).unwrap();
        write(GOOD);
        let server = Server::in_memory();
        server.follow(&path).unwrap();
        let orders = |server: &Server| server.instances(("shop", "orders"));
        let kept = orders(&server)[0].clone();
        write("instances: [{");
        let more =
            GOOD.replace("locations:", "  - {namespace: shop, service: orders, host: 10.0.0.3, port: 1}\nlocations:");
        write(&more);
        server.wait_until(|server| orders(server).len() == 2).await.unwrap();
        assert!(orders(&server).contains(&kept), "what did not change keeps its revision");
        write("services: [{namespace: shop, name: orders}]");
        server.wait_until(|server| orders(server).is_empty()).await.unwrap();
        server.shutdown().await;
    }
}
