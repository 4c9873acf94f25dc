//! Unary calls against scripted servers, on virtual time.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::scripted::{Mode, Net, Reply, Unary, addr, code};
use super::{Cluster, TokenSource, Transport};
use crate::error::{ErrorKind, ServerCode};
use crate::model::location::Location;
use crate::model::request::registration::{ClientReport, Heartbeat, Register, Registrant, Target};

const SECOND: Duration = Duration::from_secs(1);

fn registrant() -> Registrant {
    let register = Register::new(("default", "payments"), ("10.0.0.7", 8080));
    Registrant { register, host: "10.0.0.7".to_owned(), location: Location::default(), isolated: None }
}

fn target() -> Target {
    Heartbeat::new(("default", "payments"), ("10.0.0.7", 8080)).target
}

fn header(call: &Unary, name: &str) -> Option<String> {
    call.metadata.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_its_metadata_and_brings_the_id_back() {
    let net = Net::new(&["a"]);
    let options = super::TransportOptions { token: TokenSource::fixed("s3cret"), ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    let id = transport.register(&registrant(), true, SECOND).await.unwrap();
    assert_eq!((id.as_str(), id.service().to_string().as_str()), ("id-1", "default/payments"));
    let call = net.node("a").called().remove(0);
    assert_eq!(header(&call, "x-polaris-token").as_deref(), Some("s3cret"));
    assert_eq!(header(&call, "async-regis").as_deref(), Some("true"));
    assert!(header(&call, "request-id").unwrap().starts_with('1'));
    assert!(header(&call, "user-agent").unwrap().starts_with("polaris-rust/"));
    assert!(header(&call, "grpc-encoding").is_none(), "servers refuse compressed requests");
    transport.heartbeat(&target(), SECOND).await.unwrap();
    let beat = net.node("a").called().remove(1);
    assert!(header(&beat, "async-regis").is_none());
    assert_eq!(net.node("a").dials().len(), 1, "one connection serves all");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dialled_before_the_first_call_and_many_calls_dial_once() {
    let net = Net::new(&["a"]);
    let transport = net.transport();
    tokio::time::sleep(SECOND).await;
    assert!(net.node("a").dials().is_empty());
    let target = target();
    let beats = (0..16).map(|_| transport.heartbeat(&target, SECOND));
    for beat in futures_of(beats).await {
        beat.unwrap();
    }
    assert_eq!(net.node("a").dials().len(), 1);
    net.ends().await;
}

/// Runs futures together without a crate for it.
async fn futures_of<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |cx| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(running.iter_mut().filter_map(|(_, output)| output.take()).collect())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn codes_that_mean_done_are_a_success() {
    let net = Net::new(&["a"]);
    let transport = net.transport();
    net.node("a").on_unary(|_| code(400_201));
    assert_eq!(transport.register(&registrant(), false, SECOND).await.unwrap().as_str(), "id-1");
    for gone in [400_202, 400_301, 400_305] {
        net.node("a").on_unary(move |_| code(gone));
        transport.deregister(&target(), SECOND).await.unwrap();
    }
    let error = transport.heartbeat(&target(), SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ServiceNotFound);
    net.node("a").on_unary(|_| code(404_001));
    let client = ClientReport { id: "c".to_owned(), host: "h".to_owned(), location: Location::default() };
    assert_eq!(transport.report_client(&client, SECOND).await.unwrap(), None);
    let client = ClientReport { location: Location::new("r", "z", ""), ..client };
    net.node("a").on_unary(|_| code(200_000));
    assert_eq!(transport.report_client(&client, SECOND).await.unwrap(), Some(Location::new("r", "z", "")));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_not_repeated_and_says_all_about_itself() {
    let net = Net::new(&["a"]);
    net.node("a").on_unary(|_| code(400_120));
    let error = net.transport().register(&registrant(), false, SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!((error.service(), error.address()), (Some("default/payments"), Some("a:8091")));
    assert_eq!((error.attempts(), error.server_code().map(ServerCode::get)), (Some(1), Some(400_120)));
    assert!(error.request_id().is_some() && error.elapsed().is_some());
    assert_eq!(net.node("a").called().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn momentary_refusals_are_tried_again_on_the_same_server() {
    for momentary in [400_208, 400_401, 500_000, 500_008] {
        let net = Net::new(&["a"]);
        let mut first = true;
        net.node("a").on_unary(move |_| code(if std::mem::take(&mut first) { momentary } else { 200_000 }));
        net.transport().register(&registrant(), false, 3 * SECOND).await.unwrap();
        assert_eq!(net.node("a").called().len(), 2, "{momentary}");
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_waits_a_second_at_least() {
    let net = Net::new(&["a"]);
    let mut first = true;
    net.node("a").on_unary(move |_| code(if std::mem::take(&mut first) { 403_003 } else { 200_000 }));
    let transport = net.transport();
    transport.register(&registrant(), false, 5 * SECOND).await.unwrap();
    let calls = net.node("a").called();
    assert!(calls[1].at - calls[0].at >= SECOND);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_left_for_the_other_and_avoided_afterwards() {
    for mode in [Mode::Refuse, Mode::BlackHole, Mode::Hang, Mode::Speak(b""), Mode::Speak(b"HTTP/1.1 400 Bad\r\n\r\n")]
    {
        let net = Net::new(&["a", "b"]);
        net.node("a").mode(mode);
        let transport = net.transport();
        for _ in 0..20 {
            transport.register(&registrant(), false, 2 * SECOND).await.unwrap();
        }
        assert!(net.node("a").dials().len() <= 1, "{mode:?}");
        assert_eq!(net.node("b").called().len(), 20);
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_connection_is_said_in_words() {
    for (mode, needle) in [
        (Mode::Refuse, "refused"),
        (Mode::BlackHole, "nothing was heard"),
        (Mode::Hang, "no connection within 500ms"),
        (Mode::Speak(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "HTTP/1"),
        (Mode::Speak(b""), "closed the connection"),
    ] {
        let net = Net::new(&["a"]);
        net.node("a").mode(mode);
        let started = Instant::now();
        let error = net.transport().register(&registrant(), false, 2 * SECOND).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network, "{error}");
        assert!(error.to_string().contains(needle), "{mode:?}: {error}");
        assert!(started.elapsed() <= 2 * SECOND);
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_host_is_a_network_failure_that_names_it() {
    let net = Net::new(&["a"]);
    let options = super::TransportOptions { addresses: vec![addr("nowhere")], ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    let error = transport.register(&registrant(), false, SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("no such host") && error.to_string().contains("nowhere:8091"), "{error}");
    assert_eq!(transport.local_address(SECOND).await.unwrap_err().kind(), ErrorKind::Network);
    assert!(net.transport().local_address(SECOND).await.unwrap().is_loopback());
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn no_call_outlives_its_deadline() {
    let net = Net::new(&["a"]);
    net.node("a").on_unary(|_| Reply::Silence);
    let transport = net.transport();
    let started = Instant::now();
    let error = transport.register(&registrant(), false, SECOND).await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed()), (ErrorKind::Timeout, SECOND));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_registration_without_an_answer_is_never_made_again_on_the_same_server() {
    for reply in [Reply::Silence, Reply::Cut, Reply::Fail(Code::Unavailable), Reply::Fail(Code::Internal)] {
        for names in [&["a"][..], &["a", "b"]] {
            let net = Net::new(names);
            let options = super::TransportOptions { max_retries: 5, message_timeout: SECOND, ..net.options() };
            let transport = Transport::new(options, &net.scope).unwrap();
            for name in names {
                let reply = reply.clone();
                net.node(name).on_unary(move |_| reply.clone());
            }
            let error = transport.register(&registrant(), false, 30 * SECOND).await.unwrap_err();
            assert!(error.server_code().is_none() && error.is_retryable(), "{error}");
            for name in names {
                assert_eq!(net.node(name).called().len(), 1, "{reply:?} of {names:?}");
            }
            net.ends().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_never_left_is_made_again_on_the_same_server() {
    let net = Net::new(&["a"]);
    net.node("a").mode(Mode::Refuse);
    let options = super::TransportOptions { max_retries: 2, ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    transport.register(&registrant(), false, 30 * SECOND).await.unwrap_err();
    assert_eq!(net.node("a").dials().len(), 3);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_had_for_a_moment_is_waited_for() {
    let net = Net::new(&["a"]);
    let broken = std::sync::atomic::AtomicBool::new(true);
    let token = TokenSource::from_fn(move || {
        assert!(!broken.swap(false, std::sync::atomic::Ordering::Relaxed), "planned");
        "s3cret".to_owned()
    });
    let transport = Transport::new(super::TransportOptions { token, ..net.options() }, &net.scope).unwrap();
    transport.register(&registrant(), false, 5 * SECOND).await.unwrap();
    assert_eq!(header(&net.node("a").called().remove(0), "x-polaris-token").as_deref(), Some("s3cret"));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_had_says_nothing_of_the_server() {
    let net = Net::new(&["a", "b"]);
    let options = super::TransportOptions { token: TokenSource::file("/no/token"), ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    let error = transport.register(&registrant(), false, 5 * SECOND).await.unwrap_err();
    assert_eq!((error.server_code(), error.attempts()), (None, Some(2)), "{error}");
    let now = Instant::now();
    for name in ["a", "b"] {
        assert!(transport.0.clusters.has_alternative(Cluster::Discover, &addr(name), now), "nobody is demoted");
    }
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_says_is_no_code_of_the_server() {
    for (status, kind, retry) in [
        (Code::Unimplemented, ErrorKind::Unsupported, false),
        (Code::ResourceExhausted, ErrorKind::Server, true),
        (Code::PermissionDenied, ErrorKind::Unauthorized, false),
        (Code::Unavailable, ErrorKind::Network, true),
    ] {
        let net = Net::new(&["a"]);
        net.node("a").on_unary(move |_| Reply::Fail(status));
        let error = net.transport().register(&registrant(), false, SECOND).await.unwrap_err();
        assert_eq!((error.kind(), error.server_code(), error.is_retryable()), (kind, None, retry), "{error}");
        net.ends().await;
    }
}

/// On real time: a clock that is paused waits for blocking work.
#[tokio::test]
async fn a_token_function_that_hangs_costs_a_call_its_deadline_and_no_more() {
    let net = Net::new(&["a"]);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let token = TokenSource::from_fn(move || {
        let _ = held.lock().unwrap().recv();
        String::new()
    });
    let transport = Transport::new(super::TransportOptions { token, ..net.options() }, &net.scope).unwrap();
    let started = Instant::now();
    for _ in 0..3 {
        let error = transport.heartbeat(&target(), Duration::from_millis(20)).await.unwrap_err();
        assert_eq!((error.kind(), error.server_code()), (ErrorKind::Plugin, None), "{error}");
    }
    assert!(started.elapsed() < 2 * SECOND);
    drop(release);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn durations_without_end_are_no_trouble() {
    let net = Net::new(&["a"]);
    let options = super::TransportOptions {
        connect_timeout: Duration::MAX,
        message_timeout: Duration::MAX,
        max_retries: u32::MAX,
        retry_interval: Duration::MAX,
        switch_interval: Duration::MAX,
        reconnect_base: Duration::MAX,
        idle_timeout: Duration::MAX,
        refresh_interval: Duration::MAX,
        ..net.options()
    };
    let transport = Transport::new(options, &net.scope).unwrap();
    transport.heartbeat(&target(), Duration::MAX).await.unwrap();
    net.node("a").on_unary(|_| code(403_003));
    transport.register(&registrant(), false, SECOND).await.unwrap_err();
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_beat_to_a_silent_server_reaches_another_one_inside_its_deadline() {
    let net = Net::new(&["a", "b"]);
    net.node("a").on_unary(|_| Reply::Silence);
    let transport = net.transport();
    for _ in 0..8 {
        transport.heartbeat(&target(), SECOND).await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
    }
    assert_eq!(net.node("b").called().len(), 8);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_beat_whose_connection_fell_silent_goes_over_a_new_one() {
    let net = Net::new(&["a"]);
    let transport = net.transport();
    transport.heartbeat(&target(), SECOND).await.unwrap();
    let mut first = true;
    net.node("a").on_unary(move |_| if std::mem::take(&mut first) { Reply::Silence } else { code(200_000) });
    transport.heartbeat(&target(), SECOND).await.unwrap();
    assert_eq!(net.node("a").dials().len(), 2);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_is_dialled_again() {
    let net = Net::new(&["a"]);
    let transport = net.transport();
    transport.register(&registrant(), false, SECOND).await.unwrap();
    net.node("a").cut();
    transport.register(&registrant(), false, SECOND).await.unwrap();
    assert_eq!(net.node("a").dials().len(), 2);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_method_that_the_server_lacks_is_unsupported_and_not_repeated() {
    let net = Net::new(&["a"]);
    net.node("a").on_unary(|_| Reply::Fail(Code::Unimplemented));
    let error = net.transport().register(&registrant(), false, SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Unsupported, Some(1)));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_and_the_call_repeated_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old").unwrap();
    let net = Net::new(&["a"]);
    let options = super::TransportOptions { token: TokenSource::file(file.path()), max_retries: 0, ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    net.node("a").on_unary(|call| {
        let valid = header(call, "x-polaris-token").as_deref() == Some("new");
        code(if valid { 200_000 } else { 401_001 })
    });
    let error = transport.register(&registrant(), false, SECOND).await.unwrap_err();
    assert_eq!((error.kind(), net.node("a").called().len()), (ErrorKind::Unauthorized, 1));
    tokio::time::sleep(2 * SECOND).await;
    std::fs::write(file.path(), "new").unwrap();
    transport.register(&registrant(), false, SECOND).await.unwrap();
    assert_eq!(net.node("a").called().len(), 3);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn beats_go_to_the_health_check_cluster_once_it_is_known() {
    let net = Net::new(&["a", "b"]);
    let options = super::TransportOptions { addresses: vec![addr("a")], ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    transport.set_servers(Cluster::HealthCheck, vec![addr("b")]);
    transport.heartbeat(&target(), SECOND).await.unwrap();
    transport.register(&registrant(), false, SECOND).await.unwrap();
    assert_eq!((net.node("a").called().len(), net.node("b").called().len()), (1, 1));
    transport.set_servers(Cluster::HealthCheck, Vec::new());
    transport.heartbeat(&target(), SECOND).await.unwrap();
    assert_eq!(net.node("a").called().len(), 2);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_transport_says_so_and_its_twin_lives_on() {
    let net = Net::new(&["a"]);
    let transport = net.transport();
    let twin = transport.on_scope(&net.scope);
    transport.heartbeat(&target(), SECOND).await.unwrap();
    twin.heartbeat(&target(), SECOND).await.unwrap();
    assert_eq!(net.node("a").dials().len(), 2, "a twin has connections of its own");
    transport.close();
    assert_eq!(transport.heartbeat(&target(), SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
    twin.heartbeat(&target(), SECOND).await.unwrap();
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_closed() {
    let net = Net::new(&["a"]);
    let transport = net.transport();
    transport.heartbeat(&target(), SECOND).await.unwrap();
    tokio::time::sleep(Duration::from_secs(95)).await;
    assert!(!net.scope.alive().contains(&"connection"), "{:?}", net.scope.alive());
    assert!(!net.scope.alive().contains(&"idle-connections"));
    transport.heartbeat(&target(), SECOND).await.unwrap();
    assert_eq!(net.node("a").dials().len(), 2);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
#[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
async fn tls_without_its_feature_is_refused_before_anything_is_dialled() {
    let net = Net::new(&["a"]);
    let tls = super::ServerAddr::new("a", 8091, true);
    let options = super::TransportOptions { addresses: vec![tls], ..net.options() };
    let error = Transport::new(options, &net.scope).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}
