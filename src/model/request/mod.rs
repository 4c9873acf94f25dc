//! What callers ask for, as plain values.
//!
//! Requests are nouns of the action, built by value; those of the hot path may borrow. What is out of bounds is refused
//! by `validate` before anything is sent, with the bound in the message: servers answer with a bare code.

pub(crate) mod asks;
pub(crate) mod instance;
pub(crate) mod pairs;
pub(crate) mod quota;
pub(crate) mod registration;
pub(crate) mod tried;
