//! What is done with one request: it is asked about, waits, or is refused.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use crate::api::limit::LimitHandle;
use crate::engine::quota::outcome::{Decision, Limited, Permit, QuotaError};
use crate::error;
use crate::integration::tower::labels::{Decide, Describe};
use crate::integration::tower::refusal::refusal;
use crate::model::request::quota::Quota;

/// What a layer and the services that it made share.
#[derive(Clone)]
pub(super) struct Limits {
    pub(super) handle: LimitHandle,
    /// What the user says of requests; none: nothing but what they say themselves.
    pub(super) labels: Option<Arc<dyn Describe>>,
    pub(super) on_limited: Option<Arc<OnLimited>>,
}

/// An answer of the user's to a request that is limited.
pub(super) type OnLimited = dyn Fn(&Limited, &Parts) -> Response<Bytes> + Send + Sync;

/// A request that waits: it is given back when it may be served, or else is answered.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<(Parts, Permit), Response<Bytes>>> + Send>>;

/// What becomes of a request.
pub(super) enum Asked {
    Granted(Parts, Permit),
    Queued(Wait),
    Refused(Response<Bytes>),
}

impl Limits {
    pub(super) fn ask(self: &Arc<Self>, parts: Parts) -> Asked {
        if self.handle.is_worth_waiting() {
            return Asked::Queued(Box::pin(Arc::clone(self).ask_loaded(parts)));
        }
        let decision = self.decide(&parts, &mut |quota| self.handle.check(quota));
        self.follow(parts, decision)
    }

    async fn ask_loaded(self: Arc<Self>, parts: Parts) -> Result<(Parts, Permit), Response<Bytes>> {
        let mut unknown = self.handle.wait_for_rules().await;
        let decision = self.decide(&parts, &mut |quota| self.handle.check_waited(quota, unknown.take()));
        match self.follow(parts, decision) {
            Asked::Granted(parts, permit) => Ok((parts, permit)),
            Asked::Queued(wait) => wait.await,
            Asked::Refused(response) => Err(response),
        }
    }

    fn decide(&self, parts: &Parts, decide: &mut Decide<'_>) -> error::Result<Decision> {
        match &self.labels {
            Some(labels) => labels.describe(parts, decide),
            None => decide(&Quota::new().method(parts.uri.path()).labels(parts)),
        }
    }

    fn follow(&self, parts: Parts, decision: error::Result<Decision>) -> Asked {
        let refused = match decision {
            Ok(Decision::Granted(permit)) => return Asked::Granted(parts, permit),
            Ok(Decision::Wait(ticket)) => return Asked::Queued(Box::pin(async { Ok((parts, ticket.ready().await)) })),
            Ok(Decision::Limited(limited)) => QuotaError::Limited(limited),
            Err(error) => QuotaError::Failed(error),
        };
        match (&self.on_limited, &refused) {
            (Some(answer), QuotaError::Limited(limited)) => Asked::Refused(answer(limited, &parts)),
            _ => Asked::Refused(refusal(&refused, &parts.headers)),
        }
    }
}
