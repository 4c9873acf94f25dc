//! Picks on warm data, beside the least that a pick can be.

use std::future::Future as _;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use polarismesh::testing::bench::Fed;
use polarismesh::{Instance, Pick, ServiceHandle};

use crate::harness::{Effort, Table, each, interleaved, median, ratio, text, thread_cpu};
use crate::{alloc, children, data};

/// Picks in a sample, about 4 ms.
const BATCH: u32 = 100_000;

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
        let fed = runtime.block_on(warm(instances));
        growth.push(of(&fed, instances, effort, table));
        runtime.block_on(fed.context().shutdown(Duration::from_secs(5))).expect("an end");
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

/// A context with the service loaded.
async fn warm(instances: usize) -> Fed {
    let fed = Fed::new().expect("a context");
    let handle = fed.context().consumer().service(data::key());
    fed.answer(&data::key(), data::answer(instances, 1)).expect("an answer");
    handle.ready().await.expect("it is loaded");
    fed
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
    let cases: [(&str, &dyn Fn(), Option<f64>); 3] = [
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

fn at_once(future: polarismesh::GetOneInstanceFuture) -> Instance {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(picked) => picked.expect("an instance"),
        Poll::Pending => panic!("a pick on warm data waits"),
    }
}

/// F: the guard of an `ArcSwap`, one draw from an alias table, the clone of an `Arc`.
struct Floor(ArcSwap<Drawn>);

struct Drawn {
    columns: Box<[(u32, u32)]>,
    items: Box<[Arc<Item>]>,
}

/// As large as an instance that somebody could use.
struct Item {
    _authority: Box<str>,
    _rest: [u64; 6],
}

impl Floor {
    fn new(handle: &ServiceHandle) -> Self {
        let list = handle.snapshot().expect("it is loaded");
        let weights: Vec<f64> = list.instances().iter().map(|instance| f64::from(instance.weight())).collect();
        let item = |instance: &Instance| Arc::new(Item { _authority: instance.authority().into(), _rest: [0; 6] });
        let items = list.instances().iter().map(item).collect();
        Self(ArcSwap::from_pointee(Drawn { columns: alias(&weights), items }))
    }

    fn pick(&self) -> Arc<Item> {
        let drawn = self.0.load();
        let entropy = draw();
        let column = ((u128::from(entropy) * drawn.columns.len() as u128) >> 64) as usize;
        let (threshold, other) = drawn.columns[column];
        let index = if entropy as u32 <= threshold { column } else { other as usize };
        Arc::clone(&drawn.items[index])
    }
}

/// Vose's table; thresholds in parts of 2^32.
fn alias(weights: &[f64]) -> Box<[(u32, u32)]> {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    let mut mass: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..mass.len()).partition(|n| mass[*n] < 1.0);
    let mut columns: Box<[(u32, u32)]> = (0..mass.len()).map(|n| (u32::MAX, n as u32)).collect();
    while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
        columns[poor] = ((mass[poor] * f64::from(u32::MAX)) as u32, rich as u32);
        mass[rich] -= 1.0 - mass[poor];
        if mass[rich] < 1.0 { small.push(rich) } else { large.push(rich) }
    }
    columns
}

/// A small generator of its own for each thread.
fn draw() -> u64 {
    use std::cell::Cell;
    thread_local! { static STATE: Cell<u64> = const { Cell::new(0x2545_F491_4F6C_DD1D) } }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0xA076_1D64_78BD_642F);
        state.set(next);
        let wide = u128::from(next) * u128::from(next ^ 0xE703_7ED1_A0B4_28DB);
        (wide >> 64) as u64 ^ wide as u64
    })
}
