//! The configuration before it has types: a tree of maps, lists and scalars, and what is done to it on the way.
//!
//! Everything that makes one file serve three SDKs happens here, on plain data: variables are expanded, what is empty
//! is dropped, and the other spellings become ours. What comes out is what `Deserialize` of the sections reads.

use serde_json::{Map, Value, json};

use super::plugin;
use super::validate::{Problem, Problems};

/// A variable of the environment, by name. A parameter everywhere, so that only the loader reads the real one.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands `${VAR}` and `${VAR:default}` in all scalars, and `$HOME` where a scalar begins with it. An unset or empty
/// variable without a default is nothing. What came out of a variable is not expanded again.
pub(super) fn expand(tree: &mut Value, env: Env<'_>) {
    match tree {
        Value::String(text) => *text = expand_text(text, env),
        Value::Array(items) => items.iter_mut().for_each(|item| expand(item, env)),
        Value::Object(map) => map.values_mut().for_each(|value| expand(value, env)),
        _ => {}
    }
}

fn expand_text(text: &str, env: Env<'_>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = match text.strip_prefix("$HOME") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            expanded.push_str(&env("HOME").unwrap_or_default());
            rest
        }
        _ => text,
    };
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((variable, behind)) = after.split_once('}') else {
            expanded.push_str("${");
            rest = after;
            continue;
        };
        let (name, default) = variable.split_once(':').unwrap_or((variable, ""));
        let value = env(name).filter(|value| !value.is_empty());
        expanded.push_str(value.as_deref().unwrap_or(default));
        rest = behind;
    }
    expanded.push_str(rest);
    expanded
}

/// Drops what is null or an empty text: in the files of both peers it means that the default holds.
pub(super) fn prune(tree: &mut Value) {
    let is_set = |value: &Value| !value.is_null() && value.as_str() != Some("");
    match tree {
        Value::Object(map) => {
            map.retain(|_, value| is_set(value));
            map.values_mut().for_each(prune);
        }
        Value::Array(items) => {
            items.retain(is_set);
            items.iter_mut().for_each(prune);
        }
        _ => {}
    }
}

/// Lays `over` on `base`: maps are joined key by key, everything else is replaced.
pub(super) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// A tree with nothing but `value` at `path`.
pub(super) fn at(path: &[String], value: Value) -> Value {
    path.iter().rfold(value, |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])))
}

/// [`at`] for a path with dots.
pub(super) fn at_path(path: &str, value: Value) -> Value {
    at(&path.split('.').map(str::to_owned).collect::<Vec<_>>(), value)
}

/// Everything that is no map, or an empty one, with its path.
pub(super) fn leaves(tree: &Value) -> Vec<(Vec<String>, &Value)> {
    fn collect<'t>(node: &'t Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, &'t Value)>) {
        match node {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    path.push(key.clone());
                    collect(value, path, found);
                    path.pop();
                }
            }
            _ => found.push((path.clone(), node)),
        }
    }
    let mut found = Vec::new();
    collect(tree, &mut Vec::new(), &mut found);
    found
}

/// A file that says nothing of its location takes it from the environment, as polaris-java's defaults do.
pub(super) fn default_location(tree: &mut Value, env: Env<'_>) {
    let said = tree.pointer("/global/location").and_then(Value::as_object);
    if said.is_none_or(Map::is_empty) {
        let part = |name| env(name).unwrap_or_default();
        let location = json!({ "region": part("REGION"), "zone": part("ZONE"), "campus": part("CAMPUS") });
        fill(tree, "global.location", location);
    }
}

/// Takes a node out of the tree.
fn take(tree: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(tree, |node, key| node.get_mut(*key))?;
    parent.as_object_mut()?.remove(*last)
}

/// Lays a node under what is there already.
fn fill(tree: &mut Value, path: &str, value: Value) {
    let mut filled = at_path(path, value);
    merge(&mut filled, tree.take());
    *tree = filled;
}

/// Turns every other spelling into ours. What stands under both is taken from ours. Returns what the author
/// of the file should know.
pub(super) fn canonicalise(tree: &mut Value, problems: &mut Problems) -> Vec<Problem> {
    let mut notices = Vec::new();
    match take(tree, &["global", "serverConnectors"]) {
        None => {}
        Some(Value::Array(connectors)) => {
            if connectors.len() > 1 {
                notices.push(Problem::new("global.serverConnectors", "only the first connector is used"));
            }
            if let Some(first) = connectors.into_iter().next() {
                fill(tree, "global.serverConnector", first);
            }
        }
        Some(_) => problems.push("global.serverConnectors", "expected a list of connectors"),
    }
    match take(tree, &["global", "location", "providers"]) {
        None => {}
        Some(Value::Array(providers)) => locate(tree, providers, &mut notices),
        Some(_) => problems.push("global.location.providers", "expected a list of providers"),
    }
    for section in ["serviceRouter", "loadbalancer"] {
        let plugins = tree.pointer_mut(&format!("/consumer/{section}/plugin")).and_then(Value::as_object_mut);
        for (name, options) in plugins.map(std::mem::take).into_iter().flatten() {
            fill(tree, &format!("consumer.{section}.plugin.{}", plugin::canonical(&name)), options);
        }
    }
    if let Some(yes) = take(tree, &["consumer", "serviceRouter", "plugin", "recoverRouter", "allRecoverEnable"]) {
        fill(tree, "consumer.serviceRouter.enableRecoverAll", yes);
    }
    if let Some(time) = take(tree, &["provider", "rateLimit", "plugin", "unirate", "maxQueuingTime"]) {
        fill(tree, "provider.rateLimit.maxQueuingTime", time);
    }
    if let Some(count) = take(tree, &["provider", "rateLimit", "maxWindowSize"]) {
        fill(tree, "provider.rateLimit.maxWindowCount", count);
    }
    notices
}

/// The first `local` provider is this process's location. The others ask somebody else, which is not built.
fn locate(tree: &mut Value, providers: Vec<Value>, notices: &mut Vec<Problem>) {
    let is_local = |provider: &Value| provider.get("type").is_none_or(|kind| kind == "local");
    let is_empty = providers.is_empty();
    match providers.into_iter().find(is_local) {
        Some(mut local) => {
            if let Some(options) = take(&mut local, &["options"]) {
                fill(tree, "global.location", options);
            }
        }
        None if is_empty => {}
        None => {
            notices.push(Problem::new("global.location.providers", "none is of type local; the others are not used"));
        }
    }
}

/// What is wrong with a value, without the value: it may be a secret that stands in the wrong place.
pub(super) fn explain(error: &serde_json::Error, found: &Value) -> String {
    let text = error.to_string();
    let is_serdes_own = ["invalid type", "invalid value", "unknown variant", "invalid length"];
    match text.split_once(", expected ") {
        Some((_, expected)) if is_serdes_own.iter().any(|prefix| text.starts_with(prefix)) => {
            let found = match found {
                Value::Null => "nothing",
                Value::Bool(_) => "a switch",
                Value::Number(_) => "a number",
                Value::String(_) => "text",
                Value::Array(_) => "a list",
                Value::Object(_) => "a section",
            };
            format!("expected {expected}, found {found}")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/me".to_owned()),
            "A" => Some("1".to_owned()),
            "NESTED" => Some("${A}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_expanded_inside_scalars_and_only_once() {
        for (text, expanded) in [
            ("${A}", "1"),
            ("x${A}y${A:2}z", "x1y1z"),
            ("${B:2}", "2"),
            ("${B:a:b}", "a:b"),
            ("${EMPTY:2}", "2"),
            ("${B}", ""),
            ("${NESTED}", "${A}"),
            ("${A", "${A"),
            ("$HOME/polaris", "/home/me/polaris"),
            ("$HOME", "/home/me"),
            ("$HOMELY and $A", "$HOMELY and $A"),
        ] {
            assert_eq!(expand_text(text, &env), expanded, "{text}");
        }
    }

    #[test]
    fn keys_are_never_expanded() {
        let mut tree = json!({"${A}": ["${A}", {"b": "${A}"}, 5]});
        expand(&mut tree, &env);
        assert_eq!(tree, json!({"${A}": ["1", {"b": "1"}, 5]}));
    }

    #[test]
    fn our_spelling_goes_before_the_others() {
        let mut tree = json!({"global": {
            "serverConnector": {"token": "ours"},
            "serverConnectors": [{"token": "theirs", "protocol": "grpc"}, {"protocol": "grpc"}],
        }});
        let notices = canonicalise(&mut tree, &mut Problems::default());
        assert_eq!(tree, json!({"global": {"serverConnector": {"token": "ours", "protocol": "grpc"}}}));
        assert_eq!(notices.len(), 1, "{notices:?}");
    }

    #[test]
    fn a_location_is_the_first_local_provider() {
        let providers = json!([
            {"type": "remoteHttp", "options": {"region": "http://127.0.0.1/region"}},
            {"type": "local", "options": {"region": "r", "zone": "z"}},
        ]);
        let mut tree = at_path("global.location.providers", providers);
        assert_eq!(canonicalise(&mut tree, &mut Problems::default()), []);
        assert_eq!(tree, json!({"global": {"location": {"region": "r", "zone": "z"}}}));
    }

    #[test]
    fn a_location_that_only_others_know_is_said_to_be_missing() {
        let mut tree = at_path("global.location.providers", json!([{"type": "remoteHttp"}]));
        assert_eq!(canonicalise(&mut tree, &mut Problems::default()).len(), 1);
    }

    #[test]
    fn a_list_that_is_none_is_a_problem_and_never_ignored() {
        for path in ["global.serverConnectors", "global.location.providers"] {
            let mut problems = Problems::default();
            canonicalise(&mut at_path(path, json!(5)), &mut problems);
            assert!(problems.to_string().starts_with(path), "{problems}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_expansion_panic_and_plain_text_stays(text in ".{0,40}") {
            let expanded = expand_text(&text, &env);
            if !text.contains('$') {
                prop_assert_eq!(expanded, text);
            }
        }
    }
}
