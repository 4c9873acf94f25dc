//! Which rule a call meets: the rules between one caller and one callee, ready to be asked.
//!
//! What depends on the two services is decided here once: rules for other callers and to other callees are gone, and
//! what is left are conditions on labels. Each label is asked for at most once a call, and only if a rule gets as far as
//! to need it. Few rules are tried one by one; many are narrowed by an [index](super::rule_index) first.

use std::borrow::Cow;
use std::sync::Arc;

use crate::model::key::ServiceKey;
use crate::model::label::{LabelKey, LabelKind};
use crate::model::matcher::{Condition, MatchKind, Matcher, ValueSource};
use crate::model::rule::route::{RouteRule, RouteRules, RouteSource};
use crate::routing::router::RouteRequest;
use crate::routing::rule_index::RuleIndex;
use crate::routing::surroundings::Variables;
use crate::util::text::same;

/// From how many candidates on an index is faster than trying one after the other.
const INDEXED_FROM: usize = 9;
/// How many labels of a call are kept while it is matched; those beyond are asked for each time.
const KEPT: usize = 8;

/// The rules that count between one caller and one callee, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Matching {
    pub(super) slots: Box<[LabelKey]>,
    /// The callee's, then the caller's.
    pub(super) rules: Box<[Applicable]>,
    pub(super) candidates: Box<[Candidate]>,
    index: Option<RuleIndex>,
}

/// A rule that some calls between the two may meet.
#[derive(Debug)]
pub(crate) struct Applicable {
    pub(crate) rule: Arc<RouteRule>,
    /// Whether it is one of the caller's.
    pub(crate) outbound: bool,
    /// Those of its destinations that are for this callee.
    pub(crate) destinations: Box<[usize]>,
    /// The candidate behind its own.
    pub(crate) after: usize,
}

/// One source of a rule: alternatives stand one behind the other.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(super) rule: usize,
    pub(super) checks: Box<[(usize, Check)]>,
    /// Those of the checks that the index does not decide.
    pub(super) residual: Box<[usize]>,
}

/// A condition on one label.
#[derive(Debug)]
pub(crate) enum Check {
    /// It is this text: most conditions are, and this is the fastest that they can be asked.
    Is(Arc<str>, Matcher),
    Text(Matcher),
    /// The label is there, whatever it says.
    Present,
    /// It says what a variable does: one that the request brings, else the one of this client.
    Variable {
        condition: Condition,
        ours: Option<Matcher>,
    },
}

/// The labels of one call, each asked for once.
///
/// Most are borrowed, and these lie in an array that costs nothing to make and nothing to drop.
pub(crate) struct Values<'r> {
    request: &'r RouteRequest<'r>,
    /// A bit for each of the first slots that was asked for.
    asked: u8,
    borrowed: [Option<&'r str>; KEPT],
    /// Those that the request had to make.
    made: Vec<(usize, String)>,
}

// === impl Matching ===

impl Matching {
    /// The rules for calls from `caller` to a service of the names `callee` (an alias has two).
    pub(crate) fn new(
        callee: &[&ServiceKey],
        caller: Option<&ServiceKey>,
        inbound: &RouteRules,
        outbound: Option<&RouteRules>,
        variables: &Variables,
    ) -> Self {
        let mut builder = Builder { variables, slots: Vec::new(), rules: Vec::new(), candidates: Vec::new() };
        for rule in &inbound.inbounds {
            // A caller without a service of its own is anybody.
            let for_caller = |source: &&RouteSource| match caller {
                Some(caller) => source.caller.matches(caller),
                None => source.caller.is_any(),
            };
            builder.add(rule, false, (0..rule.destinations.len()).collect(), for_caller);
        }
        for rule in outbound.map(|rules| &*rules.outbounds).unwrap_or_default() {
            let to_callee = |at: &usize| {
                rule.destinations.get(*at).is_some_and(|to| callee.iter().any(|callee| to.callee.matches(callee)))
            };
            let destinations: Box<[usize]> = (0..rule.destinations.len()).filter(to_callee).collect();
            // A rule about calls to others has nothing to say here, not even that it matched.
            if !destinations.is_empty() {
                builder.add(rule, true, destinations, |_| true);
            }
        }
        builder.finish()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The number of the first rule that matches, from the candidate `from` on.
    #[inline]
    pub(crate) fn next(&self, values: &mut Values<'_>, from: usize) -> Option<usize> {
        match &self.index {
            None => {
                let mut candidates = self.candidates.iter().skip(from);
                candidates.find(|candidate| self.all_hold(candidate, values)).map(|candidate| candidate.rule)
            }
            Some(index) => index.first(from, values, &self.slots, |at, values| {
                let candidate = self.candidates.get(at)?;
                let mut residual = candidate.residual.iter().filter_map(|at| candidate.checks.get(*at));
                residual.all(|(slot, check)| self.holds(*slot, check, values)).then_some(candidate.rule)
            }),
        }
    }

    #[inline]
    fn all_hold(&self, candidate: &Candidate, values: &mut Values<'_>) -> bool {
        candidate.checks.iter().all(|(slot, check)| self.holds(*slot, check, values))
    }

    #[inline]
    fn holds(&self, slot: usize, check: &Check, values: &mut Values<'_>) -> bool {
        let request = values.request;
        values.with(slot, &self.slots, |value| check.holds(value, request))
    }

    /// The first condition of each source of `rule` that does not hold, for people who ask.
    pub(crate) fn misses(&self, rule: usize, values: &mut Values<'_>) -> Vec<String> {
        let of_rule = self.candidates.iter().filter(|candidate| candidate.rule == rule);
        let miss = |candidate: &Candidate| {
            let (slot, check) = candidate.checks.iter().find(|(slot, check)| !self.holds(*slot, check, values))?;
            let value = values.with(*slot, &self.slots, |value| value.map(str::to_owned));
            let key = self.slots.get(*slot).map(ToString::to_string).unwrap_or_default();
            Some(match value {
                Some(value) => format!("{key} is {value:?}, not {check}"),
                None => format!("{key} is absent, not {check}"),
            })
        };
        of_rule.map(miss).map(|miss| miss.unwrap_or_else(|| "matches".to_owned())).collect()
    }
}

// === impl Check ===

impl Check {
    #[inline]
    fn holds(&self, value: Option<&str>, request: &RouteRequest<'_>) -> bool {
        match self {
            Self::Is(text, _) => value.is_some_and(|value| same(text, value)),
            Self::Text(matcher) => matcher.matches(value),
            Self::Present => value.is_some(),
            Self::Variable { condition, ours } => match request.label(LabelKind::Variable, condition.name()) {
                Some(given) => condition.with_value(&given).is_ok_and(|matcher| matcher.matches(value)),
                None => ours.as_ref().is_some_and(|matcher| matcher.matches(value)),
            },
        }
    }

    /// Roughly how long it takes, for their order.
    fn cost(&self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Is(..) => 1,
            Self::Text(matcher) => match matcher.kind() {
                MatchKind::Exact | MatchKind::NotEquals | MatchKind::Range => 2,
                MatchKind::In | MatchKind::NotIn => 3,
                MatchKind::Regex => 5,
            },
            Self::Variable { .. } => 4,
        }
    }

    /// Whether the index decides it.
    pub(super) fn is_literal(&self) -> bool {
        self.tokens().is_some() || self.excluded().is_some()
    }

    /// The values that it is true for, if it is for those only.
    pub(super) fn tokens(&self) -> Option<&[Arc<str>]> {
        match self {
            Self::Is(_, matcher) | Self::Text(matcher) => matcher.tokens(),
            Self::Present | Self::Variable { .. } => None,
        }
    }

    /// The values that it is false for, if it is for those only.
    pub(super) fn excluded(&self) -> Option<&[Arc<str>]> {
        match self {
            Self::Is(_, matcher) | Self::Text(matcher) => matcher.excluded(),
            Self::Present | Self::Variable { .. } => None,
        }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Is(_, matcher) | Self::Text(matcher) => write!(f, "{} {:?}", matcher.kind(), matcher.value()),
            Self::Present => f.write_str("there"),
            Self::Variable { condition, .. } => write!(f, "{} variable {:?}", condition.kind(), condition.name()),
        }
    }
}

// === impl Values ===

impl<'r> Values<'r> {
    #[inline]
    pub(crate) fn new(request: &'r RouteRequest<'r>) -> Self {
        Self { request, asked: 0, borrowed: [None; KEPT], made: Vec::new() }
    }

    /// Reads the label of this slot.
    #[inline]
    pub(crate) fn with<T>(&mut self, slot: usize, slots: &[LabelKey], read: impl FnOnce(Option<&str>) -> T) -> T {
        if slot >= KEPT {
            let label = slots.get(slot);
            return read(label.and_then(|label| self.request.label(label.kind, &label.key)).as_deref());
        }
        if self.asked & 1 << slot == 0 {
            self.ask(slot, slots);
        }
        match self.borrowed.get(slot) {
            Some(Some(value)) => read(Some(value)),
            _ if self.made.is_empty() => read(None),
            _ => read(self.made.iter().find(|(of, _)| *of == slot).map(|(_, value)| value.as_str())),
        }
    }

    fn ask(&mut self, slot: usize, slots: &[LabelKey]) {
        self.asked |= 1 << slot;
        let Some(label) = slots.get(slot) else { return };
        match self.request.label(label.kind, &label.key) {
            None => {}
            Some(Cow::Borrowed(value)) => {
                if let Some(place) = self.borrowed.get_mut(slot) {
                    *place = Some(value);
                }
            }
            Some(Cow::Owned(value)) => self.made.push((slot, value)),
        }
    }
}

/// Collects applicable rules.
struct Builder<'a> {
    variables: &'a Variables,
    slots: Vec<LabelKey>,
    rules: Vec<Applicable>,
    candidates: Vec<Candidate>,
}

impl Builder<'_> {
    fn add(
        &mut self,
        rule: &Arc<RouteRule>,
        outbound: bool,
        destinations: Box<[usize]>,
        concerns: impl Fn(&&RouteSource) -> bool,
    ) {
        let at = self.rules.len();
        let first = self.candidates.len();
        if rule.sources.is_empty() {
            self.candidates.push(Candidate { rule: at, checks: Box::default(), residual: Box::default() });
        }
        for source in rule.sources.iter().filter(concerns) {
            let mut checks: Vec<_> =
                source.labels.iter().filter_map(|(key, condition)| self.check(key, condition)).collect();
            // What is asked fastest is asked first: most calls fail a rule there. The order changes no answer.
            checks.sort_by_key(|(_, check)| check.cost());
            let checks: Box<[_]> = checks.into();
            self.candidates.push(Candidate { rule: at, residual: residual(&checks), checks });
        }
        let after = self.candidates.len();
        if after > first {
            self.rules.push(Applicable { rule: Arc::clone(rule), outbound, destinations, after });
        }
    }

    /// The condition, unless it is always true.
    fn check(&mut self, key: &LabelKey, condition: &Condition) -> Option<(usize, Check)> {
        let check = match condition.source {
            ValueSource::Text => {
                let matcher = condition.text().filter(|matcher| !matcher.is_any())?.clone();
                match matcher.tokens() {
                    Some([only]) => Check::Is(Arc::clone(only), matcher),
                    _ => Check::Text(matcher),
                }
            }
            ValueSource::Parameter => Check::Present,
            ValueSource::Variable => {
                let ours = self.variables.get(condition.name()).and_then(|value| condition.with_value(&value).ok());
                Check::Variable { condition: condition.clone(), ours }
            }
        };
        let slot = self.slots.iter().position(|known| known == key).unwrap_or_else(|| {
            self.slots.push(key.clone());
            self.slots.len() - 1
        });
        Some((slot, check))
    }

    fn finish(self) -> Matching {
        let candidates: Box<[_]> = self.candidates.into();
        let index = (candidates.len() >= INDEXED_FROM).then(|| RuleIndex::new(&candidates));
        Matching { slots: self.slots.into(), rules: self.rules.into(), candidates, index }
    }
}

/// The checks that an index by value does not decide: those that are not about literal values, and all on a label that
/// has several.
fn residual(checks: &[(usize, Check)]) -> Box<[usize]> {
    let alone = |slot: usize| checks.iter().filter(|(other, _)| *other == slot).count() == 1;
    let decided = |(slot, check): &(usize, Check)| check.is_literal() && alone(*slot);
    (0..checks.len()).filter(|at| checks.get(*at).is_none_or(|check| !decided(check))).collect()
}
