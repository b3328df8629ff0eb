//! The loop of a vCPU that waits: do what is ready, look for events, sleep, and lose no wake-up.
//!
//! ```text
//!   ┌─> ready? ── yes ──> step ──┐
//!   │     └─ no ─────────────────┴─> look ──> ready? ── no ──> sleep ──┐
//!   └─────────────────────────────────────────┴─ yes ──────────────────┘
//! ```
//!
//! Something may become ready at any moment. Whoever makes it so sets the flag `ready`, and is one of these:
//!
//! - *The step itself*, or *the look*, on this vCPU. The flag is taken before the step and read after the
//!   look, so it is seen: the vCPU goes round again and does not sleep.
//! - *The hypervisor*, which knows nothing of the flag: it sets the bit of a port, then upcall-pending. The
//!   look clears upcall-pending first and reads the bits of ports afterwards ([`EventBits::scan`]), so it
//!   either finds the port or leaves upcall-pending set; and [`Vcpu::sleep`] does not sleep on a set
//!   upcall-pending. Between the look and the sleep nothing of this vCPU's need be masked for that: the
//!   hypervisor blocks a vCPU first and looks at upcall-pending then.
//! - *Another vCPU*. It sets the flag and then raises a port of this vCPU. If the flag was read too early, the
//!   port's event comes after the look, and ends the sleep like any other.
//!
//! A step that is always ready does not keep events out: there is a look in every round.
//!
//! Nothing here depends on the machine; `tests/wakeups_loom.rs` runs this file and [`EventBits::scan`]
//! against a hypervisor under every interleaving.
//!
//! [`EventBits::scan`]: crate::event::EventBits::scan

use crate::sync::{AtomicBool, Ordering};

/// What the loop needs of the vCPU that it runs on.
pub(crate) trait Vcpu {
    /// Finds out what the hypervisor has told since the last look: sets `ready` if that concerns anyone.
    fn look(&self);

    /// Allows events to be delivered and sleeps until one is pending, in one step.
    fn sleep(&self);
}

/// Takes `step` whenever `ready` was set, until it has a result; sleeps in between.
pub(crate) fn run<T>(vcpu: &impl Vcpu, ready: &AtomicBool, mut step: impl FnMut() -> Option<T>) -> T {
    loop {
        // Taken before the step, so that what becomes ready during it counts for the next. Acquire pairs with
        // the Release of whoever set it: the step sees what that one did before.
        if ready.swap(false, Ordering::Acquire)
            && let Some(result) = step()
        {
            return result;
        }
        vcpu.look();
        if !ready.load(Ordering::Relaxed) {
            vcpu.sleep();
        }
    }
}
