//! How the cost of a pick grows with the number of rules, of which the last one holds.

use std::collections::HashMap;

use polarismesh::Pick;
use polarismesh_benches::data;
use polarismesh_benches::harness::{Table, median, ratio, sampled, text};
use polarismesh_benches::row::Row;
use polarismesh_benches::rules::{self, Routing};
use polarismesh_benches::runtime::runtime;
use polarismesh_benches::service::{self, routed};

use crate::effort::Effort;
use crate::reference::Chain;

const COUNTS: [usize; 3] = [3, 100, 1_000];
const INSTANCES: usize = 1_000;
/// So many times the cost with the fewest rules, at most.
const GOAL: f64 = 2.5;

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = runtime();
    let labels = rules::labels();
    let call: HashMap<_, _> = rules::CALL.map(|(label, value)| (label, value.to_owned())).into();
    let feds = COUNTS.map(|count| routed(INSTANCES, &Routing::by(count), &runtime));
    let handles = feds.each_ref().map(|fed| fed.context().consumer().service(data::key()));
    let plain = Chain::plain(INSTANCES);
    let chains = COUNTS.map(|count| plain.routed(&Routing::by(count)));
    let own = handles
        .iter()
        .map(|handle| Row::new(INSTANCES, || handle.pick(&Pick::new().labels(&labels)).expect("an instance")));
    let rows: Vec<_> = own.chain(chains.iter().map(|chain| Row::new(INSTANCES, || chain.pick(&call)))).collect();
    let samples = sampled(effort.rounds, &mut rows.iter().map(|row| || row.sample()).collect::<Vec<_>>());
    let (own, chains) = samples.split_at(COUNTS.len());
    for (name, samples, goal) in [("by handle", own, Some(GOAL)), ("reference chain", chains, None)] {
        for (count, of) in COUNTS.into_iter().zip(samples) {
            let times = ratio(of, &samples[0]);
            let beside = format!("with {} {}, {times:.2} x", COUNTS[0], text(median(&samples[0])));
            let figure = format!("{name}, {count} rules, N = {INSTANCES}");
            match goal.filter(|_| count == COUNTS[COUNTS.len() - 1]) {
                Some(most) => {
                    let goal = format!("<= {most} of {} rules", COUNTS[0]);
                    table.goal(&figure, text(median(of)), beside, &goal, times <= most);
                }
                None => table.shown(&figure, text(median(of)), beside),
            }
        }
    }
    drop(rows);
    feds.into_iter().for_each(|fed| service::end(fed, &runtime));
}
