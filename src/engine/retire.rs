//! Where replaced snapshots wait until nobody reads them.
//!
//! A reader holds a snapshot for the length of a pick. If the writer let go of it in that moment, the reader would be
//! the last one and would free a hundred thousand instances in the middle of a call. So what is replaced goes here, and
//! is freed here, once this is the only place that holds it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before looking again whether readers are done.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Replaced snapshots of any kind.
#[derive(Default)]
pub(crate) struct Retired(Vec<Arc<dyn Any + Send + Sync>>);

impl Retired {
    pub(crate) fn push(&mut self, replaced: Arc<dyn Any + Send + Sync>) {
        self.0.push(replaced);
    }

    pub(crate) fn extend<T: Any + Send + Sync>(&mut self, replaced: impl IntoIterator<Item = Arc<T>>) {
        self.0.extend(replaced.into_iter().map(|replaced| replaced as Arc<dyn Any + Send + Sync>));
    }

    /// Frees what nobody reads any more. What was swapped out is counted exactly: a swap settles the guards of readers.
    pub(crate) fn sweep(&mut self) {
        self.0.retain(|replaced| Arc::strong_count(replaced) > 1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Retired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retired").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arc_swap::ArcSwap;

    #[test]
    fn what_a_guard_still_reads_is_kept() {
        let cell = ArcSwap::from_pointee(1);
        let guard = cell.load();
        let mut retired = Retired::default();
        retired.push(cell.swap(Arc::new(2)));
        retired.sweep();
        assert!(!retired.is_empty(), "the guard reads {guard}");
        drop(guard);
        retired.sweep();
        assert!(retired.is_empty());
    }
}
