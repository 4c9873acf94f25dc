//! Rounds, medians, clocks and the table.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

/// CPU time of all threads of the process so far.
pub fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

/// What `work` costs by `clock`.
pub fn cost<T>(clock: fn() -> Duration, work: impl FnOnce() -> T) -> (Duration, T) {
    let before = clock();
    let value = work();
    (clock() - before, value)
}

/// Wall time.
pub fn wall() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// What one of `count` things costs by `clock`, in seconds, when `work` does them all.
pub fn each(count: u32, clock: fn() -> Duration, work: impl FnOnce()) -> f64 {
    cost(clock, work).0.as_secs_f64() / f64::from(count)
}

/// The samples of several cases in seconds, one of each in every round, after a round that does not count.
pub fn interleaved<const CASES: usize>(
    rounds: usize,
    mut cases: [&mut dyn FnMut() -> f64; CASES],
) -> [Vec<f64>; CASES] {
    sampled(rounds, &mut cases).try_into().expect("as many lists of samples as cases")
}

/// [`interleaved`] for as many cases as there are.
pub fn sampled(rounds: usize, cases: &mut [impl FnMut() -> f64]) -> Vec<Vec<f64>> {
    let mut samples = vec![Vec::with_capacity(rounds); cases.len()];
    for round in 0..=rounds {
        for (case, samples) in cases.iter_mut().zip(&mut samples) {
            let sample = case();
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    samples
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 2)
}

/// So many quarters of the samples are below it.
pub fn quantile(samples: &[f64], quarters: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * quarters / 4).min(sorted.len() - 1)]
}

/// The median of the ratios within each round.
pub fn ratio(of: &[f64], to: &[f64]) -> f64 {
    median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>())
}

/// Seconds in the unit that reads well.
pub fn text(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.2} s"),
        1e-3.. => format!("{:.2} ms", seconds * 1e3),
        1e-6.. => format!("{:.2} us", seconds * 1e6),
        _ => format!("{:.1} ns", seconds * 1e9),
    }
}

/// The figures, as a table in Markdown.
#[derive(Default)]
pub struct Table(Vec<[String; 5]>);

impl Table {
    /// A figure with its goal, and whether that is met.
    pub fn goal(&mut self, figure: &str, measured: String, beside: String, goal: &str, met: bool) {
        let verdict = if met { "met" } else { "MISSED" };
        self.push([figure.to_owned(), measured, beside, goal.to_owned(), verdict.to_owned()]);
    }

    /// A figure to read the others by.
    pub fn shown(&mut self, figure: &str, measured: String, beside: String) {
        self.push([figure.to_owned(), measured, beside, String::new(), String::new()]);
    }

    fn push(&mut self, row: [String; 5]) {
        eprintln!("    {}", row.join(" | "));
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | measured | beside | goal | verdict |\n|---|---|---|---|---|")?;
        self.0.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}
