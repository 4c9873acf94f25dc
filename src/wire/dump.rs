//! Messages by their names, for tests that hold captured bytes against their meaning.

use prost::{Message, Name};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::pb::{metric, schema, v1};
use crate::wire::json::{render, to_bytes, to_json};

/// What the generated code makes of the bytes of a message, as proto3 JSON. Answers are decoded by the very types that
/// a client uses, other messages by their tables; names are full, or of package `v1` when they have no dot.
pub(crate) fn decode_to_json(message: &str, bytes: &[u8]) -> Result<String> {
    let value = match full(message).as_str() {
        "v1.DiscoverResponse" => typed::<v1::DiscoverResponse>(bytes),
        "v1.Response" => typed::<v1::Response>(bytes),
        "v1.HeartbeatsResponse" => typed::<v1::HeartbeatsResponse>(bytes),
        "v1.ConfigClientResponse" => typed::<v1::ConfigClientResponse>(bytes),
        "v1.ConfigClientListResponse" => typed::<v1::ConfigClientListResponse>(bytes),
        "v1.ConfigDiscoverResponse" => typed::<v1::ConfigDiscoverResponse>(bytes),
        "polaris.metric.v2.RateLimitResponse" => typed::<metric::RateLimitResponse>(bytes),
        "polaris.metric.v2.TimeAdjustResponse" => typed::<metric::TimeAdjustResponse>(bytes),
        other => match schema::find(other) {
            Some(table) => render(table, bytes).map_err(|why| why.to_string()),
            None => Err("no such message".to_owned()),
        },
    };
    let invalid = |why| Error::new(ErrorKind::InvalidArgument, format!("decoding {message}: {why}"));
    value.map(|value| value.to_string()).map_err(invalid)
}

fn typed<M: Message + Name + Default>(bytes: &[u8]) -> Result<Value, String> {
    to_json(&M::decode(bytes).map_err(|why| why.to_string())?).map_err(|why| why.to_string())
}

/// The bytes of the message that this proto3 JSON describes. Fields in either spelling; unknown ones are an error.
pub(crate) fn encode_from_json(message: &str, json: &str) -> Result<Vec<u8>> {
    let invalid = |why: String| Error::new(ErrorKind::InvalidArgument, format!("encoding {message}: {why}"));
    let table = schema::find(&full(message)).ok_or_else(|| invalid("no such message".to_owned()))?;
    let value = serde_json::from_str(json).map_err(|why| invalid(why.to_string()))?;
    to_bytes(table, &value).map_err(|why| invalid(why.to_string()))
}

fn full(message: &str) -> String {
    if message.contains('.') { message.to_owned() } else { format!("v1.{message}") }
}
