//! From the tree to the typed configuration.

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::validate::{Problem, Problems};
use super::{Config, tree};

/// Reads a canonical tree. If a value has the wrong type, *all* such values are reported, and what is wrong with the
/// others too.
///
/// `Deserialize` stops at the first problem. So each leaf that may be guilty is tried in a tree of its own: only after a
/// failure, so that a good file costs one pass.
pub(super) fn assemble(tree: &Value) -> Result<Config, Problems> {
    let model = serde_json::to_value(Config::default()).unwrap_or_default();
    let is_sound = tree::leaves(tree).iter().all(|(path, value)| !is_list_for_section(&model, path, value));
    match Config::deserialize(tree) {
        Ok(config) if is_sound => Ok(config),
        _ => Err(diagnose(tree, &model)),
    }
}

/// Serde would take a list for the fields of a section, in their order.
fn is_list_for_section(model: &Value, path: &[String], value: &Value) -> bool {
    let model = path.iter().try_fold(model, |node, key| node.get(key)).and_then(Value::as_object);
    value.is_array() && model.is_some_and(|keys| !keys.is_empty())
}

fn diagnose(tree: &Value, model: &Value) -> Problems {
    let mut problems = Problems::default();
    let mut sound = Value::Object(Map::new());
    for (path, value) in tree::leaves(tree) {
        let alone = tree::at(&path, value.clone());
        match Config::deserialize(&alone) {
            _ if is_list_for_section(model, &path, value) => {
                problems.push(&place(&path), "expected a section, found a list");
            }
            Ok(_) => tree::merge(&mut sound, alone),
            Err(error) => problems.insert(blame(&path, &error, value)),
        }
    }
    if let Ok(rest) = Config::deserialize(&sound) {
        problems.extend(rest.ranges());
    }
    problems
}

fn place(path: &[String]) -> String {
    if path.is_empty() { "top level".to_owned() } else { path.join(".") }
}

/// The problem of a leaf, or of the section above it that may not be one.
fn blame(path: &[String], error: &serde_json::Error, value: &Value) -> Problem {
    let section = Value::Object(Map::new());
    for above in (1..path.len()).filter_map(|len| path.get(..len)) {
        if let Err(error) = Config::deserialize(&tree::at(above, section.clone())) {
            return Problem::new(above.join("."), tree::explain(&error, &section));
        }
    }
    Problem::new(place(path), tree::explain(error, value))
}
