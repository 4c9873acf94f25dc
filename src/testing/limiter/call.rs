//! What of a call to a limiter is of interest.

use std::time::Duration;

use prost::Message;

use super::LimitUse;
use crate::model::key::ServiceKey;
use crate::pb::metric;
use crate::testing::record::{Call, Rpc};

/// Calls to a limiter.
impl Call {
    /// The id that a client gives itself where it joins counters.
    #[must_use]
    pub fn limit_client(&self) -> Option<String> {
        let request = self.limit_request()?;
        let single = request.rate_limit_init_request.map(|body| body.client_id);
        single.or_else(|| request.rate_limit_batch_init_request.map(|body| body.client_id))
    }

    /// The labels of the counters that a client joins; one text for each set of labels.
    #[must_use]
    pub fn limit_labels(&self) -> Vec<String> {
        let targets = self.limit_targets();
        let labels = |target: metric::LimitTarget| {
            if target.labels_list.is_empty() { vec![target.labels] } else { target.labels_list }
        };
        targets.into_iter().flat_map(labels).collect()
    }

    /// What is reported, counter by counter.
    #[must_use]
    pub fn limit_uses(&self) -> Vec<LimitUse> {
        let uses = self.limit_request().and_then(|request| request.rate_limit_report_request);
        let one =
            |quota: metric::QuotaSum| LimitUse { key: quota.counter_key, used: quota.used, limited: quota.limited };
        uses.into_iter().flat_map(|report| report.quota_uses).map(one).collect()
    }

    /// The moment that is reported for, on what the client takes for the limiter's clock, since the Unix epoch.
    #[must_use]
    pub fn limit_time(&self) -> Option<Duration> {
        let millis = self.limit_request()?.rate_limit_report_request?.timestamp;
        u64::try_from(millis).ok().map(Duration::from_millis)
    }

    /// Whether several rules are joined, or several counters reported, by the command that is meant for it.
    #[must_use]
    pub fn is_limit_batch(&self) -> bool {
        let batch = [metric::RateLimitCmd::BatchInit as i32, metric::RateLimitCmd::BatchAcquire as i32];
        self.limit_request().is_some_and(|request| batch.contains(&request.cmd))
    }

    /// The service whose counters it is about; the first, if there are several.
    pub(in crate::testing) fn limited_service(&self) -> Option<ServiceKey> {
        let target = self.limit_targets().into_iter().next();
        target.map(|target| ServiceKey::new(target.namespace, target.service)).or_else(|| self.counted.clone())
    }

    fn limit_targets(&self) -> Vec<metric::LimitTarget> {
        let Some(request) = self.limit_request() else { return Vec::new() };
        let single = request.rate_limit_init_request.into_iter();
        let batch = request.rate_limit_batch_init_request.into_iter().flat_map(|body| body.request);
        single.chain(batch).filter_map(|body| body.target).collect()
    }

    fn limit_request(&self) -> Option<metric::RateLimitRequest> {
        let is_limit = matches!(self.rpc, Rpc::LimitInit | Rpc::LimitAcquire);
        is_limit.then(|| metric::RateLimitRequest::decode(self.body.as_slice()).ok()).flatten()
    }
}
