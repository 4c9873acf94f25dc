//! What picking costs, beside the least that it can cost, what a peer asks for it, and a plain chain of routers.
//!
//! ```text
//! cargo bench -p polarismesh-benches --bench select [-- [--quick] [--plot FILE] [PART…]]
//! ```
//!
//! A figure is the median of 25 rounds of thread CPU time in which all cases are measured in turn, a ratio the median
//! of the ratios within a round. F is the guard of an `ArcSwap`, one draw from an alias table and the clone of an
//! `Arc`; P is pingora-load-balancing's weighted random among 100 backends.

mod balancers;
mod bed;
mod effort;
mod fair;
mod growth;
mod matching;
mod peers;
mod plot;
mod reference;
mod steps;
mod together;

use std::path::{Path, PathBuf};

use polarismesh_benches::alloc;
use polarismesh_benches::harness::Table;

use crate::bed::Way;
use crate::effort::Effort;
use crate::growth::Measured;
use crate::plot::{COLORS, Curve};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const PARTS: [&str; 6] = ["growth", "steps", "matching", "together", "balancers", "fair"];

/// What is drawn, and under which name.
const DRAWN: [(Way, &str); 5] = [
    (Way::FloorRouted, "F, the least: guard, draw, clone"),
    (Way::HandleRouted, "polarismesh by handle: 3 rules, nearby, breakers"),
    (Way::NameRouted, "polarismesh by name: the same"),
    (Way::Pingora, "pingora-load-balancing: random, no routing"),
    (Way::ChainRouted, "a chain of routers that walk lists: the same rules"),
];

fn main() {
    let mut effort = Effort::FULL;
    let mut plot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("select.svg");
    let mut wanted: Vec<String> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--quick" => effort = Effort::QUICK,
            "--plot" => plot = arguments.next().map_or_else(|| usage("--plot needs a file"), PathBuf::from),
            // Cargo adds it.
            "--bench" => {}
            part if PARTS.contains(&part) => wanted.push(argument),
            other => usage(&format!("unknown: {other}")),
        }
    }
    let mut table = Table::default();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        eprintln!("… {part}");
        match part {
            "growth" => draw(&plot, &growth::measure(&effort, &mut table)),
            "steps" => steps::measure(&effort, &mut table),
            "together" => together::measure(&effort, &mut table),
            "matching" => matching::measure(&effort, &mut table),
            "balancers" => balancers::measure(&effort, &mut table),
            _ => fair::measure(&effort, &mut table),
        }
    }
    println!("{table}");
}

fn draw(path: &Path, measured: &Measured) {
    let curves: Vec<_> = DRAWN
        .into_iter()
        .zip(COLORS)
        .map(|((way, name), color)| Curve { name, points: measured.curve(way), color })
        .collect();
    match plot::draw(path, &curves) {
        Ok(()) => eprintln!("… drawn to {}", path.display()),
        Err(error) => eprintln!("… not drawn to {}: {error}", path.display()),
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}; usage: [--quick] [--plot FILE] [{}]", PARTS.join("] ["));
    std::process::exit(2);
}
