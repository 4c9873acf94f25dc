//! A server that says yes to everything and knows nothing: the fastest that tonic can be.

use polarismesh::testing::bench::v1;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use v1::polaris_grpc_server::{PolarisGrpc, PolarisGrpcServer};

use crate::children;

struct Plain;

type Answer = Result<Response<v1::Response>, Status>;

#[allow(clippy::unnecessary_wraps, reason = "what the trait returns")]
fn yes() -> Answer {
    Ok(Response::new(v1::Response {
        code: Some(200_000),
        info: Some("execute success".into()),
        ..v1::Response::default()
    }))
}

#[tonic::async_trait]
impl PolarisGrpc for Plain {
    async fn report_client(&self, _: Request<v1::Client>) -> Answer {
        yes()
    }

    async fn register_instance(&self, _: Request<v1::Instance>) -> Answer {
        yes()
    }

    async fn deregister_instance(&self, _: Request<v1::Instance>) -> Answer {
        yes()
    }

    async fn heartbeat(&self, _: Request<v1::Instance>) -> Answer {
        yes()
    }

    type DiscoverStream = tokio_stream::Empty<Result<v1::DiscoverResponse, Status>>;

    async fn discover(
        &self,
        _: Request<Streaming<v1::DiscoverRequest>>,
    ) -> Result<Response<Self::DiscoverStream>, Status> {
        Err(Status::unimplemented("it only says yes"))
    }
}

/// Serves until the parent says otherwise.
pub fn serve() {
    children::runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("its port"));
        let told = tokio::task::spawn_blocking(children::until_told);
        let end = async { drop(told.await) };
        tonic::transport::Server::builder()
            .add_service(PolarisGrpcServer::new(Plain))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), end)
            .await
            .expect("it serves");
    });
}
