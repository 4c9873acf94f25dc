//! An allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// The system's allocator, with a count for each thread, and of live bytes where that is asked for.
pub struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

static TRACKED: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);

/// Allocations of the calling thread so far.
pub fn count() -> u64 {
    COUNT.get()
}

/// Starts to count live bytes.
pub fn track() {
    TRACKED.store(true, Ordering::Relaxed);
}

/// Bytes allocated less those freed, since [`track`].
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

fn note(allocated: usize, freed: usize) {
    if allocated > 0 {
        // A thread that ends may still free and allocate.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    }
    if TRACKED.load(Ordering::Relaxed) {
        LIVE.fetch_add(allocated.cast_signed() as i64 - freed.cast_signed() as i64, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "the trait of allocators is unsafe; every call goes to the system's as it came")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}
