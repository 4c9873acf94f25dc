//! Rules, as the console takes them.
//!
//! A rule is given in the console's own field names, checked against the table of the message, and kept as the bytes
//! that are delivered. Which service it is for is read from the same names.

use prost::Message as _;
use serde_json::{Map, Value, json};

use super::behaviour::Release;
use super::limit_rule;
use super::routing::RoutingRule;
use super::routing_check::{self, Refused, is_old, is_route, old_service};
use super::sha1;
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::pb::schema::{self, Field, Message};
use crate::pb::v1;
use crate::wire::json;

/// The message of a routing rule in the old form.
const OLD: &str = "v1.Routing";

/// A rule in force.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) bytes: Vec<u8>,
    pub(super) revision: String,
    pub(super) created: Created,
    /// What clients are told of a rule of kind `Routing` follows from this.
    pub(super) routing: Option<RoutingRule>,
    table: &'static Message,
    /// Clients are not told of it.
    hidden: bool,
    /// Namespace and service of those it is for; `*` is any.
    targets: Vec<(String, String)>,
}

/// When a rule first came, in the server's writing and in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Created {
    pub(super) time: String,
    pub(super) number: u64,
}

/// What of a control plane decides how it takes a rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub(super) release: Release,
    /// Keeps fields that the store of public servers drops.
    pub(super) whole: bool,
}

/// What the control plane writes into a rule.
#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) id: String,
    pub(super) revision: String,
    pub(super) time: String,
    pub(super) created: Created,
    pub(super) dialect: Dialect,
}

impl Stamp {
    /// For a rule that is only read to see whether it can be.
    pub(super) fn trial(dialect: Dialect) -> Self {
        let (id, revision, time) = Default::default();
        Self { id, revision, time, created: Created::default(), dialect }
    }
}

// === impl Rule ===

impl Rule {
    /// Reads a rule of this kind; its id, revision and times are those of `stamp`.
    pub(super) fn read(kind: ResourceKind, rule: &Value, stamp: Stamp) -> Result<Self> {
        let rule = routing_check::completed(kind, rule);
        let table = table(kind, &rule)?;
        let bytes = json::to_bytes(table, &rule).map_err(|error| invalid(kind, &error))?;
        // Written again in one spelling, so that the rest need not know both.
        let mut rule = json::render(table, &bytes).map_err(|error| invalid(kind, &error))?;
        if let Some(object) = rule.as_object_mut() {
            if !stamp.dialect.whole {
                keep_what_a_store_keeps(kind, object);
            }
            if kind == ResourceKind::RateLimit {
                limit_rule::keep(object, stamp.dialect);
            }
            write(&stamp, kind, table, object);
        }
        // Servers keep nearby rules for clients only while they are enabled; of other kinds, disabled ones are told.
        let hidden = kind == ResourceKind::NearbyRoute && rule.get("enable") != Some(&json!(true));
        let targets = targets(kind, &rule);
        let bytes = json::to_bytes(table, &rule).map_err(|error| invalid(kind, &error))?;
        if kind == ResourceKind::RateLimit {
            let rule = v1::Rule::decode(bytes.as_slice()).map_err(|error| invalid(kind, &error))?;
            limit_rule::check(&rule).map_err(|why| refused(kind, &why))?;
        }
        let routing = routing(kind, table, &rule, &bytes, &stamp)?;
        let bytes = routing.as_ref().map_or(bytes, RoutingRule::encoded);
        Ok(Self { bytes, revision: stamp.revision, created: stamp.created, routing, table, hidden, targets })
    }

    /// Whether a client that asks for the rules of `key` gets this one.
    pub(super) fn is_for(&self, key: &ServiceKey) -> bool {
        let any = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        let named =
            |(namespace, service): &(String, String)| any(namespace, key.namespace()) && any(service, key.service());
        !self.hidden && self.targets.iter().any(named)
    }

    pub(super) fn json(&self) -> Value {
        // The bytes were written by the same table.
        json::render(self.table, &self.bytes).unwrap_or_default()
    }

    /// The rule with these fields instead of its own.
    pub(super) fn with(&self, kind: ResourceKind, fields: &Value) -> Result<Value> {
        let fields = fields
            .as_object()
            .ok_or_else(|| invalid(kind, &format_args!("(root): expected an object of fields, found {fields}")))?;
        let mut rule = self.json();
        let Some(object) = rule.as_object_mut() else { return Ok(rule) };
        if self.table.name == OLD {
            // What tells the old form is there, even when it is empty.
            object.entry("inbounds").or_insert_with(|| json!([]));
        }
        for (name, value) in fields {
            let name = self.field(name).map_or(name.as_str(), |field| field.json);
            object.insert(name.to_owned(), value.clone());
        }
        Ok(rule)
    }

    /// The rule switched on or off.
    pub(super) fn switched(&self, kind: ResourceKind, on: bool) -> Result<Value> {
        let fields = if self.field("enable").is_some() {
            json!({ "enable": on })
        } else if self.field("disable").is_some() {
            json!({ "disable": !on })
        } else {
            let text = format!("a rule of kind {kind:?} cannot be switched: {} has no field for it", self.table.name);
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        };
        self.with(kind, &fields)
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.table.fields.iter().find(|field| field.json == name || field.name == name)
    }
}

/// The id that a rule has by itself: the one that it names, or the one of its service.
pub(super) fn id_of(kind: ResourceKind, rule: &Value) -> Option<String> {
    if is_old(kind, rule) {
        return old_service(rule).map(|(namespace, service)| sha1::hex(["routes", "##", namespace, "##", service]));
    }
    rule.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned)
}

fn invalid(kind: ResourceKind, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidRule, format!("a rule of kind {kind:?}: {error}"))
}

fn refused(kind: ResourceKind, refused: &Refused) -> Error {
    match refused {
        Refused::Malformed { .. } => invalid(kind, refused),
        Refused::ByConsole { code, .. } => {
            Error::from_code(ServerCode::new(*code), format!("a rule of kind {kind:?}: {refused}"))
        }
    }
}

fn table(kind: ResourceKind, rule: &Value) -> Result<&'static Message> {
    let name = match kind {
        ResourceKind::Routing if is_old(kind, rule) => OLD,
        ResourceKind::Routing | ResourceKind::CustomRoute | ResourceKind::NearbyRoute => "v1.RouteRule",
        ResourceKind::RateLimit => "v1.Rule",
        ResourceKind::CircuitBreaker => "v1.CircuitBreakerRule",
        ResourceKind::FaultDetector => "v1.FaultDetectRule",
        ResourceKind::Lane => "v1.LaneGroup",
        ResourceKind::Lossless => "v1.LosslessRule",
        ResourceKind::BlockAllow => "v1.BlockAllowListRule",
        ResourceKind::TrafficMirroring => "v1.TrafficMirroring",
        ResourceKind::FaultInjection => "v1.FaultInjection",
        ResourceKind::Instances | ResourceKind::Services => {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{kind:?} is not a kind of rule")));
        }
    };
    schema::find(name).ok_or_else(|| Error::new(ErrorKind::Internal, format!("no table of {name}")))
}

/// Checks a rule of routing; what clients are told of one of kind `Routing` follows from what is answered.
fn routing(
    kind: ResourceKind,
    table: &Message,
    rule: &Value,
    bytes: &[u8],
    stamp: &Stamp,
) -> Result<Option<RoutingRule>> {
    if !is_route(kind) {
        return Ok(None);
    }
    if table.name == OLD {
        let missing = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default().is_empty();
        if let Some(name) = ["namespace", "service"].into_iter().find(|name| missing(name)) {
            return Err(invalid(kind, &format_args!("{name}: missing: routes are those of one service")));
        }
        if rule.get("rules").is_some() {
            return Err(invalid(kind, &"rules: these are set one by one, not among inbounds and outbounds"));
        }
        let old = v1::Routing::decode(bytes).map_err(|error| invalid(kind, &error))?;
        return Ok(Some(RoutingRule::Old(Box::new(old))));
    }
    let message = v1::RouteRule::decode(bytes).map_err(|error| invalid(kind, &error))?;
    routing_check::check(kind, stamp.dialect.release, &message).map_err(|why| refused(kind, &why))?;
    let rule = || RoutingRule::console(message, stamp.created.number).map_err(|error| invalid(kind, &error));
    (kind == ResourceKind::Routing).then(rule).transpose()
}

/// Writes what the control plane decides.
fn write(stamp: &Stamp, kind: ResourceKind, table: &Message, rule: &mut Map<String, Value>) {
    let has = |name: &str| table.fields.iter().any(|field| field.name == name);
    let on = is_route(kind) && rule.get("enable") == Some(&json!(true));
    let written =
        [("id", &stamp.id), ("revision", &stamp.revision), ("ctime", &stamp.created.time), ("mtime", &stamp.time)];
    for (name, value) in written.into_iter().chain(on.then_some(("etime", &stamp.time))).filter(|(name, _)| has(name)) {
        rule.insert(name.to_owned(), json!(value));
    }
}

/// Public servers lose some fields of a rule.
fn keep_what_a_store_keeps(kind: ResourceKind, rule: &mut Map<String, Value>) {
    let lost: &[&str] = match kind {
        ResourceKind::CircuitBreaker => &["block_configs", "priority", "metadata", "metadata_1_5"],
        ResourceKind::FaultDetector => &["priority", "metadata"],
        ResourceKind::Routing => &["extendInfo", "metadata"],
        _ => &[],
    };
    rule.retain(|name, _| !lost.contains(&name.as_str()));
}

/// The services that a rule names where it says for whom it is.
fn targets(kind: ResourceKind, rule: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    match kind {
        ResourceKind::CircuitBreaker => at(rule, &["ruleMatcher", "destination"], &mut found),
        ResourceKind::FaultDetector => at(rule, &["targetService"], &mut found),
        ResourceKind::Routing | ResourceKind::CustomRoute | ResourceKind::NearbyRoute => {
            at(rule, &["routing_config"], &mut found);
        }
        // The cluster of its limiter is no service that it is for.
        ResourceKind::RateLimit => found.extend(rule.as_object().and_then(named)),
        _ => collect(rule, &mut found),
    }
    found
}

fn at(rule: &Value, path: &[&str], found: &mut Vec<(String, String)>) {
    if let Some(inner) = path.iter().try_fold(rule, |value, name| value.get(name)) {
        collect(inner, found);
    }
}

fn collect(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            found.extend(named(object));
            object.values().for_each(|value| collect(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn named(object: &Map<String, Value>) -> Option<(String, String)> {
    let text = |name| object.get(name).and_then(Value::as_str);
    Some((text("namespace")?.to_owned(), text("service")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let (id, revision, time) = ("r1".to_owned(), "v1".to_owned(), "2026-11-21 00:00:00".to_owned());
        Stamp { id, revision, time, ..Stamp::trial(Dialect { release: Release::Main, whole: false }) }
    }

    #[test]
    fn a_rule_is_for_the_services_it_names_and_wildcards_count() {
        let breaker = json!({"name": "b", "rule_matcher": {
            "source": {"namespace": "shop", "service": "web"}, "destination": {"namespace": "shop", "service": "*"}}});
        let rule = Rule::read(ResourceKind::CircuitBreaker, &breaker, stamp()).unwrap();
        assert!(rule.is_for(&ServiceKey::new("shop", "orders")));
        assert!(!rule.is_for(&ServiceKey::new("edge", "orders")));
        let route = json!({"name": "r", "enable": true, "routing_policy": "RulePolicy", "routing_config": {
            "@type": "type.googleapis.com/v1.RuleRoutingConfig", "rules": [{
                "sources": [{"namespace": "shop", "service": "web"}],
                "destinations": [{"namespace": "shop", "service": "orders"}]}]}});
        let rule = Rule::read(ResourceKind::Routing, &route, stamp()).unwrap();
        assert!(rule.is_for(&ServiceKey::new("shop", "orders")) && rule.is_for(&ServiceKey::new("shop", "web")));
        assert!(!rule.is_for(&ServiceKey::new("shop", "stock")));
    }

    #[test]
    fn what_public_servers_lose_is_lost_unless_it_is_to_be_kept() {
        let limit = json!({"concurrencyAmount": {"maxAmount": 3}, "arguments": [
            {"type": "HEADER", "key": "h", "value": {"value": "x"}}, {"key": "c", "value": {"value": "1"}}]});
        let read = |whole| {
            let rule = Rule::read(
                ResourceKind::RateLimit,
                &limit,
                Stamp { dialect: Dialect { release: Release::Main, whole }, ..stamp() },
            )
            .unwrap();
            v1::Rule::decode(rule.bytes.as_slice()).unwrap()
        };
        let stored = read(false);
        assert_eq!(stored.labels.keys().collect::<Vec<_>>(), ["$header.h", "c"]);
        assert_eq!((stored.concurrency_amount, stored.action.as_deref()), (None, Some("REJECT")));
        assert!(read(true).concurrency_amount.is_some());
    }

    #[test]
    fn a_field_that_nobody_knows_is_named() {
        let error = Rule::read(ResourceKind::RateLimit, &json!({"amounts": [{"maxamount": 1}]}), stamp()).unwrap_err();
        assert!(error.to_string().contains("amounts[0].maxamount"), "{error}");
        assert!(Rule::read(ResourceKind::Instances, &json!({}), stamp()).is_err());
    }
}
