//! Heartbeats, 64 in flight, beside bare tonic calls with the same message to the same server in another process.

use std::future::Future;
use std::time::Duration;

use polarismesh::testing::bench::v1;
use polarismesh::{Heartbeat, SdkContext};
use polarismesh_benches::harness::{Table, each, interleaved, median, process_cpu, ratio, text, thread_cpu};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use v1::polaris_grpc_client::PolarisGrpcClient;

use crate::children::{self, Child};
use crate::effort::Effort;

const IN_FLIGHT: u32 = 64;
const EACH: u32 = 100;
const GOAL: f64 = 1.3;

pub fn measure(effort: &Effort, table: &mut Table) {
    let mut server = Child::start("plain", &[]);
    let address = server.line();
    // One thread: all that the client does is on it.
    let runtime = children::on_this_thread();
    let (context, bare) = runtime.block_on(clients(&address, "false"));
    let [sdk, tonic] = interleaved(
        effort.rounds,
        [&mut || beats(&runtime, thread_cpu, &context), &mut || calls(&runtime, thread_cpu, &bare)],
    );
    let ratio_of_beats = ratio(&sdk, &tonic);
    table.goal(
        "heartbeat, 64 in flight, CPU of the client's thread",
        text(median(&sdk)),
        format!("bare tonic unary {}, {ratio_of_beats:.2} x", text(median(&tonic))),
        "<= 1.3 x",
        ratio_of_beats <= GOAL,
    );
    runtime.block_on(context.shutdown(Duration::from_secs(5))).expect("an end");

    // Connections on the thread that beats, callers on another one.
    let (context, bare) = runtime.block_on(clients(&address, "true"));
    let [sdk, tonic] = interleaved(
        effort.rounds,
        [&mut || beats(&runtime, process_cpu, &context), &mut || calls(&runtime, process_cpu, &bare)],
    );
    table.shown(
        "the same from another thread than the one that beats, CPU of the process",
        text(median(&sdk)),
        format!("bare tonic unary {}, {:.2} x", text(median(&tonic)), ratio(&sdk, &tonic)),
    );
    runtime.block_on(context.shutdown(Duration::from_secs(5))).expect("an end");
}

async fn clients(address: &str, own_thread: &str) -> (SdkContext, PolarisGrpcClient<Channel>) {
    let context = SdkContext::builder().address(address).set("provider.heartbeat.ownThread", own_thread);
    let context = context.build().expect("a context");
    context.provider().heartbeat(beat()).await.expect("a beat");
    let bare = PolarisGrpcClient::connect(format!("http://{address}")).await.expect("a connection");
    (context, bare)
}

fn beat() -> Heartbeat {
    Heartbeat::new(("default", "bench"), ("10.0.0.1", 8080))
}

fn beats(runtime: &Runtime, clock: fn() -> Duration, context: &SdkContext) -> f64 {
    // Named once, as what is kept registered is.
    let (provider, beat) = (context.provider(), beat());
    many(runtime, clock, move || {
        let (provider, beat) = (provider.clone(), beat.clone());
        async move { provider.heartbeat(beat).await.expect("a beat") }
    })
}

fn calls(runtime: &Runtime, clock: fn() -> Duration, client: &PolarisGrpcClient<Channel>) -> f64 {
    let client = client.clone();
    many(runtime, clock, move || {
        let mut client = client.clone();
        let message = v1::Instance {
            namespace: Some("default".into()),
            service: Some("bench".into()),
            host: Some("10.0.0.1".into()),
            port: Some(8080),
            ..v1::Instance::default()
        };
        async move {
            let answer = client.heartbeat(message).await.expect("an answer").into_inner();
            assert_eq!(answer.code, Some(200_000));
        }
    })
}

/// CPU time of one call of many.
fn many<F, Fut>(runtime: &Runtime, clock: fn() -> Duration, call: F) -> f64
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let work = async {
        let mut callers = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let call = call.clone();
            callers.spawn(async move {
                for _ in 0..EACH {
                    call().await;
                }
            });
        }
        callers.join_all().await;
    };
    each(IN_FLIGHT * EACH, clock, || runtime.block_on(work))
}
