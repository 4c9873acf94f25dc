//! What a client and a limiter say to each other about global quotas.

use std::sync::Arc;

use crate::model::key::ServiceKey;

/// What a limiter counts: the calls of one service that have one text of labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct QuotaTarget {
    pub(crate) service: ServiceKey,
    /// `method|TYPE:key:value|…`, the same text in every SDK.
    pub(crate) labels: Arc<str>,
}

/// How much of it there is in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuotaTotal {
    pub(crate) seconds: u32,
    pub(crate) amount: u32,
    /// The amount is that of each client rather than of all together.
    pub(crate) per_client: bool,
}

/// The wish to count along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinQuota {
    pub(crate) target: QuotaTarget,
    pub(crate) totals: Vec<QuotaTotal>,
}

/// One counter of a target that was joined: its key is the limiter's, and means nothing to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuotaCounter {
    pub(crate) seconds: u32,
    pub(crate) left: QuotaLeft,
}

/// What is left of a counter in the limiter's current window. Below zero where clients took more than there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuotaLeft {
    pub(crate) counter: u32,
    pub(crate) left: i64,
    /// How many clients share it.
    pub(crate) clients: u32,
}

/// What this client granted and refused since its last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuotaUse {
    pub(crate) counter: u32,
    pub(crate) used: u32,
    pub(crate) limited: u32,
}
