//! What picks cost by other policies than the default one, and what look-ups by a key cost elsewhere.

use std::collections::HashMap;

use pingora_load_balancing::selection::{Consistent, FNVHash};
use polarismesh::testing::bench::Fed;
use polarismesh::{Pick, ServiceHandle};
use polarismesh_benches::data;
use polarismesh_benches::floor::Floor;
use polarismesh_benches::harness::{Table, median, ratio, sampled, text};
use polarismesh_benches::row::Row;
use polarismesh_benches::runtime::runtime;
use polarismesh_benches::service::{self, loaded};
use tokio::runtime::Runtime;

use crate::effort::Effort;
use crate::growth::{GROWTH, LENGTHS};
use crate::peers::{Pingora, Ring, key};

/// How a policy chooses, and so how its cost may grow with the number of instances.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By drawing or taking turns: no more than the default policy.
    Draw,
    /// By a key: no more than the default policy.
    Key,
    /// It looks at all instances, which is stated and not held to a goal.
    All,
}

const POLICIES: [(&str, Kind); 9] = [
    ("weightedRandom", Kind::Draw),
    ("powerOfTwo", Kind::Draw),
    ("weightedRoundRobin", Kind::Draw),
    (RING, Kind::Key),
    (MAGLEV, Kind::Key),
    ("hash", Kind::Key),
    ("l5cst", Kind::Key),
    ("leastConnection", Kind::All),
    ("shortestResponseTime", Kind::All),
];

const RING: &str = "ringHash";
const MAGLEV: &str = "maglev";

/// Consistent hashes cost at most so much of what hashring does, among so many instances.
const OF_HASHRING: f64 = 0.7;
const AMONG: usize = 1_000;

/// Ketama makes 160 points of every unit of weight; more instances than these take seconds to build.
const MOST_OF_KETAMA: usize = 100;
const MOST_OF_FNV: usize = 10_000;

const F: &str = "F";
const HASHRING: &str = "hashring: guard, look-up, clone";

/// Samples by name of the row and number of instances.
type Measured = HashMap<(&'static str, usize), Vec<f64>>;

/// All that is picked from, of one length.
struct Ground {
    instances: usize,
    fed: Fed,
    handle: ServiceHandle,
    floor: Floor,
    ring: Ring,
    fnv: Option<Pingora<FNVHash>>,
    ketama: Option<Pingora<Consistent>>,
}

pub fn measure(effort: &Effort, table: &mut Table) {
    let runtime = runtime();
    let lengths = LENGTHS.into_iter().filter(|length| *length <= effort.most_instances);
    let grounds: Vec<Ground> = lengths.map(|instances| Ground::new(instances, &runtime)).collect();
    let rows: Vec<_> = grounds.iter().flat_map(|ground| ground.rows()).collect();
    let mut cases: Vec<_> = rows.iter().map(|(_, row)| || row.sample()).collect();
    let samples = sampled(effort.rounds, &mut cases);
    let measured: Measured = rows.iter().map(|(key, _)| *key).zip(samples).collect();
    for (policy, kind) in POLICIES {
        own(policy, kind, &measured, table);
    }
    for ((name, instances), _) in
        rows.iter().filter(|((name, _), _)| *name != F && POLICIES.iter().all(|(policy, _)| policy != name))
    {
        others(name, *instances, &measured, table);
    }
    drop(cases);
    drop(rows);
    for Ground { fed, .. } in grounds {
        service::end(fed, &runtime);
    }
}

impl Ground {
    fn new(instances: usize, runtime: &Runtime) -> Self {
        let fed = loaded(instances, runtime);
        let handle = fed.context().consumer().service(data::key());
        Self {
            instances,
            floor: Floor::new(&handle),
            ring: Ring::new(instances),
            fnv: (instances <= MOST_OF_FNV).then(|| runtime.block_on(Pingora::new(instances))),
            ketama: (instances <= MOST_OF_KETAMA).then(|| runtime.block_on(Pingora::new(instances))),
            handle,
            fed,
        }
    }

    fn rows(&self) -> Vec<((&'static str, usize), Row<'_>)> {
        let Self { instances, handle, floor, ring, .. } = self;
        let mut rows = vec![
            (F, Row::new(*instances, || floor.pick())),
            (HASHRING, Row::new(*instances, || ring.pick(&key()))),
            ("hashring: guard, look-up", Row::new(*instances, || ring.find(&key()))),
        ];
        if let Some(fnv) = &self.fnv {
            rows.push(("pingora-load-balancing, FNV", Row::new(*instances, || fnv.pick(&key()))));
        }
        if let Some(ketama) = &self.ketama {
            rows.push(("pingora-load-balancing, Ketama", Row::new(*instances, || ketama.pick(&key()))));
        }
        // A ring of one point for each unit of weight has a bound.
        let takes = |policy: &str| handle.pick(&Pick::new().balancer(policy)).is_ok();
        for (policy, kind) in POLICIES.into_iter().filter(|(policy, _)| takes(policy)) {
            rows.push((
                policy,
                match kind {
                    Kind::Key => Row::new(*instances, || handle.pick(&by_key(policy, &key())).expect("an instance")),
                    Kind::Draw | Kind::All => {
                        Row::new(*instances, || handle.pick(&Pick::new().balancer(policy)).expect("an instance"))
                    }
                },
            ));
        }
        rows.into_iter().map(|(name, row)| ((name, *instances), row)).collect()
    }
}

/// The pick of a call with this key.
#[inline]
fn by_key<'a>(policy: &'a str, key: &'a [u8]) -> Pick<'a> {
    Pick::new().balancer(policy).hash_key(key)
}

fn own(policy: &'static str, kind: Kind, measured: &Measured, table: &mut Table) {
    let lengths = || LENGTHS.into_iter().filter(|length| measured.contains_key(&(policy, *length)));
    for instances in lengths() {
        let figure = format!("{policy} by handle, N = {instances}");
        let [own, floor, hashring] = [policy, F, HASHRING].map(|name| &measured[&(name, instances)]);
        let in_floors = format!("F {}, {:.2} F", text(median(floor)), ratio(own, floor));
        if [RING, MAGLEV].contains(&policy) {
            let of_hashring = ratio(own, hashring);
            let beside = format!("{in_floors}; hashring {}, {of_hashring:.2} x", text(median(hashring)));
            if instances == AMONG {
                let goal = format!("<= {OF_HASHRING} of hashring");
                table.goal(&figure, text(median(own)), beside, &goal, of_hashring <= OF_HASHRING);
            } else {
                table.shown(&figure, text(median(own)), beside);
            }
        } else {
            table.shown(&figure, text(median(own)), in_floors);
        }
    }
    let first = LENGTHS[0];
    for (instances, most) in GROWTH.into_iter().filter(|(instances, _)| lengths().any(|length| length == *instances)) {
        let growth = |name| ratio(&measured[&(name, instances)], &measured[&(name, first)]);
        let figure = format!("{policy} by handle, t({instances}) / t({first})");
        let (own, beside) = (growth(policy), format!("F {:.2} x", growth(F)));
        match kind {
            Kind::Draw | Kind::Key => {
                table.goal(&figure, format!("{own:.2} x"), beside, &format!("<= {most}"), own <= most);
            }
            Kind::All => table.shown(&figure, format!("{own:.2} x"), beside),
        }
    }
}

fn others(name: &'static str, instances: usize, measured: &Measured, table: &mut Table) {
    let [samples, hashring] = [name, HASHRING].map(|name| &measured[&(name, instances)]);
    let beside = match name {
        HASHRING => String::new(),
        _ => format!("hashring {}, {:.2} x", text(median(hashring)), ratio(samples, hashring)),
    };
    table.shown(&format!("{name}, N = {instances}"), text(median(samples)), beside);
}
