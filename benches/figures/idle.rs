//! What it costs to keep 1,000 services up to date while nothing changes; the server is another process.

use std::time::Duration;

use polarismesh::testing::bench::v1::polaris_grpc_client::PolarisGrpcClient;
use polarismesh::{Pick, SdkContext, ServiceHandle};
use polarismesh_benches::data;
use polarismesh_benches::harness::{Table, process_cpu};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;

use crate::children::{self, Child};
use crate::effort::Effort;

const SERVICES: usize = 1_000;
const GOAL: f64 = 2.0;
/// How often every service is asked for by default.
const PERIOD: Duration = Duration::from_secs(2);

pub fn name(n: usize) -> String {
    format!("idle-{n}")
}

pub fn measure(effort: &Effort, table: &mut Table) {
    let (_server, address) = children::control_plane(SERVICES, 10);
    let seconds = |time: Duration| time.as_secs().to_string();
    let of = |how: &str| {
        let arguments = [how, &address, &seconds(effort.settled), &seconds(effort.watched)];
        Child::start("idle", &arguments).numbers()[0]
    };
    // One after the other: each has a core's worth of room beside the server.
    let (sdk, bare) = (of("sdk"), of("bare"));
    table.goal(
        &format!("an idle context with 1,000 services in use, CPU over {:?}", effort.watched),
        format!("{sdk:.2} % of a core"),
        format!("bare tonic stream that asks for instances alone {bare:.2} %, {:.2} x; polaris-go 5 %", sdk / bare),
        "<= 2 %",
        sdk <= GOAL,
    );
}

/// Prints the percentage of a core that the process takes once it is settled.
pub fn child(how: &str, address: &str, settled: Duration, watched: Duration) {
    children::runtime().block_on(async {
        let percent = if how == "sdk" {
            let context = SdkContext::builder().address(address).build().expect("a context");
            let handles = all(&context).await;
            use_all(&handles, settled).await;
            let before = process_cpu();
            use_all(&handles, watched).await;
            process_cpu() - before
        } else {
            ask_all(address, settled, watched).await
        };
        println!("{}", percent.as_secs_f64() / watched.as_secs_f64() * 100.0);
    });
}

async fn all(context: &SdkContext) -> Vec<ServiceHandle> {
    let handles: Vec<_> = (0..SERVICES).map(|n| context.consumer().service(("default", name(n).as_str()))).collect();
    for handle in &handles {
        handle.ready().await.expect("it is loaded");
    }
    handles
}

/// In use: each is picked from every second.
async fn use_all(handles: &[ServiceHandle], time: Duration) {
    let end = Instant::now() + time;
    let mut ticks = interval(Duration::from_secs(1));
    while Instant::now() < end {
        ticks.tick().await;
        for handle in handles {
            handle.pick(&Pick::new()).expect("an instance");
        }
    }
}

/// The questions about instances over a bare stream, spread as evenly: one every two milliseconds.
async fn ask_all(address: &str, settled: Duration, watched: Duration) -> Duration {
    let (questions, asked) = tokio::sync::mpsc::channel(SERVICES);
    let client = PolarisGrpcClient::connect(format!("http://{address}")).await.expect("a connection");
    let mut client = client.max_decoding_message_size(64 << 20);
    questions.send(data::question(&name(0), "")).await.expect("a stream");
    let mut answers = client.discover(ReceiverStream::new(asked)).await.expect("a stream").into_inner();
    let mut revisions = Vec::new();
    for n in 0..SERVICES {
        let answer = answers.message().await.expect("no error").expect("an answer");
        revisions.push(answer.service.and_then(|service| service.revision).expect("a revision"));
        questions.send(data::question(&name((n + 1) % SERVICES), "")).await.expect("a stream");
    }
    answers.message().await.expect("no error").expect("an answer");
    let mut ticks = interval(PERIOD / u32::try_from(SERVICES).expect("a few"));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (watch, end) = (Instant::now() + settled, Instant::now() + settled + watched);
    let mut before = None;
    for n in (0..SERVICES).cycle() {
        tokio::select! {
            _ = ticks.tick() => {}
            answer = answers.message() => panic!("nobody asked for {answer:?}"),
        }
        questions.send(data::question(&name(n), &revisions[n])).await.expect("a stream");
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert_eq!(answer.code, Some(200_001));
        if before.is_none() && Instant::now() >= watch {
            before = Some(process_cpu());
        }
        if Instant::now() >= end {
            break;
        }
    }
    process_cpu() - before.expect("the watch began")
}
