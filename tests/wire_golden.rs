//! Answers that real servers gave, held against what they mean. `tests/golden/wire/README.md` says where they are from.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use polarismesh::testing::wire::{decode_to_json, encode_from_json};
use serde_json::{Map, Value, json};

/// Facts about fields that `proto/README.md` leaves out, or that are no field of the answer.
const LEFT_OUT: &[&str] = &[
    // Service tag 26, which stays undeclared; that it does no harm has a test of its own.
    "service_tag_26_present_as_message",
    // What the decrypted content of a configuration file is: for the part that decrypts.
    "plain_text",
];

/// Captures of RPCs that the embedded control plane does not serve yet. Who builds one takes its captures out.
const SERVED_LATER: &[&str] = &[
    "config_create",
    "config_discover_groups",
    "config_get",
    "config_get_encrypted",
    "config_get_encrypted_without_key",
    "config_get_gray",
    "config_get_newer_client",
    "config_get_not_found",
    "config_group_list",
    "config_group_unchanged",
    "config_group_unknown",
    "config_publish",
    "config_upsert_conflict",
    "config_upsert_new",
    "config_watch_changed",
    "config_watch_unchanged",
    "contract_get",
    "contract_missing",
    "limiter_acquire",
    "limiter_acquire_negative",
    "limiter_batch_init",
    "limiter_error_counter_key",
    "limiter_error_second_client_id",
    "limiter_init",
    "limiter_init_second_client",
    "limiter_push",
    "limiter_timeadjust",
];

/// One captured answer and what is known of it.
struct Capture {
    server: String,
    case: String,
    bytes: Vec<u8>,
    about: Value,
}

impl Capture {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire");
        let mut captures = Vec::new();
        for folder in children(&root).into_iter().filter(|path| path.is_dir()) {
            for file in children(&folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "bin")) {
                captures.push(Self {
                    server: name(&folder),
                    case: name(&file.with_extension("")),
                    bytes: fs::read(&file).unwrap(),
                    about: serde_json::from_str(&fs::read_to_string(file.with_extension("json")).unwrap()).unwrap(),
                });
            }
        }
        captures
    }

    fn text(&self, key: &str) -> &str {
        self.about[key].as_str().unwrap()
    }

    /// What our types make of the bytes.
    fn decoded(&self) -> Value {
        let decoded = decode_to_json(self.text("response_message"), &self.bytes);
        serde_json::from_str(&decoded.unwrap_or_else(|why| panic!("{}/{}: {why}", self.server, self.case))).unwrap()
    }
}

// === What the bytes say ===

#[test]
fn every_captured_answer_decodes_into_its_facts() {
    let captures = Capture::all();
    let servers: BTreeSet<_> = captures.iter().map(|capture| &*capture.server).collect();
    assert_eq!(servers.into_iter().collect::<Vec<_>>(), ["1.17.9", "1.18.1", "main"]);
    let mut problems = Vec::new();
    for capture in &captures {
        let shaped = match capture.text("response_message") {
            "DiscoverResponse" => discovered(&capture.decoded()),
            _ => capture.decoded(),
        };
        let mut found = Vec::new();
        compare(&mut found, "", &capture.about["facts"], Some(&shaped));
        problems.extend(found.into_iter().map(|why| format!("{}/{}: {why}", capture.server, capture.case)));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn service_tag_26_does_no_harm() {
    const TAG_26_AS_A_MESSAGE: [u8; 5] = [0xd2, 0x01, 0x02, 0x08, 0x01];
    let mut seen = 0;
    for capture in Capture::all().iter().filter(|c| c.about["facts"]["service_tag_26_present_as_message"] == true) {
        assert!(capture.bytes.windows(5).any(|window| window == TAG_26_AS_A_MESSAGE), "{}", capture.case);
        assert_eq!(capture.decoded()["service"]["name"], capture.about["facts"]["service"]["name"]);
        seen += 1;
    }
    assert!(seen > 0, "no capture carries the tag");
}

#[test]
fn every_captured_question_can_be_asked_again() {
    for capture in Capture::all().iter().filter(|capture| !capture.about["request"].is_null()) {
        let message = request_message(capture.text("rpc"));
        let bytes = encode_from_json(message, &capture.about["request"].to_string());
        let bytes = bytes.unwrap_or_else(|why| panic!("{}/{}: {why}", capture.server, capture.case));
        let again: Value = serde_json::from_str(&decode_to_json(message, &bytes).unwrap()).unwrap();
        let mut problems = Vec::new();
        compare(&mut problems, "", &respelled(&capture.about["request"]), Some(&respelled(&again)));
        assert!(problems.is_empty(), "{}/{}: {problems:?}", capture.server, capture.case);
    }
}

// === What the embedded control plane answers to the same question ===

#[test]
fn what_is_served_later_names_captures_that_exist() {
    let cases: BTreeSet<_> = Capture::all().into_iter().map(|capture| capture.case).collect();
    let gone: Vec<_> = SERVED_LATER.iter().filter(|case| !cases.contains(**case)).collect();
    assert!(gone.is_empty(), "no capture is called {gone:?}");
}

// === The facts of a discover answer ===

/// A discover answer in the shape that its facts have.
fn discovered(answer: &Value) -> Value {
    let mut shaped = answer.clone();
    let all = shaped.as_object_mut().unwrap();
    let put = |all: &mut Map<String, Value>, key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    let payload =
        ["routing", "rateLimit", "circuitBreaker", "faultDetector"].into_iter().find_map(|key| answer.get(key));
    put(all, "payload_present", json!(payload.is_some()));
    put(all, "payload_revision", payload.map_or(json!(""), |payload| payload["revision"].clone()));
    put(all, "routing_revision", answer["routing"]["revision"].clone());
    for list in ["inbounds", "outbounds"] {
        put(all, list, list_of(&answer["routing"][list]));
    }
    put(all, "native_rules", list_of(&answer["routing"]["rules"]));
    put(all, "rules", ordered(list_of(&payload.unwrap_or(&Value::Null)["rules"]), &["name"]));
    put(all, "services", ordered(list_of(&answer["services"]), &["namespace", "name"]));
    put(all, "service_metadata", or_empty(&answer["service"]["metadata"]));
    put(all, "alias_for", answer["aliasFor"].clone());
    let instances = ordered(list_of(&answer["instances"]), &["host", "port"]);
    put(all, "instance_count", json!(instances.as_array().unwrap().len()));
    put(all, "instances", instances.as_array().unwrap().iter().map(instance).collect());
    shaped
}

fn instance(answer: &Value) -> Value {
    let mut shaped = answer.clone();
    shaped["enable_health_check"] = answer["enableHealthCheck"].clone();
    shaped["ttl"] = answer["healthCheck"]["heartbeat"]["ttl"].clone();
    shaped
}

fn list_of(value: &Value) -> Value {
    if value.is_null() { json!([]) } else { value.clone() }
}

fn or_empty(value: &Value) -> Value {
    if value.is_null() { json!({}) } else { value.clone() }
}

fn ordered(mut list: Value, keys: &[&str]) -> Value {
    let place = |item: &Value| keys.iter().map(|key| item[*key].to_string()).collect::<Vec<_>>();
    list.as_array_mut().unwrap().sort_by_key(place);
    list
}

// === Comparing ===

/// Fields whose keys are data: they must agree as a whole, while other objects may hold more than their facts.
const MAPS: &[&str] = &["metadata", "service_metadata", "labels", "extendInfo"];

/// Notes every fact that `found` does not bear out. An absent value and the default are the same.
fn compare(problems: &mut Vec<String>, path: &str, fact: &Value, found: Option<&Value>) {
    let found = found.unwrap_or(&Value::Null);
    let key = path.rsplit('.').next().unwrap_or_default();
    if LEFT_OUT.contains(&key) {
        return;
    }
    match fact {
        Value::Object(facts) => {
            if MAPS.contains(&key) {
                let extra = found.as_object().into_iter().flatten().filter(|(key, _)| !facts.contains_key(*key));
                problems.extend(extra.map(|(key, _)| format!("{path} holds {key:?} that it should not")));
            }
            for (name, fact) in facts {
                compare(problems, &format!("{path}.{name}"), fact, found.get(name));
            }
        }
        Value::Array(facts) => {
            let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
            if facts.len() != found.len() {
                problems.push(format!("{path} has {} items instead of {}", found.len(), facts.len()));
            }
            for (index, (fact, found)) in facts.iter().zip(found).enumerate() {
                compare(problems, &format!("{path}[{index}]"), fact, Some(found));
            }
        }
        fact if fact == found || (found.is_null() && is_default(fact)) => {}
        fact => problems.push(format!("{path} is {found} instead of {fact}")),
    }
}

fn is_default(value: &Value) -> bool {
    [json!(0), json!("0"), json!(""), json!(false), Value::Null].contains(value)
        // The first value of an enum of the questions and answers that facts write out.
        || [json!("UNKNOWN"), json!("INIT"), json!("WHOLE"), json!("ADAPTIVE")].contains(value)
}

/// Captured questions are in either spelling of the names: `config_file` and `configFile` are one.
fn respelled(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.replace('_', "").to_lowercase(), respelled(value))).collect()
        }
        Value::Array(items) => items.iter().map(respelled).collect(),
        other => other.clone(),
    }
}

/// The message that an RPC is asked with.
fn request_message(rpc: &str) -> &'static str {
    match rpc.rsplit('/').next().unwrap() {
        "RegisterInstance" | "DeregisterInstance" | "Heartbeat" => "Instance",
        "ReportClient" => "Client",
        "Discover" if rpc.contains("Config") => "ConfigDiscoverRequest",
        "Discover" => "DiscoverRequest",
        "BatchHeartbeat" => "HeartbeatsRequest",
        "GetServiceContract" => "ServiceContract",
        "GetConfigFile" => "ClientConfigFileInfo",
        "WatchConfigFiles" => "ClientWatchConfigFileRequest",
        "CreateConfigFile" => "ConfigFile",
        "PublishConfigFile" => "ConfigFileRelease",
        "UpsertAndPublishConfigFile" => "ConfigFilePublishInfo",
        "GetConfigFileMetadataList" => "ConfigFileGroupRequest",
        "Service" => "polaris.metric.v2.RateLimitRequest",
        "TimeAdjust" => "polaris.metric.v2.TimeAdjustRequest",
        other => panic!("no message is known for {other}"),
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let mut children: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    children.sort();
    children
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
