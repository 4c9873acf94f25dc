use std::time::Duration;

use super::*;
use crate::testing::{Rpc, instance};

#[tokio::test]
async fn over_tcp_it_is_the_same_server() {
    let server = Server::listen("127.0.0.1:0").await.unwrap();
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1)]);
    let mut stream = Discovery::open(&server).await;
    assert_eq!(hosts(&stream.ask(question(Kind::Instance, "shop", "orders")).await), ["10.0.0.1"]);
    let peer = server.peer().await.unwrap();
    assert_ne!(peer.address(), server.address());
    let mut stream = Discovery::open(&peer).await;
    assert_eq!(hosts(&stream.ask(question(Kind::Instance, "shop", "orders")).await), ["10.0.0.1"]);
    assert_eq!((server.calls().len(), peer.calls().len()), (1, 1));
    let error = Server::listen(server.address()).await.unwrap_err();
    assert!(error.to_string().contains(server.address()), "{error}");
    server.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test]
async fn a_refused_port_is_free_and_taken_again() {
    let server = Server::listen("127.0.0.1:0").await.unwrap();
    let mut client = client(&server);
    client.heartbeat(v1::Instance::default()).await.unwrap();
    server.refuse_connections(true);
    server.close_connections();
    server.wait_until(|server| server.open_connections() == 0).await.unwrap();
    let refused = async {
        while tokio::net::TcpStream::connect(server.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(client.heartbeat(v1::Instance::default()).await.unwrap_err().code(), tonic::Code::Unavailable);
    server.start();
    let back = async {
        while client.heartbeat(v1::Instance::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
    server.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_server_ends_its_streams_and_comes_back() {
    let server = Server::in_memory();
    let mut stream = Discovery::open(&server).await;
    stream.ask(question(Kind::Services, "", "")).await;
    server.stop();
    assert_eq!(stream.next().await.unwrap_err().code(), tonic::Code::Unavailable);
    server.wait_until(|server| server.open_connections() == 0).await.unwrap();
    let mut client = client(&server);
    assert_eq!(client.heartbeat(v1::Instance::default()).await.unwrap_err().code(), tonic::Code::Unavailable);
    server.start();
    assert_eq!(client.heartbeat(v1::Instance::default()).await.unwrap().into_inner().code, Some(400_120));
    assert_eq!(server.total_connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_server_knows_nothing_but_what_every_server_starts_with() {
    let server = Server::in_memory();
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1)]);
    let mut stream = Discovery::open(&server).await;
    let before = stream.ask(question(Kind::Instance, "shop", "orders")).await;
    server.wipe();
    assert_eq!(stream.ask(question(Kind::Instance, "shop", "orders")).await.code, Some(400_202));
    assert_eq!(server.instances(("Polaris", "polaris.checker")).len(), 1);
    // The same content after the loss is another state.
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1)]);
    let after = stream.ask(knowing(question(Kind::Instance, "shop", "orders"), revision(&before))).await;
    assert_eq!(after.code, Some(200_000));
}

#[tokio::test(start_paused = true)]
async fn shutting_down_leaves_no_task_and_no_connection() {
    let server = Server::in_memory();
    let mut stream = Discovery::open(&server).await;
    stream.ask(question(Kind::Services, "", "")).await;
    let scope = server.node.scope().clone();
    assert!(!scope.alive().is_empty());
    server.shutdown().await;
    assert_eq!(scope.alive(), Vec::<&str>::new());
    assert!(stream.next().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_server_leaves_no_task_either() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    for _ in 0..10 {
        let server = Server::in_memory();
        let mut stream = Discovery::open(&server).await;
        stream.ask(question(Kind::Services, "", "")).await;
        drop(server);
        assert!(stream.next().await.is_err());
    }
    let ended = async {
        while alive() > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), ended).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_reaches_who_ends_the_server() {
    let server = Server::in_memory();
    server.on(Rpc::Heartbeat).when(|_| panic!("planned")).hang();
    let failed = client(&server).heartbeat(v1::Instance::default()).await.unwrap_err();
    assert_eq!(failed.code(), tonic::Code::Internal);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(server)));
    assert_eq!(ended.unwrap_err().downcast_ref::<&str>(), Some(&"planned"));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_what_does_not_come_ends_with_an_error() {
    let server = Server::in_memory();
    let error = server.wait_for(|calls| !calls.is_empty()).await.unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Timeout);
    let error = server.wait_until(|_| false).await.unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_nobody_has_refuses() {
    let server = Server::in_memory();
    let connector = server.connector();
    let refused = connector.connect("192.0.2.200".to_owned(), 8091).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let unknown = connector.resolve("polaris.example".to_owned(), 8091).await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
    let found = connector.resolve("192.0.2.1".to_owned(), 8091).await.unwrap();
    assert_eq!(found[0].to_string(), server.address());
}
