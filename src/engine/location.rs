//! Where this client runs: from the configuration, else what the control plane answered to a client report.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::model::location::Location;

/// The location of the client, shared by all parts that need it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LocationCell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What the configuration says: it wins over what servers say.
    configured: Location,
    current: ArcSwap<Location>,
    changed: watch::Sender<()>,
}

impl LocationCell {
    pub(crate) fn new(configured: Location) -> Self {
        let current = ArcSwap::from_pointee(configured.clone());
        Self(Arc::new(Inner { configured, current, changed: watch::Sender::new(()) }))
    }

    /// The location as it is known now; empty levels are unknown.
    pub(crate) fn load(&self) -> Arc<Location> {
        self.0.current.load_full()
    }

    /// What the configuration says, for the report to the server.
    pub(crate) fn configured(&self) -> &Location {
        &self.0.configured
    }

    /// Takes what a server answered; without effect where the configuration names a location.
    pub(crate) fn learn(&self, from_server: Location) {
        if !self.0.configured.is_empty() || **self.0.current.load() == from_server {
            return;
        }
        tracing::info!(location = %from_server, "the control plane told this client's location");
        self.0.current.store(Arc::new(from_server));
        self.0.changed.send_replace(());
    }

    /// Wakes when the location changed.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_location_wins_over_what_servers_say() {
        let configured = LocationCell::new(Location::new("r", "", ""));
        configured.learn(Location::new("other", "z", ""));
        assert_eq!(configured.load().region, "r");

        let unknown = LocationCell::new(Location::default());
        let mut changed = unknown.changed();
        changed.mark_unchanged();
        unknown.learn(Location::new("told", "z", "c"));
        assert_eq!((unknown.load().zone.as_str(), changed.has_changed().unwrap()), ("z", true));
    }
}
