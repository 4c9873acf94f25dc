//! Conditions of rules into the model: what routing and limiting rules have in common.

use std::fmt::Display;

use crate::model::label::{LabelKey, LabelKind};
use crate::model::matcher::{Condition, MatchKind, ValueSource};
use crate::pb::v1;
use crate::pb::v1::match_string::{MatchStringType, ValueType};

/// What can be used of the rules, and a message for each rule that cannot.
pub(super) type Checked<T> = (T, Vec<String>);

/// Why a rule is left out.
pub(super) type Fault = String;

/// A condition on a label of a call.
pub(super) fn label_condition(key: LabelKey, value: &v1::MatchString) -> Result<(LabelKey, Condition), Fault> {
    let is_path = matches!(key.kind, LabelKind::Method | LabelKind::Path);
    let condition = condition(value, is_path).map_err(|fault| format!("label {key}: {fault}"))?;
    Ok((key, condition))
}

/// A condition; `is_path` says that it is on a method or a path.
pub(super) fn condition(value: &v1::MatchString, is_path: bool) -> Result<Condition, Fault> {
    let kind = match MatchStringType::try_from(value.r#type) {
        Ok(MatchStringType::Exact) => MatchKind::Exact,
        Ok(MatchStringType::Regex) => MatchKind::Regex,
        Ok(MatchStringType::NotEquals) => MatchKind::NotEquals,
        Ok(MatchStringType::In) => MatchKind::In,
        Ok(MatchStringType::NotIn) => MatchKind::NotIn,
        Ok(MatchStringType::Range) => MatchKind::Range,
        Err(_) => return Err(format!("nobody knows match type {}; known are 0 to 5", value.r#type)),
    };
    let source = match ValueType::try_from(value.value_type) {
        Ok(ValueType::Text) => ValueSource::Text,
        Ok(ValueType::Parameter) => ValueSource::Parameter,
        Ok(ValueType::Variable) => ValueSource::Variable,
        Err(_) => return Err(format!("nobody knows value type {}; known are 0 to 2", value.value_type)),
    };
    let text = value.value.as_deref().unwrap_or_default();
    Condition::new(kind, source, text, is_path).map_err(|fault| fault.to_string())
}

/// All of a list, or the place and the fault of the first bad item.
pub(super) fn numbered<T>(what: &str, items: impl Iterator<Item = Result<T, impl Display>>) -> Result<Vec<T>, Fault> {
    items.enumerate().map(|(at, item)| item.map_err(|fault| format!("{what}[{at}]: {fault}"))).collect()
}
