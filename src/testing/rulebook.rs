//! The rules of a control plane, as a person at its console sets, changes and takes them away.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::Value;
use tokio::time::Instant;

use super::rules::{Created, Rule, Stamp, id_of};
use super::server::Server;
use super::store::State;
use crate::error::{Error, ErrorKind, Result};
use crate::model::key::ResourceKind;

/// Rules. Every change is in force at once, or after the visibility delay.
///
/// A rule is JSON or YAML text in the console's own field names, or a JSON value. What is delivered follows from it as
/// on a real server of the [`Release`](super::Release):
///
/// - A rule of kind `Routing` reaches clients as inbound routes of the callee and outbound routes of the caller, or as it
///   is, see [`Server::routing_form`]; a disabled one does not reach them. Its `routing_config` needs no `@type` here.
/// - A rule of kind `Routing` that has `inbounds` or `outbounds` is in the old form: the routes of the one `service` and
///   `namespace` that it names, delivered as they are. Public servers since 1.16 keep such rules and deliver them no
///   more; this one does whatever its release is.
/// - A rule of kind `RateLimit` reaches clients also while it is disabled, with its arguments mirrored as labels. Its
///   report, subset, cluster, concurrency limit and custom response are lost, unless [`Server::newer_kinds`] is on.
/// - Rules of the kinds that only newer servers have are told when [`Server::newer_kinds`] is on.
///
/// ```
/// use polarismesh::testing::Server;
/// use polarismesh::{ErrorKind, RuleKind};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), polarismesh::Error> {
/// let server = Server::in_memory();
/// let canary = server.rule(
///     RuleKind::Routing,
///     "
///     name: canary
///     enable: true
///     routing_config:
///       rules:
///         - name: testers
///           sources:
///             - namespace: default
///               service: shop
///               arguments: [{type: HEADER, key: user, value: {type: IN, value: 'ann,bob'}}]
///           destinations:
///             - {namespace: default, service: payments, name: new, weight: 100, labels: {env: {value: canary}}}
///     ",
/// )?;
/// server.change_rule(RuleKind::Routing, &canary, "priority: 3")?;
/// server.enable_rule(RuleKind::Routing, &canary, false)?;
/// assert!(server.rules(RuleKind::Routing)[&canary].contains(r#""priority":3"#));
/// assert!(server.remove_rule(RuleKind::Routing, &canary));
///
/// let refused = server.rule(RuleKind::Routing, "{name: last, priority: 11, routing_config: {}}").unwrap_err();
/// assert_eq!(refused.server_code().map(|code| code.get()), Some(400_703));
/// let misspelt = server.rule(RuleKind::RateLimit, "{amounts: [{maxamount: 1}]}").unwrap_err();
/// assert_eq!(misspelt.kind(), ErrorKind::InvalidRule);
/// assert!(misspelt.to_string().contains("amounts[0].maxamount"));
/// # Ok(())
/// # }
/// ```
impl Server {
    /// Puts a rule in force; its id. A rule that names an id replaces the one of that id, and one in the old form that of
    /// its service. Of the ids that are made up here, a later one is the greater, so that routing rules of equal
    /// priority come in the order in which they were set.
    ///
    /// # Errors
    ///
    /// `InvalidRule` if the text is no such rule; names the place and what would be right. `InvalidArgument`, with the
    /// [`server_code`](Error::server_code), if it is one and a console of this release refuses it.
    pub fn rule(&self, kind: impl Into<ResourceKind>, rule: impl Display) -> Result<String> {
        let rule = super::data::value(&rule.to_string())?;
        let kind = kind.into();
        self.node.store.with(|state, now| {
            let id = id_of(kind, &rule).unwrap_or_else(|| state.ascending());
            state.put_rule(kind, id, &rule, now)
        })
    }

    /// Gives a rule these fields instead of its own of the same names; null takes a field away. It gets a new revision,
    /// also if nothing is different then.
    ///
    /// # Errors
    ///
    /// As [`Server::rule`], and `NotFound` if there is no such rule.
    pub fn change_rule(&self, kind: impl Into<ResourceKind>, id: &str, fields: impl Display) -> Result<()> {
        let fields = super::data::value(&fields.to_string())?;
        let kind = kind.into();
        self.node.store.with(|state, now| {
            let changed = state.stored_rule(kind, id)?.with(kind, &fields)?;
            state.put_rule(kind, id.to_owned(), &changed, now).map(drop)
        })
    }

    /// Switches a rule on or off.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such rule, `InvalidArgument` if rules of this kind or form cannot be switched.
    pub fn enable_rule(&self, kind: impl Into<ResourceKind>, id: &str, on: bool) -> Result<()> {
        let kind = kind.into();
        self.node.store.with(|state, now| {
            let changed = state.stored_rule(kind, id)?.switched(kind, on)?;
            state.put_rule(kind, id.to_owned(), &changed, now).map(drop)
        })
    }

    /// Takes a rule away; whether there was one.
    pub fn remove_rule(&self, kind: impl Into<ResourceKind>, id: &str) -> bool {
        let kind = kind.into();
        self.node.store.with(|state, now| {
            let at = state.visible_at(now);
            state.rules.remove(&(kind, id.to_owned()), at)
        })
    }

    /// The rules of a kind as JSON, by id, as they are stored: also those that clients are not told of yet, or at all.
    #[must_use]
    pub fn rules(&self, kind: impl Into<ResourceKind>) -> BTreeMap<String, String> {
        let kind = kind.into();
        self.node.store.read(|state, _| {
            let all = state.rules.stored().range((kind, String::new())..);
            let of_kind = all.take_while(|((of, _), _)| *of == kind);
            of_kind.map(|((_, id), rule)| (id.clone(), rule.json().to_string())).collect()
        })
    }
}

impl State {
    /// Stores a rule under this id; the id.
    pub(super) fn put_rule(&mut self, kind: ResourceKind, id: String, rule: &Value, now: Instant) -> Result<String> {
        let stamp = self.stamp(kind, &id, now);
        let rule = Rule::read(kind, rule, stamp)?;
        let at = self.visible_at(now);
        self.rules.put((kind, id.clone()), rule, at);
        Ok(id)
    }

    fn stored_rule(&self, kind: ResourceKind, id: &str) -> Result<&Rule> {
        let found = self.rules.stored().get(&(kind, id.to_owned()));
        found
            .map(|rule| &**rule)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no rule {id:?} of kind {kind:?}")))
    }

    fn stamp(&mut self, kind: ResourceKind, id: &str, now: Instant) -> Stamp {
        let time = self.timestamp(now);
        let before = self.rules.stored().get(&(kind, id.to_owned())).map(|rule| rule.created.clone());
        let created = before.unwrap_or_else(|| Created { time: time.clone(), number: self.count() });
        let (id, revision, dialect) = (id.to_owned(), self.revision(), self.behaviour.dialect());
        Stamp { id, revision, time, created, dialect }
    }
}
