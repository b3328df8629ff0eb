//! The atomics that the core uses, so that a model checker can take their place.
//!
//! A normal build has core's own. A build with `--cfg loom` has those of the `loom` crate, which runs a test under
//! every interleaving and every permitted reordering.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

/// Restates, for the model checker, that a sequentially consistent read-modify-write orders what stands after it.
///
/// Place it between such a write and a sequentially consistent load of another word which must not be satisfied
/// earlier. It generates nothing in a normal build: the total order of sequentially consistent operations
/// already forbids that, and on x86 the `lock` prefix is a full barrier. Loom alone needs the fence, because it treats
/// sequentially consistent accesses as acquire and release.
#[inline]
pub fn fence_after_rmw() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
