//! What each step of a pick adds: the same service, routed by more and more.

use std::hint::black_box;

use polarismesh::{LabelKind, Labels as _, Pick};
use polarismesh_benches::data;
use polarismesh_benches::floor::Floor;
use polarismesh_benches::harness::{Table, median, ratio, sampled, text};
use polarismesh_benches::row::Row;
use polarismesh_benches::rules::{
    self, CHANNEL, Condition, Label, Matcher, REGION, Routing, TENANT, USER, condition, rule,
};
use polarismesh_benches::runtime::runtime;
use polarismesh_benches::service::{self, explain, routed};

use crate::effort::Effort;

const INSTANCES: usize = 1_000;

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = runtime();
    let labels = rules::labels();
    let steps = steps().map(|(name, routing)| (name, routed(INSTANCES, &routing, &runtime)));
    let handles = steps.each_ref().map(|(_, fed)| fed.context().consumer().service(data::key()));
    let (_, last) = &steps[steps.len() - 1];
    let floor = Floor::among(&runtime.block_on(explain(last, &labels)));
    let pick = Pick::new().labels(&labels);
    let mut rows = vec![("F".to_owned(), Row::new(INSTANCES, || floor.pick()))];
    for (name, kind, key) in [
        ("a label of four that is a header", LabelKind::Header, USER.key),
        ("a label of four that is a parameter", LabelKind::Query, REGION.key),
        ("a label of four of the application's own", LabelKind::Custom, CHANNEL.key),
    ] {
        let labels = &labels;
        let get = move || black_box(labels).get(kind, black_box(key)).map(|value| value.len());
        rows.push((name.to_owned(), Row::new(INSTANCES, get)));
    }
    for ((name, _), handle) in steps.iter().zip(&handles) {
        rows.push((format!("by handle, {name}"), Row::new(INSTANCES, || handle.pick(&pick).expect("an instance"))));
    }
    let samples = sampled(effort.rounds, &mut rows.iter().map(|(_, row)| || row.sample()).collect::<Vec<_>>());
    for ((name, _), samples_of) in rows.iter().zip(&samples) {
        let beside = format!("F {}, {:.2} F", text(median(&samples[0])), ratio(samples_of, &samples[0]));
        table.shown(&format!("{name}, N = {INSTANCES}"), text(median(samples_of)), beside);
    }
    drop(rows);
    steps.into_iter().for_each(|(_, fed)| service::end(fed, &runtime));
}

fn steps() -> [(&'static str, Routing); 11] {
    let only = |rules: Vec<Vec<Condition>>| Routing {
        rules: rules.into_iter().map(rule).collect(),
        nearby: false,
        broken: false,
    };
    let is = |label: Label, value: &str| condition(label, Matcher::Exact, value);
    let holds = || vec![is(TENANT, "gold"), is(CHANNEL, "app"), is(REGION, "east")];
    let fails = |region: &str| vec![is(TENANT, "gold"), is(CHANNEL, "app"), is(REGION, region)];
    let one_of = || vec![is(TENANT, "gold"), condition(CHANNEL, Matcher::In, "web,mini,app"), is(REGION, "east")];
    let like = |pattern| vec![is(TENANT, "gold"), is(REGION, "east"), condition(USER, Matcher::Regex, pattern)];
    [
        ("no rules", Routing::default()),
        ("nearby", Routing { nearby: true, ..Routing::default() }),
        ("an open breaker", Routing { broken: true, ..Routing::default() }),
        ("1 rule of no label", only(vec![vec![]])),
        ("1 rule of 1 label, a header", only(vec![vec![is(TENANT, "gold")]])),
        ("1 rule of 1 label, one's own", only(vec![vec![is(CHANNEL, "app")]])),
        ("1 rule of 3 labels", only(vec![holds()])),
        ("1 rule of 3 labels, one of them with three values", only(vec![one_of()])),
        ("3 rules of 3 labels, of texts alone", only(vec![fails("west"), fails("north"), holds()])),
        (
            "3 rules of 3 labels, one with a regular expression",
            only(vec![fails("west"), like("^u-[0-3][0-9]*$"), holds()]),
        ),
        ("3 rules of 3 labels, all kinds, nearby and an open breaker", Routing::by(3)),
    ]
}
