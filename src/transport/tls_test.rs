//! TLS and mutual TLS against scripted servers; needs a `tls-*` feature.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::scripted::Net;
use super::{ServerAddr, Tls, Transport, TransportOptions};
use crate::error::{ErrorKind, Result};
use crate::model::request::registration::{Heartbeat, Target};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn pem(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// A server `a`, and others beside it with the same certificate, that ask for a client certificate.
fn net() -> Net {
    net_of(&["a"])
}

fn net_of(names: &[&str]) -> Net {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(pem("server.pem"), pem("server.key")))
        .client_ca_root(Certificate::from_pem(pem("ca.pem")));
    Net::serving(names, &Server::builder().tls_config(tls).unwrap())
}

fn transport(net: &Net, tls: Option<Tls>) -> Transport {
    let addresses = vec![ServerAddr::new("a", 8091, tls.is_some())];
    Transport::new(TransportOptions { addresses, tls, ..net.options() }, &net.scope).unwrap()
}

async fn beat(transport: &Transport) -> Result<()> {
    let target: Target = Heartbeat::new(("default", "payments"), ("10.0.0.7", 8080)).target;
    transport.heartbeat(&target, Duration::from_secs(1)).await
}

fn trusting(ca: PathBuf) -> Tls {
    Tls::new().ca_file(ca).identity_files(file("client.pem"), file("client.key"))
}

#[tokio::test(start_paused = true)]
async fn both_sides_show_their_certificates() {
    let net = net();
    beat(&transport(&net, Some(trusting(file("ca.pem"))))).await.unwrap();
    assert_eq!(net.node("a").called().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_not_trusted_is_not_spoken_to() {
    for (tls, needle) in [
        (None, "connection"),
        (Some(trusting(file("other-ca.pem"))), "invalid peer certificate"),
        (Some(trusting(file("ca.pem")).server_name("elsewhere")), "not valid for name"),
        (Some(Tls::new().ca_file(file("ca.pem"))), "connection"),
    ] {
        let net = net();
        let error = beat(&transport(&net, tls.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network, "{tls:?}: {error}");
        assert!(error.to_string().contains(needle), "{error}");
        assert!(net.node("a").called().is_empty());
        net.ends().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_found_through_discovery_is_spoken_to_over_tls_like_the_configured_ones() {
    let net = net_of(&["a", "b"]);
    let transport = transport(&net, Some(trusting(file("ca.pem")).server_name("a")));
    transport.set_servers(super::Cluster::HealthCheck, vec![ServerAddr::new("b", 8091, false)]);
    beat(&transport).await.unwrap();
    assert_eq!(net.node("b").called().len(), 1);
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_limiter_is_shown_the_token_over_tls_only() {
    use super::{TokenSource, scripted::addr};

    let (secret, plain) = (net(), Net::new(&["b"]));
    for (net, server, shown) in [(&secret, ServerAddr::new("a", 8091, true), Some("s3cret")), (&plain, addr("b"), None)]
    {
        net.node(&server.host).limiter().on_clock(|| (Duration::ZERO, Ok(1)));
        let options = TransportOptions {
            addresses: vec![ServerAddr::new("a", 8091, true)],
            tls: Some(trusting(file("ca.pem"))),
            token: TokenSource::fixed("s3cret"),
            ..net.options()
        };
        let transport = Transport::new(options, &net.scope).unwrap();
        transport.limiter_time(&server, Duration::from_secs(1)).await.unwrap();
        let asked = net.node(&server.host).limiter().clock_asked();
        let tokens: Vec<_> = asked.iter().map(|metadata| metadata.get("x-polaris-token")).collect();
        assert!(!tokens.is_empty());
        for token in tokens {
            assert_eq!(token.map(|token| token.to_str().unwrap()), shown, "{server}");
        }
    }
    secret.ends().await;
    plain.ends().await;
}

/// On real time and one thread: were the file read on it, nothing would go on.
#[cfg(unix)]
#[tokio::test]
async fn a_certificate_file_that_hangs_costs_a_call_its_deadline_and_one_thread() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("ca.pem");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let net = net();
    let transport = transport(&net, Some(trusting(pipe.clone())));
    for _ in 0..3 {
        let target: Target = Heartbeat::new(("default", "payments"), ("10.0.0.7", 8080)).target;
        let error = transport.heartbeat(&target, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!((error.kind(), error.server_code()), (ErrorKind::Timeout, None), "{error}");
    }
    std::fs::write(&pipe, pem("ca.pem")).unwrap();
    net.ends().await;
}

#[tokio::test(start_paused = true)]
async fn certificates_are_read_again_for_every_connection() {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), pem("other-ca.pem")).unwrap();
    let net = net();
    let transport = transport(&net, Some(trusting(ca.path().to_owned())));
    beat(&transport).await.unwrap_err();
    std::fs::write(ca.path(), pem("ca.pem")).unwrap();
    beat(&transport).await.unwrap();
    net.ends().await;
}
