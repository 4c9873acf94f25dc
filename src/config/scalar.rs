//! Scalars, however they are written.
//!
//! `${PORT:8091}` is text when it has been expanded, a zone may be called `100001`, and polaris-java takes `"5"` for a
//! number. So a field is read from the text of its scalar and by the type it has, never by how YAML would have typed it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The text of one scalar.
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Scalar, E> {
        Ok(Scalar(value))
    }
}

/// A switch: `true`/`false`, and what YAML 1.1 (polaris-go's) takes for them.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let Scalar(text) = Scalar::deserialize(deserializer)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(D::Error::custom("expected true or false")),
    }
}

/// A whole number that is not negative.
pub(super) fn number<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<T, D::Error> {
    let Scalar(text) = Scalar::deserialize(deserializer)?;
    let limit = match size_of::<T>() {
        1 => u64::from(u8::MAX),
        4 => u64::from(u32::MAX),
        _ => u64::MAX,
    };
    text.trim().parse().map_err(|_| D::Error::custom(format_args!("expected a whole number from 0 to {limit}")))
}

/// A number with a fraction.
pub(super) fn fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let Scalar(text) = Scalar::deserialize(deserializer)?;
    text.trim().parse().map_err(|_| D::Error::custom("expected a number"))
}

/// Text.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Scalar::deserialize(deserializer).map(|Scalar(text)| text)
}

/// A section of names and texts.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let texts = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    Ok(texts.into_iter().map(|(name, Scalar(text))| (name, text)).collect())
}

/// What reads itself from text, and may be left out.
pub(super) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    text(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

/// A list, or its items in one text with commas between them. All bad items are named, not only the first.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let texts = deserializer.deserialize_any(ListVisitor)?;
    let (mut items, mut problems) = (Vec::with_capacity(texts.len()), Vec::new());
    for text in texts {
        match T::from_str(text.trim()) {
            Ok(item) => items.push(item),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() { Ok(items) } else { Err(D::Error::custom(problems.join("; "))) }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_str<E>(self, value: &str) -> Result<Vec<String>, E> {
        Ok(value.split(',').filter(|item| !item.trim().is_empty()).map(str::to_owned).collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(Scalar(text)) = items.next_element()? {
            texts.push(text);
        }
        Ok(texts)
    }
}
