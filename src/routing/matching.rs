//! Which rule a call meets: the rules between one caller and one callee, ready to be asked.
//!
//! What depends on the two services is decided here once: rules for other callers and to other callees are gone, and
//! what is left are [conditions on labels](crate::model::candidates).

use std::sync::Arc;

use crate::model::candidates::{Asked, Candidates, CandidatesBuilder, Values};
use crate::model::key::ServiceKey;
#[cfg(test)]
use crate::model::label::LabelKey;
use crate::model::rule::route::{RouteRule, RouteRules, RouteSource};
use crate::model::variables::Variables;

/// The rules that count between one caller and one callee, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Matching {
    /// The callee's, then the caller's.
    pub(super) rules: Box<[Applicable]>,
    pub(super) candidates: Candidates,
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
        let mut builder = Builder { candidates: CandidatesBuilder::new(variables), rules: Vec::new() };
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
        Self { rules: builder.rules.into(), candidates: builder.candidates.finish() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The labels that are asked for, by slot.
    #[cfg(test)]
    pub(super) fn slots(&self) -> &[LabelKey] {
        self.candidates.slots()
    }

    /// The number of the first rule that matches, from the candidate `from` on.
    #[inline]
    pub(crate) fn next(&self, values: &mut Values<'_>, from: usize) -> Option<usize> {
        self.candidates.next(values, from).map(|found| found.rule)
    }

    /// The first condition of each source of `rule` that does not hold, for people who ask.
    pub(crate) fn misses(&self, rule: usize, values: &mut Values<'_>) -> Vec<String> {
        self.candidates.misses(rule, values)
    }
}

/// Collects applicable rules.
struct Builder<'a> {
    candidates: CandidatesBuilder<'a>,
    rules: Vec<Applicable>,
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
            self.candidates.add(at, []);
        }
        for source in rule.sources.iter().filter(concerns) {
            self.candidates.add(at, source.labels.iter().map(|(key, condition)| (key, Asked::ToBe(condition))));
        }
        let after = self.candidates.len();
        if after > first {
            self.rules.push(Applicable { rule: Arc::clone(rule), outbound, destinations, after });
        }
    }
}
