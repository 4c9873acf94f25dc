//! From the configuration to the plain values that the parts are made of.

use std::sync::Arc;

use crate::config::{Config, ServerConnector};
use crate::model::server::ServerAddr;
use crate::transport::{Tls, TokenSource, TransportOptions};
use crate::util::connect::Connector;

/// What the builder was told beside the configuration.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) token: Option<TokenSource>,
    pub(super) tls: Option<Tls>,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) exact_clock: bool,
}

pub(super) fn transport(config: &Config, given: Given) -> TransportOptions {
    let connector = &config.global.server_connector;
    let api = &config.global.api;
    let tls = given.tls.or_else(|| connector.uses_tls().then(|| tls_of(connector)));
    let speaks_tls = tls.is_some();
    TransportOptions {
        addresses: connector
            .addresses
            .iter()
            .map(|address| ServerAddr::new(address.host(), address.port(), speaks_tls))
            .collect(),
        connect_timeout: connector.connect_timeout,
        message_timeout: connector.message_timeout,
        max_retries: api.max_retry_times,
        retry_interval: api.retry_interval,
        switch_interval: connector.server_switch_interval,
        reconnect_base: connector.reconnect_interval,
        idle_timeout: connector.connection_idle_timeout,
        max_message_size: connector.plugin.grpc.max_call_recv_msg_size,
        refresh_interval: config.consumer.local_cache.service_refresh_interval,
        bind_ip: api.bind_ip,
        token: given.token.unwrap_or_else(|| token_of(connector)),
        tls,
        connector: given.connector,
    }
}

fn token_of(connector: &ServerConnector) -> TokenSource {
    match (&connector.token, &connector.token_file) {
        (Some(token), _) => TokenSource::fixed(token.expose()),
        (None, Some(path)) => TokenSource::file(path),
        (None, None) => TokenSource::fixed(""),
    }
}

fn tls_of(connector: &ServerConnector) -> Tls {
    let mut tls = Tls::new();
    tls = match &connector.trusted_ca_file {
        Some(path) => tls.ca_file(path),
        None => tls.system_roots(),
    };
    if let (Some(certificate), Some(key)) = (&connector.cert_file, &connector.key_file) {
        tls = tls.identity_files(certificate, key);
    }
    if let Some(name) = &connector.tls_server_name {
        tls = tls.server_name(name);
    }
    tls
}
