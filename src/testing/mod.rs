//! (being written)

#[doc(hidden)]
pub mod wire;
