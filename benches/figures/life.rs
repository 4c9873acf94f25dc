//! Contexts that come and go.

use std::time::{Duration, Instant};

use polarismesh::SdkContext;
use polarismesh_benches::data;
use polarismesh_benches::harness::{Table, each, interleaved, median, text, wall};
use tokio::runtime::Handle;

use crate::children;
use crate::effort::Effort;

const GOAL: f64 = 5e-3;

pub fn measure(effort: &Effort, table: &mut Table) {
    let (_server, address) = children::control_plane(1, 10);
    let runtime = children::runtime();
    let mut idle = || each(1, wall, || runtime.block_on(once(&address, false)));
    let mut used = || each(1, wall, || runtime.block_on(once(&address, true)));
    let mut bare = || each(1, wall, || runtime.block_on(channel(&address)));
    let [idle, used, bare] = interleaved(effort.rounds, [&mut idle, &mut used, &mut bare]);
    let time = median(&idle);
    let beside = format!("a lazy channel of tonic's, made and dropped {}", text(median(&bare)));
    table.goal("create and shut down an idle context", text(time), beside.clone(), "<= 5 ms", time <= GOAL);
    table.shown("the same with one pick over a connection between", text(median(&used)), beside);
    for (what, used) in [("idle contexts", false), ("contexts with one pick", true)] {
        let rounds = if used { effort.life_rounds / 5 } else { effort.life_rounds };
        runtime.block_on(async {
            once(&address, used).await;
            // What earlier rounds left to be run.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let before = Held::now();
            for _ in 0..rounds {
                once(&address, used).await;
            }
            let after = Held::settled(&before).await;
            table.goal(
                &format!("tasks, descriptors and threads after {rounds} {what}"),
                after.text(),
                format!("before: {}", before.text()),
                "the same",
                after == before,
            );
        });
    }
}

async fn once(address: &str, used: bool) {
    let context = SdkContext::builder().address(address).build().expect("a context");
    if used {
        context.consumer().get_one_instance(&data::key()).await.expect("an instance");
    }
    context.shutdown(Duration::from_secs(5)).await.expect("an end");
}

#[allow(clippy::unused_async, reason = "a channel needs a runtime around it")]
async fn channel(address: &str) {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    drop(endpoint.connect_lazy());
}

/// What the process holds.
#[derive(PartialEq)]
struct Held {
    tasks: usize,
    descriptors: usize,
    threads: usize,
}

impl Held {
    fn now() -> Self {
        let entries = |path| std::fs::read_dir(path).expect("a directory of the process").count();
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }

    /// Sockets are closed by tasks that may have to be run first.
    async fn settled(before: &Self) -> Self {
        let end = Instant::now() + Duration::from_secs(1);
        while Self::now() != *before && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self::now()
    }

    fn text(&self) -> String {
        format!("{} / {} / {}", self.tasks, self.descriptors, self.threads)
    }
}
