//! Answers that real servers gave, held against what they mean. `tests/golden/wire/README.md` says where they are from.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use polarismesh::testing::wire::{decode_to_json, encode_from_json};
use polarismesh::testing::{Release, Server};
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
];

/// Captures of one session with a limiter, whose answers depend on the streams and on the clock; the tests of the embedded
/// limiter replay it.
const SESSION: &str = "limiter_";

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

#[tokio::test(start_paused = true)]
async fn the_embedded_control_plane_answers_as_the_real_ones_did() {
    let mut problems = Vec::new();
    let asked = |capture: &&Capture| !SERVED_LATER.contains(&&*capture.case) && !capture.case.starts_with(SESSION);
    for capture in Capture::all().iter().filter(asked) {
        let mut found = Vec::new();
        match embedded_answer(capture).await {
            Some(bytes) => check_answer(&mut found, capture, &bytes),
            None => found.push("no answer".to_owned()),
        }
        problems.extend(found.into_iter().map(|why| format!("{}/{}: {why}", capture.server, capture.case)));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Holds the answer against the facts of the capture, apart from what differs in every answer.
fn check_answer(problems: &mut Vec<String>, capture: &Capture, bytes: &[u8]) {
    let message = capture.text("response_message");
    let mut answer: Value = serde_json::from_str(&decode_to_json(message, bytes).unwrap()).unwrap();
    let mut facts = capture.about["facts"].clone();
    if message == "DiscoverResponse" {
        answer = discovered(&answer);
        let tagged = bytes.windows(5).any(|window| window == [0xd2, 0x01, 0x02, 0x08, 0x01]);
        let fact = facts["service_tag_26_present_as_message"].as_bool().unwrap_or_default();
        if tagged != fact {
            problems.push(format!("service tag 26 there: {tagged} instead of {fact}"));
        }
    }
    // What a refused token is told differs by how it was refused.
    if capture.case.starts_with("auth_") {
        facts.as_object_mut().unwrap().remove("info");
    }
    if capture.case == HOSTED {
        [&mut facts, &mut answer].into_iter().for_each(displace);
    }
    mask(&mut facts);
    mask(&mut answer);
    compare(problems, "", &facts, Some(&answer));
}

/// The capture of what a limiter registers itself as.
const HOSTED: &str = "instance_self_registered_limiter";

/// Puts the same mark for where and of which build the instances are.
fn displace(answer: &mut Value) {
    for instance in answer["instances"].as_array_mut().unwrap() {
        for field in ["id", "host", "port"] {
            assert!(!instance[field].take().is_null());
        }
        assert!(!instance["metadata"]["build-revision"].take().is_null());
    }
}

/// Puts the same mark for what is named anew by every server: revisions, times, ids of rules.
fn mask(value: &mut Value) {
    const NAMED_ANEW: &[&str] = &[
        "revision",
        "payload_revision",
        "routing_revision",
        "ctime",
        "mtime",
        "etime",
        "internal-lastheartbeat",
        "__routing_v2_id__",
    ];
    const NOTHING: [&str; 3] = ["", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "0001-01-01 00:00:00"];
    match value {
        Value::Object(fields) => {
            let is_rule = fields.contains_key("name") && !fields.contains_key("interfaces");
            for (name, field) in fields.iter_mut() {
                let anew = NAMED_ANEW.contains(&name.as_str()) || (is_rule && name == "id");
                match field.as_str() {
                    Some(text) if anew && !NOTHING.contains(&text) => *field = json!("some"),
                    _ => mask(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// What the embedded control plane answers, set up like the captured one.
async fn embedded_answer(capture: &Capture) -> Option<Vec<u8>> {
    let server = Server::in_memory();
    server.release(match &*capture.server {
        "main" => Release::Main,
        "1.18.1" => Release::V1_18,
        "1.17.9" => Release::V1_17,
        other => panic!("no release speaks like {other}"),
    });
    for step in capture.about["setup"].as_array().unwrap() {
        set_up(&server, step["call"].as_str().unwrap(), &step["body"]).await;
    }
    let code = u32::try_from(capture.about["facts"]["code"].as_u64().unwrap_or_default()).unwrap();
    let (rpc, mut request) = (capture.text("rpc"), capture.about["request"].clone());
    match capture.case.split('_').next().unwrap() {
        "auth" => drop(server.revoke_tokens()),
        _ if capture.case == HOSTED => drop(server.host_limiter()),
        "throttled" if code == 429_001 => drop(server.on_any().answer(code)),
        "throttled" => drop(server.on_any().answer_bare(code)),
        _ => {}
    }
    for _ in 0..if capture.case == "heartbeat_unknown_fifth" { 4 } else { 0 } {
        ask(&server, rpc, &request).await?;
    }
    if code == 200_001 {
        request["service"]["revision"] = Value::Null;
        let first = decode_to_json(capture.text("response_message"), &ask(&server, rpc, &request).await?).unwrap();
        request["service"]["revision"] = serde_json::from_str::<Value>(&first).unwrap()["service"]["revision"].clone();
    }
    ask(&server, rpc, &request).await
}

async fn ask(server: &Server, rpc: &str, request: &Value) -> Option<Vec<u8>> {
    server.answer_to(rpc, encode_from_json(request_message(rpc), &request.to_string()).unwrap()).await
}

/// Does what a person or a client did before the answer was captured.
async fn set_up(server: &Server, call: &str, body: &Value) {
    let section = match call {
        "POST /naming/v1/namespaces" => "namespaces",
        "POST /naming/v1/services" => "services",
        "POST /naming/v1/instances" => "instances",
        "POST /naming/v1/service/alias" => "aliases",
        "POST /naming/v1/circuitbreaker/rules" => "circuitbreakers",
        "POST /naming/v1/faultdetectors" => "faultdetectors",
        "POST /naming/v1/ratelimits" => "ratelimits",
        "POST /naming/v2/routings" => "routings",
        "CMDB of the server" => "locations",
        "ReportServiceContract" => {
            let bytes = encode_from_json("ServiceContract", &body.to_string()).unwrap();
            let rpc = "/v1.PolarisServiceContractGRPC/ReportServiceContract";
            return drop(server.answer_to(rpc, bytes).await.unwrap());
        }
        call if call.starts_with("RegisterInstance") => return register(server, call, body).await,
        other => panic!("no way to do {other}"),
    };
    if section == "aliases" {
        // The call that created the service may be left out of the set-up.
        server.service((body["namespace"].as_str().unwrap(), body["service"].as_str().unwrap())).create();
    }
    let items = if body.is_array() || section == "locations" { body.clone() } else { json!([body]) };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.yaml");
    fs::write(&file, json!({ section: items }).to_string()).unwrap();
    server.load(&file).unwrap();
}

async fn register(server: &Server, call: &str, body: &Value) {
    ask(server, "/v1.PolarisGRPC/RegisterInstance", body).await.unwrap();
    if !call.contains("then silence") {
        return;
    }
    // The instance of another case is in the captured answer as well.
    let other = json!({"namespace": "shop", "service": "pay", "host": "127.0.0.1", "port": 7003, "vpc_id": "vpc-1"});
    ask(server, "/v1.PolarisGRPC/RegisterInstance", &other).await.unwrap();
    ask(server, "/v1.PolarisGRPC/Heartbeat", body).await.unwrap();
    let dead = |server: &Server| server.instances(("shop", "pay")).iter().any(|instance| !instance.is_healthy());
    server.wait_until(dead).await.unwrap();
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
