//! From JSON to bytes: for cached rules, for development data and for replaying captured requests.

use serde_json::{Map, Value};

use super::{MAX_DEPTH, base64};
use crate::pb::schema::{self, Kind, Message, Scalar, Shape};

/// JSON that does not say what the message needs; tells the place and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub(crate) struct InvalidJson {
    /// `rules[2].value.type`.
    pub(crate) path: String,
    pub(crate) problem: String,
}

/// The bytes of a `table` whose proto3 JSON is `json`. Either spelling of a field's name is taken; `null` is absent; a
/// field that nobody knows is an error, for it is a slip of the pen.
pub(crate) fn to_bytes(table: &'static Message, json: &Value) -> Result<Vec<u8>, InvalidJson> {
    let mut bytes = Vec::new();
    let at = Place { path: String::new(), depth: MAX_DEPTH };
    message(&mut bytes, table, json, &at)?;
    Ok(bytes)
}

struct Place {
    path: String,
    depth: usize,
}

impl Place {
    fn field(&self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{}{dot}{name}", self.path), depth: self.depth }
    }

    fn item(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), depth: self.depth }
    }

    fn deeper(&self) -> Result<Self, InvalidJson> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| self.problem("nested too deep"))?;
        Ok(Self { path: self.path.clone(), depth })
    }

    fn problem(&self, problem: impl Into<String>) -> InvalidJson {
        let path = if self.path.is_empty() { "(root)".to_owned() } else { self.path.clone() };
        InvalidJson { path, problem: problem.into() }
    }

    fn expected(&self, what: &str, found: &Value) -> InvalidJson {
        self.problem(format!("expected {what}, found {found}"))
    }
}

fn message(out: &mut Vec<u8>, table: &'static Message, json: &Value, at: &Place) -> Result<(), InvalidJson> {
    let object = json.as_object().ok_or_else(|| at.expected("an object", json))?;
    fields(out, table, object.iter().filter(|(_, value)| !value.is_null()), &at.deeper()?)
}

fn fields<'a>(
    out: &mut Vec<u8>,
    table: &'static Message,
    given: impl Iterator<Item = (&'a String, &'a Value)>,
    at: &Place,
) -> Result<(), InvalidJson> {
    for (name, json) in given {
        let at = at.field(name);
        let field = table.fields.iter().find(|field| field.json == name || field.name == name);
        let field = field.ok_or_else(|| at.problem(format!("{} has no such field", table.name)))?;
        match field.shape {
            Shape::One => value(out, field.tag, field.kind, json, &at)?,
            Shape::Many => {
                let list = json.as_array().ok_or_else(|| at.expected("a list", json))?;
                for (index, json) in list.iter().enumerate() {
                    value(out, field.tag, field.kind, json, &at.item(index))?;
                }
            }
            Shape::Map => {
                let map = json.as_object().ok_or_else(|| at.expected("an object", json))?;
                for (key, json) in map {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    value(&mut entry, 2, field.kind, json, &at.field(key))?;
                    put_bytes(out, field.tag, &entry);
                }
            }
        }
    }
    Ok(())
}

fn value(out: &mut Vec<u8>, tag: u32, kind: Kind, json: &Value, at: &Place) -> Result<(), InvalidJson> {
    match kind {
        Kind::Plain(scalar) => plain(out, tag, scalar, json, at)?,
        Kind::Wrapped(scalar) => {
            let mut inner = Vec::new();
            plain(&mut inner, 1, scalar, json, at)?;
            put_bytes(out, tag, &inner);
        }
        Kind::Enum(names) => put_varint_field(out, tag, sign_extended(enumeration(names, json, at)?)),
        Kind::Message(table) => {
            let mut inner = Vec::new();
            message(&mut inner, table, json, at)?;
            put_bytes(out, tag, &inner);
        }
        Kind::Duration => put_bytes(out, tag, &duration(json, at)?),
        Kind::Any => put_bytes(out, tag, &any(json, at)?),
    }
    Ok(())
}

fn plain(out: &mut Vec<u8>, tag: u32, scalar: Scalar, json: &Value, at: &Place) -> Result<(), InvalidJson> {
    let varint = match scalar {
        Scalar::Text => {
            let text = json.as_str().ok_or_else(|| at.expected("text", json))?;
            put_bytes(out, tag, text.as_bytes());
            return Ok(());
        }
        Scalar::Float => {
            // JSON has no number for some values; their names are what Rust reads, too.
            let wide = json.as_f64().or_else(|| json.as_str()?.parse().ok());
            let wide = wide.ok_or_else(|| at.expected("a number", json))?;
            put_key(out, tag, 5);
            out.extend_from_slice(&narrow(wide).to_le_bytes());
            return Ok(());
        }
        Scalar::Bool => u64::from(json.as_bool().ok_or_else(|| at.expected("true or false", json))?),
        Scalar::Int32 => sign_extended(integer(json, "a whole number of 32 bits", at)?),
        Scalar::Uint32 => u64::from(integer::<u32>(json, "a whole number from 0 to 4294967295", at)?),
        Scalar::Int64 => integer::<i64>(json, "a whole number", at)?.cast_unsigned(),
        Scalar::Uint64 => integer(json, "a whole number from 0", at)?,
    };
    put_varint_field(out, tag, varint);
    Ok(())
}

/// A number, or its digits as text, as JSON writes wide numbers.
fn integer<T: std::str::FromStr>(json: &Value, what: &str, at: &Place) -> Result<T, InvalidJson> {
    let digits = match json {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return Err(at.expected(what, json)),
    };
    digits.parse().map_err(|_| at.expected(what, json))
}

fn enumeration(names: &[(i32, &str)], json: &Value, at: &Place) -> Result<i32, InvalidJson> {
    let known = || names.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    match json {
        Value::Number(_) => integer(json, "a whole number of 32 bits", at),
        Value::String(text) => names
            .iter()
            .find(|(_, name)| name == text)
            .map(|(number, _)| *number)
            .ok_or_else(|| at.expected(&format!("one of {}", known()), json)),
        _ => Err(at.expected(&format!("one of {}", known()), json)),
    }
}

/// Seconds with up to nine digits after the point, and an `s`.
fn duration(json: &Value, at: &Place) -> Result<Vec<u8>, InvalidJson> {
    let refuse = || at.expected("seconds such as \"1s\" or \"0.5s\"", json);
    let text = json.as_str().and_then(|text| text.strip_suffix('s')).ok_or_else(refuse)?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || part.len() > 9 || !digits(whole) || !digits(part) {
        return Err(refuse());
    }
    let sign = if negative { -1 } else { 1 };
    let seconds: i64 = whole.parse().map_err(|_| refuse())?;
    let nanos: i32 = format!("{part:0<9}").parse().map_err(|_| refuse())?;
    let mut inner = Vec::new();
    put_varint_field(&mut inner, 1, (sign * seconds).cast_unsigned());
    put_varint_field(&mut inner, 2, sign_extended(if negative { -nanos } else { nanos }));
    Ok(inner)
}

fn any(json: &Value, at: &Place) -> Result<Vec<u8>, InvalidJson> {
    let object: &Map<String, Value> = json.as_object().ok_or_else(|| at.expected("an object", json))?;
    let url = object.get("@type").and_then(Value::as_str);
    let url = url.ok_or_else(|| at.problem("\"@type\" must name the message, such as type.googleapis.com/v1.X"))?;
    let (mut held, mut inner) = (Vec::new(), Vec::new());
    if let Some(bytes) = opaque(object) {
        held = bytes;
    } else {
        let table = url.rsplit('/').next().and_then(schema::find);
        let table = table.ok_or_else(|| at.field("@type").problem(format!("no message is called {url:?}")))?;
        let given = object.iter().filter(|(name, value)| *name != "@type" && !value.is_null());
        fields(&mut held, table, given, &at.deeper()?)?;
    }
    put_bytes(&mut inner, 1, url.as_bytes());
    put_bytes(&mut inner, 2, &held);
    Ok(inner)
}

/// What is shown of an `Any` whose content is not understood: its bytes as base64, and nothing else. No message that is
/// put into an `Any` has a field of that name.
fn opaque(object: &Map<String, Value>) -> Option<Vec<u8>> {
    let value = object.get("value").filter(|_| object.len() == 2)?;
    base64::decode(value.as_str()?)
}

fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_key(out, tag, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint_field(out: &mut Vec<u8>, tag: u32, value: u64) {
    put_key(out, tag, 0);
    put_varint(out, value);
}

fn put_key(out: &mut Vec<u8>, tag: u32, wire_type: u8) {
    put_varint(out, u64::from(tag) << 3 | u64::from(wire_type));
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Negative numbers of 32 bits are sent as 64.
fn sign_extended(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

#[allow(clippy::cast_possible_truncation, reason = "the field holds no more than that")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::render;
    use super::*;

    fn table(name: &str) -> &'static Message {
        schema::find(name).unwrap()
    }

    #[test]
    fn what_was_written_reads_back() {
        for (name, json) in [
            ("v1.Instance", json!({"port": 8080, "weight": 0, "healthy": false, "metadata": {"a": "", "b": "c"}})),
            ("v1.Amount", json!({"maxAmount": 4_294_967_295_u32, "validDuration": "1.500s"})),
            ("v1.FallbackResponse", json!({"code": -1, "headers": [{"key": "k"}, {"value": "v"}]})),
            ("v1.ClientConfigFileInfo", json!({"version": "18446744073709551615", "encrypted": true})),
            ("v1.TrafficMirroring", json!({"mirroringPercent": 0.1})),
            ("v1.TrafficMirroring", json!({"mirroringPercent": "NaN"})),
            ("v1.TrafficMirroring", json!({"mirroringPercent": "-Infinity"})),
            ("v1.Report", json!({"interval": "-0.000000001s"})),
            ("v1.HealthCheck", json!({"type": 9, "heartbeat": {"ttl": 5}})),
            (
                "v1.RouteRule",
                json!({"routing_policy": "NearbyPolicy", "routing_config":
                    {"@type": "type.googleapis.com/v1.NearbyRoutingConfig", "match_level": "ZONE"}}),
            ),
            ("v1.RouteRule", json!({"routing_config": {"@type": "x/v9.New", "value": "/wE="}})),
        ] {
            let bytes = to_bytes(table(name), &json).unwrap();
            assert_eq!(render(table(name), &bytes).unwrap(), json, "{name}");
        }
    }

    #[test]
    fn either_spelling_of_a_name_is_taken() {
        let one = to_bytes(table("v1.Instance"), &json!({"health_check": {"type": "HEARTBEAT"}})).unwrap();
        assert_eq!(one, to_bytes(table("v1.Instance"), &json!({"healthCheck": {"type": 1}})).unwrap());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (json, message) in [
            (json!({"rules": [{"idd": 1}]}), "rules[0].idd: v1.CircuitBreakerRule has no such field"),
            (json!({"rules": [{"enable": "yes"}]}), "rules[0].enable: expected true or false, found \"yes\""),
            (json!({"rules": {}}), "rules: expected a list, found {}"),
            (
                json!({"rules": [{}, {"maxEjectionPercent": -1}]}),
                "rules[1].maxEjectionPercent: expected a whole number from 0 to 4294967295, found -1",
            ),
            (json!([]), "(root): expected an object, found []"),
        ] {
            assert_eq!(to_bytes(table("v1.CircuitBreaker"), &json).unwrap_err().to_string(), message);
        }
    }
}
