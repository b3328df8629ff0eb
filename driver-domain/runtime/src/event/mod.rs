//! Event channels: ports with handlers, and waiting without losing a wake-up.
//!
//! **Run to completion.** Event delivery stays masked while guest code runs. Events are looked for in one
//! place, [`wait`]: it runs the handlers of pending ports in ordinary context and, if there were none,
//! blocks. So a handler may allocate, take locks and call anything but `wait`; nothing is ever interrupted by
//! an event; and the only race is between the last look and going to sleep, which `SCHEDOP_block` decides: it
//! unmasks and sleeps in one step, and does not sleep if an event came.
//!
//! ```text
//!   wait:  look ──── some ──> handlers ──> return
//!            ^ └─ none ─> SCHEDOP_block (unmasks) ... event ... upcall (masks) ─┐
//!            └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One vCPU is assumed: its slot in shared_info is the one that is read.

mod bits;
mod link;
mod port;
mod table;
mod upcall;

use core::sync::atomic::{AtomicBool, Ordering};

use bulkhead_abi::callback::CallbackType;

pub(crate) use self::bits::EventBits;
pub use self::{
    link::{Link, LinkError},
    port::{Port, Signal},
};
use crate::{hypercall, shared_info::SharedInfo};

/// Whether handlers are running.
static DISPATCHING: AtomicBool = AtomicBool::new(false);

/// Masks all ports and tells the hypervisor where upcalls go. Delivery itself is masked from the start.
pub(crate) fn init(shared: SharedInfo) {
    shared.event_bits().mask_all();
    // SAFETY: `upcall` is an event callback: it takes the bounce frame off the stack and returns to what was
    // interrupted with every register as it was.
    let registered =
        unsafe { hypercall::register_callback(CallbackType::Event, upcall::upcall as *const () as u64) };
    if let Err(error) = registered {
        panic!("the hypervisor refused the event callback: {error}");
    }
}

/// Runs the handlers of all pending ports; blocks until there is one.
///
/// Returns once at least one port has fired. Whoever waits for something in particular looks whether it has
/// happened, waits, and looks again ([`wait_for`]).
///
/// # Panics
///
/// If called by a handler, whose own port's events could not be seen.
pub fn wait() {
    while dispatch() == 0 {
        block();
    }
}

/// Waits until `ready` says so; it is asked first, and again after each round of events.
///
/// # Panics
///
/// As [`wait`].
pub fn wait_for(mut ready: impl FnMut() -> bool) {
    while !ready() {
        wait();
    }
}

/// Runs the handlers of all pending ports, without blocking; returns how many ports fired.
///
/// # Panics
///
/// If called by a handler.
pub fn dispatch() -> usize {
    assert!(
        !DISPATCHING.swap(true, Ordering::Relaxed),
        "an event handler waits for events"
    );
    let fired = SharedInfo::get().event_bits().scan(port::fire);
    DISPATCHING.store(false, Ordering::Relaxed);
    fired
}

/// Sleeps until an event is pending.
fn block() {
    hypercall::block();
    // The upcall has masked delivery again; a wake-up without an upcall has not.
    SharedInfo::get().mask_upcalls();
}
