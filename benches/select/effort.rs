//! How much is measured.

pub struct Effort {
    pub rounds: usize,
    /// The longest list that is picked from.
    pub most_instances: usize,
    /// How often a sample of two threads is taken until both were on their cores.
    pub tries: usize,
    /// Picks that shares are counted over.
    pub picks: u32,
}

impl Effort {
    pub const FULL: Self = Self { rounds: 25, most_instances: 100_000, tries: 30, picks: 20_000_000 };
    pub const QUICK: Self = Self { rounds: 5, most_instances: 10_000, tries: 5, picks: 2_000_000 };
}
