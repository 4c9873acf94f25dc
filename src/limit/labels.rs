//! The text that says which calls are counted together: `method|TYPE:key:value|…`.
//!
//! Clients of all SDKs that send a limiter the same text share one quota, so it is a matter of the protocol: arguments are
//! ordered by their text, kinds without a key have none, and nothing is escaped. Where a rule's condition names one value,
//! that is the value; where it is true for many, each value of a call is counted apart, or, if the rule says so, all
//! together under the rule's own text.

use crate::model::candidates::CandidatesBuilder;
use crate::model::label::{LabelKey, LabelKind};
use crate::model::matcher::{Condition, MatchKind};
use crate::model::rule::limit::LimitRule;

/// How a call's method is known to the conditions of rules: unlike the argument `METHOD`, it may be a path.
pub(crate) fn method_label() -> LabelKey {
    LabelKey::new(LabelKind::Path, "")
}

/// What the text of one rule is made of.
#[derive(Debug)]
pub(crate) struct LabelText {
    method: Part,
    /// What stands before each value, and the value.
    arguments: Box<[(String, Part)]>,
    /// The labels whose values are counted apart, by their slots among the rules' labels.
    apart: Box<[usize]>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    /// The value that the call has; its place among those that are counted apart.
    OfCall(usize),
}

impl LabelText {
    pub(crate) fn new(rule: &LimitRule, labels: &mut CandidatesBuilder<'_>) -> Self {
        let mut apart = Vec::new();
        let mut part = |key: &LabelKey, condition: &Condition| {
            if let Some(text) = fixed(condition, rule.combine) {
                return Part::Text(text.to_owned());
            }
            apart.push(labels.slot(key));
            Part::OfCall(apart.len() - 1)
        };
        let method = rule.method.as_ref().map_or(Part::Text(String::new()), |method| part(&method_label(), method));
        let argument = |(key, condition): &(LabelKey, Condition)| {
            let lead =
                if key.kind.is_keyed() { format!("{}:{}:", key.kind, key.key) } else { format!("{}:", key.kind) };
            (lead, part(key, condition))
        };
        let arguments = rule.arguments.iter().map(argument).collect();
        Self { method, arguments, apart: apart.into() }
    }

    /// The slots of the labels whose values are counted apart; without any, all calls are counted together.
    pub(crate) fn apart(&self) -> &[usize] {
        &self.apart
    }

    /// The text for calls with these values of the labels that are counted apart.
    pub(crate) fn render(&self, values: &[&str]) -> String {
        let value = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::OfCall(at) => values.get(*at).copied().unwrap_or_default().to_owned(),
        };
        let mut arguments: Vec<_> =
            self.arguments.iter().map(|(lead, part)| format!("{lead}{}", value(part))).collect();
        arguments.sort_unstable();
        format!("{}|{}", value(&self.method), arguments.join("|"))
    }
}

/// The one text of all calls that meet the condition, if there is one.
fn fixed(condition: &Condition, combine: bool) -> Option<&str> {
    let exact = condition.text().filter(|matcher| matcher.kind() == MatchKind::Exact);
    match exact {
        // In whatever spelling a path may come, it is the rule's.
        Some(matcher) if matcher.tokens().is_some() => Some(matcher.value()),
        // An EXACT value is that of the call in every SDK: where it is `*`, combining changes nothing.
        Some(matcher) if matcher.is_any() => None,
        _ => combine.then(|| condition.name()),
    }
}

/// What picks the limiter that counts the calls of this text: FNV-1 of `service#namespace#labels`, as polaris-go has it.
pub(crate) fn node_hash(namespace: &str, service: &str, labels: &str) -> u64 {
    let parts = [service, "#", namespace, "#", labels];
    parts
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| hash.wrapping_mul(0x100_0000_01B3) ^ u64::from(byte))
}
