//! Messages as proto3 JSON, by the tables of [`crate::pb::schema`].
//!
//! Problem: rules are shown to people and to callers of `get_rule` as JSON, and development data is written as JSON or
//! YAML, in the spelling of the console. Choice: one walk over the bytes of any message, led by a table, instead of a
//! second set of generated code. Invariant: names are those of the specification; wrappers are bare values, 64-bit
//! numbers and durations are text, enums are names where the number is known, and what equals its default is left out
//! unless a wrapper carries it. Nothing is trusted: bytes inside an `Any` come from whoever wrote the rule.

mod base64;
mod parse;
mod render;

pub(crate) use parse::{InvalidJson, to_bytes};
#[cfg(any(test, feature = "testing"))]
pub(crate) use render::render;
pub(crate) use render::to_json;

/// As deep as prost goes: hostile bytes must not exhaust the stack.
const MAX_DEPTH: usize = 100;
