//! The instances that destinations of rules mean: found by labels, once for each set of labels, and shared where two sets
//! mean the same.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::model::matcher::{Condition, Matcher, ValueSource};
use crate::model::metadata::Metadata;
use crate::model::rule::route::RouteDestination;
use crate::model::subset::Subset;
use crate::routing::matching::Applicable;
use crate::util::hash::NameHash;

/// How many instances are looked at ahead. Rules beyond wait until a call meets them: a service of very many instances
/// and very many rules would else keep its compile task busy with what no call asks for.
const AHEAD: usize = 4_000_000;

/// Where the calls of one rule go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No destination has an instance.
    Nothing,
    /// One of several by weight, or the only one.
    Among(Arc<[Share]>),
    /// It depends on what a call says, or was left for later.
    Late,
}

/// One destination of a rule, with instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// The sum of the weights up to and with this one.
    pub(crate) up_to: u64,
    pub(crate) weight: u64,
    /// The number of its subset among the branches.
    pub(crate) branch: usize,
    /// Its number among the destinations of the rule.
    pub(crate) destination: usize,
}

/// Finds groups within one subset, and collects them as branches.
#[derive(Debug)]
pub(crate) struct Groups<'s> {
    given: &'s Subset,
    pub(crate) branches: Vec<Subset>,
    by_labels: HashMap<String, Option<usize>>,
    by_content: HashMap<u64, Vec<usize>, NameHash>,
    work: usize,
}

impl<'s> Groups<'s> {
    /// Groups within `given`, which is the first branch.
    pub(crate) fn new(given: &'s Subset) -> Self {
        let mut groups =
            Self { given, branches: Vec::new(), by_labels: HashMap::new(), by_content: HashMap::default(), work: 0 };
        groups.intern(given.clone());
        groups
    }

    /// Where calls that meet `rule` go, as far as that can be said before one does.
    pub(crate) fn ahead(&mut self, rule: &Applicable) -> Outcome {
        if self.work > AHEAD || destinations(rule).any(|(_, to)| asks_the_call(to)) {
            return Outcome::Late;
        }
        self.outcome(rule, |condition| condition.text().cloned())
    }

    /// Where a call that meets `rule` goes, with `matcher` for each of the conditions; none can be for one that asks for
    /// what is not there.
    pub(crate) fn outcome(&mut self, rule: &Applicable, matcher: impl Fn(&Condition) -> Option<Matcher>) -> Outcome {
        let mut priorities: Vec<u32> = destinations(rule).map(|(_, to)| to.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        for priority in priorities {
            let mut shares = Vec::new();
            let mut sum = 0;
            for (destination, to) in destinations(rule).filter(|(_, to)| to.priority == priority) {
                if let Some(branch) = self.group(to, &matcher) {
                    let weight = u64::from(to.weight);
                    sum += weight;
                    shares.push(Share { up_to: sum, weight, branch, destination });
                }
            }
            if !shares.is_empty() {
                return Outcome::Among(shares.into());
            }
        }
        Outcome::Nothing
    }

    /// The branch of the instances that `to` means; none if there are none.
    fn group(&mut self, to: &RouteDestination, matcher: impl Fn(&Condition) -> Option<Matcher>) -> Option<usize> {
        let mut labels = Vec::with_capacity(to.labels.len());
        for (key, condition) in &to.labels {
            let matcher = matcher(condition)?;
            if !matcher.is_any() {
                labels.push((&**key, matcher));
            }
        }
        let name = canonical(&labels);
        if let Some(known) = self.by_labels.get(&name) {
            return *known;
        }
        self.work += self.given.len().get();
        let all_match = |metadata: &Metadata| labels.iter().all(|(key, matcher)| matcher.matches(metadata.get(key)));
        let found = self.given.filter_by_metadata(all_match).map(|subset| self.intern(subset));
        self.by_labels.insert(name, found);
        found
    }

    fn intern(&mut self, subset: Subset) -> usize {
        let hash = NameHash.hash_one(subset.positions_hash());
        let alike = self.by_content.entry(hash).or_default();
        let same = |at: &&usize| self.branches.get(**at).is_some_and(|known| known.same_instances(&subset));
        if let Some(known) = alike.iter().find(same) {
            return *known;
        }
        alike.push(self.branches.len());
        self.branches.push(subset);
        self.branches.len() - 1
    }
}

/// The destinations that take calls, with their numbers.
pub(crate) fn destinations(rule: &Applicable) -> impl Iterator<Item = (usize, &RouteDestination)> {
    let all = rule.destinations.iter().filter_map(|at| Some((*at, rule.rule.destinations.get(*at)?)));
    all.filter(|(_, to)| !to.isolated && to.weight > 0)
}

/// Whether only a call can say which instances it means.
fn asks_the_call(to: &RouteDestination) -> bool {
    to.labels.iter().any(|(_, condition)| condition.source != ValueSource::Text)
}

/// Labels as one text, so that equal ones are found again.
fn canonical(labels: &[(&str, Matcher)]) -> String {
    let mut parts: Vec<_> = labels.iter().map(|(key, m)| format!("{key:?}{:?}{:?}", m.kind(), m.value())).collect();
    parts.sort();
    parts.concat()
}
