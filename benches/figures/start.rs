//! From nothing to the first pick, of a service with 1,000 instances behind a loopback connection.

use std::time::{Duration, Instant};

use polarismesh::SdkContext;
use polarismesh::testing::bench::v1::polaris_grpc_client::PolarisGrpcClient;
use polarismesh_benches::data;
use polarismesh_benches::harness::{Table, interleaved, median, ratio, text};

use crate::children::{self, Child};
use crate::effort::Effort;

const GOAL: f64 = 10e-3;

pub fn measure(effort: &Effort, table: &mut Table) {
    let (_server, address) = children::control_plane(1, 1_000);
    let runtime = children::runtime();
    let mut fresh = || Child::start("start", &[&address]).numbers()[0];
    let mut warm = || runtime.block_on(first_pick(&address));
    let mut bare = || runtime.block_on(bare_answer(&address));
    let [fresh, warm, bare] = interleaved(effort.rounds, [&mut fresh, &mut warm, &mut bare]);
    let beside = |of: &[f64]| format!("bare tonic stream and prost {}, {:.2} x", text(median(&bare)), ratio(of, &bare));
    for (what, samples) in [("in a fresh process", &fresh), ("in a process that runs", &warm)] {
        let time = median(samples);
        table.goal(
            &format!("start to first pick, 1,000 instances, {what}"),
            text(time),
            beside(samples),
            "<= 10 ms",
            time <= GOAL,
        );
    }
}

/// Prints the seconds from its start to its first pick, the runtime's start included.
pub fn child(address: &str) {
    let start = Instant::now();
    let runtime = children::runtime();
    runtime.block_on(first_pick(address));
    println!("{}", start.elapsed().as_secs_f64());
}

async fn first_pick(address: &str) -> f64 {
    let start = Instant::now();
    let context = SdkContext::builder().address(address).build().expect("a context");
    let picked = context.consumer().get_one_instance(&data::key()).await.expect("an instance");
    let time = start.elapsed().as_secs_f64();
    assert_eq!(picked.protocol(), "grpc");
    context.shutdown(Duration::from_secs(5)).await.expect("an end");
    time
}

/// The least that any client has to do: dial, ask, decode.
async fn bare_answer(address: &str) -> f64 {
    let start = Instant::now();
    let client = PolarisGrpcClient::connect(format!("http://{address}")).await.expect("a connection");
    let questions = tokio_stream::iter([data::question("bench", "")]);
    let answers = client.max_decoding_message_size(64 << 20).discover(questions).await.expect("a stream");
    let answer = answers.into_inner().message().await.expect("no error").expect("an answer");
    let time = start.elapsed().as_secs_f64();
    assert_eq!(answer.instances.len(), 1_000);
    time
}
