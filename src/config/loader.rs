//! Files, the environment and YAML: the only place that reads any of them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::de::DeserializeSeed as _;
use serde_json::{Value, json};

use super::assemble::assemble;
use super::tree::{self, Env};
use super::untyped::Reader;
use super::validate::{Problem, Problems};
use super::{Config, keys};
use crate::error::{Error, ErrorKind};

/// Names a configuration file.
const FILE_VARIABLE: &str = "POLARIS_CONFIG_FILE";
/// Addresses of servers, with commas between them.
const ADDRESS_VARIABLE: &str = "POLARIS_SERVER_ADDRESS";
/// The access token.
const TOKEN_VARIABLE: &str = "POLARIS_TOKEN";
/// Where a file is looked for that nobody named.
const DEFAULT_FILE: &str = "polaris.yaml";
/// A larger file is not a configuration.
const LARGEST_FILE: u64 = 1 << 20;
/// Deeper brackets are not a configuration.
const DEEPEST_BRACKETS: usize = 100;

impl Config {
    /// Reads the YAML text of a `polaris.yaml`, of any of the three SDKs.
    ///
    /// `${VAR}` and `${VAR:default}` in values are taken from the environment. Keys that no SDK knows are named in a WARN,
    /// and are an error if the text says `strict: true`. Values are checked by [`Config::validate`], which the builder
    /// of a context calls; only values of the wrong type are errors here.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], with all problems and their paths, and never a part of the text but keys.
    ///
    /// ```
    /// use polarismesh::config::Config;
    ///
    /// let config = Config::from_yaml("global: { serverConnector: { addresses: [127.0.0.1:8091] } }")?;
    /// assert_eq!(config.global.server_connector.addresses[0].port(), 8091);
    ///
    /// let error = Config::from_yaml("global: { api: { timeout: soon } }").unwrap_err();
    /// assert!(error.to_string().contains("global.api.timeout"));
    /// # Ok::<(), polarismesh::Error>(())
    /// ```
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        settle(text, json!({}), &variable).map_err(|problems| invalid(problems.to_string()))
    }

    /// Reads a file as [`Config::from_yaml`] does.
    ///
    /// # Errors
    /// As there, and if the file cannot be read, is larger than 1 MiB or is not UTF-8; all name the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        from_file(path.as_ref(), json!({}), &variable)
    }

    /// Takes the configuration from the environment: the file that `POLARIS_CONFIG_FILE` names, else `./polaris.yaml`,
    /// else the defaults; and over them `POLARIS_SERVER_ADDRESS` (with commas between addresses) and `POLARIS_TOKEN`.
    ///
    /// # Errors
    /// As [`Config::from_file`], and if there is neither a file nor an address: the message says what was tried.
    pub fn from_env() -> Result<Self, Error> {
        from_env(Path::new("."), &variable)
    }

    /// The effective configuration as YAML that can be loaded again, but for its secrets, which read `******`.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).unwrap_or_else(|_| "# a path that is not UTF-8 has no form in YAML\n".to_owned())
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_yaml())
    }
}

/// A variable of the process's environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) fn invalid(context: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, context)
}

fn from_env(directory: &Path, env: Env<'_>) -> Result<Config, Error> {
    let set = |name| env(name).filter(|value| !value.trim().is_empty());
    let mut over = json!({});
    if let Some(addresses) = set(ADDRESS_VARIABLE) {
        tree::merge(&mut over, tree::at_path("global.serverConnector.addresses", addresses.into()));
    }
    if let Some(token) = set(TOKEN_VARIABLE) {
        // The file may name a token file: what the environment says replaces it.
        let token = json!({ "token": token.trim(), "tokenFile": null });
        tree::merge(&mut over, tree::at_path("global.serverConnector", token));
    }
    if let Some(path) = set(FILE_VARIABLE) {
        return from_file(Path::new(&path), over, env);
    }
    let path = directory.join(DEFAULT_FILE);
    match std::fs::exists(&path) {
        Ok(false) if set(ADDRESS_VARIABLE).is_some() => {
            settle("", over, env).map_err(|problems| invalid(format!("{ADDRESS_VARIABLE}: {problems}")))
        }
        Ok(false) => Err(invalid(format!(
            "nothing to start from: {FILE_VARIABLE} is not set, {} does not exist, {ADDRESS_VARIABLE} is not set",
            path.display()
        ))),
        Ok(true) | Err(_) => from_file(&path, over, env),
    }
}

fn from_file(path: &Path, over: Value, env: Env<'_>) -> Result<Config, Error> {
    let text = read_file(path).map_err(|error| {
        let what = if error.kind() == io::ErrorKind::InvalidData { "is not UTF-8 text" } else { "cannot be read" };
        invalid(format!("{} {what} ({})", path.display(), error.kind())).with_source(error)
    })?;
    settle(&text, over, env).map_err(|problems| invalid(format!("{}: {problems}", path.display())))
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    // A character that the limit cut in two is "not UTF-8": still an error, and only a file of nonsense meets it.
    if text.len() as u64 > LARGEST_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Reads a text and says in WARNs what its author should know.
fn settle(text: &str, over: Value, env: Env<'_>) -> Result<Config, Problems> {
    let (config, notices) = read(text, over, env)?;
    for notice in notices {
        tracing::warn!("{notice}");
    }
    Ok(config)
}

/// Reads a text, with `over` laid on it. Also returns what its author should know.
fn read(text: &str, over: Value, env: Env<'_>) -> Result<(Config, Vec<Problem>), Problems> {
    let mut tree = parse(text)?;
    let mut unknown = keys::unknown(&tree);
    tree::expand(&mut tree, env);
    tree::prune(&mut tree);
    tree::default_location(&mut tree, env);
    let mut problems = Problems::default();
    let mut notices = tree::canonicalise(&mut tree, &mut problems);
    let mut outcome = assemble(&tree);
    if outcome.is_ok() && over != json!({}) {
        tree::merge(&mut tree, over);
        tree::prune(&mut tree);
        outcome = assemble(&tree);
    }
    if let Ok(config) = &outcome {
        unknown.extend(keys::unknown_plugins(&config.consumer));
    }
    let is_strict = tree.get("strict").is_some_and(|strict| super::scalar::flag(strict).unwrap_or(false));
    if is_strict {
        problems.extend(unknown);
    } else {
        notices.extend(unknown);
    }
    match outcome {
        Ok(config) => problems.into_result().map(|()| (config, notices)),
        Err(mut all) => {
            all.extend(problems);
            Err(all)
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Value, Problem> {
    if is_nested_deep(text) {
        return Err(Problem::new("text", format!("brackets stand more than {DEEPEST_BRACKETS} deep in each other")));
    }
    let reader = Reader::new();
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(document) = documents.next() else { return Ok(json!({})) };
    match reader.deserialize(document) {
        Ok(_) if documents.next().is_some() => Err(Problem::new("text", "holds more than one YAML document")),
        Ok(Value::Null) => Ok(json!({})),
        Ok(tree) => Ok(tree),
        // Its own message may quote the text.
        Err(error) => {
            let what = reader.into_complaint().unwrap_or_else(|| "not valid YAML".to_owned());
            let place = error.location().map(|at| format!("line {}, column {}", at.line(), at.column()));
            Err(Problem::new(place.unwrap_or_else(|| "text".to_owned()), what))
        }
    }
}

/// The parser needs quadratic time for brackets in brackets, before its own limit of depth stops it. Brackets in texts
/// and comments count too: no real file comes near.
fn is_nested_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > DEEPEST_BRACKETS
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    const SAMPLE: &str = include_str!("../../polaris.yaml");

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn paths(tree: &Value) -> BTreeSet<String> {
        tree::leaves(tree).into_iter().map(|(path, _)| path.join(".")).collect()
    }

    #[test]
    fn the_documented_file_is_the_default_and_names_every_used_key() {
        let (config, notices) = read(SAMPLE, json!({}), &no_env).unwrap();
        assert_eq!((config, notices), (Config::default(), vec![]));
        assert_eq!(paths(&parse(SAMPLE).unwrap()), paths(&serde_json::to_value(Config::default()).unwrap()));
    }

    #[test]
    fn every_key_of_the_documented_file_has_its_comment() {
        let lines: Vec<_> = SAMPLE.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            let is_section = pair[1].ends_with(':');
            let is_key = !pair[1].starts_with('#') && pair[1].contains(':') && !is_section;
            assert!(!is_key || pair[0].starts_with('#'), "{} has no comment", pair[1]);
        }
    }

    #[test]
    fn what_the_documented_file_shows_for_an_unset_key_is_what_is_printed() {
        let printed = parse(&Config::default().to_yaml()).unwrap();
        let mut documented = parse(SAMPLE).unwrap();
        tree::expand(&mut documented, &no_env);
        for (path, value) in tree::leaves(&printed) {
            let shown = documented.pointer(&format!("/{}", path.join("/"))).unwrap();
            assert!(shown == value || value.is_null() && shown == "", "{path:?}: {shown} is not {value}");
        }
    }

    #[test]
    fn a_location_nobody_wrote_comes_from_the_environment() {
        let env = |name: &str| (name == "ZONE").then(|| "z".to_owned());
        let zone = |text| read(text, json!({}), &env).unwrap().0.global.location.zone;
        assert_eq!(zone(""), "z");
        assert_eq!(zone("global: { location: { region: r } }"), "");
        assert_eq!(zone("global: { location: { providers: [{ options: { zone: '${ZONE}-1' } }] } }"), "z-1");
    }

    #[test]
    fn the_environment_names_a_file_or_an_address_and_goes_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("named.yaml");
        fs::write(&named, "global: { serverConnector: { addresses: [named], tokenFile: t } }").unwrap();
        let load = |vars: &[(&str, &str)]| {
            let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            from_env(dir.path(), &env).map(|config| config.global.server_connector)
        };
        let hosts = |connector: &super::super::ServerConnector| {
            connector.addresses.iter().map(|a| a.host().to_owned()).collect::<Vec<_>>()
        };

        let nothing = load(&[]).unwrap_err().to_string();
        for tried in ["POLARIS_CONFIG_FILE", "polaris.yaml", "POLARIS_SERVER_ADDRESS"] {
            assert!(nothing.contains(tried), "{nothing}");
        }
        assert_eq!(hosts(&load(&[(ADDRESS_VARIABLE, "a:1, b")]).unwrap()), ["a", "b"]);
        let bad = load(&[(ADDRESS_VARIABLE, "a:b")]).unwrap_err().to_string();
        assert!(bad.contains(ADDRESS_VARIABLE) && bad.contains("a:b"), "{bad}");

        fs::write(dir.path().join(DEFAULT_FILE), "global: { serverConnector: { addresses: [found] } }").unwrap();
        assert_eq!(hosts(&load(&[]).unwrap()), ["found"]);
        assert_eq!(hosts(&load(&[(ADDRESS_VARIABLE, "a")]).unwrap()), ["a"]);

        let named = (FILE_VARIABLE, named.to_str().unwrap());
        let connector = load(&[named]).unwrap();
        assert_eq!((hosts(&connector), connector.token_file), (vec!["named".to_owned()], Some(PathBuf::from("t"))));
        let connector = load(&[named, (TOKEN_VARIABLE, " secret\n")]).unwrap();
        assert_eq!((connector.token.unwrap().expose(), connector.token_file), ("secret", None));
        let missing = load(&[(FILE_VARIABLE, "no/such/file"), (ADDRESS_VARIABLE, "a")]).unwrap_err().to_string();
        assert!(missing.contains("no/such/file cannot be read"), "{missing}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a-c:,?&*!|>'\"%@`{}\\[\\]#~<$ \n]{0,60}") {
            let _ = read(&text, json!({}), &no_env);
        }

        #[test]
        fn whatever_value_a_key_has_it_is_read_or_its_path_is_named(key in 0..40_usize, value in "[-0-9a-z:.\\[\\]/ ]{1,12}") {
            let model = serde_json::to_value(Config::default()).unwrap();
            let leaves = tree::leaves(&model);
            let path = leaves[key % leaves.len()].0.join(".");
            let tree = tree::at_path(&path, Value::String(value));
            if let Err(problems) = read(&tree.to_string(), json!({}), &no_env) {
                prop_assert!(problems.to_string().starts_with(&path), "{}: {}", path, problems);
            }
        }
    }
}
