//! Messages of the protocol by their names, as proto3 JSON: for tests that hold bytes against their meaning.

use crate::error::Result;
use crate::wire::dump;

/// What this crate's types make of the bytes of a message, as proto3 JSON: fields that they do not declare are gone.
///
/// Names of messages are full (`polaris.metric.v2.RateLimitResponse`), or of package `v1` where they have no dot.
///
/// # Errors
/// `InvalidArgument` for bytes that are no such message, and for a message that nobody knows.
pub fn decode_to_json(message: &str, bytes: &[u8]) -> Result<String> {
    dump::decode_to_json(message, bytes)
}

/// The bytes of the message that this proto3 JSON describes, its fields in either spelling.
///
/// # Errors
/// `InvalidArgument`, with the place, for JSON that does not fit the message, and for a message that nobody knows.
pub fn encode_from_json(message: &str, json: &str) -> Result<Vec<u8>> {
    dump::encode_from_json(message, json)
}
