//! What a limiter refuses, in its order, and the codes of its own that it says so with.

use crate::pb::metric;

pub(super) const OK: u32 = 200_000;
pub(super) const NO_COUNTER_KEY: u32 = 400_214;
pub(super) const TOO_MANY_CLIENTS: u32 = 401_102;
pub(super) const OTHER_CLIENT: u32 = 401_103;
pub(super) const COUNTER_GONE: u32 = 404_001;

const SERVICE: u32 = 400_201;
const NAMESPACE: u32 = 400_202;
const CLIENT_ID: u32 = 400_203;
const TOTALS: u32 = 400_204;
const DURATION: u32 = 400_205;
const SLIDES: u32 = 400_206;
const MODE: u32 = 400_207;
const LABELS: u32 = 400_208;
const BATCH: u32 = 400_209;
const USES: u32 = 400_211;
const TIMESTAMP: u32 = 400_212;
const CLIENT_KEY: u32 = 400_213;

/// The finest steps that a window slides in.
const MOST_SLIDES: u32 = 10;

pub(super) fn init(request: &metric::RateLimitInitRequest) -> Result<(), u32> {
    if request.client_id.is_empty() { Err(CLIENT_ID) } else { member(request) }
}

pub(super) fn batch(request: &metric::RateLimitBatchInitRequest) -> Result<(), u32> {
    match () {
        () if request.request.is_empty() => Err(BATCH),
        () if request.client_id.is_empty() => Err(CLIENT_ID),
        () => Ok(()),
    }
}

/// One of those that are joined at once.
pub(super) fn batch_member(request: &metric::RateLimitInitRequest) -> Result<(), u32> {
    let labels = request.target.as_ref().map_or(0, |target| target.labels_list.len());
    if labels == 0 { Err(LABELS) } else { member(request) }
}

fn member(request: &metric::RateLimitInitRequest) -> Result<(), u32> {
    let named = |name: fn(&metric::LimitTarget) -> &String| {
        request.target.as_ref().is_some_and(|target| !name(target).is_empty())
    };
    let served = [metric::Mode::Adaptive as i32, metric::Mode::BatchOccupy as i32];
    match () {
        () if !named(|target| &target.service) => Err(SERVICE),
        () if !named(|target| &target.namespace) => Err(NAMESPACE),
        () if request.totals.is_empty() => Err(TOTALS),
        () if request.totals.iter().any(|total| total.duration == 0) => Err(DURATION),
        () if request.slide_count > MOST_SLIDES => Err(SLIDES),
        () if !served.contains(&request.mode) => Err(MODE),
        () => Ok(()),
    }
}

/// The key of the client is not looked at, as long as there is one.
pub(super) fn report(request: &metric::RateLimitReportRequest) -> Result<(), u32> {
    match () {
        () if request.client_key == 0 => Err(CLIENT_KEY),
        () if request.timestamp == 0 => Err(TIMESTAMP),
        () if request.quota_uses.is_empty() => Err(USES),
        () if request.quota_uses.iter().any(|quota| quota.counter_key == 0) => Err(NO_COUNTER_KEY),
        () => Ok(()),
    }
}
