//! The worker against scripted servers, on virtual time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Code;

use super::{DiscoverHandle, LinkState, ResourceSink};
use crate::error::ErrorKind;
use crate::model::key::{ResourceKind, Revision, ServiceEventKey, ServiceKey};
use crate::model::server::ServerAddr;
use crate::model::snapshot::{Answer, Resource};
use crate::pb::v1;
use crate::transport::scripted::{Ask, Mode, Net, Reply, addr, code, full};
use crate::transport::{Cluster, TokenSource, Transport, TransportOptions};

const SECOND: Duration = Duration::from_secs(1);

/// Remembers revisions, and writes down what it is told.
#[derive(Default)]
struct Sink {
    held: Mutex<HashMap<ServiceEventKey, Resource>>,
    told: Mutex<Vec<Told>>,
    news: watch::Sender<()>,
}

#[derive(Debug, Clone)]
struct Told {
    at: Instant,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Full(ServiceEventKey, String),
    Unchanged(ServiceEventKey),
    NotFound(ServiceEventKey),
    Unsupported(ServiceEventKey),
    Failed(ServiceEventKey, ErrorKind),
    Connecting,
    Up(String),
    Down(ErrorKind),
}

impl Sink {
    fn tell(&self, what: What) {
        self.told.lock().unwrap().push(Told { at: Instant::now(), what });
        self.news.send_replace(());
    }

    fn told(&self) -> Vec<What> {
        self.told.lock().unwrap().iter().map(|told| told.what.clone()).collect()
    }

    /// The news of the link.
    fn links(&self) -> Vec<What> {
        self.told().into_iter().filter(|w| matches!(w, What::Connecting | What::Up(_) | What::Down(_))).collect()
    }

    /// When it was told something of this kind, the `count`-th time; waits for it.
    async fn wait(&self, count: usize, what: impl Fn(&What) -> bool) -> Instant {
        let mut news = self.news.subscribe();
        let found = async {
            loop {
                news.borrow_and_update();
                let found = self.told.lock().unwrap().iter().filter(|told| what(&told.what)).nth(count - 1).cloned();
                if let Some(told) = found {
                    return told.at;
                }
                news.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(600), found).await.unwrap_or_else(|_| panic!("told {:?}", self.told()))
    }

    async fn wait_full(&self, key: &ServiceEventKey, revision: &str) -> Instant {
        self.wait(1, |what| *what == What::Full(key.clone(), revision.to_owned())).await
    }
}

impl ResourceSink for Sink {
    fn revision(&self, key: &ServiceEventKey) -> Revision {
        self.held.lock().unwrap().get(key).map(|held| held.revision().clone()).unwrap_or_default()
    }

    fn apply(&self, key: &ServiceEventKey, answer: Answer) -> bool {
        let key = key.clone();
        match answer {
            Answer::Full { resource, .. } => {
                let revision = resource.revision().as_str().to_owned();
                let before = self.held.lock().unwrap().insert(key.clone(), resource);
                self.tell(What::Full(key, revision.clone()));
                return before.is_none_or(|before| before.revision().as_str() != revision);
            }
            Answer::Unchanged => self.tell(What::Unchanged(key)),
            Answer::NotFound { .. } => self.tell(What::NotFound(key)),
            Answer::Unsupported => self.tell(What::Unsupported(key)),
            Answer::Failed(error) => self.tell(What::Failed(key, error.kind())),
        }
        false
    }

    fn link(&self, link: LinkState) {
        self.tell(match link {
            LinkState::Connecting => What::Connecting,
            LinkState::Up { server } => What::Up(server.to_string()),
            LinkState::Down { error, .. } => What::Down(error.kind()),
        });
    }
}

fn key(name: &str) -> ServiceEventKey {
    ServiceKey::new("default", name).of(ResourceKind::Instances)
}

fn rules(name: &str, kind: ResourceKind) -> ServiceEventKey {
    ServiceKey::new("default", name).of(kind)
}

fn name_of(request: &v1::DiscoverRequest) -> String {
    request.service.as_ref().and_then(|service| service.name.clone()).unwrap_or_default()
}

fn revision_of(request: &v1::DiscoverRequest) -> String {
    request.service.as_ref().and_then(|service| service.revision.clone()).unwrap_or_default()
}

fn answer(request: &v1::DiscoverRequest, revision: &str) -> Reply {
    if revision_of(request) == revision {
        let unchanged = v1::DiscoverResponse { code: Some(200_001), ..full(request, revision) };
        return Reply::Answer(Box::new(unchanged));
    }
    Reply::Answer(Box::new(full(request, revision)))
}

fn start(net: &Net) -> (Transport, DiscoverHandle, Arc<Sink>) {
    start_with(net, net.options())
}

fn start_with(net: &Net, options: TransportOptions) -> (Transport, DiscoverHandle, Arc<Sink>) {
    let transport = Transport::new(options, &net.scope).unwrap();
    let sink = Arc::new(Sink::default());
    let handle = transport.discover(Arc::clone(&sink) as Arc<dyn ResourceSink>);
    (transport, handle, sink)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dialled_before_the_first_key_and_then_it_is_fed_and_polled() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    tokio::time::sleep(10 * SECOND).await;
    assert!(net.node("a").dials().is_empty() && sink.told().is_empty());
    net.node("a").on_discover(|ask| answer(&ask.request, "1"));
    handle.want(key("a"));
    sink.wait_full(&key("a"), "1").await;
    sink.wait(3, |what| *what == What::Unchanged(key("a"))).await;
    assert_eq!(sink.links(), [What::Connecting, What::Up("a:8091".to_owned())]);
    let asked = net.node("a").asked();
    assert_eq!(asked.iter().map(|ask| revision_of(&ask.request)).collect::<Vec<_>>(), ["", "1", "1", "1"]);
    for pair in asked.windows(2).skip(1) {
        let period = pair[1].at - pair[0].at;
        assert!((1.75..2.25).contains(&period.as_secs_f64()), "{period:?}");
    }
    assert_eq!(net.node("a").dials().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changed_is_polled_more_often_for_half_a_minute() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    let revision = Arc::new(Mutex::new("1"));
    let current = Arc::clone(&revision);
    net.node("a").on_discover(move |ask| answer(&ask.request, *current.lock().unwrap()));
    handle.want(key("a"));
    sink.wait_full(&key("a"), "1").await;
    tokio::time::sleep(10 * SECOND).await;
    *revision.lock().unwrap() = "2";
    let changed = sink.wait_full(&key("a"), "2").await;
    tokio::time::sleep(60 * SECOND).await;
    let after: Vec<f64> = net
        .node("a")
        .asked()
        .iter()
        .filter(|ask| ask.at > changed)
        .map(|ask| (ask.at - changed).as_secs_f64())
        .collect();
    let fast = after.iter().filter(|at| **at < 30.0).count();
    let slow = after.iter().filter(|at| (31.0..60.0).contains(*at)).count();
    assert!((54..=67).contains(&fast) && (13..=17).contains(&slow), "{fast} {slow}");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_is_opened_again_and_every_key_asked_with_its_revision() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| match (ask.stream, name_of(&ask.request).as_str()) {
        (1, "c") => Reply::Cut,
        _ => answer(&ask.request, "1"),
    });
    for name in ["a", "b"] {
        handle.want(key(name));
        sink.wait_full(&key(name), "1").await;
    }
    handle.want(key("c"));
    sink.wait_full(&key("c"), "1").await;
    sink.wait(1, |what| *what == What::Unchanged(key("b"))).await;
    let second: Vec<_> = net.node("a").asked().into_iter().filter(|ask| ask.stream == 2).collect();
    let mut asked: Vec<_> =
        second.iter().take(3).map(|ask| (name_of(&ask.request), revision_of(&ask.request))).collect();
    assert_eq!(asked[0].0, "c", "who waits goes first");
    asked.sort();
    assert_eq!(asked, [("a", "1"), ("b", "1"), ("c", "")].map(|(n, r)| (n.to_owned(), r.to_owned())));
    let up = || What::Up("a:8091".to_owned());
    assert_eq!(sink.links(), [What::Connecting, up(), What::Down(ErrorKind::Network), up()]);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn every_way_a_stream_can_fail_is_survived() {
    let ends: [fn() -> Reply; 6] = [
        || Reply::End,
        || Reply::Cut,
        || Reply::Fail(Code::Unavailable),
        || Reply::Fail(Code::Internal),
        || Reply::Silence,
        || code(0),
    ];
    for end in ends {
        let net = Net::new(&["a"]);
        let (_transport, handle, sink) = start(&net);
        net.node("a").on_discover(move |ask| if ask.stream <= 3 { end() } else { answer(&ask.request, "1") });
        handle.want(key("a"));
        let started = Instant::now();
        sink.wait_full(&key("a"), "1").await;
        assert!(started.elapsed() < 30 * SECOND, "{:?} {:?}", end(), started.elapsed());
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_way_a_dial_can_fail_is_survived() {
    for mode in
        [Mode::Refuse, Mode::BlackHole, Mode::Hang, Mode::Speak(b"HTTP/1.1 400\r\n\r\n"), Mode::Speak(b"garbage")]
    {
        let net = Net::new(&["a"]);
        net.node("a").mode(mode);
        let (_transport, handle, sink) = start(&net);
        handle.want(key("a"));
        sink.wait(1, |what| matches!(what, What::Down(ErrorKind::Network))).await;
        tokio::time::sleep(30 * SECOND).await;
        net.node("a").mode(Mode::Serve);
        let mended = Instant::now();
        sink.wait_full(&key("a"), "1").await;
        assert!(mended.elapsed() <= 3 * SECOND, "{mode:?} {:?}", mended.elapsed());
        assert_eq!(sink.links().len(), 3, "edges only: {:?}", sink.links());
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_left_within_the_message_timeout() {
    let net = Net::new(&["a", "b"]);
    let (_transport, handle, sink) = start(&net);
    for name in ["a", "b"] {
        net.node(name).on_discover(|ask| answer(&ask.request, "1"));
    }
    handle.want(key("a"));
    sink.wait_full(&key("a"), "1").await;
    let first = if net.node("a").asked().is_empty() { "b" } else { "a" };
    let other = if first == "a" { "b" } else { "a" };
    net.node(first).on_discover(|_| Reply::Silence);
    let silent = Instant::now();
    sink.wait(1, |what| *what == What::Up(format!("{other}:8091"))).await;
    // One poll period, the timeout, the first back-off.
    assert!(silent.elapsed() <= Duration::from_millis(2300 + 5000 + 500), "{:?}", silent.elapsed());
    assert!(!sink.links().iter().any(|what| matches!(what, What::Down(_))), "the other one was there all the time");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn errors_without_type_and_service_belong_to_the_oldest_question() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| match name_of(&ask.request).as_str() {
        "missing" => code(400_202),
        "throttled" => code(403_003),
        "malformed" => code(400_120),
        _ => answer(&ask.request, "1"),
    });
    for name in ["a", "missing", "throttled", "malformed", "b"] {
        handle.want(key(name));
    }
    sink.wait_full(&key("b"), "1").await;
    let told: Vec<What> = sink.told().into_iter().filter(|w| !matches!(w, What::Connecting | What::Up(_))).collect();
    assert_eq!(
        told,
        [
            What::Full(key("a"), "1".to_owned()),
            What::NotFound(key("missing")),
            What::Failed(key("throttled"), ErrorKind::Server),
            What::Failed(key("malformed"), ErrorKind::InvalidArgument),
            What::Full(key("b"), "1".to_owned()),
        ]
    );
    tokio::time::sleep(60 * SECOND).await;
    let times = |name: &str| -> Vec<Instant> {
        net.node("a").asked().iter().filter(|ask| name_of(&ask.request) == name).map(|ask| ask.at).collect()
    };
    assert!(times("throttled").windows(2).all(|pair| pair[1] - pair[0] >= SECOND));
    assert!(times("malformed").len() <= 8, "{}", times("malformed").len());
    assert!(times("missing").len() >= 25, "a missing service goes on being polled");
    assert_eq!(net.node("a").dials().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_under_another_name_is_that_of_the_alias_that_was_asked() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| {
        let service = Some(v1::Service { name: Some("source".to_owned()), ..ask.request.service.clone().unwrap() });
        Reply::Answer(Box::new(full(&v1::DiscoverRequest { service, ..ask.request.clone() }, "1")))
    });
    handle.want(key("alias"));
    sink.wait_full(&key("alias"), "1").await;
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn answers_out_of_step_end_the_stream() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| {
        let routing = v1::DiscoverRequest { r#type: 3, ..ask.request.clone() };
        Reply::Answer(Box::new(full(if ask.stream == 1 { &routing } else { &ask.request }, "1")))
    });
    handle.want(key("a"));
    sink.wait_full(&key("a"), "1").await;
    assert_eq!(sink.links().len(), 3, "{:?}", sink.links());
    net.ends().await;
}

/// What servers say about a type that they do not serve: 400004, typed ROUTING.
fn unsupported(ask: &Ask) -> Reply {
    let service = ask.request.service.clone();
    Reply::Answer(Box::new(v1::DiscoverResponse {
        code: Some(400_004),
        r#type: 3,
        service,
        ..v1::DiscoverResponse::default()
    }))
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_server_lacks_is_not_polled_and_asked_for_again_on_the_next_server() {
    let net = Net::new(&["a", "b"]);
    let options = TransportOptions { addresses: vec![addr("a")], ..net.options() };
    let (transport, handle, sink) = start_with(&net, options);
    net.node("a")
        .on_discover(|ask| if ask.request.r#type == 13 { unsupported(ask) } else { answer(&ask.request, "1") });
    let (one, two) = (rules("a", ResourceKind::FaultDetector), rules("b", ResourceKind::FaultDetector));
    handle.want(one.clone());
    sink.wait(1, |what| *what == What::Unsupported(one.clone())).await;
    handle.want(two.clone());
    handle.want(key("a"));
    sink.wait(1, |what| *what == What::Unsupported(two.clone())).await;
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(net.node("a").asked().iter().filter(|ask| ask.request.r#type == 13).count(), 1);
    transport.set_servers(Cluster::Discover, vec![addr("b")]);
    sink.wait(1, |what| matches!(what, What::Full(key, _) if *key == one)).await;
    sink.wait(1, |what| matches!(what, What::Full(key, _) if *key == two)).await;
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn newer_kinds_are_probed_without_a_service_first() {
    for served in [true, false] {
        let net = Net::new(&["a"]);
        let (_transport, handle, sink) = start(&net);
        net.node("a").on_discover(move |ask| match &ask.request.service {
            None if served => code(400_120),
            None => unsupported(ask),
            Some(_) => answer(&ask.request, "1"),
        });
        let keys = ["a", "b"].map(|name| rules(name, ResourceKind::Lane));
        for key in &keys {
            handle.want(key.clone());
        }
        for key in &keys {
            sink.wait(1, |what| match what {
                What::Full(told, _) => served && told == key,
                What::Unsupported(told) => !served && told == key,
                _ => false,
            })
            .await;
        }
        let asked = net.node("a").asked();
        assert_eq!(asked.iter().filter(|ask| ask.request.service.is_none()).count(), 1);
        assert_eq!(asked.len(), if served { 3 } else { 1 });
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_back_off_starts_over_only_after_a_valid_answer() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    // Accepts and refuses, again and again: a back-off that started over each time would make thirty streams in ten seconds.
    net.node("a")
        .on_discover(|ask| if ask.stream <= 25 { Reply::Fail(Code::Unavailable) } else { answer(&ask.request, "1") });
    handle.want(key("a"));
    tokio::time::sleep(10 * SECOND).await;
    let streams = net.node("a").asked().len();
    assert!(streams <= 20, "{streams} streams in ten seconds");
    sink.wait_full(&key("a"), "1").await;
    // It worked: the next failure is mended fast.
    net.node("a").cut();
    let cut = Instant::now();
    sink.wait(2, |what| matches!(what, What::Up(_))).await;
    assert!(cut.elapsed() <= SECOND, "{:?}", cut.elapsed());
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_single_key_that_kills_streams_does_not_starve_the_others() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| match name_of(&ask.request).as_str() {
        "poison" => Reply::End,
        _ => answer(&ask.request, "1"),
    });
    handle.want(key("poison"));
    handle.want(key("good"));
    sink.wait_full(&key("good"), "1").await;
    sink.wait(1, |what| matches!(what, What::Failed(told, _) if *told == key("poison"))).await;
    tokio::time::sleep(300 * SECOND).await;
    let asked = net.node("a").asked();
    let good = asked.iter().filter(|ask| name_of(&ask.request) == "good").count();
    let poison = asked.len() - good;
    assert!(good >= 120 && poison <= 40, "{good} {poison}");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_in_trouble_is_left_for_another_one() {
    let net = Net::new(&["a", "b"]);
    let options = TransportOptions { addresses: vec![addr("a")], ..net.options() };
    let (transport, handle, sink) = start_with(&net, options);
    net.node("a").on_discover(|_| code(500_000));
    handle.want(key("a"));
    sink.wait(3, |what| matches!(what, What::Failed(_, ErrorKind::Server))).await;
    assert_eq!(net.node("a").dials().len(), 1, "there is no other one yet");
    transport.set_servers(Cluster::Discover, vec![addr("a"), addr("b")]);
    sink.wait_full(&key("a"), "1").await;
    assert!(!net.node("b").asked().is_empty());
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_what_is_wanted_are_served_while_backing_off() {
    let net = Net::new(&["a"]);
    net.node("a").mode(Mode::Refuse);
    let (_transport, handle, sink) = start(&net);
    handle.want(key("a"));
    sink.wait(1, |what| matches!(what, What::Down(_))).await;
    tokio::time::sleep(20 * SECOND).await;
    handle.want(key("b"));
    handle.forget(&key("a"));
    net.node("a").mode(Mode::Serve);
    sink.wait_full(&key("b"), "1").await;
    assert!(net.node("a").asked().iter().all(|ask| name_of(&ask.request) == "b"));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_key_that_was_forgotten_meanwhile_is_dropped() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| match name_of(&ask.request).as_str() {
        "slow" => Reply::After(3 * SECOND, Box::new(full(&ask.request, "1"))),
        _ => answer(&ask.request, "1"),
    });
    handle.want(key("slow"));
    handle.want(key("next"));
    tokio::time::sleep(SECOND).await;
    handle.forget(&key("slow"));
    sink.wait_full(&key("next"), "1").await;
    assert!(!sink.told().iter().any(|what| matches!(what, What::Full(told, _) if *told == key("slow"))));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_planned_switch_loses_no_answer_and_reports_no_trouble() {
    let net = Net::new(&["a", "b"]);
    let options = TransportOptions { switch_interval: 60 * SECOND, ..net.options() };
    let (_transport, handle, sink) = start_with(&net, options);
    for name in ["a", "b"] {
        net.node(name).on_discover(|ask| Reply::After(SECOND, Box::new(full(&ask.request, "1"))));
    }
    handle.want(key("a"));
    sink.wait(3, |what| matches!(what, What::Up(_))).await;
    tokio::time::sleep(10 * SECOND).await;
    let asked = net.node("a").asked().len() + net.node("b").asked().len();
    let answered = sink.told().iter().filter(|what| matches!(what, What::Full(..))).count();
    assert!(asked - answered <= 1, "{asked} {answered}");
    assert!(!sink.told().iter().any(|what| matches!(what, What::Down(_) | What::Failed(..))));
    assert!(!net.node("a").asked().is_empty() && !net.node("b").asked().is_empty());
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_and_the_stream_opened_with_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old").unwrap();
    let net = Net::new(&["a"]);
    let options = TransportOptions { token: TokenSource::file(file.path()), ..net.options() };
    let (_transport, handle, sink) = start_with(&net, options);
    net.node("a").on_discover(|ask| {
        if ask.metadata.get("x-polaris-token").is_some_and(|token| token == "new") {
            return answer(&ask.request, "1");
        }
        code(401_001)
    });
    handle.want(key("a"));
    sink.wait(1, |what| *what == What::Failed(key("a"), ErrorKind::Unauthorized)).await;
    tokio::time::sleep(120 * SECOND).await;
    assert!(net.node("a").asked().len() < 15, "a refused token is backed off: {}", net.node("a").asked().len());
    std::fs::write(file.path(), "new").unwrap();
    let renewed = Instant::now();
    sink.wait_full(&key("a"), "1").await;
    assert!(renewed.elapsed() < 300 * SECOND);
    let ask = net.node("a").asked().pop().unwrap();
    assert!(ask.metadata.get("request-id").unwrap().to_str().unwrap().starts_with('4'));
    net.ends().await;
}

/// A token, and which one the server takes.
fn rotating() -> (TokenSource, Arc<Mutex<&'static str>>) {
    let token = Arc::new(Mutex::new("one"));
    let current = Arc::clone(&token);
    (TokenSource::from_fn(move || (*current.lock().unwrap()).to_owned()), token)
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_keep_a_token_that_another_call_has_renewed() {
    for refusal in [code(401_001), Reply::Fail(Code::Unauthenticated), Reply::Fail(Code::PermissionDenied)] {
        let net = Net::new(&["a"]);
        let (token, current) = rotating();
        let (transport, handle, sink) = start_with(&net, TransportOptions { token, ..net.options() });
        let with_token = |metadata: &tonic::metadata::MetadataMap, current: &Mutex<&str>| {
            metadata.get("x-polaris-token").is_some_and(|token| token == *current.lock().unwrap())
        };
        let (held, refused) = (Arc::clone(&current), refusal.clone());
        net.node("a").on_discover(move |ask| {
            if with_token(&ask.metadata, &held) { answer(&ask.request, *held.lock().unwrap()) } else { refused.clone() }
        });
        let held = Arc::clone(&current);
        net.node("a").on_unary(move |call| code(if with_token(&call.metadata, &held) { 200_000 } else { 401_001 }));
        handle.want(key("a"));
        sink.wait_full(&key("a"), "one").await;
        tokio::time::sleep(10 * SECOND).await;
        *current.lock().unwrap() = "two";
        let target = crate::model::request::registration::Heartbeat::new(("default", "a"), ("h", 1)).target;
        transport.heartbeat(&target, 5 * SECOND).await.unwrap();
        let renewed = Instant::now();
        sink.wait_full(&key("a"), "two").await;
        assert!(renewed.elapsed() < 5 * SECOND, "{refusal:?}: {:?}", renewed.elapsed());
        assert!(!sink.told().iter().any(|what| matches!(what, What::Down(_) | What::Failed(..))), "{refusal:?}");
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_every_token_is_not_hammered_with_new_ones() {
    let net = Net::new(&["a"]);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let token = TokenSource::from_fn(move || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string());
    let (_transport, handle, sink) = start_with(&net, TransportOptions { token, ..net.options() });
    net.node("a").on_discover(|_| Reply::Fail(Code::Unauthenticated));
    handle.want(key("a"));
    sink.wait(1, |what| *what == What::Down(ErrorKind::Unauthorized)).await;
    tokio::time::sleep(100 * SECOND).await;
    assert!(net.node("a").asked().len() < 15, "{}", net.node("a").asked().len());
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_forgotten_and_wanted_again_at_once_is_asked_for_at_once() {
    let net = Net::new(&["a"]);
    let options = TransportOptions { refresh_interval: 600 * SECOND, ..net.options() };
    let (_transport, handle, sink) = start_with(&net, options);
    handle.want(key("a"));
    sink.wait_full(&key("a"), "1").await;
    handle.forget(&key("a"));
    handle.want(key("a"));
    sink.wait(2, |what| *what == What::Full(key("a"), "1".to_owned())).await;
    let asked = net.node("a").asked();
    assert!(asked[1].at - asked[0].at < SECOND, "{asked:?}");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_does_not_take_its_server_for_dead() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| Reply::After(SECOND, Box::new(full(&ask.request, "1"))));
    handle.want(key("a"));
    while net.node("a").asked().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(60 * SECOND).await;
    sink.wait_full(&key("a"), "1").await;
    assert!(!sink.told().iter().any(|what| matches!(what, What::Down(_))), "{:?}", sink.told());
    assert_eq!(net.node("a").dials().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_names_another_wanted_service_ends_the_stream_once() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    // As a server would that answers an alias with the name of its source, and does not say so.
    net.node("a").on_discover(|ask| {
        let mut said = full(&ask.request, "1");
        said.service.as_mut().unwrap().name = Some("source".to_owned());
        Reply::Answer(Box::new(said))
    });
    handle.want(key("source"));
    sink.wait_full(&key("source"), "1").await;
    handle.want(key("alias"));
    sink.wait_full(&key("alias"), "1").await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(net.node("a").dials().len(), 2);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_left_the_list_is_left_though_calls_had_moved_on() {
    let net = Net::new(&["a", "b"]);
    let options = TransportOptions { addresses: vec![addr("a")], ..net.options() };
    let (transport, handle, sink) = start_with(&net, options);
    handle.want(key("a"));
    sink.wait(1, |what| *what == What::Up("a:8091".to_owned())).await;
    transport.set_servers(Cluster::Discover, vec![addr("a"), addr("b")]);
    transport.0.clusters.failed(Cluster::Discover, &addr("a"), Instant::now());
    assert_eq!(transport.0.clusters.current(Cluster::Discover, Instant::now()), Some(addr("b")));
    transport.set_servers(Cluster::Discover, vec![addr("b")]);
    sink.wait(1, |what| *what == What::Up("b:8091".to_owned())).await;
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_a_failure_is_not_cut_short_by_servers_of_another_cluster() {
    let net = Net::new(&["a"]);
    net.node("a").mode(Mode::Refuse);
    let options = TransportOptions { reconnect_base: 400 * SECOND, refresh_interval: 400 * SECOND, ..net.options() };
    let (transport, handle, sink) = start_with(&net, options);
    handle.want(key("a"));
    sink.wait(1, |what| matches!(what, What::Down(_))).await;
    transport.set_servers(Cluster::HealthCheck, vec![addr("b")]);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(net.node("a").dials().len(), 1);
    net.node("a").mode(Mode::Serve);
    transport.set_servers(Cluster::Discover, vec![ServerAddr::new("a", 8092, false)]);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(net.node("a").dials().len(), 2);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn all_keys_share_one_stream_and_never_more_than_64_wait() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    net.node("a").on_discover(|ask| Reply::After(Duration::from_millis(10), Box::new(full(&ask.request, "1"))));
    let keys: Vec<_> = (0..500).map(|n| key(&format!("s{n}"))).collect();
    for key in &keys {
        handle.want(key.clone());
    }
    for key in &keys {
        sink.wait_full(key, "1").await;
    }
    assert_eq!((net.node("a").dials().len(), net.node("a").asked().iter().map(|ask| ask.stream).max()), (1, Some(1)));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_feeds_nobody_is_closed_and_opened_again_when_needed() {
    let net = Net::new(&["a"]);
    let (_transport, handle, sink) = start(&net);
    handle.want(key("a"));
    sink.wait_full(&key("a"), "1").await;
    handle.forget(&key("a"));
    tokio::time::sleep(200 * SECOND).await;
    assert!(!net.scope.alive().contains(&"connection"), "{:?}", net.scope.alive());
    handle.want(key("b"));
    sink.wait_full(&key("b"), "1").await;
    assert_eq!(net.node("a").dials().len(), 2);
    assert!(!sink.told().iter().any(|what| matches!(what, What::Down(_))));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn the_worker_ends_with_its_last_handle_whatever_it_is_doing() {
    for mode in [Mode::Serve, Mode::Refuse, Mode::BlackHole] {
        let net = Net::new(&["a"]);
        net.node("a").mode(mode);
        let (_transport, handle, sink) = start(&net);
        handle.want(key("a"));
        sink.wait(1, |what| matches!(what, What::Up(_) | What::Down(_))).await;
        drop(handle);
        tokio::time::sleep(SECOND).await;
        assert!(!net.scope.alive().contains(&"discover"), "{mode:?}");
        assert_eq!(Arc::strong_count(&sink), 1, "{mode:?}: the sink is free");
        net.ends().await;
    }
}

/// The worst a client may meet: calls come from threads and runtimes that are not its own.
#[test]
fn everything_runs_on_the_runtime_of_the_scope_whoever_calls() {
    let own = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let net = own.block_on(async { Net::new(&["a"]) });
    let (transport, handle, sink) = start(&net);
    handle.want(key("a"));
    let callers = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    callers.block_on(async {
        let target = crate::model::request::registration::Heartbeat::new(("default", "a"), ("h", 1)).target;
        transport.heartbeat(&target, 5 * SECOND).await.unwrap();
    });
    // Its connections would go with it, were they on it.
    drop(callers);
    own.block_on(async {
        sink.wait(2, |what| matches!(what, What::Full(..))).await;
        assert_eq!(net.node("a").dials().len(), 1);
        net.ends().await;
    });
}
