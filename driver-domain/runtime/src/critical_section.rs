//! Critical sections, by which embassy-sync protects what tasks and wakers share.
//!
//! A section must keep out whoever else could run on the same data. On one vCPU that is nobody: events are
//! handled where the program waits, never inside a section, and exception handlers keep away from everything
//! that the interrupted code may be using ([`trap::Handler`](crate::trap::Handler)). So nothing is masked.
//! What would have to be kept out is another vCPU, and that is what the lock does. It belongs to a vCPU, not
//! to a piece of code, so that sections may nest.

use crate::sync::{AtomicU32, Ordering, spin_loop};

/// Nobody is inside.
pub(crate) const FREE: u32 = 0;

/// Enters the section that `holder` stands for, on behalf of `vcpu` (counted from 1); returns whether it was
/// inside already.
pub(crate) fn enter(holder: &AtomicU32, vcpu: u32) -> bool {
    // If it is our own number, only we can have stored it, and only we can remove it.
    if holder.load(Ordering::Relaxed) == vcpu {
        return true;
    }
    // Acquire pairs with the Release in `leave`: what the last holder did is visible.
    while holder
        .compare_exchange_weak(FREE, vcpu, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        spin_loop();
    }
    false
}

/// Undoes an [`enter`] that returned `was_inside`.
pub(crate) fn leave(holder: &AtomicU32, was_inside: bool) {
    if !was_inside {
        holder.store(FREE, Ordering::Release);
    }
}

#[cfg(target_os = "none")]
mod machine {
    use critical_section::{Impl, RawRestoreState};

    use super::{AtomicU32, FREE, enter, leave};
    use crate::vcpu;

    static HOLDER: AtomicU32 = AtomicU32::new(FREE);

    struct Section;
    critical_section::set_impl!(Section);

    // SAFETY: between `acquire` and `release` no other vCPU is inside, and on this one nothing runs that
    // could be: see the head of this file. Nested sections leave the lock to the outermost.
    unsafe impl Impl for Section {
        unsafe fn acquire() -> RawRestoreState {
            enter(&HOLDER, vcpu::current().saturating_add(1))
        }

        unsafe fn release(was_inside: RawRestoreState) {
            leave(&HOLDER, was_inside);
        }
    }
}
