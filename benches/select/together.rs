//! What a pick costs while another thread picks from the same service, each on a core of its own.

use std::cell::Cell;

use polarismesh_benches::harness::{Table, median, quantile, ratio, sampled, text};
use polarismesh_benches::row::Row;
use polarismesh_benches::runtime::runtime;
use polarismesh_benches::threads;

use crate::bed::{Bed, Way};
use crate::effort::Effort;

/// With fewer instances two threads meet at their counts, whatever a pick does besides.
const LENGTHS: [usize; 2] = [100, 1_000];

/// What is handed out is counted, by both threads: at most so many F at two threads.
const HANDED_OUT: [(Way, Option<f64>); 7] = [
    (Way::Handle, Some(1.5)),
    (Way::Name, Some(3.0)),
    (Way::GetOne, None),
    (Way::HandleRouted, Some(2.0)),
    (Way::NameRouted, Some(3.0)),
    (Way::GetOneRouted, None),
    (Way::Pingora, None),
];

/// Nothing is handed out: at most so much of the cost at one thread.
const KEPT: [(Way, f64); 2] = [(Way::HandleKept, 1.3), (Way::HandleRoutedKept, 1.3)];

const FLOORS: [Way; 4] = [Way::Floor, Way::FloorRouted, Way::FloorKept, Way::FloorRoutedKept];

/// A row at one thread and at two.
struct Pair<'a> {
    way: Way,
    row: Row<'a>,
    clean: Cell<usize>,
}

pub fn measure(effort: &Effort, table: &mut Table) {
    if threads::cores().len() < 2 {
        table.shown("two threads", "not measured".into(), "this process has one core".into());
        return;
    }
    let runtime = runtime();
    for instances in LENGTHS {
        let bed = Bed::new(&runtime, instances);
        of(&bed, effort, table);
        bed.end(&runtime);
    }
}

fn of(bed: &Bed, effort: &Effort, table: &mut Table) {
    let ways = FLOORS.into_iter().chain(HANDED_OUT.map(|(way, _)| way)).chain(KEPT.map(|(way, _)| way));
    let pairs: Vec<_> = ways.map(|way| Pair { way, row: bed.row(way), clean: Cell::new(0) }).collect();
    let mut cases: Vec<Box<dyn FnMut() -> f64>> = Vec::new();
    for pair in &pairs {
        cases.push(Box::new(|| threads::sample(&pair.row, 1, effort.tries).cost));
        cases.push(Box::new(|| {
            let sample = threads::sample(&pair.row, 2, effort.tries);
            pair.clean.set(pair.clean.get() + usize::from(sample.is_clean()));
            sample.cost
        }));
    }
    let samples = sampled(effort.rounds, &mut cases);
    drop(cases);
    let both = |way: Way| {
        let at = pairs.iter().position(|pair| pair.way == way).expect("it was measured");
        (&pairs[at], &samples[2 * at], &samples[2 * at + 1])
    };
    let figure = |way: Way| format!("{}, N = {}, 2 threads", way.text(), bed.instances);
    let measured = |way: Way| {
        let (pair, _, two) = both(way);
        let clean = pair.clean.get() * 100 / (effort.rounds + 1);
        format!("{} [{} to {}], {clean} % clean", text(median(two)), text(quantile(two, 1)), text(quantile(two, 3)))
    };
    let beside = |way: Way| {
        let (_, one, two) = both(way);
        format!("1 thread {}, {:.2} x", text(median(one)), ratio(two, one))
    };
    for way in FLOORS {
        table.shown(&figure(way), measured(way), beside(way));
    }
    for (way, most) in HANDED_OUT {
        let ((_, _, two), (_, _, floor)) = (both(way), both(way.floor()));
        let in_floors = ratio(two, floor);
        let beside = format!("{}; {in_floors:.2} F at 2 threads", beside(way));
        match most {
            Some(most) => {
                let goal = format!("<= {most} F at 2 threads");
                table.goal(&figure(way), measured(way), beside, &goal, in_floors <= most);
            }
            None => table.shown(&figure(way), measured(way), beside),
        }
    }
    for (way, most) in KEPT {
        let (_, one, two) = both(way);
        let goal = format!("<= {most} of 1 thread");
        table.goal(&figure(way), measured(way), beside(way), &goal, ratio(two, one) <= most);
    }
}
