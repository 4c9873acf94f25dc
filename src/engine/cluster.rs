//! Finds the servers of a cluster through discovery, where the configuration names a system service for it.
//!
//! The bootstrap list finds the service, and stays the fall-back: an empty or unusable list never takes servers away.

use crate::model::instance::Instance;
use crate::model::key::ServiceKey;
use crate::model::server::ServerAddr;
use crate::model::service::ServiceInstances;
use crate::model::snapshot::Update;
use crate::registry::LocalRegistry;
use crate::transport::{Cluster, Transport};

/// Follows the instances of `service` and hands them to the transport as the servers of `cluster`; the transport speaks
/// to them as it does to the configured ones.
pub(crate) async fn follow(registry: LocalRegistry, transport: Transport, cluster: Cluster, service: ServiceKey) {
    let mut watch = registry.watch_instances(&service);
    while let Some(update) = watch.next().await {
        match update {
            Update::Current(instances) => {
                let servers = usable(&instances);
                tracing::info!(?cluster, %service, servers = servers.len(), "the servers of a cluster changed");
                transport.set_servers(cluster, servers);
            }
            Update::Unavailable(error) => {
                tracing::debug!(?cluster, %service, %error, "the servers of a cluster are not known anew");
            }
        }
    }
}

/// The instances that serve clients: healthy, in service, speaking gRPC. A server registers its other ports as well.
fn usable(instances: &ServiceInstances) -> Vec<ServerAddr> {
    instances
        .healthy()
        .filter(|instance| speaks_grpc(instance))
        .map(|i| ServerAddr::new(i.host(), i.port(), false))
        .collect()
}

/// Whether an instance of a system service is the port that clients speak to.
pub(super) fn speaks_grpc(instance: &Instance) -> bool {
    let named = instance.protocol();
    let protocol = if named.is_empty() { instance.metadata().get("protocol") } else { Some(named) };
    protocol == Some("grpc") && instance.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{InstanceParts, SnapshotBuilder};
    use crate::model::key::Revision;

    #[test]
    fn only_healthy_instances_that_speak_grpc_serve() {
        let mut builder = SnapshotBuilder::new(ServiceKey::new("Polaris", "polaris.discover"));
        let base = InstanceParts { host: "10.0.0.1", protocol: "grpc", ..InstanceParts::default() };
        for parts in [
            InstanceParts { id: "a", port: 1, ..base },
            InstanceParts { id: "b", port: 2, protocol: "http", ..base },
            InstanceParts { id: "c", port: 3, healthy: false, ..base },
            InstanceParts { id: "d", port: 4, isolated: true, ..base },
        ] {
            builder.push(parts, []).unwrap();
        }
        builder.push(InstanceParts { id: "e", port: 5, protocol: "", ..base }, [("protocol", "grpc")]).unwrap();
        let ports: Vec<_> = usable(&builder.finish(Revision::default(), [], None)).iter().map(|s| s.port).collect();
        assert_eq!(ports, [1, 5]);
    }
}
