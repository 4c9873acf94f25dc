//! The rules of a service, ready to be asked: which apply to a call, and with which other calls it is counted.

use std::sync::Arc;

use crate::limit::labels::{LabelText, method_label};
use crate::model::candidates::{Asked, Candidates, CandidatesBuilder, Values, Walk};
use crate::model::label::LabelKey;
use crate::model::request::quota::Quota;
use crate::model::rule::limit::{LimitRule, LimitRules};
use crate::model::variables::Variables;

/// All rules of a service.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    candidates: Candidates,
    /// The slot of the method, if a rule asks for it.
    method: Option<usize>,
    rules: Box<[Planned]>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) rule: Arc<LimitRule>,
    pub(crate) text: LabelText,
}

impl Plan {
    pub(crate) fn new(rules: &LimitRules, variables: &Variables) -> Self {
        let mut builder = CandidatesBuilder::new(variables);
        let method = method_label();
        let plan = |(at, rule): (usize, &Arc<LimitRule>)| {
            let of_method = rule.method.iter().map(|condition| (&method, Asked::ToBe(condition)));
            let arguments = rule.arguments.iter().map(|(key, condition)| match condition.text() {
                // Unlike in routing, the label has to be there whatever it says: it is part of what is counted.
                Some(matcher) if matcher.is_any() => (key, Asked::ToBeThere),
                _ => (key, Asked::ToBe(condition)),
            });
            builder.add(at, of_method.chain(arguments));
            Planned { rule: Arc::clone(rule), text: LabelText::new(rule, &mut builder) }
        };
        let rules = rules.rules.iter().enumerate().map(plan).collect();
        let candidates = builder.finish();
        let method = candidates.slots().iter().position(|slot| *slot == method);
        Self { candidates, method, rules }
    }

    /// Says beforehand what rules would ask a call for, and what is at hand: its method.
    #[inline]
    pub(crate) fn tell<'r>(&self, values: &mut Values<'r>, quota: &Quota<'r>) {
        if let Some(slot) = self.method {
            values.know(slot, quota.called());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn rules(&self) -> &[Planned] {
        &self.rules
    }

    /// The number of the next rule that applies to a call.
    #[inline]
    pub(crate) fn next(&self, values: &mut Values<'_>, walk: &mut Walk) -> Option<usize> {
        // One candidate a rule, so their numbers are the same.
        self.candidates.go_on(values, walk).map(|found| found.rule)
    }

    /// The labels that rules ask for, by slot.
    pub(crate) fn slots(&self) -> &[LabelKey] {
        self.candidates.slots()
    }
}
