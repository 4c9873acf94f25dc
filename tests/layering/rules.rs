//! What the layers may know of each other, as data, and the check of one file against it.

use crate::scan::{Mention, Scanned, scan};

/// One row: a module, and the modules whose paths its code may name besides its own.
pub(crate) struct Row {
    pub(crate) module: &'static str,
    pub(crate) may_import: &'static [&'static str],
}

const fn row(module: &'static str, may_import: &'static [&'static str]) -> Row {
    Row { module, may_import }
}

/// The same for the four policy layers, which are strangers to each other.
const PURE: &[&str] = &["config", "model", "util", "error"];

/// The table of the layers, lowest first. Code under `#[cfg(test)]` may use `testing` as well.
pub(crate) const LAYERS: &[Row] = &[
    row("util", &[]),
    row("error", &[]),
    row("pb", &[]),
    row("model", &["util", "error"]),
    row("wire", &["pb", "model", "error"]),
    row("config", &["model", "util", "error"]),
    row("routing", PURE),
    row("balance", PURE),
    row("limit", PURE),
    row("breaker", PURE),
    row("transport", &["wire", "pb", "config", "model", "util", "error"]),
    row("registry", &["transport", "wire", "config", "model", "util", "error"]),
    row("plugin", &["routing", "balance", "limit", "breaker", "config", "model", "util", "error"]),
    row(
        "engine",
        &[
            "registry",
            "plugin",
            "transport",
            "routing",
            "balance",
            "limit",
            "breaker",
            "config",
            "model",
            "util",
            "error",
        ],
    ),
    row("context", &["engine", "plugin", "registry", "transport", "config", "model", "util", "error"]),
    row("api", &["context", "engine", "registry", "routing", "balance", "limit", "breaker", "model", "error"]),
    row(
        "integration",
        &["api", "context", "engine", "registry", "routing", "balance", "limit", "breaker", "model", "error"],
    ),
    // Routing and balancing for the authors of plug-ins, who test them without a context.
    row("testing", &["context", "api", "routing", "balance", "pb", "wire", "config", "model", "util", "error"]),
];

/// The root only names things, so it may name all of them.
const ROOT: &str = "lib";

/// Where a text may stand; places are files or folders under `src/`.
pub(crate) enum Place {
    OnlyIn(&'static [&'static str]),
    NotIn(&'static [&'static str]),
}

/// A text that only some places may contain.
///
/// A lower-case text is looked for at the beginning of a path, anything else anywhere in it. A text that ends in `::`
/// needs something behind it. Grouped imports are looked through.
pub(crate) struct Ban {
    pub(crate) text: &'static str,
    pub(crate) place: Place,
    /// Whether `#[cfg(test)]` code is held to it too.
    pub(crate) in_tests: bool,
}

const fn only(text: &'static str, places: &'static [&'static str]) -> Ban {
    Ban { text, place: Place::OnlyIn(places), in_tests: false }
}

const YAML: &[&str] = &["config/loader.rs", "testing/data.rs", "engine/config_view.rs"];
const GRPC: &[&str] = &["transport", "pb", "testing", "integration/tonic.rs"];
const PROTOBUF: &[&str] = &["wire", "pb", "testing"];
const SPAWNER: &[&str] = &["util/task.rs"];
const CLOCKS: &[&str] = &[
    // The deadline of a shutdown counts from the call, whatever is slow on the way.
    "context/shutdown.rs",
    "engine",
    "transport",
    "registry",
    "testing",
    "util/task.rs",
    "util/clock.rs",
];
const SYNCHRONOUS: &[&str] =
    &["model", "wire", "config", "routing", "balance", "limit", "breaker", "transport/discover/schedule.rs"];
const FILES: &[&str] = &["util/fs.rs", "config/loader.rs", "registry/cache_file.rs", "testing/data.rs"];

pub(crate) const BANS: &[Ban] = &[
    only("serde_yaml", YAML),
    only("tonic::", GRPC),
    only("tonic_prost::", GRPC),
    only("prost::", PROTOBUF),
    only("prost_types::", PROTOBUF),
    Ban { text: "tokio::spawn", place: Place::OnlyIn(SPAWNER), in_tests: true },
    Ban { text: "tokio::task::spawn", place: Place::OnlyIn(SPAWNER), in_tests: true },
    Ban { text: "JoinHandle", place: Place::OnlyIn(SPAWNER), in_tests: true },
    only("Instant::now", CLOCKS),
    only("SystemTime::now", CLOCKS),
    only("rand::rng", CLOCKS),
    Ban { text: "async", place: Place::NotIn(SYNCHRONOUS), in_tests: false },
    Ban { text: "await", place: Place::NotIn(SYNCHRONOUS), in_tests: false },
    only("std::fs", FILES),
    only("tokio::fs", FILES),
];

/// What is wrong with one file; `path` is relative to `src/`. `test_code` says that the file as a whole is test code.
pub(crate) fn violations(path: &str, source: &str, test_code: bool) -> Vec<String> {
    violations_of(path, &scan(source), test_code)
}

pub(crate) fn violations_of(path: &str, scanned: &Scanned, test_code: bool) -> Vec<String> {
    let module = module_path(path);
    let own = module.first().map_or(ROOT, String::as_str);
    let row = LAYERS.iter().find(|row| row.module == own);
    if row.is_none() && own != ROOT {
        return vec![format!("src/{path}: module `{own}` has no row in the table of layers")];
    }
    let mut found = Vec::new();
    for mention in &scanned.mentions {
        let in_test = test_code || mention.in_test;
        let said = mention.segments.join("::");
        if let Some(row) = row
            && let Some(problem) = import_problem(row, &module, mention, in_test)
        {
            found.push(format!("src/{path}:{}: `{said}`: {problem}", mention.line));
        }
        for ban in BANS {
            if (ban.in_tests || !in_test) && ban.is_in(&mention.segments) && !ban.allows(path) {
                found.push(format!("src/{path}:{}: `{said}`: `{}` does not belong here", mention.line, ban.text));
            }
        }
    }
    found
}

/// Names of the module that a file under `src/` is; empty for the root.
pub(crate) fn module_path(path: &str) -> Vec<String> {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if stem == ROOT { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

fn import_problem(row: &Row, module: &[String], mention: &Mention, in_test: bool) -> Option<String> {
    let target = resolve(module, mention)?;
    match target.first().map(String::as_str) {
        None | Some("*") => Some("takes the whole crate; name the module".to_owned()),
        Some(own) if own == row.module => None,
        Some("testing") if in_test => None,
        Some(other) if row.may_import.contains(&other) => None,
        Some(other) if LAYERS.iter().any(|row| row.module == other) => {
            Some(format!("`{}` must not know `{other}`; it may import {:?}", row.module, row.may_import))
        }
        Some(other) => Some(format!("`{other}` is no module of the table; name it by the path of its module")),
    }
}

/// The path from the crate's root, for paths that stay inside the crate.
fn resolve(module: &[String], mention: &Mention) -> Option<Vec<String>> {
    let (first, rest) = mention.segments.split_first()?;
    let here = || module.iter().chain(&mention.inside).cloned().collect::<Vec<_>>();
    let mut path = match first.as_str() {
        "crate" | "polarismesh" if !rest.is_empty() => Vec::new(),
        "super" => {
            let mut path = here();
            path.pop();
            path
        }
        "self" if !rest.is_empty() => here(),
        _ => return None,
    };
    for segment in rest {
        match segment.as_str() {
            "self" => {}
            "super" => drop(path.pop()),
            name => path.push(name.to_owned()),
        }
    }
    Some(path)
}

impl Ban {
    fn is_in(&self, path: &[String]) -> bool {
        let wants_more = self.text.ends_with("::");
        let words: Vec<&str> = self.text.split("::").filter(|word| !word.is_empty()).collect();
        let from_the_start = self.text.starts_with(char::is_lowercase);
        path.windows(words.len()).enumerate().any(|(at, window)| {
            (at == 0 || !from_the_start)
                && (!wants_more || path.len() > at + words.len())
                && window.iter().zip(&words).all(|(a, b)| a == b)
        })
    }

    fn allows(&self, path: &str) -> bool {
        let within = |places: &[&str]| places.iter().any(|place| stands_in(path, place));
        match self.place {
            Place::OnlyIn(places) => within(places),
            Place::NotIn(places) => !within(places),
        }
    }
}

/// Whether a file is `place`, or is in the folder `place`, or is the folder's module in one file.
fn stands_in(path: &str, place: &str) -> bool {
    path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}
