//! What goes to a limiter, and what is made of whatever one says.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;

use super::json::to_json;
use super::limiter::{MAX_MESSAGE, answer, join, report};
use crate::model::limiter::{JoinQuota, QuotaCounter, QuotaLeft, QuotaTarget, QuotaTotal, QuotaUse};
use crate::model::limiter_answer::{LimiterAnswer, LimiterCode, LimiterCommand, LimiterRefusal};
use crate::pb::metric;
use crate::pb::metric::RateLimitCmd;

fn target(service: &str, labels: &str) -> QuotaTarget {
    QuotaTarget { service: ("shop", service).into(), labels: labels.into() }
}

fn ask(labels: &str) -> JoinQuota {
    let totals = vec![
        QuotaTotal { seconds: 10, amount: 20, per_client: false },
        QuotaTotal { seconds: 60, amount: 100, per_client: true },
    ];
    JoinQuota { target: target("orders", labels), totals }
}

fn counter(seconds: u32, counter: u32, left: i64, clients: u32) -> QuotaCounter {
    QuotaCounter { seconds, left: QuotaLeft { counter, left, clients } }
}

fn refusal(command: LimiterCommand, code: u32) -> LimiterRefusal {
    LimiterRefusal { command, code: LimiterCode::new(code) }
}

fn file(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire/main");
    fs::read(root.join(name).with_extension("bin")).unwrap()
}

fn captured(name: &str) -> LimiterAnswer {
    answer(metric::RateLimitResponse::decode(&*file(name)).unwrap())
}

#[test]
fn one_target_is_initialised_alone_and_several_in_a_batch() {
    let totals = json!([{"duration": 10, "maxAmount": 20}, {"mode": "DIVIDE", "duration": 60, "maxAmount": 100}]);
    let one = join("client-1", &[ask("/pay|HEADER:uid:7")]);
    assert_eq!((one.messages.len(), one.too_large.len()), (1, 0));
    assert_eq!(
        to_json(&one.messages[0]).unwrap(),
        json!({"rateLimitInitRequest": {
            "target": {"namespace": "shop", "service": "orders", "labels": "/pay|HEADER:uid:7"},
            "clientId": "client-1", "totals": totals, "slideCount": 1,
        }})
    );
    let several = join("client-1", &[ask("a"), ask("")]);
    assert_eq!(several.messages.len(), 1);
    let member = |labels: &str| {
        let target = json!({"namespace": "shop", "service": "orders", "labelsList": [labels]});
        json!({"target": target, "totals": totals, "slideCount": 1})
    };
    assert_eq!(
        to_json(&several.messages[0]).unwrap(),
        json!({"cmd": "BATCH_INIT", "rateLimitBatchInitRequest": {
            "request": [member("a"), member("")], "clientId": "client-1",
        }})
    );
    assert!(join("client-1", &[]).messages.is_empty(), "an empty batch is refused, and a body must not be missing");
}

#[test]
fn a_report_names_each_counter() {
    let uses = [QuotaUse { counter: 7, used: 6, limited: 0 }, QuotaUse { counter: 8, used: 0, limited: 2 }];
    let reports: Vec<_> = report(5, &uses, 1_795_219_660_187).collect();
    assert_eq!(reports.len(), 1);
    assert_eq!(
        to_json(&reports[0]).unwrap(),
        json!({"cmd": "ACQUIRE", "rateLimitReportRequest": {
            "clientKey": 5, "timestamp": "1795219660187",
            "quotaUses": [{"counterKey": 7, "used": 6}, {"counterKey": 8, "limited": 2}],
        }})
    );
    assert_eq!(report(5, &[], 1).count(), 0);
}

#[test]
fn the_largest_report_goes_in_parts_below_a_megabyte() {
    let uses = vec![QuotaUse { counter: u32::MAX, used: u32::MAX, limited: u32::MAX }; 100_000];
    let reports: Vec<_> = report(u32::MAX, &uses, i64::MIN).collect();
    assert!(reports.iter().all(|report| report.encoded_len() < MAX_MESSAGE));
    let sent = reports.iter().map(|report| report.rate_limit_report_request.as_ref().unwrap().quota_uses.len());
    assert_eq!((sent.sum::<usize>(), reports.len()), (100_000, 4));
}

// === What limiters answered ===

#[test]
fn captured_answers_to_joining_are_the_counters_of_each_target() {
    let orders = |counters: Vec<_>| vec![(target("orders", "/pay|HEADER:uid:7"), Ok(counters))];
    let LimiterAnswer::Joined { client_key, timestamp, results } = captured("limiter_init") else { panic!() };
    assert_eq!((client_key, timestamp > 1_795_219_000_000), (1, true));
    assert_eq!(results, orders(vec![counter(10, 16_777_217, 20, 1), counter(60, 16_777_218, 100, 1)]));
    let second = LimiterAnswer::Joined {
        client_key: 2,
        timestamp: 1_795_219_660_200,
        results: orders(vec![counter(10, 16_777_217, 14, 2), counter(60, 16_777_218, 194, 2)]),
    };
    assert_eq!(captured("limiter_init_second_client"), second);
}

#[test]
fn a_captured_batch_has_the_labels_that_were_asked_for_and_the_refusal_of_a_bad_entry() {
    let results = vec![
        (target("stock", "a"), Ok(vec![counter(1, 16_777_219, 7, 1)])),
        (target("stock", "b"), Ok(vec![counter(1, 16_777_220, 7, 1)])),
        (target("", ""), Err(refusal(LimiterCommand::Join, 400_208))),
    ];
    let batch = LimiterAnswer::Joined { client_key: 2, timestamp: 1_795_219_660_206, results };
    assert_eq!(captured("limiter_batch_init"), batch);
}

#[test]
fn captured_reports_and_a_push_tell_what_is_left_below_zero_too() {
    let left = |counter, left, clients| QuotaLeft { counter, left, clients };
    let lefts = vec![left(16_777_217, 14, 1), left(16_777_218, 94, 1)];
    assert_eq!(captured("limiter_acquire"), LimiterAnswer::Left { timestamp: 1_795_219_660_188, lefts });
    let overdrawn = LimiterAnswer::Left { timestamp: 1_795_219_660_202, lefts: vec![left(16_777_217, -3, 2)] };
    assert_eq!(captured("limiter_acquire_negative"), overdrawn);
    assert_eq!(captured("limiter_push"), overdrawn);
}

#[test]
fn captured_refusals_say_what_was_refused() {
    let report = refusal(LimiterCommand::Report, 400_214);
    let refused = LimiterAnswer::Refused { refusal: report, timestamp: 1_795_219_660_209, lefts: Vec::new() };
    assert_eq!(captured("limiter_error_counter_key"), refused);
    let results = vec![(target("orders", "/pay|HEADER:uid:7"), Err(refusal(LimiterCommand::Join, 401_103)))];
    let joined = LimiterAnswer::Joined { client_key: 0, timestamp: 1_795_219_660_207, results };
    assert_eq!(captured("limiter_error_second_client_id"), joined);
    let time = metric::TimeAdjustResponse::decode(&*file("limiter_timeadjust")).unwrap();
    assert_eq!(time.server_timestamp, 1_795_219_658_685);
}

// === What a limiter might answer ===

fn batch(result: Vec<metric::BatchInitResult>) -> LimiterAnswer {
    let response = metric::RateLimitBatchInitResponse { code: 200_000, client_key: 1, timestamp: 2, result };
    answer(metric::RateLimitResponse {
        cmd: RateLimitCmd::BatchInit.into(),
        rate_limit_batch_init_response: Some(response),
        ..Default::default()
    })
}

fn named(labels_list: &[&str]) -> metric::LimitTarget {
    let labels_list = labels_list.iter().map(|labels| (*labels).to_owned()).collect();
    metric::LimitTarget { namespace: "shop".into(), service: "orders".into(), labels_list, ..Default::default() }
}

#[test]
fn an_entry_that_was_refused_is_named_by_its_target_or_by_the_counters_it_got_as_far_as() {
    let labeled = |labels: &str| metric::LabeledQuotaCounter { labels: labels.into(), counters: Vec::new() };
    let (unbegun, half_way) = (refusal(LimiterCommand::Join, 400_205), refusal(LimiterCommand::Join, 401_101));
    let said = batch(vec![
        metric::BatchInitResult { code: 400_205, target: Some(named(&["a", "b"])), ..Default::default() },
        metric::BatchInitResult {
            code: 401_101,
            target: Some(named(&[])),
            counters: vec![labeled("c"), labeled("d")],
            slide_count: 1,
        },
        metric::BatchInitResult { code: 200_000, ..Default::default() },
    ]);
    let results = [("a", unbegun), ("b", unbegun), ("c", half_way), ("d", half_way)]
        .map(|(l, why)| (target("orders", l), Err(why)));
    assert_eq!(said, LimiterAnswer::Joined { client_key: 1, timestamp: 2, results: results.into() });
}

#[test]
fn a_batch_that_is_refused_as_a_whole_is_one_refusal() {
    let said = answer(metric::RateLimitResponse {
        cmd: RateLimitCmd::BatchInit.into(),
        rate_limit_batch_init_response: Some(metric::RateLimitBatchInitResponse {
            code: 401_102,
            timestamp: 9,
            ..Default::default()
        }),
        ..Default::default()
    });
    let refusal = refusal(LimiterCommand::Join, 401_102);
    assert_eq!(said, LimiterAnswer::Refused { refusal, timestamp: 9, lefts: Vec::new() });
}

#[test]
fn counters_that_nobody_could_report_to_are_left_out_and_this_client_counts_as_one() {
    let raw = |duration, counter_key, client_count| metric::QuotaCounter {
        duration,
        counter_key,
        left: i64::MIN,
        mode: 99,
        client_count,
    };
    let counters = vec![raw(0, 1, 1), raw(1, 0, 1), raw(1, 7, 0), raw(1, 7, u32::MAX), raw(u32::MAX, u32::MAX, 1)];
    let init =
        metric::RateLimitInitResponse { code: 200_100, target: Some(named(&[])), counters, ..Default::default() };
    let said = answer(metric::RateLimitResponse { rate_limit_init_response: Some(init.clone()), ..Default::default() });
    let usable =
        vec![counter(1, 7, i64::MIN, 1), counter(1, 7, i64::MIN, u32::MAX), counter(u32::MAX, u32::MAX, i64::MIN, 1)];
    let results = vec![(target("orders", ""), Ok(usable))];
    assert_eq!(said, LimiterAnswer::Joined { client_key: 0, timestamp: 0, results });
    let nameless = metric::RateLimitInitResponse { target: None, ..init };
    let said = answer(metric::RateLimitResponse { rate_limit_init_response: Some(nameless), ..Default::default() });
    assert_eq!(said, LimiterAnswer::Joined { client_key: 0, timestamp: 0, results: Vec::new() });
}

/// Whatever the bytes, what comes out can be used.
fn check(bytes: &[u8]) {
    let Ok(response) = metric::RateLimitResponse::decode(bytes) else { return };
    for cmd in [response.cmd, 0, 1, 2, 3, 4] {
        let usable = |left: &QuotaLeft| left.counter > 0 && left.clients > 0;
        match answer(metric::RateLimitResponse { cmd, ..response.clone() }) {
            LimiterAnswer::Joined { results, .. } => {
                let mut counters = results.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).flatten();
                assert!(counters.all(|counter| counter.seconds > 0 && usable(&counter.left)));
            }
            LimiterAnswer::Left { lefts, .. } => assert!(lefts.iter().all(usable)),
            LimiterAnswer::Refused { refusal, lefts, .. } => {
                assert!(lefts.iter().all(usable) && !refusal.code.is_success());
            }
            LimiterAnswer::Other => assert!(!(0..4).contains(&cmd)),
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }

    #[test]
    fn damaged_captures_are_an_answer_or_none(
        which in 0..4_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let names = ["limiter_init", "limiter_batch_init", "limiter_acquire", "limiter_error_counter_key"];
        let mut bytes = file(names[which]);
        for (place, byte) in damage {
            *place.get_mut(&mut bytes) = byte;
        }
        check(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        check(&bytes);
    }

    #[test]
    fn any_targets_go_out_in_order_once_each_in_messages_below_a_megabyte(
        sizes in proptest::collection::vec(prop_oneof![0..300_usize, 100_000..1_100_000_usize], 0..20),
        client in 0..1000_usize,
    ) {
        let asks: Vec<_> = sizes.iter().map(|size| ask(&"l".repeat(*size))).collect();
        let joining = join(&"c".repeat(client), &asks);
        let mut sent = Vec::new();
        for message in &joining.messages {
            prop_assert!(message.encoded_len() < MAX_MESSAGE);
            if let Some(init) = &message.rate_limit_init_request {
                sent.push(init.target.as_ref().unwrap().labels.len());
            }
            let members = message.rate_limit_batch_init_request.iter().flat_map(|batch| &batch.request);
            sent.extend(members.map(|member| member.target.as_ref().unwrap().labels_list[0].len()));
        }
        let too_large: Vec<_> = joining.too_large.iter().map(|target| target.labels.len()).collect();
        prop_assert!(too_large.iter().all(|size| *size > MAX_MESSAGE - 2000));
        let kept: Vec<_> = sizes.iter().copied().filter(|size| !too_large.contains(size)).collect();
        prop_assert_eq!(sent, kept);
    }
}
