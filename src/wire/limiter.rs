//! Between the limiter's messages and the model. What comes from a limiter is not trusted: a part that cannot be used is
//! left out, and numbers that may mislead are made plain ones.

use prost::Message as _;

use crate::model::key::ServiceKey;
use crate::model::limiter::{JoinQuota, QuotaCounter, QuotaLeft, QuotaTarget, QuotaTotal, QuotaUse};
use crate::model::limiter_answer::{LimiterAnswer, LimiterCode, LimiterCommand, LimiterRefusal};
use crate::pb::metric;
use crate::pb::metric::{QuotaMode, RateLimitCmd};

/// Messages stay below it: a limiter reads 4 MiB, and one that is larger ends its stream.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// What surrounds the members of a batch, apart from the client's id: tags, lengths, the command.
const AROUND: usize = 64;
/// The tag and the length before a member.
const PREFIX: usize = 6;
/// A counter in a report takes up to 18 bytes and its own prefix.
const MAX_USES: usize = MAX_MESSAGE / 32;

/// What goes out to join quotas.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    pub(crate) messages: Vec<metric::RateLimitRequest>,
    /// Targets that no message can hold.
    pub(crate) too_large: Vec<QuotaTarget>,
}

/// Asks to join. Each target is a member of its own, so that one that is refused says nothing of another.
pub(crate) fn join(client_id: &str, asks: &[JoinQuota]) -> Joining {
    let room = MAX_MESSAGE.saturating_sub(client_id.len() + AROUND);
    let mut joining = Joining::default();
    let (mut members, mut size) = (Vec::new(), 0);
    for ask in asks {
        let member = member(ask);
        let cost = member.encoded_len() + PREFIX;
        if cost > room {
            joining.too_large.push(ask.target.clone());
            continue;
        }
        if size + cost > room {
            joining.messages.extend(joined(client_id, std::mem::take(&mut members)));
            size = 0;
        }
        size += cost;
        members.push(member);
    }
    joining.messages.extend(joined(client_id, members));
    joining
}

/// Reports use at a time of the limiter's clock. A limiter counts both commands for it alike, and other clients use this
/// one. Nothing goes out for nothing: a report without a counter is refused.
pub(crate) fn report(
    client_key: u32,
    uses: &[QuotaUse],
    timestamp: i64,
) -> impl Iterator<Item = metric::RateLimitRequest> {
    uses.chunks(MAX_USES).map(move |uses| metric::RateLimitRequest {
        cmd: RateLimitCmd::Acquire.into(),
        rate_limit_report_request: Some(metric::RateLimitReportRequest {
            client_key,
            quota_uses: uses
                .iter()
                .map(|of| metric::QuotaSum { counter_key: of.counter, used: of.used, limited: of.limited })
                .collect(),
            timestamp,
        }),
        ..metric::RateLimitRequest::default()
    })
}

/// What a limiter's message says. A body that is missing is an empty one, whose code is no success.
pub(crate) fn answer(response: metric::RateLimitResponse) -> LimiterAnswer {
    match RateLimitCmd::try_from(response.cmd) {
        Ok(RateLimitCmd::Init) => initialized(response.rate_limit_init_response.unwrap_or_default()),
        Ok(RateLimitCmd::BatchInit) => batch_initialized(response.rate_limit_batch_init_response.unwrap_or_default()),
        Ok(RateLimitCmd::Acquire | RateLimitCmd::BatchAcquire) => {
            acquired(&response.rate_limit_report_response.unwrap_or_default())
        }
        Err(_) => LimiterAnswer::Other,
    }
}

// === To a limiter ===

fn member(ask: &JoinQuota) -> metric::RateLimitInitRequest {
    let QuotaTarget { service, labels } = &ask.target;
    metric::RateLimitInitRequest {
        target: Some(metric::LimitTarget {
            namespace: service.namespace().to_owned(),
            service: service.service().to_owned(),
            labels: String::new(),
            labels_list: vec![labels.as_ref().to_owned()],
        }),
        client_id: String::new(),
        totals: ask.totals.iter().map(total).collect(),
        slide_count: 1,
        mode: metric::Mode::Adaptive.into(),
    }
}

fn total(total: &QuotaTotal) -> metric::QuotaTotal {
    let mode = if total.per_client { QuotaMode::Divide } else { QuotaMode::Whole };
    metric::QuotaTotal { mode: mode.into(), duration: total.seconds, max_amount: total.amount }
}

/// The message for these members, if there are any.
fn joined(client_id: &str, mut members: Vec<metric::RateLimitInitRequest>) -> Option<metric::RateLimitRequest> {
    let last = members.pop()?;
    let client_id = client_id.to_owned();
    if members.is_empty() {
        let target = last.target.map(|mut target| {
            target.labels = target.labels_list.pop().unwrap_or_default();
            target
        });
        return Some(metric::RateLimitRequest {
            cmd: RateLimitCmd::Init.into(),
            rate_limit_init_request: Some(metric::RateLimitInitRequest { target, client_id, ..last }),
            ..metric::RateLimitRequest::default()
        });
    }
    members.push(last);
    Some(metric::RateLimitRequest {
        cmd: RateLimitCmd::BatchInit.into(),
        rate_limit_batch_init_request: Some(metric::RateLimitBatchInitRequest { request: members, client_id }),
        ..metric::RateLimitRequest::default()
    })
}

// === From a limiter ===

fn initialized(response: metric::RateLimitInitResponse) -> LimiterAnswer {
    let metric::RateLimitInitResponse { code, target, client_key, counters, timestamp, .. } = response;
    let outcome = ok_or_refused(LimiterCommand::Join, code);
    let results = match (target, outcome) {
        (None, Err(refusal)) => return LimiterAnswer::Refused { refusal, timestamp, lefts: Vec::new() },
        // Nobody knows whose counters they are.
        (None, Ok(())) => Vec::new(),
        (Some(target), outcome) => {
            let labels = target.labels.as_str().into();
            let target = QuotaTarget { service: service(&target), labels };
            vec![(target, outcome.map(|()| usable(&counters)))]
        }
    };
    LimiterAnswer::Joined { client_key, timestamp, results }
}

fn batch_initialized(response: metric::RateLimitBatchInitResponse) -> LimiterAnswer {
    let metric::RateLimitBatchInitResponse { code, client_key, timestamp, result } = response;
    if let Err(refusal) = ok_or_refused(LimiterCommand::Join, code) {
        return LimiterAnswer::Refused { refusal, timestamp, lefts: Vec::new() };
    }
    let mut results = Vec::with_capacity(result.len());
    for metric::BatchInitResult { code, target, counters, .. } in result {
        let Some(target) = target else { continue };
        let service = service(&target);
        let of = |labels: &str| QuotaTarget { service: service.clone(), labels: labels.into() };
        match ok_or_refused(LimiterCommand::Join, code) {
            Ok(()) => results.extend(counters.iter().map(|of_one| (of(&of_one.labels), Ok(usable(&of_one.counters))))),
            // One that failed half-way has its labels with its counters, one that was not begun with its target.
            Err(refusal) if !counters.is_empty() => {
                results.extend(counters.iter().map(|of_one| (of(&of_one.labels), Err(refusal))));
            }
            Err(refusal) if target.labels_list.is_empty() => results.push((of(&target.labels), Err(refusal))),
            Err(refusal) => results.extend(target.labels_list.iter().map(|labels| (of(labels), Err(refusal)))),
        }
    }
    LimiterAnswer::Joined { client_key, timestamp, results }
}

fn acquired(response: &metric::RateLimitReportResponse) -> LimiterAnswer {
    let timestamp = response.timestamp;
    let lefts = response.quota_lefts.iter().filter_map(|of| left(of.counter_key, of.left, of.client_count)).collect();
    match ok_or_refused(LimiterCommand::Report, response.code) {
        Ok(()) => LimiterAnswer::Left { timestamp, lefts },
        Err(refusal) => LimiterAnswer::Refused { refusal, timestamp, lefts },
    }
}

fn ok_or_refused(command: LimiterCommand, code: u32) -> Result<(), LimiterRefusal> {
    let code = LimiterCode::new(code);
    if code.is_success() { Ok(()) } else { Err(LimiterRefusal { command, code }) }
}

fn service(target: &metric::LimitTarget) -> ServiceKey {
    ServiceKey::new(&target.namespace, &target.service)
}

fn usable(counters: &[metric::QuotaCounter]) -> Vec<QuotaCounter> {
    let counter = |of: &metric::QuotaCounter| {
        let left = left(of.counter_key, of.left, of.client_count).filter(|_| of.duration > 0)?;
        Some(QuotaCounter { seconds: of.duration, left })
    };
    counters.iter().filter_map(counter).collect()
}

/// A report with the counter key 0 ends the stream, so that there must be no such counter. This client counts too.
fn left(counter: u32, left: i64, clients: u32) -> Option<QuotaLeft> {
    (counter > 0).then_some(QuotaLeft { counter, left, clients: clients.max(1) })
}
