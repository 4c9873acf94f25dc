//! Routing by rules: the rule that a call meets says which instances it may go to.
//!
//! The callee's rules are tried first, and the caller's only if none of the callee's matches. Of the rule that matches,
//! the destinations of the smallest priority number that has instances share the calls by weight; a rule whose
//! destinations have none lets the next one try. Calls that no rule matches go anywhere, and those that only such rules
//! match go where the fail-over says.
//!
//! Order of the sides and of priorities, and the meaning of weights and isolation, are those of the official SDKs, where
//! they agree; a caller's rule that is about other callees only is none here, so it cannot fail a call that it does not
//! concern.

use std::fmt;
use std::sync::Arc;

use crate::config::PluginOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::model::candidates::Values;
use crate::model::label::{LabelKey, LabelKind};
use crate::model::matcher::{Condition, Matcher, ValueSource};
use crate::model::request::asks::RuleFailover;
use crate::model::subset::Subset;
use crate::model::variables::Variables;
use crate::routing::groups::{Groups, Outcome, Share, destinations};
use crate::routing::matching::{Applicable, Matching};
use crate::routing::memo::write_text;
use crate::routing::router::{RouteRequest, Routed, ServiceRouter};
use crate::routing::surroundings::Surroundings;
use crate::routing::switch::{Alternative, Choice, Resolved, Switch, Ways};
use crate::util::draw::level;

/// By which a service says what its calls fail over to.
const FAILOVER_KEY: &str = "internal-rule-based-failover-type";

const FAILOVERS: &[(&str, RuleFailover)] = &[("all", RuleFailover::All), ("none", RuleFailover::None)];

/// The router `ruleBasedRouter`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuleBased {
    failover: RuleFailover,
}

/// Chooses by rules.
struct RuleSwitch {
    matching: Arc<Matching>,
    /// What comes of each rule.
    outcomes: Box<[Outcome]>,
    failover: RuleFailover,
    refused: Error,
    variables: Arc<Variables>,
}

/// Chooses among the destinations of a rule that asked the call for something.
#[derive(Debug)]
struct Among {
    rule: Arc<[String]>,
    shares: Arc<[Share]>,
}

/// Where a walk through the rules ends.
enum Met<'s> {
    /// Nobody's.
    No,
    /// Rules that have nothing for the call.
    InVain,
    Rule {
        number: usize,
        outcome: &'s Outcome,
    },
}

impl RuleBased {
    /// Option `failoverType`: `all` (the default) or `none`.
    ///
    /// # Errors
    /// `InvalidConfig` for anything else.
    pub(crate) fn from_options(options: &PluginOptions) -> Result<Self> {
        Ok(Self { failover: options.one_of("failoverType", FAILOVERS)?.unwrap_or(RuleFailover::All) })
    }
}

impl ServiceRouter for RuleBased {
    fn compile(&self, subset: &Subset, surroundings: &Surroundings) -> Result<Routed> {
        let matching = &surroundings.matching;
        if matching.is_empty() {
            return Ok(Routed::alike(subset.clone()).because("there are no rules between caller and callee"));
        }
        let mut groups = Groups::new(subset);
        let outcomes = matching.rules.iter().map(|rule| groups.ahead(rule)).collect();
        let service = subset.snapshot();
        let said = service.metadata().get(FAILOVER_KEY).and_then(failover_of);
        let refused =
            Error::new(ErrorKind::RouteMismatch, "rules match, and none of their destinations has an instance");
        let switch = RuleSwitch {
            matching: Arc::clone(matching),
            outcomes,
            failover: said.unwrap_or(self.failover),
            refused: refused.with_service(service.key().text()),
            variables: Arc::clone(&surroundings.variables),
        };
        Ok(Routed::by(Arc::new(switch), groups.branches.into_iter().map(Ok).collect()))
    }
}

impl RuleSwitch {
    #[inline]
    fn meet(&self, values: &mut Values<'_>, passed: Option<u32>, mut in_vain: impl FnMut(usize)) -> Met<'_> {
        let passed = passed.and_then(|number| Some((number as usize, self.rule(number as usize)?)));
        let mut from = passed.map_or(0, |(_, rule)| rule.after);
        let mut side = passed.map(|(_, rule)| rule.outbound);
        while let Some(number) = self.matching.next(values, from) {
            let (Some(rule), Some(outcome)) = (self.rule(number), self.outcomes.get(number)) else { break };
            // Once a rule of the callee matched, the caller's have no say.
            if rule.outbound && side == Some(false) {
                break;
            }
            if *outcome != Outcome::Nothing {
                return Met::Rule { number, outcome };
            }
            in_vain(number);
            side = Some(rule.outbound);
            from = rule.after;
        }
        if side.is_some() { Met::InVain } else { Met::No }
    }

    #[inline]
    fn rule(&self, number: usize) -> Option<&Applicable> {
        self.matching.rules.get(number)
    }

    fn fail_over(&self, request: &RouteRequest<'_>) -> Result<Choice> {
        match request.pick.asks.rule_failover().unwrap_or(self.failover) {
            RuleFailover::All => Ok(Choice::Branch(0)),
            RuleFailover::None => Err(self.refused.clone()),
        }
    }

    /// What a condition of a destination compares with: what the call says, in place of a name.
    fn matcher(&self, condition: &Condition, request: &RouteRequest<'_>) -> Option<Matcher> {
        match condition.source {
            ValueSource::Text => condition.text().cloned(),
            ValueSource::Parameter | ValueSource::Variable => {
                condition.with_value(&self.looked_up(condition, request)?).ok()
            }
        }
    }

    fn looked_up(&self, condition: &Condition, request: &RouteRequest<'_>) -> Option<String> {
        let name = condition.name();
        match condition.source {
            ValueSource::Text => None,
            ValueSource::Parameter => {
                let label = LabelKey::from_flat(name);
                request.label(label.kind, &label.key).map(std::borrow::Cow::into_owned)
            }
            ValueSource::Variable => {
                let given = request.label(LabelKind::Variable, name).map(std::borrow::Cow::into_owned);
                given.or_else(|| self.variables.get(name))
            }
        }
    }
}

impl Switch for RuleSwitch {
    #[inline]
    fn choose(&self, request: &RouteRequest<'_>, passed: Option<u32>) -> Result<Choice> {
        match self.meet(&mut Values::new(request.pick.labels), passed, |_| {}) {
            Met::No => Ok(Choice::Branch(0)),
            Met::InVain => self.fail_over(request),
            Met::Rule { outcome: Outcome::Among(shares), .. } => Ok(draw(shares, request.entropy())),
            #[allow(clippy::cast_possible_truncation, reason = "as many rules do not fit in a message")]
            Met::Rule { number, .. } => Ok(Choice::Late(number as u32)),
        }
    }

    fn write_key(&self, token: u32, request: &RouteRequest<'_>, part: &mut dyn FnMut(&[u8])) {
        let Some(rule) = self.rule(token as usize) else { return };
        for (_, to) in destinations(rule) {
            for (_, condition) in &to.labels {
                match condition.source {
                    ValueSource::Text => {}
                    ValueSource::Parameter => {
                        let label = LabelKey::from_flat(condition.name());
                        write_text(request.label(label.kind, &label.key).as_deref(), part);
                    }
                    // Without the request's own, it is the same for all.
                    ValueSource::Variable => {
                        write_text(request.label(LabelKind::Variable, condition.name()).as_deref(), part);
                    }
                }
            }
        }
    }

    fn resolve(&self, token: u32, request: &RouteRequest<'_>, given: &Subset, _: &Surroundings) -> Result<Resolved> {
        let Some(rule) = self.rule(token as usize) else { return Ok(Resolved::PassOn) };
        let mut groups = Groups::new(given);
        let outcome = groups.outcome(rule, |condition| self.matcher(condition, request));
        let Outcome::Among(shares) = outcome else { return Ok(Resolved::PassOn) };
        let names = shares.iter().map(|share| share_name(rule, share)).collect();
        let branches = groups.branches.into_iter().map(Ok).collect();
        Ok(Resolved::To(Routed::by(Arc::new(Among { rule: names, shares }), branches)))
    }

    fn ways(&self, request: &RouteRequest<'_>, passed: Option<u32>) -> Ways {
        let mut values = Values::new(request.pick.labels);
        let mut why = Vec::new();
        let from = passed.and_then(|number| self.rule(number as usize)).map_or(0, |rule| rule.after);
        let mut empty = Vec::new();
        let met = self.meet(&mut values, passed, |number| empty.push(number));
        let until = if let Met::Rule { number, .. } = met { number } else { self.matching.rules.len() };
        for (number, rule) in self.matching.rules.iter().enumerate().take(until) {
            if rule.after <= from {
                continue;
            }
            let name = title(rule);
            if empty.contains(&number) {
                why.push(format!("{name} matches, and its destinations have no instance"));
            } else {
                let misses = self.matching.misses(number, &mut values).join("; or ");
                why.push(format!("{name} does not match: {misses}"));
            }
        }
        let alternatives = match met {
            Met::No => {
                why.push("no rule matches: all instances stay".to_owned());
                vec![Alternative::only(Ok(Choice::Branch(0)))]
            }
            Met::InVain => {
                why.push("all that match have no instance: the fail-over decides".to_owned());
                vec![Alternative::only(self.fail_over(request))]
            }
            Met::Rule { number, outcome } => {
                why.extend(self.rule(number).map(|rule| format!("{} matches", title(rule))));
                match (outcome, self.rule(number)) {
                    (Outcome::Among(shares), Some(rule)) => {
                        shares.iter().map(|share| share.alternative(share_name(rule, share))).collect()
                    }
                    _ => vec![Alternative::only(self.choose(request, passed))],
                }
            }
        };
        Ways { why, ways: alternatives }
    }
}

impl fmt::Debug for RuleSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSwitch").field("outcomes", &self.outcomes).finish_non_exhaustive()
    }
}

impl Switch for Among {
    fn choose(&self, request: &RouteRequest<'_>, _: Option<u32>) -> Result<Choice> {
        // The bits that chose the rule's branch are spent on nothing else.
        Ok(draw(&self.shares, request.entropy()))
    }

    fn ways(&self, _: &RouteRequest<'_>, _: Option<u32>) -> Ways {
        let named = self.shares.iter().zip(self.rule.iter());
        Ways { why: Vec::new(), ways: named.map(|(share, name)| share.alternative(name.clone())).collect() }
    }
}

impl Share {
    fn alternative(&self, name: String) -> Alternative {
        Alternative { choice: Ok(Choice::Branch(self.branch)), weight: self.weight, name: Some(name) }
    }
}

/// A rule as people are told of it.
fn title(rule: &Applicable) -> String {
    format!("{} {}", if rule.outbound { "the caller's rule" } else { "rule" }, rule.rule.name)
}

fn share_name(rule: &Applicable, share: &Share) -> String {
    let name = rule.rule.destinations.get(share.destination).map(|to| &*to.name).unwrap_or_default();
    format!("group {name} of rule {}", rule.rule.name)
}

/// One of the shares, by weight.
#[inline]
fn draw(shares: &[Share], entropy: u64) -> Choice {
    let total = shares.last().map_or(0, |last| last.up_to);
    let level = level(entropy, total);
    let drawn = shares.iter().find(|share| level < share.up_to);
    Choice::Branch(drawn.map_or(0, |share| share.branch))
}

fn failover_of(name: &str) -> Option<RuleFailover> {
    FAILOVERS.iter().find(|(word, _)| *word == name).map(|(_, failover)| *failover)
}
