//! What a check of a quota costs, beside governor.
//!
//! ```text
//! cargo bench -p polarismesh-benches --bench limit [-- [--quick] [PART…]]
//! ```
//!
//! A figure is the median of 25 rounds of thread CPU time in which all cases are measured in turn, with its quartiles, a
//! ratio the median of the ratios within a round. G is governor's direct limiter, GK its limiter keyed by texts.
//!
//! The coarse clock ticks only while calls are many and a runtime runs it: every context here has a runtime with a worker
//! of its own, and every row is run for a while before its sample.

mod bed;
mod effort;
mod one;
mod rules;
mod spread;
mod steps;
mod together;

use polarismesh_benches::alloc;
use polarismesh_benches::harness::Table;

use crate::effort::Effort;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const PARTS: [&str; 4] = ["one", "spread", "together", "steps"];

fn main() {
    let mut effort = Effort::FULL;
    let mut wanted: Vec<String> = Vec::new();
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--quick" => effort = Effort::QUICK,
            // Cargo adds it.
            "--bench" => {}
            part if PARTS.contains(&part) => wanted.push(argument),
            other => {
                eprintln!("unknown: {other}; usage: [--quick] [{}]", PARTS.join("] ["));
                std::process::exit(2);
            }
        }
    }
    let mut table = Table::default();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        eprintln!("… {part}");
        match part {
            "one" => one::measure(&effort, &mut table),
            "spread" => spread::measure(&effort, &mut table),
            "together" => together::measure(&effort, &mut table),
            _ => steps::measure(&effort, &mut table),
        }
    }
    println!("{table}");
}
