use std::path::Path;
use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::*;
use crate::model::key::ServiceKey;
use crate::pb::metric;
use crate::pb::metric::rate_limit_grpcv2_client::RateLimitGrpcv2Client;
use crate::testing::{Call, Fault, LimitUse, On, Rpc, Skew};
use crate::util::clock::WallClock;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// A full hour, so that windows of all lengths begin with it.
const NOON: i64 = 1_795_219_200_000;
/// The key of the first counter, and of the one behind it.
const FIRST: u32 = 16_777_217;
const SECOND_KEY: u32 = FIRST + 1;

/// A stream to the limiter.
struct Limits {
    requests: mpsc::Sender<metric::RateLimitRequest>,
    answers: tonic::Streaming<metric::RateLimitResponse>,
}

impl Limits {
    async fn open(server: &Server) -> Self {
        let (requests, outbound) = mpsc::channel(512);
        let stream = limiter(server).service(ReceiverStream::new(outbound)).await.unwrap();
        Self { requests, answers: stream.into_inner() }
    }

    /// A stream of this client, which shares the counters of `orders` on these terms.
    async fn joined(server: &Server, client: &str, totals: Value) -> Self {
        let mut stream = Self::open(server).await;
        assert_eq!(stream.init(init(client, totals)).await.code, 200_000);
        stream
    }

    async fn send(&self, request: Value) {
        self.requests.send(message(request)).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<metric::RateLimitResponse>, Status> {
        timeout(60 * MINUTE, self.answers.message()).await.expect("an answer or the end of the stream")
    }

    async fn ask(&mut self, request: Value) -> metric::RateLimitResponse {
        self.send(request).await;
        self.next().await.unwrap().expect("an answer")
    }

    async fn init(&mut self, body: Value) -> metric::RateLimitInitResponse {
        self.ask(json!({"rateLimitInitRequest": body})).await.rate_limit_init_response.unwrap()
    }

    async fn init_all(&mut self, body: Value) -> metric::RateLimitBatchInitResponse {
        let request = json!({"cmd": "BATCH_INIT", "rateLimitBatchInitRequest": body});
        self.ask(request).await.rate_limit_batch_init_response.unwrap()
    }

    async fn report(&mut self, body: Value) -> metric::RateLimitReportResponse {
        self.ask(acquire(body)).await.rate_limit_report_response.unwrap()
    }

    /// What is left after a report of so much, now.
    async fn take(&mut self, server: &Server, key: u32, used: u32) -> i64 {
        let answer = self.report(uses(server, &[(key, used)])).await;
        assert_eq!(answer.code, 200_000);
        answer.quota_lefts[0].left
    }

    /// What was pushed, if anything comes within a second.
    async fn pushed(&mut self) -> Option<metric::RateLimitReportResponse> {
        let pushed = timeout(SECOND, self.next()).await.ok()?.unwrap().unwrap();
        assert_eq!(pushed.cmd, metric::RateLimitCmd::Acquire as i32);
        pushed.rate_limit_report_response
    }
}

fn limiter(server: &Server) -> RateLimitGrpcv2Client<Channel> {
    RateLimitGrpcv2Client::new(channel(server))
}

#[allow(clippy::needless_pass_by_value, reason = "reads better at every call")]
fn init(client: &str, totals: Value) -> Value {
    json!({"clientId": client, "target": {"namespace": "shop", "service": "orders", "labels": "l"}, "totals": totals})
}

fn whole(seconds: u32, amount: u32) -> Value {
    json!([{"duration": seconds, "maxAmount": amount}])
}

fn divided(seconds: u32, amount: u32) -> Value {
    json!([{"mode": "DIVIDE", "duration": seconds, "maxAmount": amount}])
}

#[allow(clippy::needless_pass_by_value, reason = "reads better at every call")]
fn acquire(body: Value) -> Value {
    json!({"cmd": "ACQUIRE", "rateLimitReportRequest": body})
}

/// A report of now.
fn uses(server: &Server, uses: &[(u32, u32)]) -> Value {
    let uses: Vec<_> = uses.iter().map(|(key, used)| json!({"counterKey": key, "used": used})).collect();
    json!({"clientKey": 1, "timestamp": millis(server).to_string(), "quotaUses": uses})
}

fn millis(server: &Server) -> i64 {
    i64::try_from(server.limiter_clock().as_millis()).unwrap()
}

/// Sets the limiter's clock to this time.
fn set_clock(server: &Server, millis: i64) {
    let (now, then) = (server.set_limiter_clock(Skew::Ahead(Duration::ZERO)).limiter_clock(), millis.unsigned_abs());
    let then = Duration::from_millis(then);
    server.set_limiter_clock(if then > now {
        Skew::Ahead(then.abs_diff(now))
    } else {
        Skew::Behind(then.abs_diff(now))
    });
}

/// A server whose limiter believes that it is noon.
fn at_noon() -> Server {
    let server = Server::in_memory();
    set_clock(&server, NOON);
    server
}

/// Lefts and counts of clients of the counters that were joined.
fn lefts(answer: &metric::RateLimitInitResponse) -> Vec<(u32, i64, u32)> {
    answer.counters.iter().map(|counter| (counter.counter_key, counter.left, counter.client_count)).collect()
}

// === As the real one ===

/// One captured answer.
fn golden(release: &str, case: &str) -> (Value, Vec<u8>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire").join(release).join(case);
    let about = std::fs::read_to_string(file.with_extension("json")).unwrap();
    (serde_json::from_str(&about).unwrap(), std::fs::read(file.with_extension("bin")).unwrap())
}

/// Asks on this stream what was asked when the answer was captured, at the time of the capture, byte for byte.
async fn replay(server: &Server, release: &str, case: &str, stream: &mut Limits) {
    let (about, bytes) = golden(release, case);
    let answer = metric::RateLimitResponse::decode(bytes.as_slice()).unwrap();
    let time = answer.rate_limit_init_response.as_ref().map(|body| body.timestamp);
    let time = time.or_else(|| Some(answer.rate_limit_batch_init_response.as_ref()?.timestamp));
    let time = time.or_else(|| Some(answer.rate_limit_report_response.as_ref()?.timestamp)).unwrap();
    set_clock(server, time);
    let found = stream.ask(about["request"].clone()).await;
    assert_eq!(found, answer, "{release}/{case}");
    assert_eq!(found.encode_to_vec(), bytes, "{release}/{case}");
}

#[tokio::test(start_paused = true)]
async fn the_captured_session_is_answered_byte_for_byte() {
    for release in ["main", "1.18.1"] {
        let server = Server::in_memory();
        let (mut one, mut two) = (Limits::open(&server).await, Limits::open(&server).await);
        replay(&server, release, "limiter_init", &mut one).await;
        let (about, bytes) = golden(release, "limiter_timeadjust");
        set_clock(&server, about["facts"]["serverTimestamp"].as_str().unwrap().parse().unwrap());
        let time = limiter(&server).time_adjust(metric::TimeAdjustRequest {}).await.unwrap().into_inner();
        assert_eq!(time.encode_to_vec(), bytes);
        replay(&server, release, "limiter_acquire", &mut one).await;
        replay(&server, release, "limiter_init_second_client", &mut two).await;
        replay(&server, release, "limiter_acquire_negative", &mut two).await;
        let pushed = one.next().await.unwrap().unwrap().encode_to_vec();
        assert_eq!(pushed, golden(release, "limiter_push").1, "{release}");
        replay(&server, release, "limiter_batch_init", &mut two).await;
        replay(&server, release, "limiter_error_second_client_id", &mut one).await;
        replay(&server, release, "limiter_error_counter_key", &mut one).await;
        assert_eq!(one.next().await.unwrap(), None, "the stream ends with OK");
    }
}

// === Counters ===

#[tokio::test(start_paused = true)]
async fn a_counter_is_one_of_service_namespace_labels_and_duration() {
    let server = at_noon();
    let mut stream = Limits::open(&server).await;
    let first = stream.init(init("a", whole(1, 10))).await;
    assert_eq!((first.client_key, first.slide_count, first.timestamp), (1, 1, NOON));
    assert_eq!(lefts(&first), [(FIRST, 10, 1)]);
    for (field, value) in [("namespace", "edge"), ("service", "stock"), ("labels", "m"), ("labels", "")] {
        let mut other = init("a", whole(1, 10));
        other["target"][field] = value.into();
        let key = stream.init(other).await.counters[0].counter_key;
        assert_eq!(server.limiter_counters().last().unwrap().key, key, "{field} is {value}");
    }
    assert_eq!(stream.init(init("a", whole(60, 10))).await.counters[0].counter_key, FIRST + 5);
    assert_eq!(lefts(&stream.init(init("a", whole(1, 10))).await), [(FIRST, 10, 1)]);
    assert_eq!(server.limiter_counters().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn the_latest_terms_count_and_two_totals_of_one_duration_are_one_counter() {
    let server = at_noon();
    let mut stream = Limits::joined(&server, "a", whole(10, 10)).await;
    assert_eq!(stream.take(&server, FIRST, 4).await, 6);
    assert_eq!(lefts(&stream.init(init("a", whole(10, 3))).await), [(FIRST, -1, 1)]);
    let two = json!([{"duration": 10, "maxAmount": 20}, {"duration": 10, "maxAmount": 30}]);
    assert_eq!(lefts(&stream.init(init("a", two)).await), [(FIRST, 16, 1), (FIRST, 26, 1)]);
    assert_eq!(stream.take(&server, FIRST, 30).await, -4);
    let counter = &server.limiter_counters()[0];
    assert_eq!((counter.max, counter.left, counter.clients, counter.used), (30, -4, 1, 34));
    assert_eq!((counter.labels.as_str(), counter.duration), ("l", 10 * SECOND));
    assert_eq!(counter.service, ServiceKey::new("shop", "orders"));
}

#[tokio::test(start_paused = true)]
async fn windows_begin_at_full_seconds_of_the_limiters_clock() {
    let server = at_noon();
    let mut stream = Limits::joined(&server, "a", whole(1, 10)).await;
    set_clock(&server, NOON + 999);
    assert_eq!(stream.take(&server, FIRST, 12).await, -2);
    set_clock(&server, NOON + 1000);
    assert_eq!(stream.take(&server, FIRST, 1).await, 9);
    // By itself the clock goes on with the runtime's.
    tokio::time::advance(SECOND).await;
    assert_eq!(stream.take(&server, FIRST, 2).await, 8);
    assert_eq!((server.limiter_counters()[0].used, server.limiter_counters()[0].total_used), (2, 15));
}

#[tokio::test(start_paused = true)]
async fn a_report_for_another_window_is_acknowledged_and_not_counted() {
    let server = at_noon();
    let mut stream = Limits::joined(&server, "a", whole(10, 10)).await;
    assert_eq!(stream.take(&server, FIRST, 3).await, 7);
    for other in [NOON - 1, NOON + 10_000, 1] {
        let mut report = uses(&server, &[(FIRST, 5)]);
        report["timestamp"] = json!(other);
        let answer = stream.report(report).await;
        assert_eq!((answer.code, answer.quota_lefts[0].left), (200_000, 7), "{other}");
    }
    let mut report = uses(&server, &[(FIRST, 5)]);
    report["timestamp"] = json!(NOON + 9999);
    assert_eq!(stream.report(report).await.quota_lefts[0].left, 2);
    let counter = &server.limiter_counters()[0];
    assert_eq!((counter.used, counter.total_used, counter.total_ignored), (8, 8, 15));
}

#[tokio::test(start_paused = true)]
async fn a_window_of_several_slots_slides() {
    let server = at_noon();
    let mut stream = Limits::open(&server).await;
    let mut request = init("a", whole(1, 10));
    request["slideCount"] = json!(10);
    assert_eq!(stream.init(request).await.slide_count, 10);
    assert_eq!(stream.take(&server, FIRST, 4).await, 6);
    set_clock(&server, NOON + 900);
    assert_eq!(stream.take(&server, FIRST, 1).await, 5);
    set_clock(&server, NOON + 1000);
    assert_eq!(stream.take(&server, FIRST, 0).await, 9);
    set_clock(&server, NOON + 1900);
    assert_eq!(stream.take(&server, FIRST, 0).await, 10);
}

#[tokio::test(start_paused = true)]
async fn divided_amounts_grow_with_the_clients_and_a_leaver_counts_for_ten_seconds_more() {
    let server = at_noon();
    let mut one = Limits::joined(&server, "a", divided(600, 10)).await;
    let two = Limits::joined(&server, "b", divided(600, 10)).await;
    assert_eq!(one.take(&server, FIRST, 5).await, 15);
    drop(two);
    tokio::time::sleep(9 * SECOND).await;
    let answer = one.report(uses(&server, &[(FIRST, 0)])).await;
    assert_eq!((answer.quota_lefts[0].left, answer.quota_lefts[0].client_count), (15, 2));
    tokio::time::sleep(2 * SECOND).await;
    let answer = one.report(uses(&server, &[(FIRST, 0)])).await;
    assert_eq!((answer.quota_lefts[0].left, answer.quota_lefts[0].client_count), (5, 1));
    // Who comes back in time has never been away.
    for _ in 0..3 {
        drop(Limits::joined(&server, "b", divided(600, 10)).await);
        tokio::time::sleep(9 * SECOND).await;
    }
    let counter = &server.limiter_counters()[0];
    assert_eq!((counter.clients, counter.max), (2, 20));
}

#[tokio::test(start_paused = true)]
async fn an_idle_counter_is_gone_after_twice_its_longest_duration_and_the_stream_stays() {
    let server = at_noon();
    let totals = json!([{"duration": 1, "maxAmount": 5}, {"duration": 20, "maxAmount": 50}]);
    let mut stream = Limits::joined(&server, "a", totals.clone()).await;
    // Looked for every 30 s: at 30 s it has lain idle for too short a time.
    tokio::time::sleep(59 * SECOND).await;
    assert_eq!(server.limiter_counters().len(), 2);
    assert_eq!(stream.take(&server, SECOND_KEY, 1).await, 49);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(server.limiter_counters().iter().map(|counter| counter.key).collect::<Vec<_>>(), [SECOND_KEY]);
    let answer = stream.report(uses(&server, &[(SECOND_KEY, 1), (FIRST, 1), (SECOND_KEY, 1)])).await;
    assert_eq!((answer.code, answer.quota_lefts.len()), (404_001, 1));
    assert_eq!(lefts(&stream.init(init("a", totals)).await), [(FIRST + 2, 5, 1), (SECOND_KEY, 49, 1)]);
}

#[tokio::test(start_paused = true)]
async fn three_hundred_clients_share_one_counter() {
    let server = at_noon();
    let mut streams = Vec::new();
    for index in 0..300 {
        streams.push(Limits::joined(&server, &format!("c{index}"), whole(600, 1000)).await);
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let answer = stream.report(uses(&server, &[(FIRST, 2)])).await;
        let left = 998 - 2 * i64::try_from(index).unwrap();
        assert_eq!((answer.quota_lefts[0].left, answer.quota_lefts[0].client_count), (left, 300));
    }
}

// === Pushes ===

#[tokio::test(start_paused = true)]
async fn the_others_hear_once_that_nothing_is_left() {
    let server = at_noon();
    let (mut one, mut two) =
        (Limits::joined(&server, "a", whole(600, 10)).await, Limits::joined(&server, "b", whole(600, 10)).await);
    assert_eq!(one.take(&server, FIRST, 9).await, 1);
    assert_eq!(two.pushed().await, None);
    assert_eq!(two.take(&server, FIRST, 1).await, 0);
    let pushed = one.pushed().await.unwrap();
    assert_eq!((pushed.code, pushed.quota_lefts[0].left, pushed.quota_lefts[0].client_count), (200_000, 0, 2));
    assert_eq!(pushed.quota_lefts[0].counter_key, FIRST);
    assert_eq!(two.take(&server, FIRST, 5).await, -5);
    assert_eq!((one.pushed().await, two.pushed().await), (None, None));
    // In a new window, once something was left; one that begins with nothing left is not told of.
    set_clock(&server, NOON + 600_000);
    assert_eq!(two.take(&server, FIRST, 1).await, 9);
    assert_eq!(one.take(&server, FIRST, 10).await, -1);
    assert_eq!((one.pushed().await, two.pushed().await.unwrap().quota_lefts[0].left), (None, -1));
    set_clock(&server, NOON + 1_200_000);
    assert_eq!(one.take(&server, FIRST, 10).await, 0);
    assert_eq!((one.pushed().await, two.pushed().await), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_push_goes_to_the_stream_that_joined_last() {
    let server = at_noon();
    let mut old = Limits::joined(&server, "a", whole(600, 10)).await;
    let mut new = Limits::open(&server).await;
    let joined = new.init(init("a", whole(600, 10))).await;
    assert_eq!((joined.client_key, lefts(&joined)), (1, vec![(FIRST, 10, 1)]), "it is the same client");
    let mut other = Limits::joined(&server, "b", whole(600, 10)).await;
    assert_eq!(other.take(&server, FIRST, 10).await, 0);
    assert!(new.pushed().await.is_some() && old.pushed().await.is_none());
    // The end of the older one is not the end of the client.
    drop(old);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(server.limiter_counters()[0].clients, 2);
}

// === What is refused ===

#[tokio::test(start_paused = true)]
async fn what_cannot_be_joined_has_a_code_and_the_stream_stays() {
    let server = at_noon();
    let mut stream = Limits::open(&server).await;
    let good = init("a", whole(1, 10));
    assert_eq!(stream.init(good.clone()).await.code, 200_000);
    for (pointer, value, code) in [
        ("/target/service", json!(""), 400_201),
        ("/target", json!(null), 400_201),
        ("/target/namespace", json!(""), 400_202),
        ("/totals", json!([]), 400_204),
        ("/totals/0/duration", json!(0), 400_205),
        ("/slideCount", json!(11), 400_206),
        ("/mode", json!("BATCH_SHARE"), 400_207),
        ("/clientId", json!("b"), 401_103),
    ] {
        let mut bad = good.clone();
        bad["slideCount"] = json!(10);
        bad["mode"] = json!("BATCH_OCCUPY");
        *bad.pointer_mut(pointer).unwrap() = value;
        let answer = stream.init(bad.clone()).await;
        let target = bad["target"].is_object().then(|| message(bad["target"].clone()));
        let expected = metric::RateLimitInitResponse { code, target, timestamp: NOON, ..Default::default() };
        assert_eq!(answer, expected, "{pointer}");
    }
    let mut nameless = Limits::open(&server).await;
    assert_eq!(nameless.init(init("", whole(1, 10))).await.code, 400_203);
    assert_eq!(nameless.init(good.clone()).await.code, 401_103, "the stream is that of a client without a name");
    assert_eq!(lefts(&stream.init(good).await), [(FIRST, 10, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_joins_every_label_and_says_what_is_wrong_with_each_member() {
    let server = at_noon();
    let mut stream = Limits::open(&server).await;
    assert_eq!(stream.init_all(json!({"clientId": "a"})).await.code, 400_209);
    let target = |labels: Value| json!({"namespace": "shop", "service": "orders", "labels_list": labels});
    let answer = stream.init_all(json!({"clientId": "a", "request": [
        {"target": target(json!(["x", "y"])), "totals": whole(1, 7), "slideCount": 2},
        {"target": target(json!([])), "totals": whole(1, 7)},
        {"target": target(json!(["x"])), "totals": whole(0, 7)},
        {"target": target(json!(["y"])), "totals": divided(1, 9)},
    ]}));
    let answer = answer.await;
    assert_eq!((answer.code, answer.client_key, answer.timestamp), (200_000, 1, NOON));
    let results: Vec<_> = answer.result.iter().map(|result| (result.code, result.slide_count)).collect();
    assert_eq!(results, [(200_000, 2), (400_208, 0), (400_205, 0), (200_000, 0)]);
    let joined = &answer.result[0];
    assert_eq!(joined.target, Some(message(json!({"namespace": "shop", "service": "orders"}))));
    let labels: Vec<_> = joined.counters.iter().map(|of| (&*of.labels, of.counters[0].counter_key)).collect();
    assert_eq!(labels, [("x", FIRST), ("y", SECOND_KEY)]);
    assert_eq!(answer.result[3].counters[0].counters[0].left, 9);
    // The same counters by the other command.
    let request =
        json!({"cmd": "BATCH_ACQUIRE", "rateLimitReportRequest": uses(&server, &[(FIRST, 2), (SECOND_KEY, 3)])});
    let answer = stream.ask(request).await;
    let body = answer.rate_limit_report_response.unwrap();
    assert_eq!((answer.cmd, body.code), (metric::RateLimitCmd::BatchAcquire as i32, 200_000));
    assert_eq!(body.quota_lefts.iter().map(|left| left.left).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(stream.init_all(json!({"clientId": "b", "request": [{}]})).await.code, 401_103);
    let mut nameless = Limits::open(&server).await;
    assert_eq!(nameless.init_all(json!({"request": [{}]})).await.code, 400_203);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reported_has_a_code_and_the_stream_stays() {
    let server = at_noon();
    let mut stream = Limits::joined(&server, "a", whole(10, 10)).await;
    let report = uses(&server, &[(FIRST, 1)]);
    for (field, value, code) in [
        ("clientKey", json!(0), 400_213),
        ("timestamp", json!(0), 400_212),
        ("quotaUses", json!([]), 400_211),
        ("quotaUses", json!([{"counterKey": FIRST + 9, "used": 1}]), 404_001),
    ] {
        let mut bad = report.clone();
        bad[field] = value;
        let answer = stream.report(bad).await;
        assert_eq!((answer.code, answer.quota_lefts.len(), answer.timestamp), (code, 0, NOON), "{field}");
    }
    let answer = stream.ask(json!({"cmd": "ACQUIRE"})).await.rate_limit_report_response.unwrap();
    assert_eq!(answer.code, 400_213, "without a body");
    let mut foreign = report;
    foreign["clientKey"] = json!(77);
    assert_eq!(stream.report(foreign).await.quota_lefts[0].left, 9, "the key of the client is not checked");
    // A command that nobody knows.
    stream.requests.send(metric::RateLimitRequest { cmd: 9, ..Default::default() }).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    assert_eq!(answer, metric::RateLimitResponse { cmd: 9, ..Default::default() });
}

#[tokio::test(start_paused = true)]
async fn a_key_that_no_counter_can_have_ends_the_stream_with_ok() {
    let server = at_noon();
    for key in [0, 123, 1 << 24, (2 << 24) + 1] {
        let mut stream = Limits::open(&server).await;
        let answer = stream.report(uses(&server, &[(key, 1)])).await;
        assert_eq!((answer.code, answer.quota_lefts.len()), (400_214, 0), "{key}");
        assert_eq!(stream.next().await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_real_limiter_dies_of_ends_the_stream_and_nothing_else() {
    let server = at_noon();
    let mut well = Limits::joined(&server, "a", whole(600, 10)).await;
    let unjoined = acquire(uses(&server, &[(FIRST, 1)]));
    for request in [json!({}), json!({"cmd": "BATCH_INIT"}), unjoined] {
        let mut stream = Limits::open(&server).await;
        stream.send(request).await;
        assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(well.take(&server, FIRST, 1).await, 9);
    server.shutdown().await;
}

// === The plane around it ===

#[tokio::test(start_paused = true)]
async fn the_clock_is_told_with_its_error_and_can_be_late_or_fail() {
    let server = Server::in_memory();
    let ask =
        async || limiter(&server).time_adjust(metric::TimeAdjustRequest {}).await.map(tonic::Response::into_inner);
    let wall = WallClock::start();
    let right = ask().await.unwrap().server_timestamp;
    let expected = i64::try_from(wall.unix_millis(tokio::time::Instant::now())).unwrap();
    assert!((right - expected).abs() <= 1000, "{right} instead of {expected}");
    server.set_limiter_clock(Skew::Behind(5 * SECOND));
    assert_eq!(ask().await.unwrap().server_timestamp, right - 5000);
    server.set_limiter_clock(Skew::Ahead(MINUTE));
    server.on(Rpc::LimitClock).times(1).delay(7 * SECOND);
    assert_eq!(ask().await.unwrap().server_timestamp, right + 67_000);
    server.on(Rpc::LimitClock).times(1).status(14, "gone");
    assert_eq!(ask().await.unwrap_err().code(), Code::Unavailable);
    let hung = server.on(Rpc::LimitClock).hang();
    assert!(timeout(MINUTE, ask()).await.is_err());
    assert_eq!((hung.hits(), server.calls_of(Rpc::LimitClock).len()), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn joining_and_reporting_go_wrong_as_the_script_says() {
    let server = at_noon();
    let totals = || whole(600, 10);
    let mut stream = Limits::open(&server).await;
    server.on(Rpc::LimitInit).times(1).answer(401_101);
    let refused = stream.init(init("a", totals())).await;
    assert_eq!((refused.code, refused.target.unwrap().service.as_str()), (401_101, "orders"));
    assert!(server.limiter_counters().is_empty());
    server.on(Rpc::LimitInit).times(1).answer_bare(500_000);
    let bare = metric::RateLimitInitResponse { code: 500_000, ..Default::default() };
    assert_eq!(stream.init(init("a", totals())).await, bare);
    server.on(Rpc::LimitInit).times(1).empty();
    let empty = stream.init(init("a", totals())).await;
    assert_eq!((empty.code, empty.counters.len()), (200_000, 0));
    server.on(Rpc::LimitInit).times(1).delay(3 * SECOND);
    assert_eq!(stream.init(init("a", totals())).await.timestamp, NOON + 3000);
    server.on(Rpc::LimitAcquire).service(("shop", "orders")).times(1).answer(404_001);
    server.on(Rpc::LimitAcquire).service(("shop", "stock")).answer(500_000);
    let answer = stream.report(uses(&server, &[(FIRST, 1)])).await;
    assert_eq!((answer.code, answer.quota_lefts.len()), (404_001, 0));
    assert_eq!(stream.take(&server, FIRST, 1).await, 9, "nothing was counted");
    server.on(Rpc::LimitAcquire).times(1).pass_over();
    stream.send(acquire(uses(&server, &[(FIRST, 1)]))).await;
    assert_eq!(stream.take(&server, FIRST, 0).await, 9);
    server.on(Rpc::LimitAcquire).times(1).hang();
    stream.send(acquire(uses(&server, &[(FIRST, 1)]))).await;
    stream.send(acquire(uses(&server, &[(FIRST, 1)]))).await;
    assert!(timeout(MINUTE, stream.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn streams_of_the_limiter_end_as_the_script_says() {
    let server = at_noon();
    let joined = async || Limits::joined(&server, "a", whole(600, 10)).await;
    let report = acquire(uses(&server, &[(FIRST, 1)]));
    server.on(Rpc::LimitAcquire).times(1).end_stream();
    let mut stream = joined().await;
    stream.send(report.clone()).await;
    assert_eq!(stream.next().await.unwrap(), None);
    server.on(Rpc::LimitAcquire).times(1).status(14, "gone");
    let mut stream = joined().await;
    stream.send(report.clone()).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
    server.on(Rpc::LimitAcquire).times(1).answer(400_214);
    let mut stream = joined().await;
    assert_eq!(stream.ask(report.clone()).await.rate_limit_report_response.unwrap().code, 400_214);
    assert_eq!(stream.next().await.unwrap(), None);
    let faults: [fn(On<'_>) -> Fault; 3] = [|on| on.close(), |on| on.close_midway(), |on| on.garbage()];
    for fault in faults {
        let fault = fault(server.on(Rpc::LimitAcquire).times(1));
        let mut stream = joined().await;
        stream.send(report.clone()).await;
        assert!(stream.next().await.is_err());
        assert_eq!(fault.hits(), 1);
    }
    server.on(Rpc::LimitAcquire).times(1).pad(1000);
    assert!(joined().await.ask(report).await.rate_limit_report_response.is_some());
}

#[tokio::test(start_paused = true)]
async fn foreign_keys_are_those_of_no_counter() {
    let server = at_noon();
    server.on(Rpc::LimitInit).times(2).foreign_keys();
    let mut stream = Limits::open(&server).await;
    let foreign = stream.init(init("a", whole(600, 10))).await.counters[0].counter_key;
    assert_ne!(foreign, FIRST);
    let target = json!({"namespace": "shop", "service": "orders", "labels_list": ["l"]});
    let batch =
        stream.init_all(json!({"clientId": "a", "request": [{"target": target, "totals": whole(600, 10)}]})).await;
    assert_eq!(batch.result[0].counters[0].counters[0].counter_key, foreign);
    assert_eq!(lefts(&stream.init(init("a", whole(600, 10))).await), [(FIRST, 10, 1)]);
    server.on(Rpc::LimitAcquire).times(1).foreign_keys();
    let answer = stream.report(uses(&server, &[(FIRST, 1)])).await;
    assert_eq!((answer.code, answer.quota_lefts[0].counter_key, answer.quota_lefts[0].left), (200_000, foreign, 9));
    assert_eq!(stream.report(uses(&server, &[(foreign, 1)])).await.code, 400_214);
}

#[tokio::test(start_paused = true)]
async fn a_restart_forgets_everything_and_ends_the_streams() {
    let server = at_noon();
    let mut one = Limits::joined(&server, "a", whole(600, 10)).await;
    let mut hung = Limits::open(&server).await;
    server.on(Rpc::LimitInit).times(1).hang();
    hung.send(json!({"rateLimitInitRequest": init("b", whole(600, 10))})).await;
    assert_eq!(one.take(&server, FIRST, 4).await, 6);
    server.restart_limiter();
    assert!(server.limiter_counters().is_empty());
    for stream in [&mut one, &mut hung] {
        assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
    }
    let mut again = Limits::open(&server).await;
    let joined = again.init(init("c", whole(600, 10))).await;
    assert_eq!((joined.client_key, lefts(&joined)), (1, vec![(FIRST, 10, 1)]));
    assert_eq!(server.total_connections(), 3, "of the control plane itself nothing was ended");
    server.stop();
    assert_eq!(again.next().await.unwrap_err().code(), Code::Unavailable);
    server.start();
    assert_eq!(Limits::joined(&server, "c", whole(600, 10)).await.take(&server, FIRST, 1).await, 9);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_takes_its_clients_along() {
    let server = at_noon();
    let one = Limits::joined(&server, "a", divided(600, 10)).await;
    let two = Limits::joined(&server, "b", divided(600, 10)).await;
    server.close_connections();
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(server.limiter_counters()[0].clients, 0);
    drop((one, two));
}

#[tokio::test(start_paused = true)]
async fn a_hosted_limiter_is_found_beside_its_console_and_every_node_has_one_of_its_own() {
    let server = at_noon();
    server.host_limiter();
    let peer = server.peer().await.unwrap();
    peer.host_limiter();
    let answer = Discovery::open(&server).await.ask(question(Kind::Instance, "Polaris", "polaris.limiter")).await;
    let mut found: Vec<_> = answer
        .instances
        .iter()
        .map(|found| {
            assert_eq!((found.healthy, found.weight), (Some(true), Some(100)));
            assert_eq!(found.metadata.get("protocol"), found.protocol.as_ref());
            (found.protocol.clone().unwrap(), format!("{}:{}", found.host.as_deref().unwrap(), found.port.unwrap()))
        })
        .collect();
    found.sort();
    let below = |server: &Server| server.address().replace(":8091", ":8090");
    let expected = [
        ("grpc", server.address().to_owned()),
        ("grpc", peer.address().to_owned()),
        ("http", below(&server)),
        ("http", below(&peer)),
    ];
    assert_eq!(found, expected.map(|(protocol, address)| (protocol.to_owned(), address)));
    // They never beat, and stay.
    server.wipe();
    tokio::time::sleep(2 * MINUTE).await;
    assert!(server.instances(("Polaris", "polaris.limiter")).iter().all(crate::testing::TestInstance::is_healthy));
    assert_eq!(server.instances(("Polaris", "polaris.limiter")).len(), 4);
    Limits::joined(&server, "a", whole(600, 10)).await.take(&server, FIRST, 1).await;
    Limits::joined(&peer, "a", whole(600, 10)).await.take(&peer, (2 << 24) + 1, 2).await;
    let used = |server: &Server| server.limiter_counters().iter().map(|counter| counter.used).collect::<Vec<_>>();
    assert_eq!((used(&server), used(&peer)), (vec![1], vec![2]));
}

#[tokio::test(start_paused = true)]
async fn calls_to_the_limiter_are_recorded_with_what_they_said() {
    let server = at_noon();
    let mut stream = Limits::joined(&server, "a", whole(600, 10)).await;
    let target = json!({"namespace": "shop", "service": "stock", "labels_list": ["x", "y"]});
    stream.init_all(json!({"clientId": "a", "request": [{"target": target, "totals": whole(1, 7)}]})).await;
    let mut report = uses(&server, &[(FIRST, 3), (SECOND_KEY, 0)]);
    report["quotaUses"][1]["limited"] = json!(2);
    stream.report(report).await;
    stream.report(uses(&server, &[(5, 1)])).await;
    let calls = server.calls();
    let seen: Vec<_> = calls.iter().map(|call| (call.rpc(), call.code(), call.is_limit_batch())).collect();
    assert_eq!(
        seen,
        [
            (Rpc::LimitInit, Some(200_000), false),
            (Rpc::LimitInit, Some(200_000), true),
            (Rpc::LimitAcquire, Some(200_000), false),
            (Rpc::LimitAcquire, Some(400_214), false),
        ]
    );
    let services: Vec<_> = calls.iter().map(|call| call.service().map(|key| key.service().to_owned())).collect();
    assert_eq!(services, [Some("orders"), Some("stock"), Some("orders"), None].map(|name| name.map(str::to_owned)));
    assert_eq!([&calls[0], &calls[1]].map(Call::limit_client), [Some("a".to_owned()), Some("a".to_owned())]);
    assert_eq!(
        [&calls[0], &calls[1]].map(Call::limit_labels),
        [vec!["l".to_owned()], vec!["x".to_owned(), "y".to_owned()]]
    );
    let uses = [LimitUse { key: FIRST, used: 3, limited: 0 }, LimitUse { key: SECOND_KEY, used: 0, limited: 2 }];
    assert_eq!(calls[2].limit_uses(), uses);
    assert_eq!(calls[2].limit_time(), Some(Duration::from_millis(NOON.unsigned_abs())));
    let said: Value = serde_json::from_str(&calls[2].json()).unwrap();
    assert_eq!((&said["cmd"], &said["rateLimitReportRequest"]["quotaUses"][0]["used"]), (&json!("ACQUIRE"), &json!(3)));
    assert_eq!(server.limiter_counters()[1].total_limited, 2);
    assert!(calls[2].limit_labels().is_empty() && calls[0].limit_uses().is_empty() && calls[0].limit_time().is_none());
}

#[tokio::test]
async fn the_limiter_answers_on_a_port_as_well() {
    let server = Server::listen("127.0.0.1:0").await.unwrap();
    server.host_limiter();
    let found = server.instances(("Polaris", "polaris.limiter"));
    assert!(found.iter().any(|found| found.addr().to_string() == server.address()));
    let mut stream = Limits::joined(&server, "a", whole(3600, 10)).await;
    // At the very end of an hour the two may be in two windows.
    assert!([9, 10].contains(&stream.take(&server, FIRST, 1).await));
    server.shutdown().await;
}
