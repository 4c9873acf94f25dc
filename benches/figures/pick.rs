//! Picks on warm data, beside the least that a pick can be.

use std::hint::black_box;

use polarismesh::Pick;
use polarismesh::testing::bench::Fed;
use polarismesh_benches::floor::Floor;
use polarismesh_benches::harness::{Table, each, interleaved, median, ratio, text, thread_cpu};
use polarismesh_benches::service::{self, at_once, loaded};
use polarismesh_benches::{alloc, data};

use crate::children;
use crate::effort::Effort;

/// Picks in a sample, about 4 ms.
const BATCH: u32 = 100_000;

/// A way to pick: its name, one of its picks, and the goal in F.
type Case<'a> = (&'a str, &'a dyn Fn(), Option<f64>);

/// The medians of one length of list.
struct Medians {
    instances: usize,
    by_handle: f64,
    floor: f64,
}

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = children::runtime();
    let mut growth: Vec<Medians> = Vec::new();
    for instances in [10, 100, 1_000, 10_000, 100_000] {
        if instances > effort.most_instances {
            continue;
        }
        let fed = loaded(instances, &runtime);
        growth.push(of(&fed, instances, effort, table));
        service::end(fed, &runtime);
    }
    let Some(first) = growth.first() else { return };
    for (later, goal) in growth.iter().filter_map(|later| match later.instances {
        10_000 => Some((later, 1.3)),
        100_000 => Some((later, 2.0)),
        _ => None,
    }) {
        let (growth, of_floor) = (later.by_handle / first.by_handle, later.floor / first.floor);
        table.goal(
            &format!("growth of a pick by handle, N = {} to 10, beside that of F", later.instances),
            format!("{growth:.2} x"),
            format!("F {of_floor:.2} x"),
            &format!("<= {goal} of F's"),
            growth / of_floor <= goal,
        );
    }
}

fn of(fed: &Fed, instances: usize, effort: &Effort, table: &mut Table) -> Medians {
    let consumer = fed.context().consumer();
    let handle = consumer.service(data::key());
    let floor = Floor::new(&handle);
    let pick = Pick::new();
    let by_handle = || drop(black_box(handle.pick(&pick).expect("an instance")));
    let by_name = || drop(black_box(consumer.pick(("default", "bench"), &pick).expect("an instance")));
    let get_one = || drop(black_box(at_once(consumer.get_one_instance(("default", "bench")))));
    let floor = || drop(black_box(floor.pick()));
    let cases: [Case<'_>; 3] = [
        ("pick by handle", &by_handle, Some(1.5)),
        ("pick by name", &by_name, Some(3.0)),
        ("get_one_instance", &get_one, None),
    ];
    let allocated = cases.map(|(_, case, _)| {
        let before = alloc::count();
        (0..10_000).for_each(|_| case());
        alloc::count() - before
    });
    let [a, b, c, f] = interleaved(
        effort.rounds,
        [&mut || batch(by_handle), &mut || batch(by_name), &mut || batch(get_one), &mut || batch(floor)],
    );
    for (((name, _, goal), samples), allocated) in cases.iter().zip([&a, &b, &c]).zip(allocated) {
        let figure = format!("warm {name}, N = {instances}");
        let ratio = ratio(samples, &f);
        let measured = format!("{}, {allocated} allocations in 10,000", text(median(samples)));
        let beside = format!("F {}, {ratio:.2} F", text(median(&f)));
        let (text, within) = goal
            .map_or(("no allocation".to_owned(), true), |goal| (format!("no allocation, <= {goal} F"), ratio <= goal));
        table.goal(&figure, measured, beside, &text, allocated == 0 && within);
    }
    Medians { instances, by_handle: median(&a), floor: median(&f) }
}

/// CPU time of one pick of many.
fn batch(pick: impl Fn()) -> f64 {
    each(BATCH, thread_cpu, || (0..BATCH).for_each(|_| pick()))
}
