//! What a check costs while another thread checks as well, each on a core of its own.

use std::cell::Cell;

use polarismesh::GetQuota;
use polarismesh_benches::harness::{Table, median, sampled, text};
use polarismesh_benches::runtime::runtime;
use polarismesh_benches::threads;

use crate::bed::{Bed, Calls, Measured, Rows, by_handle, direct, keyed, touch};
use crate::effort::Effort;
use crate::rules::{Call, METHOD, last_of};
use crate::spread;

const COMBINATIONS: usize = 1_000;
/// So many G of two threads at most, where both count into one window.
const GOAL: f64 = 1.5;

const G: &str = "G, passed";
const G_REFUSED: &str = "G, refused";
const GK: &str = "GK, 1000 keys, passed";
const HANDLE: &str = "by handle, 3 rules, the third holds, passed";
const NAME: &str = "by name, 3 rules, the third holds, passed";
const REFUSED: &str = "by handle, 3 rules, the third holds, refused";
const ANY: &str = "by handle, 1 rule, both labels *, 1000 combinations, passed";
const ANY_NAME: &str = "by name, 1 rule, both labels *, 1000 combinations, passed";

pub fn measure(effort: &Effort, table: &mut Table) {
    if threads::cores().len() < 2 {
        table.shown("two threads", "not measured".into(), "this process has one core".into());
        return;
    }
    let runtime = runtime();
    let bed = Bed::new(&runtime);
    let (labels, calls) = (Call::one().collected(), Calls::new(COMBINATIONS));
    let limiter = bed.fed().context().limiter();
    let three = bed.service("three", &last_of(3));
    let mut refusing = last_of(3);
    refusing[2] = refusing[2].clone().at_most(1);
    let refused = bed.service("refused", &refusing);
    let any = bed.service("any", &[spread::any()]);
    touch(&any, &calls);
    let (g, g_refused, gk) = (direct(true), direct(false), keyed(true, &calls));

    let ask = |service: &'static str| GetQuota::new("default", service).method(METHOD);
    let mut rows = Rows::new();
    rows.add(G, || g.check());
    rows.add(HANDLE, || by_handle(&three, &labels));
    rows.add(NAME, || limiter.check(&ask("three").labels(&labels)));
    rows.add(G_REFUSED, || g_refused.check());
    rows.add(REFUSED, || by_handle(&refused, &labels));
    rows.add(GK, || gk.check_key(calls.key()));
    rows.add(ANY, || by_handle(&any, calls.labels()));
    rows.add(ANY_NAME, || limiter.check(&ask("any").labels(calls.labels())));
    let (one, two, clean) = of(&rows, effort);

    let measured = |name: &str| format!("{}, {} % clean", two.text(name), clean(name));
    let beside = |name: &str, peer: &str| {
        let alone =
            format!("1 thread {}, {:.2} x", text(median(one.of(name))), median(two.of(name)) / median(one.of(name)));
        if name == peer { alone } else { format!("{}; {alone}", two.beside(name, peer)) }
    };
    for (name, peer) in [(G, G), (HANDLE, G), (NAME, G), (G_REFUSED, G_REFUSED), (REFUSED, G_REFUSED)] {
        let figure = format!("{name}, 2 threads");
        if name == HANDLE {
            let met = two.ratio(name, peer) <= GOAL;
            table.goal(&figure, measured(name), beside(name, peer), "<= 1.5 G at 2 threads", met);
        } else {
            table.shown(&figure, measured(name), beside(name, peer));
        }
    }
    for name in [GK, ANY, ANY_NAME] {
        table.shown(&format!("{name}, 2 threads"), measured(name), beside(name, GK));
    }
    drop(rows);
    bed.end();
}

/// Samples of each row by one thread and by two, and in how many of a hundred rounds both were on their cores.
fn of(rows: &Rows<'_>, effort: &Effort) -> (Measured, Measured, impl Fn(&str) -> usize + use<>) {
    rows.warm_up();
    let cleans: Vec<_> = rows.each().map(|(name, _)| (name.to_owned(), Cell::new(0))).collect();
    let mut cases: Vec<Box<dyn FnMut() -> f64>> = Vec::new();
    for ((_, row), (_, clean)) in rows.each().zip(&cleans) {
        cases.push(Box::new(|| threads::sample(row, 1, effort.tries).cost));
        cases.push(Box::new(|| {
            let sample = threads::sample(row, 2, effort.tries);
            clean.set(clean.get() + usize::from(sample.is_clean()));
            sample.cost
        }));
    }
    let samples = sampled(effort.rounds, &mut cases);
    drop(cases);
    let by = |first: usize| {
        let samples = samples.iter().skip(first).step_by(2).cloned();
        Measured::new(rows.each().map(|(name, _)| name.to_owned()).zip(samples).collect())
    };
    let rounds = effort.rounds + 1;
    let clean = move |name: &str| {
        let of = cleans.iter().find(|(of, _)| of == name);
        of.map_or(0, |(_, clean)| clean.get() * 100 / rounds)
    };
    (by(0), by(1), clean)
}
