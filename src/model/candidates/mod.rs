//! Which of many rules a call meets: conditions on labels, ready to be asked.
//!
//! Each label is asked for at most once a call, and only if a rule gets as far as to need it. Few rules are tried one by
//! one; many are narrowed by an [index] first. Routing takes the first rule that matches, limiting all of them.

mod check;
mod index;
mod values;

pub(crate) use self::values::Values;

use self::check::Check;
use self::index::{Progress, RuleIndex};
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

/// How far a walk over all candidates that match has come.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Without an index: the candidate behind the last one.
    from: usize,
    /// With one.
    progress: Progress,
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
            Some(index) => index.first(from, values, &self.slots, |at, values| self.verify(at, values)),
        }
    }

    /// The next that matches of a walk over all; the values must be the same all the way.
    #[inline]
    pub(crate) fn go_on(&self, values: &mut Values<'_>, walk: &mut Walk) -> Option<Match> {
        match &self.index {
            None => {
                let found = self.next(values, walk.from)?;
                walk.from = found.candidate + 1;
                Some(found)
            }
            Some(index) => index.go_on(&mut walk.progress, values, &self.slots, |at, values| self.verify(at, values)),
        }
    }

    /// Whether a candidate matches that the index says may.
    fn verify(&self, at: usize, values: &mut Values<'_>) -> Option<Match> {
        let candidate = self.all.get(at)?;
        let mut residual = candidate.residual.iter().filter_map(|at| candidate.checks.get(*at));
        let holds = residual.all(|(slot, check)| self.holds(*slot, check, values));
        holds.then_some(Match { rule: candidate.rule, candidate: at })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::label::LabelKind;
    use crate::model::label_set::LabelSet;
    use crate::model::matcher::{MatchKind, ValueSource};
    use proptest::prelude::*;

    /// Candidates that ask for `a` and `b` to be these values, or, where there is none, for nothing.
    fn candidates(all: &[(Option<u8>, Option<u8>)]) -> Candidates {
        let variables = Variables::default();
        let mut builder = CandidatesBuilder::new(&variables);
        for (rule, (a, b)) in all.iter().enumerate() {
            let asked = |key: &str, value: &Option<u8>| {
                let condition =
                    Condition::new(MatchKind::Exact, ValueSource::Text, &value.as_ref()?.to_string(), false);
                Some((LabelKey::new(LabelKind::Custom, key), condition.unwrap()))
            };
            let asked: Vec<_> = [asked("a", a), asked("b", b)].into_iter().flatten().collect();
            builder.add(rule, asked.iter().map(|(key, condition)| (key, Asked::ToBe(condition))));
        }
        builder.finish()
    }

    fn walked(candidates: &Candidates, labels: &LabelSet) -> Vec<usize> {
        let (mut values, mut walk) = (Values::new(Some(labels)), Walk::default());
        let mut found: Vec<_> = std::iter::from_fn(|| candidates.go_on(&mut values, &mut walk)).collect();
        found.extend(candidates.go_on(&mut values, &mut walk));
        found.iter().map(|found| found.rule).collect()
    }

    proptest! {
        #[test]
        fn a_walk_meets_all_that_match_in_their_order(
            all in prop::collection::vec((prop::option::of(0..3_u8), prop::option::of(0..3_u8)), 0..30),
            a in 0..3_u8,
            b in 0..3_u8,
        ) {
            let labels = LabelSet::new().custom("a", a.to_string()).custom("b", b.to_string());
            let holds = |(x, y): &&(Option<u8>, Option<u8>)| x.is_none_or(|x| x == a) && y.is_none_or(|y| y == b);
            let expected: Vec<_> = (0..all.len()).filter(|at| all.get(*at).as_ref().is_some_and(holds)).collect();
            prop_assert_eq!(walked(&candidates(&all), &labels), expected);
        }
    }

    #[test]
    fn a_walk_goes_on_from_one_part_of_a_long_index_to_the_next() {
        let all: Vec<_> = (0..3_000).map(|n| (Some(u8::from(n % 1_000 == 999)), None)).collect();
        assert_eq!(walked(&candidates(&all), &LabelSet::new().custom("a", "1")), [999, 1_999, 2_999]);
        assert_eq!(walked(&candidates(&all), &LabelSet::new().custom("a", "2")), [0; 0]);
        assert_eq!(walked(&candidates(&all), &LabelSet::new().custom("a", "0")).len(), 2_997);
    }

    #[test]
    fn what_is_known_is_not_asked_for() {
        let candidates = candidates(&[(Some(1), None)]);
        let labels = LabelSet::new().custom("a", "2");
        for (known, expected) in [(None, None), (Some("1"), Some(0)), (Some("2"), None)] {
            let mut values = Values::new(Some(&labels));
            values.know(0, known);
            assert_eq!(candidates.next(&mut values, 0).map(|found| found.rule), expected, "{known:?}");
        }
    }
}
