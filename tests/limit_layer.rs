//! The tower layer limits what servers serve: axum's and tonic's, by rules, with answers that their clients understand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::disallowed_methods,
    reason = "a test may panic, and spawns the servers that it calls"
)]

mod support;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::future::{pending, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, MatchedPath};
use axum::routing::get;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper_util::rt::TokioIo;
use polarismesh::testing::{Rpc, Server};
use polarismesh::{
    ExtractLabels, LabelKind, LabelSet, Labels, LimitHandle, Limited, RateLimitLayer, ResourceKind, RuleKind,
    SdkContext,
};
use serde_json::{Value, json};
use support::eventually;
use support::limits::with_fields;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_prost::ProstCodec;
use tower::{Layer, Service, ServiceExt, service_fn};

const SHOP: (&str, &str) = ("default", "shop");
const SECOND: Duration = Duration::from_secs(1);

/// A rule for calls to `SHOP`: one call in ten seconds by this process alone, or what `fields` say.
fn rule(name: &str, fields: &Value) -> String {
    let rule = json!({"name": name, "namespace": SHOP.0, "service": SHOP.1, "type": "LOCAL", "resource": "QPS",
        "action": "REJECT", "amounts": [{"maxAmount": 1, "validDuration": "10s"}]});
    with_fields(rule, fields).to_string()
}

/// A rule for calls that have this label, one for each value.
fn by(kind: &str, key: &str) -> Value {
    json!({"arguments": [{"type": kind, "key": key, "value": {"type": "REGEX", "value": ".+"}}]})
}

fn at_once(calls: u32) -> Value {
    json!({"resource": "CONCURRENCY", "concurrencyAmount": {"maxAmount": calls}, "amounts": []})
}

/// A server with this rule, a context of it, and a handle with the rule loaded.
async fn limited(name: &str, fields: &Value) -> (Server, SdkContext, LimitHandle) {
    let server = Server::in_memory();
    server.newer_kinds(true);
    server.rule(RuleKind::RateLimit, rule(name, fields)).unwrap();
    let context = server.context().unwrap();
    let handle = context.limiter().service(SHOP);
    handle.ready().await.unwrap();
    (server, context, handle)
}

/// An axum service that answers every `GET` below `/`, and one with a parameter in its path.
fn app(layer: RateLimitLayer) -> Router {
    Router::new().route("/users/{id}", get(async || "user")).fallback(get(async || "served")).layer(layer)
}

fn request(uri: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn call(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.unwrap()
}

async fn status(app: &Router, uri: &str, headers: &[(&'static str, &str)]) -> StatusCode {
    call(app, request(uri, headers)).await.status()
}

async fn text(
    body: impl http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
) -> String {
    String::from_utf8(to_bytes(Body::new(body), usize::MAX).await.unwrap().to_vec()).unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// Whether another request that the handle's rule counts would pass now.
fn has_room(handle: &LimitHandle) -> bool {
    matches!(handle.check(&polarismesh::Quota::new()).unwrap(), polarismesh::Decision::Granted(_))
}

// === refusals

#[tokio::test(start_paused = true)]
async fn a_request_that_is_limited_is_told_by_which_rule_and_when_to_come_again() {
    for (name, fields, header_says, retry_after, says) in [
        ("one", json!({}), "one", Some("11"), "limited by rule \"one\""),
        (
            "one",
            json!({"custom_response": {"body": "langsam, bitte: 慢点"}}),
            "one",
            Some("11"),
            "langsam, bitte: 慢点",
        ),
        (
            "none",
            json!({"amounts": [{"maxAmount": 0, "validDuration": "1s"}]}),
            "none",
            None,
            "limited by rule \"none\"",
        ),
        ("at once", at_once(1), "at%20once", None, "limited by rule \"at once\""),
        ("Größe 100%", json!({}), "Gr%C3%B6%C3%9Fe%20100%25", Some("11"), "limited by rule \"Größe 100%\""),
    ] {
        let (_server, _context, handle) = limited(name, &fields).await;
        let app = app(handle.layer());
        let _held = handle.check(&polarismesh::Quota::new()).unwrap();
        let response = call(&app, request("/any", &[])).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "{name}");
        let headers = response.headers();
        assert_eq!(header(headers, "content-type"), Some("text/plain; charset=utf-8"), "{name}");
        assert_eq!(header(headers, "x-polaris-rate-limit-rule"), Some(header_says));
        // Ten seconds and what the window is coarse by, rounded up.
        assert_eq!(header(headers, "retry-after"), retry_after, "{name}");
        assert_eq!(response.body().size_hint().exact(), Some(says.len() as u64), "{name}");
        assert!(!response.body().is_end_stream());
        assert_eq!(text(response.into_body()).await, says);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_time_is_a_second_to_come_again() {
    let (_server, _context, handle) = limited(
        "fast",
        &json!({"amounts": [{"maxAmount": 10, "validDuration": "1s"}], "action": "UNIRATE", "max_queue_delay": 1}),
    )
    .await;
    let app = app(handle.layer());
    let all: Vec<_> = (0..20).map(|_| tokio::spawn(app.clone().oneshot(request("/", &[])))).collect();
    let mut refused = 0;
    for response in all {
        let response = response.await.unwrap().unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused += 1;
            assert_eq!(header(response.headers(), "retry-after"), Some("1"));
        }
    }
    assert_eq!(refused, 9, "eleven go within a second");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_users_is_sent_as_it_is() {
    let (_server, _context, handle) = limited("one", &json!({})).await;
    let layer = handle.layer().on_limited(|limited: &Limited, parts: &Parts| {
        let answer = Response::builder().status(420).header("x-own", "yes");
        answer.body(format!("{} for {}", limited.rule(), parts.uri)).unwrap()
    });
    let app = app(layer);
    assert_eq!(status(&app, "/", &[]).await, StatusCode::OK);
    let response = call(&app, request("/a?b", &[])).await;
    assert_eq!((response.status().as_u16(), header(response.headers(), "x-own")), (420, Some("yes")));
    assert_eq!(header(response.headers(), "retry-after"), None);
    assert_eq!(text(response.into_body()).await, "one for /a?b");
}

// === what rules see

#[tokio::test(start_paused = true)]
async fn rules_see_the_path_the_verb_headers_parameters_and_cookies() {
    let exact_path = json!({"method": {"type": "EXACT", "value": "/pay"}});
    let ok = StatusCode::OK;
    for (fields, counted, others) in [
        (exact_path, ("/pay?a=1", vec![]), [("/look", vec![]), ("/pay/now", vec![])]),
        (by("HEADER", "Uid"), ("/", vec![("uid", "1")]), [("/", vec![("uid", "2")]), ("/", vec![])]),
        (by("QUERY", "uid"), ("/?uid=1", vec![]), [("/?uid=2", vec![]), ("/uid=1", vec![])]),
        (by("CUSTOM", "uid"), ("/", vec![("cookie", "a=b; uid=1")]), [("/", vec![("cookie", "uid=2")]), ("/", vec![])]),
    ] {
        let (_server, _context, handle) = limited("one", &fields).await;
        let app = app(handle.layer());
        assert_eq!(status(&app, counted.0, &counted.1).await, ok, "{fields}");
        assert_eq!(status(&app, counted.0, &counted.1).await, StatusCode::TOO_MANY_REQUESTS, "{fields}");
        for (uri, headers) in others {
            assert_eq!(status(&app, uri, &headers).await, ok, "{fields} {uri} {headers:?}");
        }
    }
    let (_server, _context, handle) = limited("one", &by("METHOD", "")).await;
    let app = app(handle.layer());
    assert_eq!(status(&app, "/", &[]).await, ok);
    let head = || Request::head("/").body(Body::empty()).unwrap();
    assert_eq!(call(&app, head()).await.status(), ok, "another verb is counted apart");
    assert_eq!(call(&app, head()).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn more_can_be_said_of_a_request_than_it_says_itself() {
    let about = |parts: &Parts| {
        let mut labels = LabelSet::new();
        if let Some(tenant) = parts.headers.get("x-tenant") {
            labels = labels.custom("tenant", tenant.to_str().unwrap());
        }
        if let Some(ConnectInfo(address)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            labels = labels.caller_ip(address.ip());
        }
        match parts.extensions.get::<MatchedPath>() {
            Some(route) => labels.path(route.as_str()),
            None => labels,
        }
    };
    let from = |ip: &str, uri: &str, tenant: &str| {
        let mut request = request(uri, &[("x-tenant", tenant)]);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(ip.parse().unwrap(), 9)));
        request
    };
    // Of each: one that is counted with the first request, and one that is not.
    for (fields, same, other) in [
        (by("CUSTOM", "tenant"), from("::2", "/c", "a"), from("::1", "/users/1", "b")),
        (by("CALLER_IP", ""), from("::1", "/c", "b"), from("::2", "/users/1", "a")),
        (
            json!({"method": {"type": "EXACT", "value": "/users/{id}"}}),
            from("::2", "/users/2", "b"),
            from("::1", "/c", "a"),
        ),
        (by("HEADER", "x-tenant"), from("::2", "/c", "a"), from("::1", "/users/1", "b")),
    ] {
        let (_server, _context, handle) = limited("one", &fields).await;
        let app = app(handle.layer().labels(about));
        assert_eq!(call(&app, from("::1", "/users/1", "a")).await.status(), StatusCode::OK, "{fields}");
        assert_eq!(call(&app, same).await.status(), StatusCode::TOO_MANY_REQUESTS, "{fields}");
        assert_eq!(call(&app, other).await.status(), StatusCode::OK, "{fields}");
    }
}

struct ByTenant(&'static str);

struct Tenant<'a>(Option<&'a HeaderValue>);

impl ExtractLabels for ByTenant {
    type Labels<'a> = Tenant<'a>;

    fn labels<'a>(&'a self, parts: &'a Parts) -> Tenant<'a> {
        Tenant(parts.headers.get(self.0))
    }
}

impl Labels for Tenant<'_> {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        let tenant = self.0.filter(|_| (kind, key) == (LabelKind::Custom, "tenant"));
        tenant?.to_str().ok().map(Cow::Borrowed)
    }
}

#[tokio::test(start_paused = true)]
async fn labels_may_borrow_from_the_request() {
    let (_server, _context, handle) = limited("one", &by("CUSTOM", "tenant")).await;
    let app = app(handle.layer().labels(ByTenant("x-tenant")));
    for (tenant, expected) in [("a", StatusCode::OK), ("a", StatusCode::TOO_MANY_REQUESTS), ("b", StatusCode::OK)] {
        assert_eq!(status(&app, "/", &[("x-tenant", tenant)]).await, expected, "{tenant}");
    }
}

// === what is not the layer's stays as it is

/// A body of these frames, which knows its size.
#[derive(Debug, Default)]
struct Frames(VecDeque<Result<Frame<Bytes>, io::Error>>);

impl Frames {
    fn with_trailers() -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        Self([Ok(Frame::data("ab".into())), Ok(Frame::data("c".into())), Ok(Frame::trailers(trailers))].into())
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.0.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        SizeHint::with_exact(data.map(|data| data.len() as u64).sum())
    }
}

async fn next_frame<B: http_body::Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Frame<Bytes>, B::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

#[tokio::test(start_paused = true)]
async fn a_request_and_its_answer_pass_as_they_came() {
    #[derive(Debug, Clone, PartialEq)]
    struct Mark(u32);

    let (_server, _context, handle) = limited("paced", &json!({"action": "UNIRATE", "max_queue_delay": 20})).await;
    let inner = service_fn(async |request: Request<Frames>| {
        let (parts, body) = request.into_parts();
        assert_eq!((parts.extensions.get(), parts.uri.path()), (Some(&Mark(7)), "/a"));
        assert_eq!((header(&parts.headers, "x"), body.0.len()), (Some("y"), 3));
        Ok::<_, io::Error>(Response::builder().status(207).extension(Mark(8)).header("x", "z").body(body).unwrap())
    });
    let service = handle.layer().labels(|_: &Parts| ()).layer(inner);
    // At once, and after a wait.
    for waited in [Duration::ZERO, 10 * SECOND] {
        let began = Instant::now();
        let request = Request::post("/a").header("x", "y").extension(Mark(7)).body(Frames::with_trailers()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), waited.as_secs());
        assert_eq!((response.status().as_u16(), header(response.headers(), "x")), (207, Some("z")));
        assert_eq!(response.extensions().get(), Some(&Mark(8)));
        let mut body = response.into_body();
        for (left, data) in [(3, Some("ab")), (1, Some("c")), (0, None)] {
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(left), false));
            let frame = next_frame(&mut body).await.unwrap().unwrap();
            match data {
                Some(data) => assert_eq!(frame.into_data().unwrap(), data),
                None => assert_eq!(header(&frame.into_trailers().unwrap(), "x-sum"), Some("42")),
            }
        }
        assert!(body.is_end_stream());
        assert!(next_frame(&mut body).await.is_none());
    }
}

/// A service whose clones are not ready until they are asked.
#[derive(Debug, Default)]
struct Particular {
    is_ready: bool,
}

impl Clone for Particular {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<()>> for Particular {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without having been ready");
        ready(Ok(Response::new(Frames::default())))
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let (_server, _context, handle) = limited("paced", &json!({"action": "UNIRATE", "max_queue_delay": 100})).await;
    let mut service = handle.layer().layer(Particular::default());
    let mut answers = Vec::new();
    for _ in 0..3 {
        assert!(!service.get_ref().is_ready);
        answers.push(service.ready().await.unwrap().call(Request::new(())));
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
}

// === requests at the same time

/// An axum service that answers with what is sent into it, and the sender of one answer at a time.
fn streaming(layer: RateLimitLayer) -> (Router, mpsc::Receiver<mpsc::Sender<Result<String, io::Error>>>) {
    let (begun, streams) = mpsc::channel(9);
    let stream = async move || {
        let (sender, lines) = mpsc::channel(9);
        begun.send(sender).await.unwrap();
        Body::from_stream(ReceiverStream::new(lines))
    };
    (Router::new().route("/", get(stream)).layer(layer), streams)
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_until_its_answer_has_ended() {
    let (_server, _context, handle) = limited("one", &at_once(1)).await;
    let (app, mut streams) = streaming(handle.layer());
    let mut body = call(&app, request("/", &[])).await.into_body();
    let sender = streams.recv().await.unwrap();
    for line in ["a", "b"] {
        sender.send(Ok(line.to_owned())).await.unwrap();
        assert_eq!(next_frame(&mut body).await.unwrap().unwrap().into_data().unwrap(), line);
        let refused = call(&app, request("/", &[])).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "the answer goes on");
        assert_eq!(header(refused.headers(), "retry-after"), None, "nobody knows when it ends");
    }
    drop(sender);
    assert!(next_frame(&mut body).await.is_none());
    assert!(has_room(&handle), "the answer has ended");
    drop(body);

    // An answer that breaks off, and one that is given up.
    let mut body = call(&app, request("/", &[])).await.into_body();
    let sender = streams.recv().await.unwrap();
    assert!(!has_room(&handle));
    sender.send(Err(io::Error::other("broken"))).await.unwrap();
    assert!(next_frame(&mut body).await.unwrap().is_err());
    assert!(has_room(&handle));
    let response = call(&app, request("/", &[])).await;
    assert!(!has_room(&handle));
    drop(response);
    assert!(has_room(&handle));
}

#[tokio::test(start_paused = true)]
async fn a_last_frame_ends_an_answer() {
    let (_server, _context, handle) = limited("one", &at_once(1)).await;
    let inner = service_fn(async |_: Request<()>| Ok::<_, io::Error>(Response::new(Frames::with_trailers())));
    let mut body = handle.layer().layer(inner).oneshot(Request::new(())).await.unwrap().into_body();
    for _ in 0..3 {
        assert!(!has_room(&handle));
        next_frame(&mut body).await.unwrap().unwrap();
    }
    assert!(has_room(&handle));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_panics_or_is_dropped_does_not_count_any_more() {
    let (_server, _context, handle) = limited("one", &at_once(1)).await;
    let probe = handle.clone();
    let inner = service_fn(move |request: Request<()>| {
        assert!(!has_room(&probe), "it counts while it is served");
        assert!(request.uri() != "/panic-early", "as it was told");
        async move {
            match request.uri().path() {
                "/fail" => Err(io::Error::other("as it was told")),
                "/panic" => panic!("as it was told"),
                _ => pending::<Result<Response<Frames>, _>>().await,
            }
        }
    });
    let service = handle.layer().layer(inner);
    for uri in ["/fail", "/panic", "/panic-early", "/hang"] {
        let answer = service.clone().oneshot(Request::get(uri).body(()).unwrap());
        match tokio::spawn(timeout(SECOND, answer)).await {
            Ok(Ok(Err(error))) => assert_eq!((uri, &*error.to_string()), ("/fail", "as it was told")),
            Ok(Ok(Ok(response))) => panic!("{uri}: {response:?}"),
            Ok(Err(_)) => assert_eq!(uri, "/hang"),
            Err(error) => assert!(error.is_panic() && uri.starts_with("/panic"), "{uri}: {error}"),
        }
        assert!(has_room(&handle), "{uri}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_count_any_more() {
    let (_server, _context, handle) = limited("one", &at_once(1)).await;
    let (app, mut streams) = streaming(handle.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving =
        tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) }).into_future());

    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let sender = streams.recv().await.unwrap();
    sender.send(Ok("begun".to_owned())).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut refused = TcpStream::connect(address).await.unwrap();
    refused.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.ends_with("\r\n\r\nlimited by rule \"one\""), "{answer}");
    assert!(answer.contains("\r\ncontent-length: 21\r\n"), "{answer}");

    drop(client);
    eventually("the server notices", 5 * SECOND, async || has_room(&handle)).await;
    assert!(sender.is_closed());
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

// === requests that wait

#[tokio::test(start_paused = true)]
async fn requests_wait_for_their_turn_and_give_it_back_when_they_are_given_up() {
    let fields =
        json!({"action": "UNIRATE", "amounts": [{"maxAmount": 1, "validDuration": "1s"}], "max_queue_delay": 10});
    let (_server, _context, handle) = limited("paced", &fields).await;
    let app = app(handle.layer());
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(status(&app, "/", &[]).await, StatusCode::OK);
    }
    assert_eq!(began.elapsed().as_secs(), 2);
    for _ in 0..9 {
        let given_up = app.clone().oneshot(request("/", &[]));
        assert!(timeout(Duration::ZERO, given_up).await.is_err(), "it queues");
    }
    assert_eq!(status(&app, "/", &[]).await, StatusCode::OK);
    assert_eq!(began.elapsed().as_secs(), 3, "nobody waits for those that left");
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_wait_for_the_rules_and_are_limited_by_them() {
    let server = Server::in_memory();
    server.rule(RuleKind::RateLimit, rule("one", &by("CUSTOM", "tenant"))).unwrap();
    server.on(Rpc::Discover).kind(ResourceKind::RateLimit).delay(Duration::from_millis(700));
    let context = server.context().unwrap();
    let app = app(context.limiter().layer(SHOP).labels(ByTenant("x-tenant")));
    let began = Instant::now();
    let all = ["a", "a", "b"].map(|tenant| {
        let app = app.clone();
        tokio::spawn(async move { status(&app, "/", &[("x-tenant", tenant)]).await })
    });
    let mut answers = Vec::new();
    for answer in all {
        answers.push(answer.await.unwrap().as_u16());
    }
    assert!(began.elapsed() >= Duration::from_millis(700));
    // Whichever of those that waited is woken first.
    answers[..2].sort_unstable();
    assert_eq!(answers, [200, 429, 200]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_admitted_or_answered_503_after_one_wait() {
    for (policy, expected) in [("admit", StatusCode::OK), ("reject", StatusCode::SERVICE_UNAVAILABLE)] {
        let server = Server::in_memory();
        server.on(Rpc::Discover).hang();
        let context = server.builder().set("provider.rateLimit.onUnknown", policy).build().unwrap();
        let app = app(context.limiter().layer(SHOP));
        for waited in [SECOND, Duration::ZERO, Duration::ZERO] {
            let began = Instant::now();
            let response = call(&app, request("/", &[])).await;
            assert_eq!((response.status(), began.elapsed()), (expected, waited));
            assert_eq!(header(response.headers(), "x-polaris-rate-limit-rule"), None);
            let text = text(response.into_body()).await;
            assert_eq!(text.starts_with("the quota is not known: "), policy == "reject", "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_quota_to_ask_for_nothing_is_served() {
    let (_server, context, handle) = limited("one", &at_once(9)).await;
    let nameless = app(context.limiter().layer(("default", "no such name")));
    let app = app(handle.layer());
    let off = Server::in_memory();
    off.on(Rpc::Discover).hang();
    let off = off.builder().set("provider.rateLimit.enable", "false").build().unwrap();
    let unlimited = self::app(off.limiter().layer(SHOP));
    for _ in 0..2 {
        assert_eq!(status(&nameless, "/", &[]).await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(&app, "/", &[]).await, StatusCode::OK);
        let began = Instant::now();
        assert_eq!(status(&unlimited, "/", &[]).await, StatusCode::OK);
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits for rules that nobody follows");
    }
    context.shutdown(SECOND).await.unwrap();
    assert_eq!(status(&app, "/", &[]).await, StatusCode::SERVICE_UNAVAILABLE);
}

// === gRPC

/// A gRPC service that answers what it is sent.
#[derive(Clone)]
struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<tonic::body::Body>> for Echo {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let echo = service_fn(|request: tonic::Request<String>| ready(Ok(tonic::Response::new(request.into_inner()))));
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(grpc.unary(echo, request).await)
        })
    }
}

/// A client of a tonic server with this layer, over a pipe.
async fn echo(layer: RateLimitLayer) -> tonic::client::Grpc<tonic::transport::Channel> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let incoming = tokio_stream::once(Ok::<_, io::Error>(far)).chain(tokio_stream::pending());
    tokio::spawn(tonic::transport::Server::builder().layer(layer).add_service(Echo).serve_with_incoming(incoming));
    let mut near = Some(TokioIo::new(near));
    let connector =
        service_fn(move |_: http::Uri| ready(near.take().ok_or_else(|| io::Error::other("one connection is enough"))));
    let endpoint = tonic::transport::Endpoint::from_static("http://test");
    tonic::client::Grpc::new(endpoint.connect_with_connector(connector).await.unwrap())
}

async fn say(
    client: &mut tonic::client::Grpc<tonic::transport::Channel>,
    words: &str,
) -> Result<String, tonic::Status> {
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(words.to_owned());
    request.metadata_mut().insert("uid", "1".parse().unwrap());
    let path = http::uri::PathAndQuery::from_static("/test.Echo/Say");
    let answer = client.unary(request, path, ProstCodec::<String, String>::default()).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_is_limited_fails_with_resource_exhausted() {
    let long = "慢".repeat(9_000);
    for (name, custom, expected) in [
        ("one", None, "limited by rule \"one\"".to_owned()),
        ("規則 1", Some("100 % 慢点 \"bitte\"\nsagt er".to_owned()), "100 % 慢点 \"bitte\"\nsagt er".to_owned()),
        ("long", Some(long), "慢".repeat(4096 / 9)),
    ] {
        let mut fields = by("HEADER", "uid");
        fields["method"] = json!({"type": "EXACT", "value": "/test.Echo/Say"});
        if let Some(custom) = custom {
            fields["custom_response"] = json!({"body": custom});
        }
        let (_server, _context, handle) = limited(name, &fields).await;
        let mut client = echo(handle.layer()).await;
        assert_eq!(say(&mut client, "hello").await.unwrap(), "hello", "answers and their trailers pass");
        let status = say(&mut client, "hello").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, &*expected));
        let metadata = |name: &str| status.metadata().get(name).unwrap().to_str().unwrap().to_owned();
        let rule = if name == "規則 1" { "%E8%A6%8F%E5%89%87%201" } else { name };
        assert_eq!(metadata("x-polaris-rate-limit-rule"), rule);
        let pushback: u64 = metadata("grpc-retry-pushback-ms").parse().unwrap();
        assert!((9_000..11_000).contains(&pushback), "{pushback}");
        assert!(!status.metadata().contains_key("retry-after"));
        tokio::time::advance(11 * SECOND).await;
        assert_eq!(say(&mut client, "again").await.unwrap(), "again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_counts_until_its_trailers_are_sent() {
    let (_server, _context, handle) = limited("one", &at_once(1)).await;
    let mut client = echo(handle.layer()).await;
    for _ in 0..5 {
        assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    }
    eventually("the last one is over", SECOND, async || has_room(&handle)).await;
    let polarismesh::Decision::Granted(held) = handle.check(&polarismesh::Quota::new()).unwrap() else {
        panic!("free")
    };
    let status = say(&mut client, "hello").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(!status.metadata().contains_key("grpc-retry-pushback-ms"));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_whose_quota_is_not_known_fails_with_unavailable() {
    let server = Server::in_memory();
    server.on(Rpc::Discover).hang();
    let context = server.builder().set("provider.rateLimit.onUnknown", "reject").build().unwrap();
    let mut client = echo(context.limiter().layer(SHOP)).await;
    let status = say(&mut client, "hello").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("the quota is not known: "), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_refusal_is_all_headers() {
    let (_server, _context, handle) =
        limited("none", &json!({"amounts": [{"maxAmount": 0, "validDuration": "1s"}]})).await;
    let app = app(handle.layer());
    for (kind, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("application/grpc-web+proto", "application/grpc-web+proto"),
    ] {
        let response = call(&app, request("/", &[("content-type", kind)])).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(response.headers(), "content-type"), Some(answered));
        assert_eq!(header(response.headers(), "grpc-status"), Some("8"));
        assert_eq!(header(response.headers(), "grpc-message"), Some("limited%20by%20rule%20\"none\""));
        assert!(response.body().is_end_stream());
    }
    let plain = call(&app, request("/", &[("content-type", "application/json")])).await;
    assert_eq!(plain.status(), StatusCode::TOO_MANY_REQUESTS);
}
