//! The figures that the SDK is held to, each beside its baseline in the same run.
//!
//! ```text
//! cargo bench -p polarismesh-benches [-- [--quick] [FIGURE…]]
//! ```
//!
//! A figure is the median of 20 rounds, and a ratio the median of the ratios within a round. Where CPU time is named it
//! is that of a thread or a process, so that neighbours on the machine count little. Servers and whatever needs a fresh
//! process run in children of this program.

mod answer;
mod beats;
mod children;
mod effort;
mod idle;
mod life;
mod memory;
mod pick;
mod plain;
mod start;
mod visible;

use polarismesh_benches::alloc;
use polarismesh_benches::harness::Table;

use crate::effort::Effort;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

type Figure = fn(&Effort, &mut Table);

/// By the names that the command line knows.
const FIGURES: [(&str, Figure); 8] = [
    ("start", start::measure),
    ("pick", pick::measure),
    ("beats", beats::measure),
    ("answer", answer::measure),
    ("memory", memory::measure),
    ("idle", idle::measure),
    ("life", life::measure),
    ("visible", visible::measure),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, rest @ ..] = &arguments[..]
        && flag == children::FLAG
    {
        return children::run(name, rest);
    }
    // Cargo adds `--bench`.
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with("--")).collect();
    let effort = if arguments.iter().any(|argument| argument == "--quick") { Effort::QUICK } else { Effort::FULL };
    if let Some(unknown) = wanted.iter().find(|name| FIGURES.iter().all(|(known, _)| known != *name)) {
        eprintln!("unknown figure {unknown}; known are {}", FIGURES.map(|(name, _)| name).join(", "));
        std::process::exit(2);
    }
    let mut table = Table::default();
    for (name, measure) in FIGURES {
        if wanted.is_empty() || wanted.contains(&name) {
            eprintln!("… {name}");
            measure(&effort, &mut table);
        }
    }
    println!("{table}");
}
