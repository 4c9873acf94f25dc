//! Protobuf messages and gRPC stubs of the Polaris specification.
//!
//! Problem: users should need neither protoc nor a build script, and prost refuses a whole message when one known tag
//! arrives with another wire type, which upstream's re-used tags do to any complete copy of the specification. Choice:
//! `proto/` declares what a client reads, and what it generates is checked in under `generated/`. Invariant: nothing
//! here is edited by hand; `tests/codegen.rs` regenerates it and compares. Enums are open: fields hold `i32`, and a
//! number nobody knows is a value like any other.

/// Naming, discovery, rules and configuration: package `v1`.
#[allow(
    dead_code,
    missing_docs,
    unnameable_types,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code; messages and RPCs stand here before the part that uses them"
)]
pub(crate) mod v1 {
    include!("generated/v1.rs");
}

/// The limiter's protocol: package `polaris.metric.v2`.
#[allow(
    dead_code,
    missing_docs,
    unnameable_types,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code; messages and RPCs stand here before the part that uses them"
)]
pub(crate) mod metric {
    include!("generated/polaris.metric.v2.rs");
}

pub(crate) mod schema;
