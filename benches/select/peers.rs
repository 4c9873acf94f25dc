//! What others ask for a pick; none of them routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashring::HashRing;
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use polarismesh_benches::data;
use polarismesh_benches::floor::draw;

/// pingora-load-balancing numbers its backends by 16 bits.
pub const MOST_OF_PINGORA: usize = 60_000;

/// How often the heaviest instance stands on a ring, as by default in the library; others by their weight.
const POINTS: u32 = 10;

/// How many backends pingora tries before it gives up; all are healthy here, so it is the first.
const TRIES: usize = 16;

/// pingora's balancer over so many instances.
pub struct Pingora<S: BackendSelection>(LoadBalancer<S>)
where
    S::Iter: BackendIter;

impl<S: BackendSelection + 'static> Pingora<S>
where
    S::Iter: BackendIter,
{
    pub async fn new(instances: usize) -> Self {
        let backend = |n| {
            let parts = data::parts(n);
            Backend::new_with_weight(&format!("{}:8080", parts.host), parts.weight as usize).expect("an address")
        };
        let backends: BTreeSet<Backend> = (0..instances).map(backend).collect();
        let balancer = LoadBalancer::from_backends(Backends::new(Static::new(backends)));
        balancer.update().await.expect("a fixed list");
        Self(balancer)
    }

    #[inline]
    pub fn pick(&self, key: &[u8]) -> Backend {
        self.0.select(key, TRIES).expect("a backend")
    }
}

/// A ring of hashring's over so many instances.
pub struct Ring(ArcSwap<(HashRing<Point>, Vec<Arc<str>>)>);

/// A place on the ring.
#[derive(Hash)]
struct Point {
    instance: usize,
    number: u32,
}

impl Ring {
    pub fn new(instances: usize) -> Self {
        let mut ring = HashRing::new();
        let weight = |instance| data::parts(instance).weight;
        let heaviest = (0..instances).map(weight).max().unwrap_or(1);
        let points = |instance| (0..POINTS * weight(instance) / heaviest).map(move |number| Point { instance, number });
        ring.batch_add((0..instances).flat_map(points).collect());
        let hosts = (0..instances).map(|n| data::parts(n).host.into()).collect();
        Self(ArcSwap::from_pointee((ring, hosts)))
    }

    /// The look-up alone.
    #[inline]
    pub fn find(&self, key: &[u8]) -> usize {
        self.0.load().0.get(&key).expect("a point").instance
    }

    /// As much as a pick does: what is found is handed out.
    #[inline]
    pub fn pick(&self, key: &[u8]) -> Arc<str> {
        let current = self.0.load();
        let (ring, hosts) = &**current;
        Arc::clone(&hosts[ring.get(&key).expect("a point").instance])
    }
}

/// A key that a call is hashed by, another one each time: as long as an id, and from no memory.
#[inline]
pub fn key() -> [u8; 16] {
    (u128::from(draw()) << 64 | u128::from(draw())).to_le_bytes()
}
