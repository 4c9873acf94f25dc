//! What fits the crate into the frameworks that services are written with.
//!
//! Only traits and types of the ecosystem's small crates (`tower-layer`, `tower-service`, `http`, `http-body`, `bytes`) stand
//! in public signatures here: a framework that speaks them needs no feature of ours.

pub(crate) mod tower;
