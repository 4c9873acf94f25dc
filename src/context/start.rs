//! What a context does in the background: begins with its first use, and runs as tasks that hold its parts, never itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Global;
use crate::context::Inner;
use crate::engine::cluster;
use crate::engine::report::{self, Reporter};
use crate::model::key::{ResourceKind, ServiceKey};
use crate::transport::Cluster;

impl Inner {
    /// What goes on in the background begins with the first use of anything.
    pub(crate) fn start(&self) {
        // Read before it is written: this is on the way of every call, and a shared line that is only read is free.
        if self.started.load(Ordering::Relaxed) || self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        if self.config.global.server_connector.addresses.is_empty() {
            return;
        }
        self.wake_on_contact();
        self.follow_clusters();
        self.report();
    }

    /// Asks a control plane something that costs it nothing, where no client report and nobody else does.
    pub(super) fn make_contact(&self, within: Duration) {
        let asks_nobody = self.config.global.server_connector.addresses.is_empty();
        if self.config.global.api.report_enable || asks_nobody || self.state().is_ready() {
            return;
        }
        let registry = self.registry.clone();
        self.scope.spawn("first-contact", async move {
            let nobodys = ServiceKey::new("Polaris", "polaris.checker").of(ResourceKind::RateLimit);
            // How it went is seen in the state.
            let _ = registry.ask_once(&nobodys, within).await;
        });
    }

    fn wake_on_contact(&self) {
        let (mut known, wake) = (self.contact.watch(), self.wake.clone());
        self.scope.spawn("contact", async move {
            while known.changed().await.is_ok() {
                wake.send_modify(|n| *n += 1);
            }
        });
    }

    fn follow_clusters(&self) {
        let Global { system, .. } = &self.config.global;
        for (cluster, named) in [
            (Cluster::Discover, &system.discover_cluster),
            (Cluster::HealthCheck, &system.health_check_cluster),
            (Cluster::Config, &system.config_cluster),
        ] {
            let Some(service) = named.key().map(ServiceKey::from) else { continue };
            let (registry, transport) = (self.registry.clone(), self.transport.clone());
            self.scope.supervise("cluster", move || {
                cluster::follow(registry.clone(), transport.clone(), cluster, service.clone())
            });
        }
    }

    fn report(&self) {
        let api = &self.config.global.api;
        if !api.report_enable {
            return;
        }
        let reporter = Reporter {
            transport: self.transport.clone(),
            location: self.location.clone(),
            contact: self.contact.clone(),
            id: report::client_id(),
            bind_ip: api.bind_ip,
            interval: api.report_interval,
            patience: api.timeout,
        };
        self.scope.supervise("client-report", move || report::report(reporter.clone()));
    }
}
