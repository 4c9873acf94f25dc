//! Between protobuf and the model, and nothing else.
//!
//! Problem: what comes over the wire is written by servers of many releases and by people at consoles, and one odd
//! field must not take a whole service away. Choice: every conversion is a total function: its output is a valid model
//! value or a typed `Invalid…` for the one item, whose neighbours stay. Invariant: nothing here panics, whatever the
//! bytes; absent wrappers have the value that the server itself would assume; enums are open numbers; no type of
//! protobuf leaves except into `transport` and the test kit.

pub(crate) mod code;
mod condition;
pub(crate) mod discovered;
#[cfg(feature = "testing")]
pub(crate) mod dump;
pub(crate) mod instance;
pub(crate) mod json;
mod limit;
pub(crate) mod limiter;
#[cfg(test)]
mod limiter_test;
pub(crate) mod reader;
pub(crate) mod request;
pub(crate) mod resource;
mod route;
mod rule;
mod walk;

#[cfg(test)]
mod tests;
