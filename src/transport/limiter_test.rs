//! The way to a limiter against scripted ones, on virtual time.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::limiter::{LimiterStream, ROOM};
use super::scripted::{Mode, Net, addr};
use super::scripted_limiter::{Heard, Said};
use super::{ServerAddr, Tls, TokenSource, Transport, TransportOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::model::limiter::{JoinQuota, QuotaCounter, QuotaLeft, QuotaTarget, QuotaTotal, QuotaUse};
use crate::model::limiter_answer::{LimiterAnswer, LimiterCode, LimiterCommand, LimiterRefusal};
use crate::pb::metric;
use crate::pb::metric::RateLimitCmd;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const NOW: i64 = 1_795_219_660_187;
const OK: u32 = 200_000;

fn target(labels: &str) -> QuotaTarget {
    QuotaTarget { service: ("shop", "orders").into(), labels: labels.into() }
}

fn ask(labels: &str) -> JoinQuota {
    let totals = vec![QuotaTotal { seconds: 1, amount: 20, per_client: false }];
    JoinQuota { target: target(labels), totals }
}

fn left(counter: u32, left: i64) -> QuotaLeft {
    QuotaLeft { counter, left, clients: 2 }
}

fn used(counter: u32) -> QuotaUse {
    QuotaUse { counter, used: 1, limited: 0 }
}

fn counters(key: u32) -> Vec<metric::QuotaCounter> {
    vec![metric::QuotaCounter { duration: 1, counter_key: key, left: 20, mode: 1, client_count: 2 }]
}

fn joined(labels: &str, key: u32) -> (QuotaTarget, Result<Vec<QuotaCounter>, LimiterRefusal>) {
    (target(labels), Ok(vec![QuotaCounter { seconds: 1, left: left(key, 20) }]))
}

fn said(answer: metric::RateLimitResponse) -> Said {
    Said::Answer(Box::new(answer))
}

/// Answers a report.
fn lefts(code: u32, lefts: &[(u32, i64)]) -> Said {
    let quota_lefts = lefts
        .iter()
        .map(|(counter_key, left)| metric::QuotaLeft {
            counter_key: *counter_key,
            left: *left,
            mode: 1,
            client_count: 2,
        })
        .collect();
    said(metric::RateLimitResponse {
        cmd: RateLimitCmd::Acquire.into(),
        rate_limit_report_response: Some(metric::RateLimitReportResponse { code, quota_lefts, timestamp: NOW }),
        ..Default::default()
    })
}

/// Joins like a limiter, with counter keys from 1 on and without those whose labels are `bad`; reports leave 7.
fn serve(heard: &Heard) -> Vec<Said> {
    let request = heard.request.clone();
    let answer = metric::RateLimitResponse { cmd: request.cmd, ..Default::default() };
    if let Some(init) = request.rate_limit_init_request {
        let response = metric::RateLimitInitResponse {
            code: OK,
            target: init.target,
            client_key: 5,
            counters: counters(1),
            slide_count: init.slide_count,
            timestamp: NOW,
        };
        return vec![said(metric::RateLimitResponse { rate_limit_init_response: Some(response), ..answer })];
    }
    if let Some(batch) = request.rate_limit_batch_init_request {
        let result = batch.request.into_iter().zip(1..).map(|(member, key)| {
            let target = member.target.unwrap();
            let labels = target.labels_list[0].clone();
            if labels == "bad" {
                return metric::BatchInitResult { code: 400_205, target: Some(target), ..Default::default() };
            }
            let target = Some(metric::LimitTarget { labels_list: Vec::new(), ..target });
            let counters = vec![metric::LabeledQuotaCounter { labels, counters: counters(key) }];
            metric::BatchInitResult { code: OK, target, counters, slide_count: 1 }
        });
        let response =
            metric::RateLimitBatchInitResponse { code: OK, client_key: 5, timestamp: NOW, result: result.collect() };
        let rate_limit_batch_init_response = Some(response);
        return vec![said(metric::RateLimitResponse { rate_limit_batch_init_response, ..answer })];
    }
    let uses = request.rate_limit_report_request.unwrap().quota_uses;
    vec![lefts(OK, &uses.iter().map(|of| (of.counter_key, 7)).collect::<Vec<_>>())]
}

/// A node `a` that does this on every message, and a stream to it.
async fn stream(script: impl FnMut(&Heard) -> Vec<Said> + Send + 'static) -> (Net, LimiterStream) {
    let net = Net::new(&["a"]);
    net.node("a").limiter().on_service(script);
    let stream = net.transport().limiter(&addr("a")).await.unwrap();
    (net, stream)
}

fn header(metadata: &MetadataMap, name: &str) -> Option<String> {
    metadata.get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// What every error of the way to `a` says of itself.
fn assert_about(error: &Error, kind: ErrorKind) {
    assert_eq!((error.kind(), error.address(), error.server_code()), (kind, Some("a:8091"), None), "{error}");
    assert!(error.elapsed().is_some() && error.is_retryable(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_target_is_joined_with_all_that_tells_who_asks() {
    let net = Net::new(&["a"]);
    net.node("a").limiter().on_service(serve);
    let options = TransportOptions { token: TokenSource::fixed("s3cret"), ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    let mut stream = transport.limiter(&addr("a")).await.unwrap();
    assert!(net.node("a").dials().is_empty());
    assert!(stream.join("client-1", &[ask("/pay|HEADER:uid:7")]).is_empty());
    let answer = stream.answer().await.unwrap();
    let results = vec![joined("/pay|HEADER:uid:7", 1)];
    assert_eq!(answer, LimiterAnswer::Joined { client_key: 5, timestamp: NOW, results });
    let heard = net.node("a").limiter().heard();
    let init = heard[0].request.rate_limit_init_request.clone().unwrap();
    assert_eq!((heard.len(), heard[0].request.cmd), (1, RateLimitCmd::Init.into()));
    assert_eq!((&*init.client_id, init.slide_count, init.mode), ("client-1", 1, metric::Mode::Adaptive.into()));
    let metadata = &heard[0].metadata;
    assert_eq!(header(metadata, "client-ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(header(metadata, "x-polaris-token").as_deref(), Some("s3cret"));
    assert!(header(metadata, "request-id").unwrap().starts_with('6'));
    assert!(header(metadata, "user-agent").unwrap().starts_with("polaris-rust/"));
    assert!(header(metadata, "grpc-encoding").is_none(), "servers refuse compressed requests");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn several_targets_are_joined_together_and_a_bad_one_does_not_spoil_the_others() {
    let (net, mut stream) = stream(serve).await;
    stream.join("client-1", &[ask("a"), ask("bad"), ask("")]);
    let refusal = LimiterRefusal { command: LimiterCommand::Join, code: LimiterCode::NO_DURATION };
    let results = vec![joined("a", 1), (target("bad"), Err(refusal)), joined("", 3)];
    assert_eq!(stream.answer().await.unwrap(), LimiterAnswer::Joined { client_key: 5, timestamp: NOW, results });
    let heard = net.node("a").limiter().heard();
    assert_eq!((heard.len(), heard[0].request.cmd), (1, RateLimitCmd::BatchInit.into()));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn use_is_reported_and_news_of_others_come_unasked_with_whatever_counters() {
    let (net, mut stream) = stream(|heard| {
        let mut said = serve(heard);
        said.extend([Said::Pause(SECOND), lefts(OK, &[(99, -3), (99, -4)])]);
        said
    })
    .await;
    stream.report(5, &[QuotaUse { counter: 1, used: 6, limited: 2 }, used(2)], NOW - 1);
    let answer = stream.answer().await.unwrap();
    assert_eq!(answer, LimiterAnswer::Left { timestamp: NOW, lefts: vec![left(1, 7), left(2, 7)] });
    let asked = Instant::now();
    let pushed = stream.answer().await.unwrap();
    assert_eq!(pushed, LimiterAnswer::Left { timestamp: NOW, lefts: vec![left(99, -3), left(99, -4)] });
    assert_eq!(asked.elapsed(), SECOND);
    let heard = net.node("a").limiter().heard();
    let report = heard[0].request.rate_limit_report_request.clone().unwrap();
    assert_eq!((report.client_key, report.timestamp), (5, NOW - 1));
    assert_eq!(report.quota_uses[0], metric::QuotaSum { counter_key: 1, used: 6, limited: 2 });
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_of_nothing_is_not_sent() {
    let (net, mut stream) = stream(serve).await;
    stream.report(5, &[], NOW);
    stream.report(5, &[used(1)], NOW);
    stream.answer().await.unwrap();
    assert_eq!(net.node("a").limiter().heard().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_report_tells_what_was_counted_and_then_the_stream_ends_in_peace() {
    let (net, mut stream) = stream(|_| vec![lefts(400_214, &[(1, 3)]), Said::End]).await;
    stream.report(5, &[used(1), used(9)], NOW);
    let refusal = LimiterRefusal { command: LimiterCommand::Report, code: LimiterCode::FOREIGN_COUNTER };
    let refused = LimiterAnswer::Refused { refusal, timestamp: NOW, lefts: vec![left(1, 3)] };
    assert_eq!(stream.answer().await.unwrap(), refused);
    let error = stream.answer().await.unwrap_err();
    assert_about(&error, ErrorKind::Network);
    assert!(error.to_string().contains("the limiter ended the stream"), "{error}");
    assert!(error.request_id().is_some());
    stream.report(5, &[used(1)], NOW);
    assert_about(&stream.answer().await.unwrap_err(), ErrorKind::Network);
    let mut next = net.transport().limiter(&addr("a")).await.unwrap();
    next.report(5, &[used(1)], NOW);
    assert_eq!(next.answer().await.unwrap(), refused, "another stream is another try");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_is_an_error_from_then_on_and_the_next_one_has_a_new_connection() {
    for (said, first_answer) in
        [(Said::Fail(Code::Unavailable), false), (Said::Fail(Code::Unavailable), true), (Said::Cut, true)]
    {
        let net = Net::new(&["a"]);
        let transport = net.transport();
        net.node("a").limiter().on_service(move |heard| match heard.stream {
            1 if first_answer => vec![lefts(OK, &[]), Said::Pause(SECOND), said.clone()],
            1 => vec![said.clone()],
            _ => serve(heard),
        });
        let mut stream = transport.limiter(&addr("a")).await.unwrap();
        stream.join("client-1", &[ask("a")]);
        if first_answer {
            stream.answer().await.unwrap();
        }
        for _ in 0..3 {
            assert_about(&stream.answer().await.unwrap_err(), ErrorKind::Network);
        }
        let mut next = transport.limiter(&addr("a")).await.unwrap();
        next.join("client-1", &[ask("a")]);
        next.answer().await.unwrap();
        assert_eq!(net.node("a").dials().len(), 2);
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_is_not_there_or_says_nothing_costs_no_more_than_the_deadline() {
    // 500 ms for a connection, 5 s for a message.
    for (mode, kind, within, needle) in [
        (Mode::Refuse, ErrorKind::Network, 0, "refused"),
        (Mode::Hang, ErrorKind::Network, 500, "no connection"),
        (Mode::BlackHole, ErrorKind::Network, 500, "nothing was heard"),
        (Mode::Serve, ErrorKind::Timeout, 5500, "did not answer in time"),
    ] {
        let (net, mut stream) = stream(|_| Vec::new()).await;
        net.node("a").mode(mode);
        tokio::time::sleep(60 * SECOND).await;
        let asked = Instant::now();
        stream.join("client-1", &[ask("a")]);
        let error = timeout(60 * SECOND, stream.answer()).await.unwrap().unwrap_err();
        assert_about(&error, kind);
        assert!(error.to_string().contains(needle), "{mode:?}: {error}");
        assert_eq!(asked.elapsed().as_millis(), within, "{mode:?}");
        assert_eq!(stream.answer().await.unwrap_err().to_string(), error.to_string(), "it stays that way");
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_for_the_first_answer_only_and_begins_with_the_first_message() {
    let (net, mut stream) = stream(|heard| {
        let mut said = vec![Said::Pause(5 * SECOND)];
        said.extend(serve(heard));
        said
    })
    .await;
    timeout(100 * SECOND, stream.answer()).await.unwrap_err();
    stream.join("client-1", &[ask("a")]);
    stream.answer().await.unwrap();
    timeout(100 * SECOND, stream.answer()).await.unwrap_err();
    stream.report(5, &[used(1)], NOW);
    stream.answer().await.unwrap();
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_loses_no_answer() {
    let (net, mut stream) = stream(|heard| {
        let mut said = vec![Said::Pause(20 * MILLISECOND)];
        said.extend(serve(heard));
        said
    })
    .await;
    for counter in 1..=20 {
        stream.report(5, &[used(counter)], NOW);
    }
    let mut seen = Vec::new();
    while seen.len() < 20 {
        if let Ok(answer) = timeout(7 * MILLISECOND, stream.answer()).await {
            let LimiterAnswer::Left { lefts, .. } = answer.unwrap() else { panic!() };
            seen.push(lefts[0].counter);
        }
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_unknown_kinds_and_without_a_body_do_no_harm() {
    let (net, mut stream) =
        stream(|_| [17, 0, 1, 2, 3].map(|cmd| said(metric::RateLimitResponse { cmd, ..Default::default() })).to_vec())
            .await;
    stream.report(5, &[used(1)], NOW);
    assert_eq!(stream.answer().await.unwrap(), LimiterAnswer::Other);
    for command in [LimiterCommand::Join, LimiterCommand::Report, LimiterCommand::Join, LimiterCommand::Report] {
        let refusal = LimiterRefusal { command, code: LimiterCode::new(0) };
        let refused = LimiterAnswer::Refused { refusal, timestamp: 0, lefts: Vec::new() };
        assert_eq!(stream.answer().await.unwrap(), refused);
    }
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_ends_at_the_limiter_and_leaves_its_connection() {
    let (net, mut stream) = stream(serve).await;
    stream.join("client-1", &[ask("a")]);
    stream.answer().await.unwrap();
    drop(stream);
    timeout(SECOND, net.node("a").limiter().ended(1)).await.unwrap();
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_stream_takes_its_connection_with_it_and_a_dropped_one_does_not() {
    let net = Net::new(&["a"]);
    net.node("a").limiter().on_service(serve);
    let transport = net.transport();
    for (abandon, dials) in [(false, 1), (true, 1), (false, 2)] {
        let mut stream = transport.limiter(&addr("a")).await.unwrap();
        stream.join("client-1", &[ask("a")]);
        stream.answer().await.unwrap();
        assert_eq!(net.node("a").dials().len(), dials);
        if abandon {
            stream.abandon();
        }
    }
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_go_out_is_bounded_and_too_much_of_it_ends_the_stream() {
    let (net, mut stream) = stream(serve).await;
    for counter in 0..u32::try_from(ROOM).unwrap() {
        stream.report(5, &[used(counter + 1)], NOW);
    }
    stream.answer().await.unwrap();
    for counter in 0..2 * u32::try_from(ROOM).unwrap() {
        stream.report(5, &[used(counter + 1)], NOW);
    }
    let error = stream.answer().await.unwrap_err();
    assert_about(&error, ErrorKind::Network);
    assert!(error.to_string().contains("takes nothing in"), "{error}");
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn large_batches_arrive_in_parts_and_a_target_of_a_megabyte_is_not_asked_for() {
    let (net, mut stream) = stream(serve).await;
    let mut asks: Vec<_> = (0..12_000).map(|number| ask(&format!("{number:0>200}"))).collect();
    asks.insert(7000, ask(&"x".repeat(1 << 20)));
    assert_eq!(stream.join("client-1", &asks), [asks.remove(7000).target]);
    let mut seen = Vec::new();
    while seen.len() < asks.len() {
        let LimiterAnswer::Joined { results, .. } = stream.answer().await.unwrap() else { panic!() };
        seen.extend(results.into_iter().map(|(target, _)| target));
    }
    assert!(seen.iter().eq(asks.iter().map(|ask| &ask.target)));
    assert_eq!(net.node("a").limiter().heard().len(), 3);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn the_token_does_not_leave_in_the_clear_where_the_control_plane_is_spoken_to_by_tls() {
    let net = Net::new(&["a"]);
    let plain = net.options();
    let by_address = TransportOptions { addresses: vec![ServerAddr::new("b", 8091, true)], ..plain.clone() };
    let by_settings = TransportOptions { tls: Some(Tls::new()), ..plain.clone() };
    for (options, tls, may) in [
        (&plain, false, true),
        (&plain, true, true),
        (&by_address, false, false),
        (&by_address, true, true),
        (&by_settings, false, false),
        (&by_settings, true, true),
    ] {
        assert_eq!(options.may_see_token(&ServerAddr::new("a", 8101, tls)), may);
    }
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_configured_address_of_this_host_goes_before_that_of_the_connection() {
    let net = Net::new(&["a"]);
    net.node("a").limiter().on_clock(|| (Duration::ZERO, Ok(NOW)));
    let options = TransportOptions { bind_ip: Some([10, 1, 2, 3].into()), ..net.options() };
    let transport = Transport::new(options, &net.scope).unwrap();
    transport.limiter_time(&addr("a"), SECOND).await.unwrap();
    let asked = net.node("a").limiter().clock_asked();
    assert_eq!(header(&asked[0], "client-ip").as_deref(), Some("10.1.2.3"));
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_is_told_with_when_it_was_asked_and_without_the_time_for_a_connection() {
    let net = Net::new(&["a"]);
    let mut times = NOW..;
    net.node("a").limiter().on_clock(move || (3 * MILLISECOND, Ok(times.next().unwrap())));
    let transport = net.transport();
    let begun = Instant::now();
    let time = transport.limiter_time(&addr("a"), SECOND).await.unwrap();
    assert_eq!((time.server_millis, time.received - time.sent), (NOW + 1, 3 * MILLISECOND));
    assert_eq!(
        (time.sent - begun, begun.elapsed()),
        (3 * MILLISECOND, 6 * MILLISECOND),
        "the first one does not count"
    );
    let time = transport.limiter_time(&addr("a"), SECOND).await.unwrap();
    assert_eq!(time.server_millis, NOW + 2, "the connection is there: asked once");
    assert_eq!(net.node("a").dials().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_not_told_in_time_or_makes_no_sense_is_an_error() {
    for (tick, kind, within) in [
        ((3 * SECOND, Ok(NOW)), ErrorKind::Timeout, 1000),
        ((Duration::ZERO, Ok(0)), ErrorKind::Server, 0),
        ((Duration::ZERO, Ok(-5)), ErrorKind::Server, 0),
        ((Duration::ZERO, Err(Code::Unavailable)), ErrorKind::Network, 0),
    ] {
        let net = Net::new(&["a"]);
        net.node("a").limiter().on_clock(move || tick);
        let begun = Instant::now();
        let error = net.transport().limiter_time(&addr("a"), SECOND).await.unwrap_err();
        assert_about(&error, kind);
        assert_eq!(begun.elapsed().as_millis(), within, "{error}");
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_transport_ends_its_streams_and_opens_none() {
    let net = Net::new(&["a"]);
    net.node("a").limiter().on_service(serve);
    let transport = net.transport();
    let mut open = transport.limiter(&addr("a")).await.unwrap();
    let mut opening = transport.limiter(&addr("a")).await.unwrap();
    open.join("client-1", &[ask("a")]);
    open.answer().await.unwrap();
    transport.close();
    opening.join("client-1", &[ask("a")]);
    for stream in [&mut open, &mut opening] {
        assert_eq!(timeout(SECOND, stream.answer()).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(transport.limiter(&addr("a")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(transport.limiter_time(&addr("a"), SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
    net.ends().await;
}
