//! Threads that do the same at once, each on a core of its own.
//!
//! What threads cost each other shows only while all of them run. Neighbours on the machine take cores away for
//! milliseconds, so a sample is taken again, a number of times, until every thread was on its core for nearly all of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::floor;
use crate::harness::{thread_cpu, wall};
use crate::row::Row;

/// Such a part of a row's batch: a short time passes undisturbed more often than a long one.
const PART: u32 = 4;
/// The share of a sample's time for which every thread is on its core, at the same time as the others.
const CLEAN: f64 = 0.95;

/// What one of a row's picks cost with so many threads at them.
#[derive(Clone, Copy)]
pub struct Sample {
    /// In seconds of a thread's CPU, the mean of the threads.
    pub cost: f64,
    /// The least share of the time that one of the threads was on its core, and that all of them had in common: one that
    /// is held up before it begins leaves the others alone, although each is on its core all along.
    pub on_core: f64,
}

impl Sample {
    pub fn is_clean(&self) -> bool {
        self.on_core >= CLEAN
    }
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the cores of this process");
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// The first clean sample of `row` by `threads` threads at once, or the cleanest of so many tries.
pub fn sample(row: &Row<'_>, threads: usize, tries: usize) -> Sample {
    let cores = cores();
    let mut best = Sample { cost: f64::NAN, on_core: -1.0 };
    for _ in 0..tries {
        let sample = once(row, &cores[..threads]);
        if sample.on_core > best.on_core {
            best = sample;
        }
        if best.is_clean() {
            break;
        }
    }
    best
}

fn once(row: &Row<'_>, cores: &[usize]) -> Sample {
    let batch = row.batch.div_ceil(PART);
    let ready = AtomicUsize::new(0);
    let work = |number: usize, core: usize| -> (f64, Duration, Duration) {
        stay_on(core);
        floor::seed(number);
        row.run(row.warm);
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < cores.len() {
            std::hint::spin_loop();
        }
        let (from, before) = (wall(), thread_cpu());
        row.run(batch);
        let (to, after) = (wall(), thread_cpu());
        ((after - before).as_secs_f64(), from, to)
    };
    let times: Vec<(f64, Duration, Duration)> = thread::scope(|scope| {
        let threads: Vec<_> = cores.iter().enumerate().map(|(n, core)| scope.spawn(move || work(n, *core))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that picks")).collect()
    });
    let cpu: f64 = times.iter().map(|(cpu, ..)| cpu).sum();
    let last_from = times.iter().map(|(_, from, _)| *from).max().unwrap_or_default();
    let first_to = times.iter().map(|(.., to)| *to).min().unwrap_or_default();
    let in_common = first_to.saturating_sub(last_from).as_secs_f64();
    let shares = times.iter().map(|(cpu, from, to)| cpu.min(in_common) / (*to - *from).as_secs_f64());
    Sample { cost: cpu / f64::from(batch) / times.len() as f64, on_core: shares.fold(1.0, f64::min) }
}

/// Keeps the calling thread on one core.
fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("a core of this process");
}
