//! Discovery: all resources of a context over one stream to one server of the discover cluster.
//!
//! Problem: a server answers in the order of the questions, never pushes, leaves type and service out of some errors,
//! and streams die in every way. Choice: one worker owns the stream and all that changes with it; what it is to keep fed
//! is a *set*, which handles change and the worker catches up with, so that commands are bounded and never lost; every
//! decision "which key, when, what now" is in [`schedule`], which is pure. Invariant: a wanted key is asked for again
//! whatever happens to streams and servers, and the sink hears every answer of a wanted key, in order, from one task.

mod capability;
mod codec;
mod desired;
mod edges;
mod schedule;
mod session;
mod slot;
mod stream;
mod worker;
#[cfg(test)]
mod worker_test;

use std::sync::Arc;

use crate::error::Error;
use crate::model::key::{Revision, ServiceEventKey};
use crate::model::snapshot::Answer;
use crate::transport::Inner;

pub(crate) use self::desired::DiscoverHandle;

/// Takes what the control plane says. Implemented above, by the registry.
pub(crate) trait ResourceSink: Send + Sync + 'static {
    /// The revision to present for `key`: that of the newest answer taken, held-back ones included; empty if none.
    fn revision(&self, key: &ServiceEventKey) -> Revision;

    /// One answer. Never blocks. Returns whether the content changed: such keys are polled more often for a while.
    fn apply(&self, key: &ServiceEventKey, answer: Answer) -> bool;

    /// The link to the discover cluster changed; edges only.
    fn link(&self, link: LinkState);
}

/// How the link to the discover cluster stands.
#[derive(Debug, Clone)]
pub(crate) enum LinkState {
    /// The first connection is being made.
    Connecting,
    /// `server` answers.
    Up { server: Arc<str> },
    /// No server answers. Said again when the kind of error changes.
    Down { server: Option<Arc<str>>, error: Error },
}

/// Starts the worker. It holds the sink, and no handle.
pub(super) fn start(transport: &Arc<Inner>, sink: Arc<dyn ResourceSink>) -> DiscoverHandle {
    let (handle, desired) = desired::pair();
    let scope = transport.pool.scope().clone();
    let transport = Arc::clone(transport);
    scope.supervise("discover", move || {
        worker::Worker::new(Arc::clone(&transport), Arc::clone(&desired), Arc::clone(&sink)).run()
    });
    handle
}
