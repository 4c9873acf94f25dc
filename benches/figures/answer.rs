//! An answer with 1,000 instances, from its bytes to picks, beside prost's decoding of the same bytes.

use std::hint::black_box;
use std::time::Duration;

use polarismesh::testing::bench::{Fed, v1};
use polarismesh_benches::data;
use polarismesh_benches::harness::{Table, cost, each, interleaved, median, ratio, text, thread_cpu};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::runtime::Runtime;

use crate::children;
use crate::effort::Effort;

const INSTANCES: usize = 1_000;
const GOAL: f64 = 1.4;
/// Replaced lists are freed within this time.
const FREED: Duration = Duration::from_millis(250);

pub fn measure(effort: &Effort, table: &mut Table) {
    // One thread: all that is done is done on it.
    let runtime = children::on_this_thread();
    let fed = runtime.block_on(async { Fed::new().expect("a context") });
    fed.no_rules(&data::key());
    let generation = std::cell::Cell::new(1);
    // Made outside of what is measured; each differs from the last.
    let next = || data::answer(INSTANCES, generation.replace(generation.get() + 1));
    let bytes = data::answer(INSTANCES, 0);
    let mut decoded = Vec::new();
    let [served, prost, kept, dropped] = interleaved(
        effort.rounds,
        [
            &mut || {
                // The list before the last is freed outside.
                wait(&runtime);
                let answer = next();
                each(1, thread_cpu, || serve(&runtime, &fed, answer))
            },
            &mut || {
                decoded.clear();
                let (time, message) = cost(thread_cpu, || decode(bytes.clone()));
                decoded.push(message);
                time.as_secs_f64()
            },
            &mut || {
                wait(&runtime);
                let two = [next(), next()];
                each(2, thread_cpu, || {
                    for answer in two {
                        serve(&runtime, &fed, answer);
                        wait(&runtime);
                    }
                })
            },
            &mut || each(1, thread_cpu, || drop(black_box(decode(bytes.clone())))),
        ],
    );
    for (figure, of, to) in [
        ("an answer with 1,000 instances decoded, compiled and served, CPU", &served, &prost),
        ("the same, with freeing what it replaces", &kept, &dropped),
    ] {
        let ratio = ratio(of, to);
        let beside = format!("prost decode {}, {ratio:.2} x", text(median(to)));
        table.goal(figure, text(median(of)), beside, "<= 1.4 x", ratio <= GOAL);
    }
    runtime.block_on(fed.context().shutdown(Duration::from_secs(5))).expect("an end");
}

/// Until replaced lists are freed.
fn wait(runtime: &Runtime) {
    runtime.block_on(async { tokio::time::sleep(FREED).await });
}

/// Until picks are made from it.
fn serve(runtime: &Runtime, fed: &Fed, answer: Bytes) {
    runtime.block_on(async {
        let handle = fed.context().consumer().service(data::key());
        let before = handle.snapshot().map(|list| list.revision().clone());
        assert!(fed.answer(&data::key(), answer).expect("an answer"), "it changes what is served");
        while handle.snapshot().map(|list| list.revision().clone()) == before {
            tokio::task::yield_now().await;
        }
    });
}

fn decode(bytes: Bytes) -> v1::DiscoverResponse {
    v1::DiscoverResponse::decode(bytes).expect("an answer")
}
