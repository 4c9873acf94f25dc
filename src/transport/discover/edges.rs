//! Tells the sink, and the log, when the link comes and goes: edges only.

use std::sync::Arc;

use super::{LinkState, ResourceSink};
use crate::error::{Error, ErrorKind};

/// What was told last.
pub(super) struct Edges {
    sink: Arc<dyn ResourceSink>,
    told: Told,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Connecting,
    Up(Arc<str>),
    Down(ErrorKind),
}

impl Edges {
    pub(super) fn new(sink: Arc<dyn ResourceSink>) -> Self {
        Self { sink, told: Told::Nothing }
    }

    /// A connection is being made; news only if it is the first.
    pub(super) fn connecting(&mut self) {
        if self.told == Told::Nothing {
            self.told = Told::Connecting;
            self.sink.link(LinkState::Connecting);
        }
    }

    /// `server` answers.
    pub(super) fn up(&mut self, server: &Arc<str>) {
        if matches!(&self.told, Told::Up(told) if told == server) {
            return;
        }
        if matches!(self.told, Told::Down(_)) {
            tracing::info!(%server, "discovery works again");
        }
        self.told = Told::Up(Arc::clone(server));
        self.sink.link(LinkState::Up { server: Arc::clone(server) });
    }

    /// No server answers.
    pub(super) fn down(&mut self, server: Option<Arc<str>>, error: &Error) {
        if self.told == Told::Down(error.kind()) {
            return;
        }
        if !matches!(self.told, Told::Down(_)) {
            tracing::warn!(%error, "discovery does not work; what is known stays in use");
        }
        self.told = Told::Down(error.kind());
        self.sink.link(LinkState::Down { server, error: error.clone() });
    }
}
