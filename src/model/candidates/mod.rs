//! Which of many rules a call meets: conditions on labels, ready to be asked.
//!
//! Each label is asked for at most once a call, and only if a rule gets as far as to need it. Few rules are tried one by
//! one; many are narrowed by an [index] first. Routing takes the first rule that matches, limiting all of them.

mod check;
mod index;
mod values;

pub(crate) use self::values::Values;

use self::check::Check;
use self::index::RuleIndex;
use crate::model::label::LabelKey;
use crate::model::matcher::Condition;
use crate::model::variables::Variables;

/// From how many candidates on an index is faster than trying one after the other.
const INDEXED_FROM: usize = 9;

/// Alternatives, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    slots: Box<[LabelKey]>,
    all: Box<[Candidate]>,
    index: Option<RuleIndex>,
}

/// Conditions that must all hold; several candidates may be of one rule.
#[derive(Debug)]
struct Candidate {
    rule: usize,
    checks: Box<[(usize, Check)]>,
    /// Those of the checks that the index does not decide.
    residual: Box<[usize]>,
}

/// Collects candidates.
pub(crate) struct CandidatesBuilder<'a> {
    variables: &'a Variables,
    slots: Vec<LabelKey>,
    all: Vec<Candidate>,
}

/// What is asked of one label.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'a> {
    ToBe(&'a Condition),
    ToBeThere,
}

/// A candidate that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) rule: usize,
    /// Its own number.
    pub(crate) candidate: usize,
}

// === impl Candidates ===

impl Candidates {
    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The labels that are asked for, by slot.
    pub(crate) fn slots(&self) -> &[LabelKey] {
        &self.slots
    }

    /// The first that matches, from the candidate `from` on.
    #[inline]
    pub(crate) fn next(&self, values: &mut Values<'_>, from: usize) -> Option<Match> {
        match &self.index {
            None => {
                let mut candidates = self.all.iter().enumerate().skip(from);
                candidates
                    .find(|(_, candidate)| self.all_hold(candidate, values))
                    .map(|(at, candidate)| Match { rule: candidate.rule, candidate: at })
            }
            Some(index) => index.first(from, values, &self.slots, |at, values| {
                let candidate = self.all.get(at)?;
                let mut residual = candidate.residual.iter().filter_map(|at| candidate.checks.get(*at));
                let holds = residual.all(|(slot, check)| self.holds(*slot, check, values));
                holds.then_some(Match { rule: candidate.rule, candidate: at })
            }),
        }
    }

    /// The first condition of each candidate of `rule` that does not hold, for people who ask.
    pub(crate) fn misses(&self, rule: usize, values: &mut Values<'_>) -> Vec<String> {
        let of_rule = self.all.iter().filter(|candidate| candidate.rule == rule);
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

    #[inline]
    fn all_hold(&self, candidate: &Candidate, values: &mut Values<'_>) -> bool {
        candidate.checks.iter().all(|(slot, check)| self.holds(*slot, check, values))
    }

    #[inline]
    fn holds(&self, slot: usize, check: &Check, values: &mut Values<'_>) -> bool {
        let labels = values.labels;
        values.with(slot, &self.slots, |value| check.holds(value, labels))
    }
}

// === impl CandidatesBuilder ===

impl<'a> CandidatesBuilder<'a> {
    pub(crate) fn new(variables: &'a Variables) -> Self {
        Self { variables, slots: Vec::new(), all: Vec::new() }
    }

    /// How many there are so far.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds a candidate of the rule of this number: all that is asked must hold.
    pub(crate) fn add<'c>(&mut self, rule: usize, asks: impl IntoIterator<Item = (&'c LabelKey, Asked<'c>)>) {
        let check = |(key, asked): (&LabelKey, Asked<'_>)| {
            let check = match asked {
                Asked::ToBe(condition) => Check::new(condition, self.variables)?,
                Asked::ToBeThere => Check::Present,
            };
            Some((self.slot(key), check))
        };
        let mut checks: Vec<_> = asks.into_iter().filter_map(check).collect();
        // What is asked fastest is asked first: most calls fail a rule there. The order changes no answer.
        checks.sort_by_key(|(_, check)| check.cost());
        let checks: Box<[_]> = checks.into();
        self.all.push(Candidate { rule, residual: residual(&checks), checks });
    }

    /// The slot of a label.
    pub(crate) fn slot(&mut self, key: &LabelKey) -> usize {
        self.slots.iter().position(|known| known == key).unwrap_or_else(|| {
            self.slots.push(key.clone());
            self.slots.len() - 1
        })
    }

    pub(crate) fn finish(self) -> Candidates {
        let all: Box<[_]> = self.all.into();
        let index = (all.len() >= INDEXED_FROM).then(|| RuleIndex::new(&all));
        Candidates { slots: self.slots.into(), all, index }
    }
}

/// The checks that an index by value does not decide: those that are not about literal values, and all on a label that
/// has several.
fn residual(checks: &[(usize, Check)]) -> Box<[usize]> {
    let alone = |slot: usize| checks.iter().filter(|(other, _)| *other == slot).count() == 1;
    let decided = |(slot, check): &(usize, Check)| check.is_literal() && alone(*slot);
    (0..checks.len()).filter(|at| checks.get(*at).is_none_or(|check| !decided(check))).collect()
}
