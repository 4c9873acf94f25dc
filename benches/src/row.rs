//! Ways of picking that are measured side by side.

use std::hint::black_box;

use crate::alloc;
use crate::harness::{each, thread_cpu};

/// How long a sample takes, so that what starts and ends it is lost in it.
const SAMPLE: f64 = 4e-3;
/// How many times as many picks as there are instances come before a sample: all but a few instances are in the cache
/// again then, which other rows drove out.
const WARM: u32 = 4;
/// How long that may take.
const WARMING: f64 = 60e-3;

/// One way of picking.
pub struct Row<'a> {
    run: Box<dyn Fn(u32) + Send + Sync + 'a>,
    pub batch: u32,
    pub warm: u32,
}

impl<'a> Row<'a> {
    /// `pick` among so many instances; it is tried for long enough to know how many of it make a sample.
    pub fn new<T>(instances: usize, pick: impl Fn() -> T + Send + Sync + 'a) -> Self {
        // The loop is inside of the pointer, so that a pick does not pay for being called through it.
        let run = Box::new(move |count: u32| (0..count).for_each(|_| drop(black_box(pick()))));
        let (mut tried, mut cost) = (1, 0.0);
        while cost * f64::from(tried) < SAMPLE / 4.0 {
            tried *= 2;
            cost = each(tried, thread_cpu, || run(tried));
        }
        let within = |time: f64| (time / cost) as u32;
        let warm = within(WARMING).min(WARM * u32::try_from(instances).expect("far fewer"));
        Self { run, batch: within(SAMPLE).max(1), warm }
    }

    /// Seconds of the calling thread's CPU that a pick costs on warm data.
    pub fn sample(&self) -> f64 {
        self.run(self.warm);
        each(self.batch, thread_cpu, || self.run(self.batch))
    }

    /// How often `count` picks allocate.
    pub fn allocations(&self, count: u32) -> u64 {
        let before = alloc::count();
        self.run(count);
        alloc::count() - before
    }

    pub fn run(&self, count: u32) {
        (self.run)(count);
    }
}
