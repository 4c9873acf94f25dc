//! The layers know only what is below them, and a file holds one thing.
//!
//! Reads every hand-written file under `src/` and holds it against the table in `layering/rules.rs`: which module may
//! name which, and which texts (a gRPC type, a spawn, a clock, a file) may stand where. Comments and strings do not
//! count. Generated code under `src/pb/generated` is left out: `tests/codegen.rs` holds it.
//!
//! Code under `#[cfg(test)]` follows the same table of modules, but may use the `testing` kit too; of the texts it is
//! held to those about spawning only. Code under `#[cfg(feature = "testing")]` is library code like any other.

#[path = "layering/rules.rs"]
mod rules;
#[path = "layering/scan.rs"]
mod scan;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use rules::{LAYERS, module_path, violations, violations_of};
use scan::{Scanned, scan};

/// Lines of a file outside its inline tests: beyond this it does more than one thing.
const LONGEST_FILE: usize = 400;
/// The median of the same. Files grow one by one; this is what notices.
const MEDIAN_FILE: usize = 250;

/// A hand-written file under `src/`.
struct Source {
    /// Relative to `src/`, with `/`.
    path: String,
    scanned: Scanned,
}

fn sources() -> io::Result<Vec<Source>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = relative(&root, &path);
            if path.is_dir() {
                folders.extend((name != "pb/generated").then_some(path));
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(Source { scanned: scan(&std::fs::read_to_string(path)?), path: name });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn relative(root: &Path, path: &Path) -> String {
    let parts: PathBuf = path.strip_prefix(root).unwrap_or(path).into();
    parts.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Module paths of files that a `#[cfg(test)] mod name;` makes test code as a whole.
fn test_modules(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let declared = |source: &Source| {
        let parent = module_path(&source.path);
        let names = source.scanned.test_files.clone();
        names.into_iter().map(move |name| parent.iter().cloned().chain([name]).collect::<Vec<_>>())
    };
    sources.iter().flat_map(declared).collect()
}

fn is_test_code(path: &str, test_modules: &BTreeSet<Vec<String>>) -> bool {
    let module = module_path(path);
    (1..=module.len()).any(|depth| module.get(..depth).is_some_and(|parent| test_modules.contains(parent)))
}

#[test]
fn every_file_imports_only_what_its_layer_may_know() {
    let sources = sources().expect("src/ can be read");
    assert!(sources.iter().any(|source| source.path == "lib.rs"), "the scan found the crate");
    let tests = test_modules(&sources);
    let found: Vec<String> = sources
        .iter()
        .flat_map(|source| violations_of(&source.path, &source.scanned, is_test_code(&source.path, &tests)))
        .collect();
    assert!(found.is_empty(), "{} violations of the layers:\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_file_is_too_long_to_be_about_one_thing() {
    let sources = sources().expect("src/ can be read");
    let tests = test_modules(&sources);
    let mut lengths: Vec<(usize, &str)> = sources
        .iter()
        .filter(|source| !is_test_code(&source.path, &tests))
        .map(|source| (source.scanned.lines, source.path.as_str()))
        .collect();
    lengths.sort_unstable();
    let too_long: Vec<_> = lengths.iter().filter(|(lines, _)| *lines > LONGEST_FILE).collect();
    assert!(too_long.is_empty(), "more than {LONGEST_FILE} lines outside their tests: {too_long:?}");
    let (median, _) = lengths[(lengths.len() - 1) / 2];
    assert!(median <= MEDIAN_FILE, "the median file has {median} lines outside its tests, of {MEDIAN_FILE}");
}

#[test]
fn the_table_goes_one_way() {
    for (at, row) in LAYERS.iter().enumerate() {
        for import in row.may_import {
            let below = LAYERS[..at].iter().any(|lower| lower.module == *import);
            assert!(below, "`{}` may import `{import}`, which does not stand below it", row.module);
        }
    }
}

/// What is found in `source`, were it the file `path`.
fn count(path: &str, source: &str) -> usize {
    violations(path, source, false).len()
}

#[test]
fn a_planted_import_of_an_upper_layer_is_found_in_every_spelling() {
    for planted in [
        "use crate::registry::Store;",
        "use crate::{model::Key, registry::{Store, Writer}, error};",
        "use {crate::registry as r};",
        "fn f() -> crate::registry::Store { g() }",
        "use super::super::registry::Store;",
        "mod inner { use super::super::super::registry::Store; }",
        "use super::{super::registry::Store};",
        "use self::super::super::registry::Store;",
        "pub(in crate::registry) fn f() {}",
        "use polarismesh::registry::Store;",
        "macro_rules! m { () => { $crate::registry::Store } }",
        "#[cfg(test)] mod tests { use crate::registry::Store; }",
        "#[cfg(feature = \"testing\")] use crate::registry::Store;",
    ] {
        let found = violations("routing/chain.rs", planted, false);
        assert!(found.iter().any(|text| text.contains("must not know `registry`")), "{planted}: {found:?}");
    }
}

#[test]
fn a_planted_grab_of_the_root_is_found() {
    for planted in
        ["use crate::*;", "use crate as all;", "use crate::{self as all};", "use crate::Error;", "use super::super::*;"]
    {
        assert_eq!(count("routing/chain.rs", planted), 1, "{planted}");
    }
    assert_eq!(count("lib.rs", "pub use crate::{api::ConsumerApi, error::Error}; use self::pb::X;"), 0);
}

#[test]
fn what_the_table_allows_is_not_reported() {
    let source = "
        //! See crate::registry and crate::engine.
        use crate::{config::Config, error::{Error, Result}, model::{self, rule::Rule}, util::hash};
        use super::{router::ServiceRouter, subset};
        pub(crate) fn f(text: &str) -> bool { text == \"crate::registry::Store\" } // crate::registry
        #[cfg(test)]
        mod tests { use super::*; use super::super::subset::Subset; use crate::testing::fixtures; }";
    assert_eq!(violations("routing/chain.rs", source, false), Vec::<String>::new());
}

#[test]
fn layers_of_one_height_are_strangers() {
    for (path, planted) in [
        ("routing/chain.rs", "use crate::balance::Criteria;"),
        ("limit/window.rs", "use crate::breaker::State;"),
        ("wire/instance.rs", "use crate::config::Config;"),
        ("registry/store.rs", "use crate::plugin::Manager;"),
        ("util/task.rs", "use crate::error::Error;"),
        ("context.rs", "use super::wire::Resource;"),
        ("engine/select.rs", "use crate::pb::Instance;"),
    ] {
        assert_eq!(count(path, planted), 1, "{path}: {planted}");
    }
}

#[test]
fn a_module_without_a_row_is_found() {
    for path in ["helpers.rs", "helpers/mod.rs", "helpers/deep/file.rs"] {
        assert_eq!(count(path, ""), 1, "{path}");
    }
    let outside = violations("error.rs", "use crate::helpers::X;", false);
    assert!(outside.iter().any(|text| text.contains("no module of the table")), "{outside:?}");
}

#[test]
fn a_planted_text_is_found_where_it_does_not_belong_and_nowhere_else() {
    let planted = [
        ("use serde_yaml::Value;", "config/keys.rs", "config/loader.rs"),
        ("fn f(s: tonic::Status) {}", "registry/store.rs", "transport/rpc.rs"),
        ("use ::tonic::Status;", "integration/tower.rs", "integration/tonic.rs"),
        ("use prost::Message;", "transport/rpc.rs", "wire/resource.rs"),
        ("use prost_types::Any;", "model/key.rs", "wire/route.rs"),
        ("fn f() { tokio::spawn(g()); }", "engine/register.rs", "util/task.rs"),
        ("use tokio::{io as x, spawn};", "engine/register.rs", "util/task.rs"),
        ("use tokio::task::{spawn, yield_now};", "engine/register.rs", "util/task.rs"),
        ("struct S(Vec<tokio::task::JoinHandle<()>>);", "engine/register.rs", "util/task.rs"),
        ("fn f() { tokio::time::Instant::now(); }", "routing/chain.rs", "engine/select.rs"),
        ("fn f() { SystemTime::now(); }", "util/hash.rs", "util/clock.rs"),
        ("use rand::{Rng, rng};", "balance/weighted_random.rs", "transport/rpc.rs"),
        ("async fn f() {}", "limit/window.rs", "engine/quota.rs"),
        ("fn f() { g().await }", "transport/discover/schedule.rs", "transport/discover/worker.rs"),
        ("use std::{fs::File, io};", "registry/store.rs", "registry/cache_file.rs"),
        ("use tokio::fs;", "engine/config_files.rs", "util/fs.rs"),
    ];
    for (source, wrong, right) in planted {
        assert!(count(wrong, source) >= 1, "{source} in {wrong}");
        assert_eq!(violations(right, source, false), Vec::<String>::new(), "{source} in {right}");
    }
}

#[test]
fn a_text_in_a_comment_a_string_or_a_longer_word_is_not_found() {
    let source = "
        /// Uses `tonic::Status`, calls Instant::now(), then `.await`s.
        fn awaiting(tonic: u8) { f(\"prost::Message\", my_tonic::x, crate::model::tonic::Y, asynchronous, std::fsx) }";
    assert_eq!(violations("model/key.rs", source, false), Vec::<String>::new());
}

#[test]
fn tests_may_use_clocks_and_await_but_never_spawn() {
    let source = "#[cfg(test)] mod tests { async fn f() { g(Instant::now(), std::fs::read).await; } }";
    assert_eq!(count("limit/window.rs", source), 0);
    let spawning = "#[cfg(test)] mod tests { fn f() { tokio::spawn(g()); } }";
    assert_eq!(count("limit/window.rs", spawning), 1);
    assert_eq!(violations("limit/tests.rs", "async fn f() {}", true), Vec::<String>::new(), "a file of tests");
}

#[test]
fn a_file_of_tests_is_known_by_its_declaration() {
    let declaring = Source { path: "limit/mod.rs".into(), scanned: scan("#[cfg(test)] mod tests; mod window;") };
    let tests = test_modules(&[declaring]);
    for (path, expected) in [("limit/tests.rs", true), ("limit/tests/deep.rs", true), ("limit/window.rs", false)] {
        assert_eq!(is_test_code(path, &tests), expected, "{path}");
    }
}
