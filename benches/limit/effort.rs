//! How much is measured.

pub struct Effort {
    pub rounds: usize,
    /// How often a sample of two threads is taken until both were on their cores.
    pub tries: usize,
}

impl Effort {
    pub const FULL: Self = Self { rounds: 25, tries: 30 };
    pub const QUICK: Self = Self { rounds: 7, tries: 5 };
}
