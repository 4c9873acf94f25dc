//! What the benches have in common: data, rounds, clocks, the table, and the least that a pick can be.

pub mod alloc;
pub mod data;
pub mod floor;
pub mod harness;
pub mod row;
pub mod rules;
pub mod runtime;
pub mod service;
pub mod threads;
