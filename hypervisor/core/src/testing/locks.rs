//! The checks of lock order, in tests.

use crate::lock;
use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Turns the checks of lock order on: without them nobody knows when a CPU can be interrupted. To them, each thread is a CPU; what is interleaved
/// in it holds no locks.
pub fn check_locks() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    lock::use_cpu_number(|| NUMBER.get());
}
