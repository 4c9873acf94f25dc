//! Reads a document into a tree, within bounds.
//!
//! A document comes from outside: a key that stands twice would silently win over its double, and a few hundred bytes
//! of aliases can unfold into gigabytes. So the tree is built node by node, against a budget, and refuses both.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess as _, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use super::scalar::Scalar;

/// More nodes than any real configuration has, with all of its aliases unfolded.
const MOST_NODES: u32 = 100_000;

/// What one reading has left, and what it found wrong.
#[derive(Debug)]
pub(super) struct Reader {
    nodes_left: Cell<u32>,
    complaint: RefCell<Option<String>>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { nodes_left: Cell::new(MOST_NODES), complaint: RefCell::new(None) }
    }

    /// What was found wrong beyond the syntax: never more of the text than a key.
    pub(super) fn into_complaint(self) -> Option<String> {
        self.complaint.into_inner()
    }

    fn refuse<E: serde::de::Error>(&self, complaint: String) -> E {
        let error = E::custom(&complaint);
        self.complaint.borrow_mut().get_or_insert(complaint);
        error
    }

    fn spend<E: serde::de::Error>(&self) -> Result<(), E> {
        match self.nodes_left.get().checked_sub(1) {
            Some(left) => {
                self.nodes_left.set(left);
                Ok(())
            }
            None => Err(self.refuse(format!("more than {MOST_NODES} values, aliases unfolded"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Reader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.spend()?;
        // As an option, because an empty document is no value at all.
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for &Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        while let Some(Key(key)) = access.next_key()? {
            let value = access.next_value_seed(self)?;
            if key == "<<" {
                merged.push(value);
            } else if map.contains_key(&key) {
                let key: String = key.chars().take(64).collect();
                return Err(self.refuse(format!("the key {key:?} stands twice in one section")));
            } else {
                map.insert(key, value);
            }
        }
        for source in merged {
            inherit(&mut map, source).ok_or_else(|| A::Error::custom("a merge that is no section"))?;
        }
        Ok(Value::Object(map))
    }

    /// A tag says nothing here: `!secret x` is `x`.
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (Key(_), value) = access.variant()?;
        value.newtype_variant_seed(self)
    }
}

/// YAML's merge: what is there goes before what is merged in, and an earlier source before a later one.
fn inherit(map: &mut Map<String, Value>, source: Value) -> Option<()> {
    match source {
        Value::Object(source) => {
            for (key, value) in source {
                map.entry(key).or_insert(value);
            }
            Some(())
        }
        Value::Array(sources) => sources.into_iter().try_for_each(|source| inherit(map, source)),
        _ => None,
    }
}

/// A key of a map: any scalar, by its text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Scalar::deserialize(deserializer).map(|Scalar(text)| Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(reader: &Reader, json: &str) -> Result<Value, serde_json::Error> {
        reader.deserialize(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn a_tree_is_read_as_it_stands() {
        let text = r#"{"a": [1, -1, 1.5, true, null, "x"], "5": {}}"#;
        assert_eq!(read(&Reader::new(), text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_key_that_stands_twice_is_named() {
        let reader = Reader::new();
        read(&reader, r#"{"a": {"b": 1, "b": 2}}"#).unwrap_err();
        assert_eq!(reader.into_complaint().unwrap(), "the key \"b\" stands twice in one section");
    }

    #[test]
    fn more_nodes_than_the_budget_are_refused() {
        let reader = Reader { nodes_left: Cell::new(3), ..Reader::new() };
        read(&reader, "[1, 2, 3]").unwrap_err();
        assert!(reader.into_complaint().is_some());
        let reader = Reader { nodes_left: Cell::new(4), ..Reader::new() };
        assert_eq!(read(&reader, "[1, 2, 3]").unwrap(), json!([1, 2, 3]));
    }

    #[test]
    fn what_a_section_says_itself_goes_before_what_it_merges_in() {
        let text = r#"{"<<": [{"a": 1, "b": 1}, {"b": 2, "c": 2}], "a": 0}"#;
        assert_eq!(read(&Reader::new(), text).unwrap(), json!({"a": 0, "b": 1, "c": 2}));
        read(&Reader::new(), r#"{"<<": 5}"#).unwrap_err();
    }
}
