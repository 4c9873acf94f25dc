//! F, the least that a pick can be, and how all baselines draw at random.

use std::cell::Cell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use polarismesh::{Instance, ServiceHandle};

/// F: the guard of an `ArcSwap`, one draw from an alias table, the clone of an `Arc`.
///
/// What is drawn are the very instances that the library picks from, so they lie in memory as its own do.
pub struct Floor<T = Instance>(ArcSwap<Drawn<T>>);

struct Drawn<T> {
    columns: Box<[(u32, u32)]>,
    items: Box<[T]>,
}

/// As large as an instance that somebody could use, and as near to the next one as they can be.
pub struct Item {
    _authority: Box<str>,
    _rest: [u64; 6],
}

impl Floor {
    /// Over all instances of a service that is loaded.
    pub fn new(handle: &ServiceHandle) -> Self {
        Self::among(&[(1.0, handle.snapshot().expect("it is loaded").instances().to_vec())])
    }

    /// Over groups of instances, each with its share of the draws.
    pub fn among(groups: &[(f64, Vec<Instance>)]) -> Self {
        let mut parts = Vec::new();
        for (share, instances) in groups {
            let total: f64 = instances.iter().map(|instance| f64::from(instance.weight())).sum();
            parts.extend(instances.iter().map(|i| (i.clone(), share * f64::from(i.weight()) / total)));
        }
        // In the order of the whole list, as it lies in memory.
        parts.sort_by(|(a, _), (b, _)| a.id().cmp(b.id()));
        Self::of(parts)
    }
}

impl Floor<Arc<Item>> {
    /// Over as many items of its own, one made behind the other: what a list costs that somebody laid out for this.
    pub fn compact(handle: &ServiceHandle) -> Self {
        let list = handle.snapshot().expect("it is loaded");
        let item = |instance: &Instance| Arc::new(Item { _authority: instance.authority().into(), _rest: [0; 6] });
        Self::of(list.instances().iter().map(|instance| (item(instance), f64::from(instance.weight()))).collect())
    }
}

impl<T: Clone> Floor<T> {
    fn of(parts: Vec<(T, f64)>) -> Self {
        let (items, weights): (Vec<T>, Vec<f64>) = parts.into_iter().unzip();
        Self(ArcSwap::from_pointee(Drawn { columns: alias(&weights), items: items.into() }))
    }

    #[inline]
    pub fn pick(&self) -> T {
        let drawn = self.0.load();
        drawn.items[drawn.draw()].clone()
    }

    /// F without the clone: what is drawn is looked at where it is.
    #[inline]
    pub fn pick_with<U>(&self, look: impl FnOnce(&T) -> U) -> U {
        let drawn = self.0.load();
        look(&drawn.items[drawn.draw()])
    }
}

impl<T> Drawn<T> {
    #[inline]
    fn draw(&self) -> usize {
        let entropy = draw();
        let column = below(entropy, self.columns.len());
        let (threshold, other) = self.columns[column];
        if entropy as u32 <= threshold { column } else { other as usize }
    }
}

/// Vose's table; thresholds in parts of 2^32.
fn alias(weights: &[f64]) -> Box<[(u32, u32)]> {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    let mut mass: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..mass.len()).partition(|n| mass[*n] < 1.0);
    let mut columns: Box<[(u32, u32)]> = (0..mass.len()).map(|n| (u32::MAX, n as u32)).collect();
    while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
        columns[poor] = ((mass[poor] * f64::from(u32::MAX)) as u32, rich as u32);
        mass[rich] -= 1.0 - mass[poor];
        if mass[rich] < 1.0 { small.push(rich) } else { large.push(rich) }
    }
    columns
}

thread_local! { static STATE: Cell<u64> = const { Cell::new(0x2545_F491_4F6C_DD1D) } }

/// The next number of a small generator that each thread has for itself.
#[inline]
pub fn draw() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0xA076_1D64_78BD_642F);
        state.set(next);
        let wide = u128::from(next) * u128::from(next ^ 0xE703_7ED1_A0B4_28DB);
        (wide >> 64) as u64 ^ wide as u64
    })
}

/// Where the calling thread's generator goes on: two threads that draw the same numbers meet at every item.
pub fn seed(number: usize) {
    STATE.set((number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
}

/// `entropy`, spread over the numbers below `bound`.
#[inline]
pub fn below(entropy: u64, bound: usize) -> usize {
    ((u128::from(entropy) * bound as u128) >> 64) as usize
}
