//! Whether instances and destinations get their shares: the chi-square test over picks by handle.

use std::collections::HashMap;

use polarismesh::testing::bench::Fed;
use polarismesh::{Instance, LabelSet, Pick};
use polarismesh_benches::data;
use polarismesh_benches::harness::Table;
use polarismesh_benches::rules::{self, Routing};
use polarismesh_benches::runtime::runtime;
use polarismesh_benches::service::{self, explain, loaded, routed};
use tokio::runtime::Runtime;

use crate::effort::Effort;

const LENGTHS: [usize; 4] = [10, 100, 1_000, 10_000];
const GOAL: f64 = 4.0;

/// How often one was picked, and what share of the picks it should have.
type Count = (f64, f64);

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = runtime();
    let mut row = |name: &str, instances: usize, of: &str, counts: &[Count], beside: &str| {
        let z = deviation(counts);
        table.goal(
            &format!("{name}, N = {instances}, shares of {of} in {} picks", effort.picks),
            format!("z = {z:+.2}"),
            format!("{} by {beside}", counts.len()),
            &format!("abs(z) < {GOAL}"),
            z.abs() < GOAL,
        );
    };
    for instances in LENGTHS {
        let fed = loaded(instances, &runtime);
        let counts = counted(&fed, &LabelSet::new(), effort.picks, &runtime).concat();
        row("weightedRandom by handle, no rules", instances, "instances", &counts, "weight");
        service::end(fed, &runtime);
        let fed = routed(instances, &Routing::by(3), &runtime);
        let groups = counted(&fed, &rules::labels(), effort.picks, &runtime);
        row("weightedRandom by handle, rules", instances, "instances", &groups.concat(), "destination and weight");
        let sums: Vec<Count> = groups.iter().map(|group| sum(group)).collect();
        row("weightedRandom by handle, rules", instances, "destinations", &sums, "80 to 20");
        service::end(fed, &runtime);
    }
}

/// Picks, and counts what came of it by destination.
fn counted(fed: &Fed, labels: &LabelSet, picks: u32, runtime: &Runtime) -> Vec<Vec<Count>> {
    let groups = runtime.block_on(explain(fed, labels));
    // The text is made once for each instance, so where it lies tells which one it is.
    let place = |instance: &Instance| instance.authority().as_ptr().addr();
    let all = || groups.iter().flat_map(|(_, group)| group);
    let mut counts: HashMap<usize, u32> = all().map(|instance| (place(instance), 0)).collect();
    let handle = fed.context().consumer().service(data::key());
    let pick = Pick::new().labels(labels);
    for _ in 0..picks {
        let picked = handle.pick(&pick).expect("an instance");
        *counts.get_mut(&place(&picked)).expect("one of those that calls may come to") += 1;
    }
    let of_group = |(share, group): &(f64, Vec<Instance>)| {
        let total: f64 = group.iter().map(|instance| f64::from(instance.weight())).sum();
        let count = |i: &Instance| (f64::from(counts[&place(i)]), share * f64::from(i.weight()) / total);
        group.iter().map(count).collect()
    };
    groups.iter().map(of_group).collect()
}

fn sum(counts: &[Count]) -> Count {
    counts.iter().fold((0.0, 0.0), |(picks, share), count| (picks + count.0, share + count.1))
}

/// By how many standard deviations the counts are off what chance alone gives: of two, the difference of the first
/// itself; of more, the chi-square, brought to the normal distribution (Wilson and Hilferty, 1931).
fn deviation(counts: &[Count]) -> f64 {
    let (picks, shares) = sum(counts);
    let expected = |share: &f64| picks * share / shares;
    if let [(first, share), _] = counts {
        let spread = (expected(share) * (1.0 - share / shares)).sqrt();
        return (first - expected(share)) / spread;
    }
    let square: f64 = counts.iter().map(|(count, share)| (count - expected(share)).powi(2) / expected(share)).sum();
    let freedom = counts.len() as f64 - 1.0;
    let part = 2.0 / (9.0 * freedom);
    ((square / freedom).cbrt() - (1.0 - part)) / part.sqrt()
}
