//! An answer with 1,000 instances, from its bytes to picks, beside prost's decoding of the same bytes.

use std::hint::black_box;
use std::time::Duration;

use polarismesh::testing::bench::{Fed, v1};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::runtime::Runtime;

use crate::harness::{Effort, Table, cost, interleaved, median, ratio, text, thread_cpu};
use crate::{children, data};

const INSTANCES: usize = 1_000;
const GOAL: f64 = 1.4;
/// Replaced lists are freed within this time.
const FREED: Duration = Duration::from_millis(250);

pub fn measure(effort: &Effort, table: &mut Table) {
    // One thread: all that is done is done on it.
    let runtime = children::on_this_thread();
    let fed = runtime.block_on(async { Fed::new().expect("a context") });
    let answers = [data::answer(INSTANCES, 1), data::answer(INSTANCES, 2)];
    let mut turn = 0;
    let mut next = || {
        turn += 1;
        answers[turn % 2].clone()
    };
    let bytes = answers[0].clone();
    let mut decoded = Vec::new();
    let [served, prost, kept, dropped] = interleaved(
        effort.rounds,
        [
            &mut || {
                // The list before the last is freed outside.
                runtime.block_on(tokio::time::sleep(FREED));
                let answer = next();
                cost(thread_cpu, || serve(&runtime, &fed, answer)).0
            },
            &mut || {
                decoded.clear();
                let (time, message) = cost(thread_cpu, || decode(bytes.clone()));
                decoded.push(message);
                time
            },
            &mut || {
                runtime.block_on(tokio::time::sleep(FREED));
                let (a, b) = (turn_of(&answers, 0), turn_of(&answers, 1));
                cost(thread_cpu, || {
                    for answer in [b, a] {
                        serve(&runtime, &fed, answer);
                        runtime.block_on(tokio::time::sleep(FREED));
                    }
                })
                .0 / 2
            },
            &mut || cost(thread_cpu, || drop(black_box(decode(bytes.clone())))).0,
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

fn turn_of(answers: &[Bytes; 2], n: usize) -> Bytes {
    answers[n].clone()
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
