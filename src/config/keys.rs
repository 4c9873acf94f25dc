//! Looks keys up in the table, and finds the one that was probably meant.

use serde_json::Value;

use super::consumer::{Consumer, ServiceRouter};
use super::key_table::Class::{self, Later, Never};
use super::key_table::{KEYS, Row};
use super::plugin::{self, PluginKind};
use super::validate::Problem;

/// One key of the table.
struct Key {
    path: String,
    class: Class,
    /// Whether everything below belongs to it.
    open: bool,
}

/// How a node of a file stands to the table.
enum Place<'k> {
    /// It is a key.
    Key(&'k Key),
    /// It belongs to a key whose content is free.
    Inside(&'k Key),
    /// There are keys below.
    Section,
    Unknown,
}

/// Keys of a file that no SDK knows, each with the nearest one that is known: the topmost node only.
pub(super) fn unknown(tree: &Value) -> Vec<Problem> {
    let keys = table();
    let mut problems = Vec::new();
    visit(tree, &keys, &mut |path, normal, place| {
        if matches!(place, Place::Unknown) {
            let hint = nearest(normal, &keys).map(|key| format!("; did you mean {key}?")).unwrap_or_default();
            problems.push(Problem::new(path, format!("no SDK knows this key{hint}")));
        }
    });
    problems
}

/// Keys of a file that are known and have no effect, each with the reason.
pub(super) fn without_effect(tree: &Value) -> Vec<(String, &'static str)> {
    let keys = table();
    let mut found = Vec::new();
    visit(tree, &keys, &mut |path, _, place| {
        if let Place::Key(Key { class: Later(reason) | Never(reason), .. })
        | Place::Inside(Key { class: Later(reason) | Never(reason), .. }) = place
        {
            found.push((path.to_owned(), *reason));
        }
    });
    found
}

/// Options of routers that no SDK has and no chain names.
pub(super) fn unknown_plugins(consumer: &Consumer) -> Vec<Problem> {
    let router = &consumer.service_router;
    let chain = router.ordered();
    let stray =
        router.plugin.names().filter(|name| !chain.contains(name) && !plugin::is_known(PluginKind::Router, name));
    stray
        .map(|name| Problem::new(format!("{}.plugin.{name}", ServiceRouter::AT), "no chain has a router of this name"))
        .collect()
}

fn table() -> Vec<Key> {
    let rows = KEYS.iter().flat_map(|Row(section, class, names)| {
        names.split_whitespace().map(move |name| {
            let closed = name.strip_suffix(".**");
            let path = join(section, closed.unwrap_or(name));
            Key { path, class: *class, open: closed.is_some() }
        })
    });
    rows.collect()
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Walks a file down to its keys, calling `see` with the path as it stands there, the path as in the table, and its place.
fn visit<'k>(tree: &Value, keys: &'k [Key], see: &mut impl FnMut(&str, &str, &Place<'k>)) {
    fn walk<'k>(node: &Value, path: &str, normal: &str, keys: &'k [Key], see: &mut impl FnMut(&str, &str, &Place<'k>)) {
        match node {
            Value::Object(map) => {
                for (key, value) in map {
                    let is_plugin = normal.ends_with(".plugin");
                    let name = if is_plugin { plugin::canonical(key) } else { key };
                    let (path, normal) = (join(path, key), join(normal, name));
                    let place = place(&normal, keys);
                    see(&path, &normal, &place);
                    if matches!(place, Place::Section) {
                        walk(value, &path, &normal, keys, see);
                    }
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    walk(item, &format!("{path}[{i}]"), &format!("{normal}[]"), keys, see);
                }
            }
            _ => {}
        }
    }
    walk(tree, "", "", keys, see);
}

fn place<'k>(path: &str, keys: &'k [Key]) -> Place<'k> {
    let is_below = |longer: &str, shorter: &str| {
        longer.strip_prefix(shorter).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
    };
    if keys.iter().any(|key| is_below(&key.path, path)) {
        return Place::Section;
    }
    if let Some(key) = keys.iter().find(|key| key.path == path) {
        return Place::Key(key);
    }
    // Free content ends where the table has keys of its own: a typo among a built-in plug-in's options is unknown.
    let section = path.rsplit_once('.').map_or("", |(section, _)| section);
    let inside = keys.iter().find(|key| key.open && is_below(path, &key.path));
    match inside {
        Some(key) if key.path == section || !keys.iter().any(|other| is_below(&other.path, section)) => {
            Place::Inside(key)
        }
        _ => Place::Unknown,
    }
}

/// The key that was probably meant: at most a third of the letters differ, or it stands under another section.
fn nearest<'k>(path: &str, keys: &'k [Key]) -> Option<&'k str> {
    let is_near = |distance: usize, key: &str| distance <= path.len() / 3 || last(key) == last(path);
    let distances = keys.iter().map(|key| (distance(path, &key.path), key.path.as_str()));
    distances.filter(|(distance, key)| is_near(*distance, key)).min().map(|(_, key)| key)
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// Levenshtein's: how many letters must be put in, left out or exchanged.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::key_table::Class::Used;
    use super::*;
    use crate::config::{Config, tree};
    use serde_json::json;

    #[test]
    fn a_key_is_used_if_and_only_if_a_field_holds_it() {
        let tree = serde_json::to_value(Config::default()).unwrap();
        let mut fields: Vec<_> = tree::leaves(&tree).into_iter().map(|(path, _)| path.join(".")).collect();
        let mut used: Vec<_> = table().into_iter().filter(|key| key.class == Used).map(|key| key.path).collect();
        fields.sort();
        used.sort();
        assert_eq!(fields, used);
    }

    #[test]
    fn no_key_stands_twice() {
        let mut paths: Vec<_> = table().into_iter().map(|key| key.path).collect();
        paths.sort();
        let doubles: Vec<_> = paths.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(doubles.is_empty(), "{doubles:?}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_path_and_the_nearest_known_one() {
        for (tree, path, hint) in [
            (json!({"global": {"api": {"timeOut": "1s"}}}), "global.api.timeOut", "global.api.timeout"),
            (
                json!({"provider": {"limiterService": "x"}}),
                "provider.limiterService",
                "provider.rateLimit.limiterService",
            ),
            (
                json!({"global": {"serverConnectors": [{"tokens": "x"}]}}),
                "global.serverConnectors[0].tokens",
                "global.serverConnectors[].token",
            ),
            (
                json!({"consumer": {"serviceRouter": {"plugin": {"dstMetaRouter": {"metadataFailOver": "x"}}}}}),
                "consumer.serviceRouter.plugin.dstMetaRouter.metadataFailOver",
                "consumer.serviceRouter.plugin.metadataRouter.metadataFailOverType",
            ),
        ] {
            let problems: Vec<_> = unknown(&tree).iter().map(ToString::to_string).collect();
            assert_eq!(problems, [format!("{path}: no SDK knows this key; did you mean {hint}?")]);
        }
    }

    #[test]
    fn an_unknown_section_is_named_once_and_far_from_everything_without_a_hint() {
        let problems: Vec<_> =
            unknown(&json!({"spring": {"a": 1, "b": {"c": 2}}})).iter().map(ToString::to_string).collect();
        assert_eq!(problems, ["spring: no SDK knows this key"]);
    }

    #[test]
    fn free_content_is_nobodys_to_judge() {
        let tree = json!({
            "global": {"system": {"variables": {"a": 1}}, "client": {"labels": {"x": {"y": 1}}}},
            "consumer": {
                "loadbalancer": {"plugin": {"mine": {"a": [{"b": 1}]}}},
                "serviceRouter": {"plugin": {"isolatedRouter": {}, "mine": {"a": 1}}},
            },
        });
        assert_eq!(unknown(&tree), []);
    }

    #[test]
    fn a_known_key_without_an_effect_says_why() {
        let found = without_effect(&json!({"consumer": {"circuitBreaker": {"enable": false}}}));
        assert_eq!(found, [("consumer.circuitBreaker.enable".to_owned(), "circuit breaking is not built yet")]);
        assert!(without_effect(&json!({"global": {"api": {"timeout": "1s"}}})).is_empty());
    }

    #[test]
    fn distance_counts_letters() {
        for (a, b, d) in [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "b", 1)] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }
}
