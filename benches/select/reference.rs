//! The reference chain: plain and slow, the shape of polaris-java's.
//!
//! Every router walks the whole list that it is given and makes a new one, labels are maps of texts that are compared
//! text by text, and the balancer adds up all weights and walks them. What polaris-java does besides is left out (it
//! hashes the whole list after each router, and makes an object of each instance to ask for its breaker), and patterns
//! are compiled ahead, so the chain is quicker than what it stands for.

use std::collections::HashMap;
use std::sync::Arc;

use polarismesh_benches::data::{self, Parts};
use polarismesh_benches::floor::{below, draw};
use polarismesh_benches::rules::{self, Label, Matcher, Routing, Rule};
use regex::Regex;

/// A list of instances and the rules for it.
pub struct Chain {
    instances: Vec<Arc<Host>>,
    rules: Vec<Compiled>,
    /// Region, zone and campus that calls come from, where that counts.
    from: Option<[String; 3]>,
    /// Whether the breaker of an instance is open, by its id.
    broken: HashMap<String, bool>,
}

pub struct Host {
    id: String,
    pub location: [String; 3],
    pub metadata: HashMap<String, String>,
    weight: u32,
    healthy: bool,
    isolated: bool,
}

struct Compiled {
    conditions: Vec<(Label, Test)>,
    destinations: Vec<(HashMap<String, String>, u32)>,
}

enum Test {
    Exact(String),
    In(Vec<String>),
    Regex(Regex),
}

type List = Vec<Arc<Host>>;

impl Chain {
    /// Isolation, recovery and weights.
    pub fn plain(count: usize) -> Self {
        let instances: List = (0..count).map(|n| Arc::new(host(n))).collect();
        let broken = instances.iter().map(|host| (host.id.clone(), false)).collect();
        Self { instances, rules: Vec::new(), from: None, broken }
    }

    /// The same, routed like this.
    pub fn routed(&self, routing: &Routing) -> Self {
        let mut broken = self.broken.clone();
        broken.insert(data::parts(rules::BROKEN).id, routing.broken);
        Self {
            instances: self.instances.clone(),
            rules: routing.rules.iter().map(compiled).collect(),
            from: routing.nearby.then(|| rules::FROM.map(str::to_owned)),
            broken,
        }
    }

    /// One instance for a call with these labels.
    pub fn pick(&self, labels: &HashMap<Label, String>) -> Arc<Host> {
        let list = self.not_isolated();
        let list = self.by_rules(list, labels);
        let list = self.nearby(list);
        let list = self.recover(list);
        by_weight(&list)
    }

    fn not_isolated(&self) -> List {
        self.instances.iter().filter(|host| !host.isolated && host.weight > 0).cloned().collect()
    }

    fn by_rules(&self, list: List, labels: &HashMap<Label, String>) -> List {
        let Some(rule) = self.rules.iter().find(|rule| rule.holds(labels)) else { return list };
        let groups: Vec<(List, u32)> = rule
            .destinations
            .iter()
            .map(|(wanted, weight)| {
                let matches =
                    |host: &&Arc<Host>| wanted.iter().all(|(key, value)| host.metadata.get(key) == Some(value));
                (list.iter().filter(matches).cloned().collect::<List>(), *weight)
            })
            .filter(|(group, _)| !group.is_empty())
            .collect();
        let total: u32 = groups.iter().map(|(_, weight)| weight).sum();
        let mut rest = below(draw(), total as usize) as u32;
        for (group, weight) in groups {
            if rest < weight {
                return group;
            }
            rest -= weight;
        }
        list
    }

    /// Those in the zone of the call, else those in its region, else all.
    fn nearby(&self, list: List) -> List {
        let Some([region, zone, _]) = &self.from else { return list };
        let in_region = |host: &&Arc<Host>| host.location[0] == *region;
        let near: List = list.iter().filter(in_region).filter(|host| host.location[1] == *zone).cloned().collect();
        if near.iter().any(|host| host.healthy) {
            return near;
        }
        let near: List = list.iter().filter(in_region).cloned().collect();
        if near.iter().any(|host| host.healthy) { near } else { list }
    }

    /// Those that are well, or all if none is.
    fn recover(&self, list: List) -> List {
        let is_well = |host: &&Arc<Host>| host.healthy && !self.broken.get(&host.id).copied().unwrap_or_default();
        let well: List = list.iter().filter(is_well).cloned().collect();
        if well.is_empty() { list } else { well }
    }
}

impl Compiled {
    fn holds(&self, labels: &HashMap<Label, String>) -> bool {
        self.conditions.iter().all(|(label, test)| labels.get(label).is_some_and(|value| test.holds(value)))
    }
}

impl Test {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::In(texts) => texts.iter().any(|text| text == value),
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

fn by_weight(list: &[Arc<Host>]) -> Arc<Host> {
    let total: u64 = list.iter().map(|host| u64::from(host.weight)).sum();
    let mut rest = below(draw(), total as usize) as u64;
    for host in list {
        let weight = u64::from(host.weight);
        if rest < weight {
            return Arc::clone(host);
        }
        rest -= weight;
    }
    unreachable!("a number below the sum of the weights")
}

fn host(n: usize) -> Host {
    let Parts { id, weight, location: (region, zone, campus), metadata, .. } = data::parts(n);
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Host { id, location: [region, zone, campus], metadata, weight, healthy: true, isolated: false }
}

fn compiled(rule: &Rule) -> Compiled {
    let conditions = rule.conditions.iter().map(|condition| {
        let value = &condition.value;
        let test = match condition.matcher {
            Matcher::Exact => Test::Exact(value.clone()),
            Matcher::In => Test::In(value.split(',').map(str::to_owned).collect()),
            Matcher::Regex => Test::Regex(Regex::new(value).expect("a pattern")),
        };
        (condition.label, test)
    });
    let destinations = rule.destinations.iter().map(|destination| {
        let labels = destination.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        (labels.collect(), destination.weight)
    });
    Compiled { conditions: conditions.collect(), destinations: destinations.collect() }
}
