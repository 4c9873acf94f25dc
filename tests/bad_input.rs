//! Whatever is wrong is a typed error that names what, where, and what would be right, within its deadline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]
#![allow(
    dropping_references,
    clippy::disallowed_methods,
    clippy::items_after_statements,
    clippy::similar_names,
    clippy::unchecked_time_subtraction,
    reason = "a test spawns what it needs to be concurrent, and reads as a story"
)]

#[path = "support/registering.rs"]
mod registering;
mod support;

use std::time::Duration;

use polarismesh::testing::{Grant, Rpc, Server};
use polarismesh::{Deregister, Error, ErrorKind, Heartbeat, Register, SdkContext, TokenSource};
use registering::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// The error and all of its sources, as a log would show them.
fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Registers against `address` and expects a failure within the deadline of the call, and a clean end.
async fn refused(address: &str) -> Error {
    let context = SdkContext::builder().address(address).build().unwrap();
    let begun = Instant::now();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert!(begun.elapsed() <= SECOND + SECOND / 2, "{:?}", begun.elapsed());
    assert_eq!(error.address(), Some(address), "{error}");
    assert_eq!(error.service(), Some("default/payments"));
    // Nothing is wanted any more: there is little to end.
    let _ = context.shutdown(2 * SECOND).await;
    error
}

#[tokio::test]
async fn an_unknown_host() {
    let error = refused("no-such-host.invalid:8091").await;
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(whole(&error).contains("no-such-host.invalid"), "{}", whole(&error));
}

#[tokio::test]
async fn a_refused_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = refused(&address).await;
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(whole(&error).contains("refused"), "{}", whole(&error));
}

#[tokio::test]
async fn a_port_that_speaks_http_1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 24];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            // As servers do that close in order: what the client still sends is taken until it goes.
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
        }
    };
    let error = tokio::select! {
        error = refused(&address) => error,
        () = serve => unreachable!(),
    };
    assert_eq!(error.kind(), ErrorKind::Network, "{}", whole(&error));
    assert!(whole(&error).contains("HTTP"), "{}", whole(&error));
}

#[tokio::test]
async fn a_port_that_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = refused(&listener.local_addr().unwrap().to_string()).await;
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Network), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_deadline() {
    let server = Server::in_memory();
    server.on(Rpc::Register).hang();
    let context = server.builder().set("global.api.timeout", "300ms").build().unwrap();
    let begun = Instant::now();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true));
    assert!(begun.elapsed() <= Duration::from_millis(400));
    assert!(error.to_string().contains(server.address()) && error.elapsed().is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_is_named_nowhere() {
    let server = Server::in_memory();
    server.token("right", Grant::Administrator).token("powerless", Grant::NoPermission).token("off", Grant::Disabled);
    for token in ["wr0ng-s3cret", "powerless", "off", ""] {
        let context = server.builder().token(token).build().unwrap();
        for error in [
            context.provider().register(at(1)).await.unwrap_err(),
            context.provider().deregister(Deregister::new(key(), (HOST, 1))).await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unauthorized, false), "{error}");
            assert_eq!(error.server_code().unwrap().get() / 1000, 401);
            assert!(token.is_empty() || !format!("{error:?} {}", whole(&error)).contains(token), "{error}");
        }
        context.shutdown(SECOND).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_file_that_is_not_there() {
    let server = Server::in_memory();
    let context = server.builder().token(TokenSource::file("/no/such/token")).build().unwrap();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("/no/such/token"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_no_place_to_register() {
    let server = Server::in_memory();
    server.service(("default", "source")).create();
    server.service(key()).alias_of(("default", "source"));
    let context = server.context().unwrap();
    let error = context.provider().register(at(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.server_code().unwrap().get()), (ErrorKind::InvalidArgument, 400_000));
    assert!(error.to_string().contains("alias"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_is_out_of_bounds_is_never_sent() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let provider = context.provider();
    let to = |namespace: &str, service: &str| Register::new((namespace, service), (HOST, 1));
    let many = (0..65).fold(at(1), |register, n| register.metadata(n.to_string(), ""));
    for (register, needle) in [
        (to("default", ""), "service"),
        (to("", "payments"), "namespace"),
        (to("default", "pay ments"), "pay ments"),
        (to("default", "zahlung€n"), "zahlung€n"),
        (to("de\nfault", "payments"), "namespace"),
        (to("default", &"s".repeat(129)), "128"),
        (to(&"n".repeat(65), "payments"), "64"),
        (at(0), "port"),
        (Register::new(key(), (&*"h".repeat(129), 1)), "128"),
        (at(1).weight(65_536), "65535"),
        (at(1).ttl(Duration::ZERO), "60 s"),
        (at(1).ttl(Duration::from_secs(61)), "60 s"),
        (at(1).ttl(Duration::from_millis(2500)), "whole seconds"),
        (at(1).drain(Duration::MAX), "10 minutes"),
        (at(1).metadata("k".repeat(129), ""), "128"),
        (at(1).metadata("k", "v".repeat(4097)), "4096"),
        (at(1).protocol("p".repeat(33)), "32"),
        (at(1).version("v".repeat(33)), "32"),
        (at(1).id(""), "id"),
        (many, "64"),
    ] {
        let error = provider.register(register.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(needle), "{needle}: {error}");
        assert_eq!(provider.register_in_background(register).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    for error in [
        provider.deregister(Deregister::new(("default", "pay ments"), (HOST, 1))).await.unwrap_err(),
        provider.deregister(Deregister::new(key(), (HOST, 0))).await.unwrap_err(),
        provider.heartbeat(Heartbeat::new(("", "payments"), (HOST, 1))).await.unwrap_err(),
        provider.heartbeat(Heartbeat::new(key(), (HOST, 0))).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(order(&server), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_just_within_bounds_is_accepted() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let mut full = Register::new((&*"n".repeat(64), &*"s".repeat(128)), ("h".repeat(128).as_str(), 65_535))
        .weight(65_535)
        .ttl(Duration::from_secs(60))
        .protocol("p".repeat(32))
        .version("v".repeat(32))
        .drain(Duration::from_secs(600))
        .metadata("k".repeat(128), "v".repeat(4096));
    for n in 1..64 {
        full = full.metadata(n.to_string(), "");
    }
    context.provider().register(full).await.unwrap();
    context.provider().register(at(1).weight(0).ttl(SECOND)).await.unwrap();
}

#[test]
fn a_context_outside_of_a_runtime() {
    let error = SdkContext::builder().address("127.0.0.1:8091").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("runtime(handle)"), "{error}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used() {
    let error = SdkContext::builder().address("no port:here").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("no port:here"), "{error}");
    let error = SdkContext::builder().address("h:1").set("provider.drain", "1h").build().unwrap_err();
    assert!(error.to_string().contains("provider.drain"), "{error}");
    let error = SdkContext::builder().address("h:1").set("provider.drian", "1s").build().unwrap_err();
    assert!(error.to_string().contains("provider.drian"), "{error}");
}

#[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc")))]
#[tokio::test]
async fn tls_without_the_feature_is_never_plaintext() {
    let error = SdkContext::builder().address("h:1").tls(polarismesh::Tls::new()).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("tls-"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_make_no_sense() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let provider = context.provider();
    let attempt = async || {
        let begun = Instant::now();
        let error = provider.register(at(1)).await.unwrap_err();
        assert!(begun.elapsed() <= SECOND + SECOND / 10, "{:?}", begun.elapsed());
        server.clear_faults();
        pass(30 * SECOND).await;
        error
    };
    server.on(Rpc::Register).answer(999_999);
    let error = attempt().await;
    assert_eq!((error.kind(), error.server_code().unwrap().get()), (ErrorKind::Server, 999_999));
    server.on(Rpc::Register).garbage();
    assert!(!whole(&attempt().await).is_empty());
    server.on(Rpc::Register).end_stream();
    assert!(!whole(&attempt().await).is_empty());
    server.on(Rpc::Register).close_midway();
    assert_eq!(attempt().await.kind(), ErrorKind::Network);
    server.on(Rpc::Register).pad(60 << 20);
    assert_eq!(attempt().await.kind(), ErrorKind::Server, "too large");
    server.on(Rpc::Register).status(12, "");
    assert_eq!(attempt().await.kind(), ErrorKind::Unsupported);
    // No instance in the answer: the id is not told, and the instance is registered all the same.
    server.on(Rpc::Register).answer_bare(200_000);
    let registration = provider.register(at(1)).await.unwrap();
    server.clear_faults();
    registration.update(|wanted| drop(wanted.set_weight(1))).await.unwrap();
    pass(4 * TTL).await;
    assert_eq!(name(&registration.state()), "registered");
    assert!(seen(&server, 1).unwrap().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_change_leaves_the_registration_as_it_was() {
    let server = Server::in_memory();
    let context = server.context().unwrap();
    let registration = context.provider().register(at(1).weight(5)).await.unwrap();
    let changing = registration.clone();
    let panicked = tokio::task::spawn(async move {
        changing
            .update(|wanted| {
                wanted.set_weight(6);
                panic!("planned");
            })
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    registration.update(|wanted| drop(wanted.set_metadata("a", "b"))).await.unwrap();
    assert_eq!(seen(&server, 1).unwrap().get_weight(), 5);
}
