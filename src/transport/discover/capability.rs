//! Which kinds of resource the server at hand serves. Pure.

use std::collections::{HashMap, HashSet};

use crate::model::key::ResourceKind;

/// What is known of one server. Kinds that every server serves are not probed: without a service, some of them end the
/// stream.
#[derive(Debug, Default)]
pub(super) struct Capabilities {
    server: String,
    learnt: HashMap<ResourceKind, bool>,
    probing: HashSet<ResourceKind>,
    /// Kinds over whose probe a stream to this server died.
    blamed: HashSet<ResourceKind>,
}

impl Capabilities {
    /// Whether the server serves the kind; `None` where that must be probed.
    pub(super) fn of(&self, kind: ResourceKind) -> Option<bool> {
        self.learnt.get(&kind).copied().or(if kind.is_newer() { None } else { Some(true) })
    }

    /// Whether a probe is to be sent now: one at a time a kind.
    pub(super) fn probing(&mut self, kind: ResourceKind) -> bool {
        self.probing.insert(kind)
    }

    pub(super) fn learn(&mut self, kind: ResourceKind, served: bool) {
        self.probing.remove(&kind);
        self.learnt.insert(kind, served);
    }

    /// A new stream: a server that came back may be a newer one. Only what killed a stream to it stays unasked.
    pub(super) fn connected(&mut self, server: &str) {
        if self.server != server {
            server.clone_into(&mut self.server);
            self.blamed.clear();
        }
        self.probing.clear();
        self.learnt = self.blamed.iter().map(|kind| (*kind, false)).collect();
    }

    pub(super) fn blame(&mut self, kind: ResourceKind) {
        self.blamed.insert(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kinds_are_probed_once_and_again_on_every_stream() {
        let mut known = Capabilities::default();
        known.connected("a:1");
        assert_eq!((known.of(ResourceKind::Instances), known.of(ResourceKind::Lane)), (Some(true), None));
        assert!(known.probing(ResourceKind::Lane) && !known.probing(ResourceKind::Lane));
        known.learn(ResourceKind::Lane, false);
        assert_eq!(known.of(ResourceKind::Lane), Some(false));
        known.connected("a:1");
        assert_eq!(known.of(ResourceKind::Lane), None);
    }

    #[test]
    fn a_probe_that_killed_a_stream_is_not_sent_to_that_server_again() {
        let mut known = Capabilities::default();
        known.connected("a:1");
        known.blame(ResourceKind::Lane);
        known.connected("a:1");
        assert_eq!(known.of(ResourceKind::Lane), Some(false));
        known.connected("b:1");
        assert_eq!(known.of(ResourceKind::Lane), None);
    }
}
