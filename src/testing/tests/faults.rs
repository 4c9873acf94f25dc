use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Code;

use super::*;
use crate::model::key::ResourceKind;
use crate::testing::{Rpc, instance};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn beat() -> v1::Instance {
    v1::Instance { id: Some("id".to_owned()), ..Default::default() }
}

fn orders() -> v1::DiscoverRequest {
    question(Kind::Instance, "shop", "orders")
}

/// A server with one service of one instance.
fn server() -> Server {
    let server = Server::in_memory();
    server.service(("shop", "orders")).instances([instance("10.0.0.1", 1)]);
    server
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_delayed_for_the_calls_that_were_named() {
    let server = server();
    let fault = server.on(Rpc::Heartbeat).skip(1).times(1).delay(7 * SECOND);
    for seconds in [0, 7, 0] {
        let started = Instant::now();
        client(&server).heartbeat(beat()).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
    assert_eq!(fault.hits(), 1);
    server.on(Rpc::Discover).kind(ResourceKind::Routing).service(("shop", "orders")).delay(SECOND);
    let mut stream = Discovery::open(&server).await;
    let started = Instant::now();
    stream.ask(orders()).await;
    stream.ask(question(Kind::Routing, "shop", "stock")).await;
    assert_eq!(started.elapsed().as_secs(), 0);
    stream.ask(question(Kind::Routing, "shop", "orders")).await;
    assert_eq!(started.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_is_never_answered_and_a_passed_over_question_only_that_one() {
    let server = server();
    let fault = server.on(Rpc::Heartbeat).hang();
    assert!(timeout(MINUTE, client(&server).heartbeat(beat())).await.is_err());
    fault.clear();
    client(&server).heartbeat(beat()).await.unwrap();
    server.on(Rpc::Discover).kind(ResourceKind::Routing).pass_over();
    server.on(Rpc::Discover).kind(ResourceKind::RateLimit).hang();
    let mut stream = Discovery::open(&server).await;
    stream.send(question(Kind::Routing, "shop", "orders")).await;
    assert_eq!(stream.ask(orders()).await.r#type, 1);
    stream.send(question(Kind::RateLimit, "shop", "orders")).await;
    stream.send(orders()).await;
    assert!(timeout(MINUTE, stream.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_as_the_script_says() {
    let server = server();
    server.on(Rpc::Discover).times(1).end_stream();
    let mut stream = Discovery::open(&server).await;
    stream.send(orders()).await;
    assert_eq!(stream.next().await.unwrap(), None);
    server.on(Rpc::Discover).times(1).status(14, "gone");
    let mut stream = Discovery::open(&server).await;
    stream.send(orders()).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
    server.on(Rpc::Discover).times(1).close();
    let mut stream = Discovery::open(&server).await;
    stream.send(orders()).await;
    assert!(stream.next().await.is_err());
    server.on(Rpc::Discover).times(1).close_midway();
    let mut stream = Discovery::open(&server).await;
    stream.send(orders()).await;
    assert!(stream.next().await.is_err());
    assert_eq!(Discovery::open(&server).await.ask(orders()).await.code, Some(200_000));
    server.on(Rpc::Heartbeat).times(1).close();
    assert!(client(&server).heartbeat(beat()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn codes_come_with_what_they_belong_to_or_without() {
    let server = server();
    let mut stream = Discovery::open(&server).await;
    server.on(Rpc::Discover).times(1).not_found();
    let answer = stream.ask(orders()).await;
    assert_eq!((answer.code, answer.r#type, answer.service), (Some(400_202), 1, orders().service));
    for code in [429_002, 403_003, 400_401, 401_001] {
        server.on(Rpc::Discover).times(1).answer_bare(code);
        let answer = stream.ask(orders()).await;
        assert_eq!((answer.code, answer.r#type, answer.service), (Some(code), 0, None));
        server.on(Rpc::Heartbeat).times(1).answer_bare(code);
        let answer = client(&server).heartbeat(beat()).await.unwrap().into_inner();
        assert_eq!((answer.code, answer.instance), (Some(code), None));
    }
    server.on(Rpc::Register).times(1).answer(500_000);
    let answer = client(&server).register_instance(beat()).await.unwrap().into_inner();
    assert_eq!((answer.code, answer.instance), (Some(500_000), Some(beat())));
    server.on(Rpc::Discover).times(1).unsupported();
    let answer = stream.ask(orders()).await;
    assert_eq!((answer.code, answer.r#type, answer.service), (Some(400_004), 3, orders().service));
    server.on(Rpc::Heartbeat).times(1).status(12, "no");
    assert_eq!(client(&server).heartbeat(beat()).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(hosts(&stream.ask(orders()).await), ["10.0.0.1"]);
}

#[tokio::test(start_paused = true)]
async fn content_can_be_empty_or_the_same_under_a_new_revision_or_padded() {
    let server = server();
    let mut stream = Discovery::open(&server).await;
    let proper = stream.ask(orders()).await;
    let known = knowing(orders(), revision(&proper));
    server.on(Rpc::Discover).times(1).empty();
    let empty = stream.ask(known.clone()).await;
    assert_eq!((empty.code, empty.instances.len()), (Some(200_000), 0));
    server.on(Rpc::Discover).times(1).new_revision();
    let same = stream.ask(known.clone()).await;
    assert_eq!(same.instances, proper.instances);
    assert!(revision(&same) != revision(&proper) && revision(&same) != revision(&empty));
    server.on(Rpc::Discover).times(1).pad(5 << 20);
    assert_eq!(stream.ask(orders()).await, proper);
    assert_eq!(stream.ask(known).await.code, Some(200_001));
}

#[tokio::test(start_paused = true)]
async fn garbage_is_no_message() {
    let server = server();
    server.on_any().times(2).garbage();
    let mut stream = Discovery::open(&server).await;
    stream.send(orders()).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Internal);
    assert_eq!(client(&server).heartbeat(beat()).await.unwrap_err().code(), Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_says_nothing_and_loses_nothing() {
    let server = server();
    let mut stream = Discovery::open(&server).await;
    stream.ask(orders()).await;
    server.black_hole(true);
    stream.send(orders()).await;
    assert!(timeout(MINUTE, stream.next()).await.is_err());
    assert!(timeout(MINUTE, client(&server).heartbeat(beat())).await.is_err());
    assert_eq!(server.total_connections(), 1);
    server.black_hole(false);
    assert_eq!(stream.next().await.unwrap().unwrap().code, Some(200_000));
    client(&server).heartbeat(beat()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn faults_of_one_node_are_not_those_of_its_peer() {
    let server = server();
    let peer = server.peer().await.unwrap();
    server.on(Rpc::Heartbeat).answer(400_202);
    assert_eq!(client(&server).heartbeat(beat()).await.unwrap().into_inner().code, Some(400_202));
    assert_eq!(client(&peer).heartbeat(beat()).await.unwrap().into_inner().code, Some(200_000));
    server.clear_faults();
    assert_eq!(client(&server).heartbeat(beat()).await.unwrap().into_inner().code, Some(200_000));
    server.close_connections();
    assert_eq!(client(&peer).heartbeat(beat()).await.unwrap().into_inner().code, Some(200_000));
}

#[tokio::test(start_paused = true)]
async fn what_the_transport_of_a_server_refuses_is_refused() {
    let server = server();
    let big = v1::Instance { host: Some("a".repeat(4 << 20)), ..beat() };
    assert_eq!(client(&server).heartbeat(big.clone()).await.unwrap_err().code(), Code::ResourceExhausted);
    let mut stream = Discovery::open(&server).await;
    stream.send(question(Kind::Instance, "shop", &"a".repeat(4 << 20))).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::ResourceExhausted);
    let mut config = v1::polaris_config_grpc_client::PolarisConfigGrpcClient::new(channel(&server));
    let refused = config.get_config_file(v1::ClientConfigFileInfo::default()).await.unwrap_err();
    assert_eq!((refused.code(), server.calls_of(Rpc::Other).len()), (Code::Unimplemented, 1));
    // Bytes that are no question, and a compressed one.
    let raw = |flag: u8, body: &[u8]| {
        let mut frame = vec![flag];
        frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend(body);
        frame
    };
    assert_eq!(status_of(&server, raw(0, &[0xff; 4]), None).await, Some(Code::Internal));
    assert_eq!(status_of(&server, raw(1, &[0; 4]), Some("gzip")).await, Some(Code::Unimplemented));
}

/// The status that a heartbeat of these bytes is answered with.
async fn status_of(server: &Server, frame: Vec<u8>, encoding: Option<&str>) -> Option<Code> {
    use tower_service::Service;
    let mut channel = channel(server);
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let uri = format!("http://{}/v1.PolarisGRPC/Heartbeat", server.address());
    let mut request = http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let body = tonic::body::Body::new(Once(Some(frame.into())));
    let answer = channel.call(request.body(body).unwrap()).await.unwrap();
    let status = answer.headers().get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

/// A body of one frame.
struct Once(Option<bytes::Bytes>);

impl hyper::body::Body for Once {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_is_thrown_out_unless_that_is_tolerated() {
    let server = server();
    for tolerant in [false, true] {
        server.tolerate_pings(tolerant);
        let before = server.total_connections();
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
        let endpoint = endpoint.http2_keep_alive_interval(10 * SECOND).keep_alive_while_idle(true);
        let mut client = PolarisGrpcClient::new(endpoint.connect_with_connector_lazy(Dial(server.connector())));
        for _ in 0..2 {
            client.heartbeat(beat()).await.unwrap();
            tokio::time::sleep(MINUTE).await;
        }
        assert_eq!(server.total_connections() - before > 1, !tolerant, "{} pings", server.pings());
    }
    assert!(server.pings() >= 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_on_many_threads_are_all_served() {
    let server = Server::listen("127.0.0.1:0").await.unwrap();
    server.service(("shop", "orders")).instances((0..50).map(|port| instance("10.0.0.1", port)));
    let address = server.address().to_owned();
    let clients: Vec<_> = (0..20).map(|_| client(&server)).collect();
    let mut running = tokio::task::JoinSet::new();
    for mut client in clients {
        running.spawn(async move {
            for _ in 0..20 {
                let one = tokio_stream::iter([orders(), question(Kind::Routing, "shop", "orders")]);
                let mut answers = client.discover(one).await.unwrap().into_inner();
                assert_eq!(answers.message().await.unwrap().unwrap().instances.len(), 50);
                assert!(answers.message().await.unwrap().unwrap().routing.is_some());
                assert!(answers.message().await.unwrap().is_none());
                client.heartbeat(beat()).await.unwrap();
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    assert_eq!((server.calls_of(Rpc::Discover).len(), server.total_connections()), (800, 20), "{address}");
    server.shutdown().await;
}
