//! Rules of limits, as the tests write them.

use polarismesh::LabelSet;
use serde_json::{Value, json};

/// The rule with these fields beside, or in place of, its own.
pub fn with_fields(mut rule: Value, fields: &Value) -> Value {
    let fields = fields.as_object().expect("fields are an object").clone();
    rule.as_object_mut().expect("a rule is an object").extend(fields);
    rule
}

/// Counts the calls of each header `uid` apart.
pub fn by_user() -> Value {
    json!({"arguments": [{"type": "HEADER", "key": "uid", "value": {"type": "REGEX", "value": "."}}]})
}

/// The labels of a call by this user.
pub fn user(uid: usize) -> LabelSet {
    LabelSet::new().header("uid", uid.to_string())
}
