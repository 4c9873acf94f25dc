//! What is checked in under `src/pb/generated` is what `proto/` gives; `UPDATE=1 cargo test --test codegen` rewrites it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "codegen/schema.rs"]
mod schema;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

const UPDATE: &str = "UPDATE=1 cargo test --test codegen";

#[test]
fn the_generated_code_is_what_the_proto_files_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("src/pb/generated");
    let fresh = generate(&root.join("proto"));
    if env::var_os("UPDATE").is_some() {
        rewrite(&checked_in, &fresh);
    }
    let present = read_all(&checked_in);
    assert_eq!(
        present.keys().collect::<Vec<_>>(),
        fresh.keys().collect::<Vec<_>>(),
        "other files than proto/ gives; rewrite with: {UPDATE}"
    );
    for (name, text) in &fresh {
        assert!(present[name] == *text, "{name} is stale; rewrite with: {UPDATE}");
    }
}

/// File name to text of everything that `proto/*.proto` gives.
fn generate(proto: &Path) -> BTreeMap<String, String> {
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(proto_files(proto), [proto]).unwrap();
    let tables = schema::tables(&descriptors);
    let mut config = tonic_prost_build::Config::new();
    // A message knows its name: that is how it finds its table, and how it travels inside an `Any`.
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .server_mod_attribute(".", "#[cfg(feature = \"testing\")]")
        // Ordered maps: equal messages have equal bytes, and an empty map costs nothing.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds_with_config(descriptors, config)
        .unwrap();
    let mut files = read_all(out.path());
    files.insert("schema.rs".to_owned(), tables);
    files
}

fn proto_files(proto: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(proto)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .proto file in {}", proto.display());
    files
}

fn read_all(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn rewrite(folder: &Path, fresh: &BTreeMap<String, String>) {
    fs::create_dir_all(folder).unwrap();
    for stale in read_all(folder).into_keys().filter(|name| !fresh.contains_key(name)) {
        fs::remove_file(folder.join(stale)).unwrap();
    }
    for (name, text) in fresh {
        fs::write(folder.join(name), text).unwrap();
    }
}
