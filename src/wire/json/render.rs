//! From bytes to JSON.

use serde_json::{Map, Number, Value};

use super::{MAX_DEPTH, base64};
use crate::pb::schema::{self, Field, Kind, Message, Scalar, Shape};
use crate::wire::reader::{Malformed, Raw, Reader, low_i32, low_u32, text_of};

/// `message` as proto3 JSON.
pub(crate) fn to_json<M: prost::Message + prost::Name>(message: &M) -> Result<Value, Malformed> {
    // A message without a table would be one that `proto/` does not declare, and then there is nothing to show.
    schema::find(&M::full_name()).map_or(Ok(Value::Null), |table| render(table, &message.encode_to_vec()))
}

/// The bytes of a `table` as proto3 JSON. Fields that the table does not name, or whose wire type does not fit it, are
/// left out, as every protobuf implementation but prost's does.
pub(crate) fn render(table: &'static Message, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut object = Map::new();
    fill(&mut object, table, bytes, MAX_DEPTH)?;
    Ok(Value::Object(object))
}

fn fill(object: &mut Map<String, Value>, table: &'static Message, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed::Depth)?;
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        let Ok(at) = table.fields.binary_search_by_key(&tag, |field| field.tag) else { continue };
        let Some(field) = table.fields.get(at) else { continue };
        match field.shape {
            Shape::Many => {
                if let Some(value) = value(field.kind, raw, depth)? {
                    let list = object.entry(field.json).or_insert_with(|| Value::Array(Vec::new()));
                    list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
                }
            }
            Shape::Map => entry(object, field, raw, depth)?,
            Shape::One => one(object, field, raw, depth)?,
        }
    }
    Ok(())
}

fn one(object: &mut Map<String, Value>, field: &Field, raw: Raw<'_>, depth: usize) -> Result<(), Malformed> {
    // A message that stands twice is one message: the second adds to the first.
    if let (Kind::Message(table), Raw::Bytes(bytes)) = (field.kind, raw) {
        let inner = object.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
        return inner.as_object_mut().map_or(Ok(()), |inner| fill(inner, table, bytes, depth));
    }
    match value(field.kind, raw, depth)? {
        Some(value) if is_default(field.kind, raw) => drop((value, object.remove(field.json))),
        Some(value) => drop(object.insert(field.json.to_owned(), value)),
        None => {}
    }
    Ok(())
}

fn entry(object: &mut Map<String, Value>, field: &Field, raw: Raw<'_>, depth: usize) -> Result<(), Malformed> {
    let Raw::Bytes(bytes) = raw else { return Ok(()) };
    let (mut key, mut held) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        match (tag, raw) {
            (1, Raw::Bytes(text)) => text_of(text)?.clone_into(&mut key),
            (2, raw) => held = value(field.kind, raw, depth)?.or(held),
            _ => {}
        }
    }
    let held = held.unwrap_or_else(|| absent(field.kind));
    let map = object.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
    if let Some(map) = map.as_object_mut() {
        map.insert(key, held);
    }
    Ok(())
}

/// What stands for a value of a map that was left out.
fn absent(kind: Kind) -> Value {
    match kind {
        Kind::Plain(Scalar::Text) | Kind::Wrapped(Scalar::Text) => Value::String(String::new()),
        Kind::Message(_) | Kind::Any => Value::Object(Map::new()),
        Kind::Plain(scalar) | Kind::Wrapped(scalar) => number(scalar, 0),
        Kind::Enum(names) => enumeration(names, 0),
        Kind::Duration => Value::String("0s".to_owned()),
    }
}

/// `None` where the wire type does not fit.
fn value(kind: Kind, raw: Raw<'_>, depth: usize) -> Result<Option<Value>, Malformed> {
    let value = match (kind, raw) {
        (Kind::Plain(scalar), raw) => return plain(scalar, raw),
        (Kind::Wrapped(scalar), Raw::Bytes(bytes)) => wrapped(scalar, bytes)?,
        (Kind::Enum(names), Raw::Varint(value)) => enumeration(names, low_i32(value)),
        (Kind::Message(table), Raw::Bytes(bytes)) => {
            let mut inner = Map::new();
            fill(&mut inner, table, bytes, depth)?;
            Value::Object(inner)
        }
        (Kind::Duration, Raw::Bytes(bytes)) => duration(bytes)?,
        (Kind::Any, Raw::Bytes(bytes)) => any(bytes, depth)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn plain(scalar: Scalar, raw: Raw<'_>) -> Result<Option<Value>, Malformed> {
    Ok(match (scalar, raw) {
        (Scalar::Text, Raw::Bytes(bytes)) => Some(Value::String(text_of(bytes)?.to_owned())),
        (Scalar::Float, Raw::Fixed32(bits)) => Some(float(f32::from_bits(bits))),
        (Scalar::Text | Scalar::Float, _) => None,
        (scalar, Raw::Varint(value)) => Some(number(scalar, value)),
        _ => None,
    })
}

fn wrapped(scalar: Scalar, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut found = absent(Kind::Plain(scalar));
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        if let (1, Some(value)) = (tag, plain(scalar, raw)?) {
            found = value;
        }
    }
    Ok(found)
}

fn number(scalar: Scalar, value: u64) -> Value {
    match scalar {
        Scalar::Bool => Value::Bool(value != 0),
        Scalar::Int32 => low_i32(value).into(),
        Scalar::Uint32 => low_u32(value).into(),
        Scalar::Int64 => value.cast_signed().to_string().into(),
        Scalar::Uint64 => value.to_string().into(),
        Scalar::Float => float(0.0),
        Scalar::Text => Value::String(String::new()),
    }
}

/// In the fewest digits that give the same number back; what JSON has no number for is a word.
fn float(value: f32) -> Value {
    let exact = value.to_string().parse().ok().and_then(Number::from_f64);
    exact.map_or_else(|| Value::String(non_finite(value).to_owned()), Value::Number)
}

fn non_finite(value: f32) -> &'static str {
    match value {
        v if v.is_nan() => "NaN",
        v if v > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

fn enumeration(names: &[(i32, &'static str)], value: i32) -> Value {
    let name = names.iter().find(|(number, _)| *number == value);
    name.map_or_else(|| value.into(), |(_, name)| Value::String((*name).to_owned()))
}

/// `1s`, `1.500s`: no digits, or three, six or nine.
fn duration(bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        match (tag, raw) {
            (1, Raw::Varint(value)) => seconds = value.cast_signed(),
            (2, Raw::Varint(value)) => nanos = low_i32(value),
            _ => {}
        }
    }
    let sign = if seconds < 0 || (seconds == 0 && nanos < 0) { "-" } else { "" };
    // Ten thousand years and a second are the bounds of the type; beyond them the text could not be read back.
    let (seconds, nanos) = (seconds.unsigned_abs().min(315_576_000_000), nanos.unsigned_abs().min(999_999_999));
    Ok(Value::String(match nanos {
        0 => format!("{sign}{seconds}s"),
        n if n % 1_000_000 == 0 => format!("{sign}{seconds}.{:03}s", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{sign}{seconds}.{:06}s", n / 1_000),
        n => format!("{sign}{seconds}.{n:09}s"),
    }))
}

/// The message inside, and its type; bytes of an unknown type, or that do not fit theirs, are shown as they are.
fn any(bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
    let (mut url, mut held): (&str, &[u8]) = ("", &[]);
    let mut reader = Reader::new(bytes);
    while let Some((tag, raw)) = reader.field()? {
        match (tag, raw) {
            (1, Raw::Bytes(text)) => url = text_of(text)?,
            (2, Raw::Bytes(bytes)) => held = bytes,
            _ => {}
        }
    }
    let mut object = Map::new();
    let known = url.rsplit('/').next().and_then(schema::find);
    if known.is_none_or(|table| fill(&mut object, table, held, depth).is_err()) {
        object.clear();
        object.insert("value".to_owned(), Value::String(base64::encode(held)));
    }
    object.insert("@type".to_owned(), Value::String(url.to_owned()));
    Ok(Value::Object(object))
}

fn is_default(kind: Kind, raw: Raw<'_>) -> bool {
    match (kind, raw) {
        (Kind::Plain(Scalar::Text), Raw::Bytes(bytes)) => bytes.is_empty(),
        (Kind::Plain(Scalar::Float), Raw::Fixed32(bits)) => bits == 0,
        (Kind::Enum(_), Raw::Varint(value)) => low_i32(value) == 0,
        (Kind::Plain(scalar), Raw::Varint(value)) => number(scalar, value) == number(scalar, 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::proptest;
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::pb::v1;

    #[test]
    fn wrappers_show_their_zero_and_plain_values_do_not() {
        let instance = v1::Instance { weight: Some(0), isolate: Some(false), port: None, ..Default::default() };
        assert_eq!(to_json(&instance).unwrap(), json!({"weight": 0, "isolate": false}));
        let trigger = v1::TriggerCondition { trigger_type: 2, error_count: 0, interval: 5, ..Default::default() };
        assert_eq!(to_json(&trigger).unwrap(), json!({"triggerType": "CONSECUTIVE_ERROR", "interval": 5}));
    }

    #[test]
    fn an_unknown_enum_number_stays_a_number() {
        let check = v1::HealthCheck { r#type: 7, heartbeat: None };
        assert_eq!(to_json(&check).unwrap(), json!({"type": 7}));
    }

    #[test]
    fn durations_floats_and_wide_numbers_have_the_text_of_proto3_json() {
        let window = |seconds, nanos| v1::Amount {
            valid_duration: Some(prost_types::Duration { seconds, nanos }),
            ..Default::default()
        };
        assert_eq!(to_json(&window(60, 0)).unwrap(), json!({"validDuration": "60s"}));
        assert_eq!(to_json(&window(1, 500_000_000)).unwrap(), json!({"validDuration": "1.500s"}));
        assert_eq!(to_json(&window(0, -1)).unwrap(), json!({"validDuration": "-0.000000001s"}));
        let mirror = v1::TrafficMirroring { mirroring_percent: Some(0.1), ..Default::default() };
        assert_eq!(to_json(&mirror).unwrap(), json!({"mirroringPercent": 0.1}));
        let file = v1::ClientConfigFileInfo { version: Some(u64::MAX), ..Default::default() };
        assert_eq!(to_json(&file).unwrap(), json!({"version": "18446744073709551615"}));
    }

    #[test]
    fn an_any_shows_what_it_holds() {
        let nearby = v1::NearbyRoutingConfig { match_level: 2, ..Default::default() };
        let mut rule = v1::RouteRule {
            routing_config: Some(prost_types::Any {
                type_url: "type.googleapis.com/v1.NearbyRoutingConfig".into(),
                value: nearby.encode_to_vec(),
            }),
            ..Default::default()
        };
        let shown = json!({"@type": "type.googleapis.com/v1.NearbyRoutingConfig", "match_level": "ZONE"});
        assert_eq!(to_json(&rule).unwrap(), json!({"routing_config": shown}));
        rule.routing_config = Some(prost_types::Any { type_url: "x/v9.New".into(), value: vec![0xff, 0x01] });
        assert_eq!(to_json(&rule).unwrap(), json!({"routing_config": {"@type": "x/v9.New", "value": "/wE="}}));
    }

    #[test]
    fn a_message_inside_itself_ends_at_the_depth_limit() {
        let mut held = v1::TrafficEntry::default();
        for _ in 0..300 {
            let group = v1::LaneGroup { entries: vec![held], ..Default::default() };
            let selector = prost_types::Any { type_url: "x/v1.LaneGroup".into(), value: group.encode_to_vec() };
            held = v1::TrafficEntry { r#type: String::new(), selector: Some(selector) };
        }
        assert!(to_json(&held).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for table in schema::MESSAGES {
                let _ = render(table, &bytes);
            }
        }
    }
}
