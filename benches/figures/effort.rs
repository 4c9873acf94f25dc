//! How much is measured.

use std::time::Duration;

/// How much is measured.
pub struct Effort {
    pub rounds: usize,
    /// The longest list that is picked from.
    pub most_instances: usize,
    /// How long an idle client is watched, and how long it is left alone before.
    pub watched: Duration,
    pub settled: Duration,
    pub life_rounds: usize,
}

impl Effort {
    pub const FULL: Self = Self {
        rounds: 20,
        most_instances: 100_000,
        watched: Duration::from_secs(20),
        settled: Duration::from_secs(40),
        life_rounds: 1_000,
    };
    pub const QUICK: Self = Self {
        rounds: 5,
        most_instances: 10_000,
        watched: Duration::from_secs(5),
        settled: Duration::from_secs(3),
        life_rounds: 100,
    };
}
