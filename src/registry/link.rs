//! The link to the discover cluster, as the entries see it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::error::Error;
use crate::transport::discover::LinkState;

/// The newest state of the link, shared by all entries.
#[derive(Debug)]
pub(super) struct Link(ArcSwap<View>);

#[derive(Debug)]
pub(super) struct View {
    pub(super) state: LinkState,
    pub(super) since: Instant,
    /// The loss that is not mended yet. A try to connect again does not end it.
    pub(super) lost: Option<Error>,
    /// Counts losses, so that each watch tells each of them once.
    pub(super) losses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    Up,
    /// Up after it had been lost.
    Restored,
    Lost,
    /// Still lost, for another reason.
    Otherwise,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self(ArcSwap::from_pointee(View { state: LinkState::Connecting, since: now, lost: None, losses: 0 }))
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.0.load_full()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.0.load().lost.is_some()
    }

    /// The server that the link leads to, or last led to.
    pub(super) fn server(&self) -> Option<Arc<str>> {
        match &self.0.load().state {
            LinkState::Up { server } => Some(Arc::clone(server)),
            LinkState::Down { server, .. } => server.clone(),
            LinkState::Connecting => None,
        }
    }

    /// Called by the one writer only.
    pub(super) fn set(&self, state: LinkState, now: Instant) -> Option<Edge> {
        let old = self.0.load();
        let (lost, edge) = match (&state, &old.state) {
            (LinkState::Up { .. }, _) if old.lost.is_some() => (None, Some(Edge::Restored)),
            (LinkState::Up { .. }, LinkState::Up { .. }) => (None, None),
            (LinkState::Up { .. }, _) => (None, Some(Edge::Up)),
            (LinkState::Down { error, .. }, _) => {
                let edge = match &old.lost {
                    None => Some(Edge::Lost),
                    Some(known) => (known.kind() != error.kind()).then_some(Edge::Otherwise),
                };
                (Some(error.clone()), edge)
            }
            (LinkState::Connecting, _) => (old.lost.clone(), None),
        };
        let losses = old.losses + u64::from(edge == Some(Edge::Lost));
        let since = if matches!(edge, None | Some(Edge::Otherwise)) { old.since } else { now };
        self.0.store(Arc::new(View { state, since, lost, losses }));
        edge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_loss_is_one_edge_however_often_connecting_fails() {
        let link = Link::new(Instant::now());
        let set = |state| link.set(state, Instant::now());
        let up = || LinkState::Up { server: "a:1".into() };
        let down = || LinkState::Down { server: None, error: Error::new(ErrorKind::Network, "refused") };
        assert_eq!((set(up()), set(up())), (Some(Edge::Up), None));
        assert_eq!((set(down()), set(LinkState::Connecting), set(down())), (Some(Edge::Lost), None, None));
        assert!(link.is_lost());
        assert_eq!((set(LinkState::Connecting), set(up())), (None, Some(Edge::Restored)));
        assert!(!link.is_lost());
        assert_eq!(set(down()), Some(Edge::Lost));
        assert_eq!(link.view().losses, 2);
    }
}
