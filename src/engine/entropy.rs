//! Random bits for picks: a small generator for each thread, so that picks share nothing.

use std::cell::Cell;

thread_local! {
    /// Seeded once for each thread, from the operating system's entropy by way of rand.
    static STATE: Cell<u64> = Cell::new(rand::random());
}

/// 64 random bits (`SplitMix64`). Good for spreading load, not for secrets.
#[inline]
pub(crate) fn draw() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        let z = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::draw;
    use std::collections::HashSet;

    #[test]
    fn threads_draw_different_sequences() {
        let drawn: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).map(|_| draw()).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), 4000);
    }
}
