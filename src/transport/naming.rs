//! Register, deregister, heartbeat, report of this client.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Result, ServerCode};
use crate::model::instance::{InstanceAddr, InstanceId};
use crate::model::location::Location;
use crate::model::request::registration::{ClientReport, Registrant, Target};
use crate::pb::v1;
use crate::transport::Transport;
use crate::transport::auth::Operation;
use crate::transport::clusters::Cluster;
use crate::transport::rpc::Call;
use crate::wire::instance::{registered_id, reported_location};
use crate::wire::request;

impl Transport {
    /// Registers the instance, or replaces its registration. `background` says that the application does not wait for
    /// it: a re-registration after lost heartbeats.
    pub(crate) async fn register(
        &self,
        instance: &Registrant,
        background: bool,
        within: Duration,
    ) -> Result<InstanceId> {
        let key = &instance.register.key;
        let call = Call { background, ..about(Operation::Register, key.text(), within, registered) };
        let message = message_of(instance);
        let response = self
            .0
            .unary(
                &call,
                || message.clone(),
                |mut client, request| async move { client.register_instance(request).await },
            )
            .await?;
        let id = registered_id(&response).or(message.id.as_deref()).unwrap_or_default();
        Ok(InstanceId::new(key.clone(), id))
    }

    /// Removes the instance; one that is not there is removed.
    pub(crate) async fn deregister(&self, target: &Target, within: Duration) -> Result<()> {
        let call = about(Operation::Deregister, target.key.text(), within, deregistered);
        self.0
            .unary(
                &call,
                || request::target(target),
                |mut client, request| async move { client.deregister_instance(request).await },
            )
            .await
            .map(|_| ())
    }

    /// Beats once. A server that stays silent is left after half of `within`, and the beat goes to another one.
    pub(crate) async fn heartbeat(&self, target: &Target, within: Duration) -> Result<()> {
        let call = Call {
            cluster: Cluster::HealthCheck,
            urgent: true,
            ..about(Operation::Heartbeat, target.key.text(), within, ServerCode::is_success)
        };
        self.0
            .unary(
                &call,
                || request::target(target),
                |mut client, request| async move { client.heartbeat(request).await },
            )
            .await
            .map(|_| ())
    }

    /// Tells the control plane of this client; the location that it knows for the client's host, if it knows one.
    pub(crate) async fn report_client(&self, client: &ClientReport, within: Duration) -> Result<Option<Location>> {
        let call = Call { service: None, ..about(Operation::ReportClient, "".into(), within, reported) };
        let response = self
            .0
            .unary(
                &call,
                || request::client(&client.host, &client.id, &client.location),
                |mut client, request| async move { client.report_client(request).await },
            )
            .await?;
        Ok(reported_location(&response))
    }
}

fn message_of(instance: &Registrant) -> v1::Instance {
    let Registrant { register, host, location, isolated } = instance;
    let at = InstanceAddr::new(host.clone(), register.at.port());
    // Without a word on isolation the server keeps what people at the console have set.
    request::register(register, &at, location, *isolated)
}

fn about(operation: Operation, service: Arc<str>, within: Duration, accepts: fn(ServerCode) -> bool) -> Call {
    let cluster = Cluster::Discover;
    Call { operation, cluster, service: Some(service), within, urgent: false, background: false, accepts }
}

/// Registering again what is registered is a success by another name.
fn registered(code: ServerCode) -> bool {
    code.is_success() || code == ServerCode::EXISTED_RESOURCE
}

/// What is not there is deregistered, whichever part of it is missing.
fn deregistered(code: ServerCode) -> bool {
    code.is_success() || code.is_service_not_found()
}

/// Servers that know nothing of the host, or keep no health, say so with a code of their own: there is no location.
fn reported(code: ServerCode) -> bool {
    code.is_success() || matches!(code.get(), 404_001 | 400_140 | 400_143)
}
