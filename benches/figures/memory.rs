//! What an instance takes in memory, at 100,000 of them, each way in a fresh process.

use std::hint::black_box;

use polarismesh::SdkContext;
use polarismesh::testing::bench::{Fed, v1};
use polarismesh_benches::harness::Table;
use polarismesh_benches::{alloc, data};
use prost::Message as _;
use prost::bytes::Bytes;

use crate::children::{self, Child};
use crate::effort::Effort;

const INSTANCES: usize = 100_000;
const GOAL: f64 = 320.0;

pub fn measure(_: &Effort, table: &mut Table) {
    let path = std::env::temp_dir().join(format!("polarismesh-benches-{}", std::process::id()));
    std::fs::write(&path, data::answer(INSTANCES, 1)).expect("room for an answer");
    let path = path.to_str().expect("a path in UTF-8");
    let of = |how: &str, what: &str| {
        let numbers = Child::start("memory", &[how, what]).numbers();
        [numbers[0] / INSTANCES as f64, numbers[1] / INSTANCES as f64, numbers[2] / INSTANCES as f64]
    };
    let prost = of("prost", path);
    let text = |[resident, live, peak]: [f64; 3]| {
        format!("{resident:.0} B resident, {live:.0} B live, {peak:.0} B at the peak")
    };
    let [resident, ..] = of("fed", path);
    let fed = of("fed", path);
    table.goal(
        "memory per instance at 100,000, from the bytes of an answer",
        text(fed),
        format!("as prost's structs {}", text(prost)),
        "<= 320 B resident",
        resident.max(fed[0]) <= GOAL,
    );
    std::fs::remove_file(path).expect("the file is there");
    let (_server, address) = children::control_plane(1, INSTANCES);
    let wire = of("wire", &address);
    table.goal(
        "memory per instance at 100,000, over a connection",
        text(wire),
        String::new(),
        "<= 320 B resident",
        wire[0] <= GOAL,
    );
}

/// Prints what the process grew by: resident bytes, live bytes, and resident bytes at the peak.
pub fn child(how: &str, what: &str) {
    alloc::track();
    let runtime = children::on_this_thread();
    runtime.block_on(async {
        match how {
            "prost" => {
                let before = Memory::now();
                let decoded = v1::DiscoverResponse::decode(read(what)).expect("an answer");
                Memory::now().since(&before);
                drop(black_box(decoded));
            }
            "fed" => {
                let fed = Fed::new().expect("a context");
                let handle = fed.context().consumer().service(data::key());
                fed.no_rules(&data::key());
                fed.answer(&data::key(), data::answer(1, 2)).expect("an answer");
                handle.ready().await.expect("it is loaded");
                let before = Memory::now();
                fed.answer(&data::key(), read(what)).expect("an answer");
                while handle.snapshot().is_none_or(|list| list.len() < INSTANCES) {
                    tokio::task::yield_now().await;
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Memory::now().since(&before);
            }
            _ => {
                let context = SdkContext::builder().address(what).build().expect("a context");
                let consumer = context.consumer();
                let _ = consumer.get_one_instance(("Polaris", "polaris.checker")).await;
                // Other services that are asked for meanwhile, as in any process.
                let others: Vec<_> = (0..200).map(|n| format!("other-{n}")).collect();
                let _others: Vec<_> = others.iter().map(|name| consumer.service(("default", name.as_str()))).collect();
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                let before = Memory::now();
                let handle = consumer.service(data::key());
                while handle.ready().await.is_err() {}
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                assert_eq!(handle.snapshot().map(|list| list.len()), Some(INSTANCES));
                Memory::now().since(&before);
            }
        }
    });
}

fn read(path: &str) -> Bytes {
    std::fs::read(path).expect("the parent wrote it").into()
}

struct Memory {
    resident: u64,
    peak: u64,
    live: i64,
}

impl Memory {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field of the status");
            line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("kilobytes") * 1024
        };
        Self { resident: field("VmRSS:"), peak: field("VmHWM:"), live: alloc::live() }
    }

    fn since(&self, before: &Self) {
        println!("{} {} {}", self.resident - before.resident, self.live - before.live, self.peak - before.resident);
    }
}
