//! The vCPU's one-shot timer, and sleeping on it.
//!
//! There is one timer and one waiter: the code that runs. A wait with a deadline arms the timer and then
//! looks at the clock after every round of events, so a timer left over from an earlier wait costs one look
//! and no more.

use core::time::Duration;

use bulkhead_abi::event::Virq;
use spin::Once;

use super::Instant;
use crate::{
    event::{self, Port},
    hypercall,
};

/// The timer interrupt's port, for the life of the guest.
static TIMER: Once<Port> = Once::new();

/// Stops the default tick and binds the timer interrupt.
pub(crate) fn init() {
    if let Err(error) = hypercall::stop_periodic_timer() {
        log::warn!("the periodic timer cannot be stopped: {error}");
    }
    // Nothing to do when it fires: that a wait has ended is the point.
    match Port::bind_virq(Virq::Timer, || ()) {
        Ok(port) => {
            TIMER.call_once(|| port);
        }
        Err(error) => panic!("the timer interrupt cannot be bound: {error}"),
    }
}

/// Waits until `deadline`; events are handled meanwhile.
///
/// # Panics
///
/// If called by an event handler.
pub fn sleep_until(deadline: Instant) {
    wait_for_until(deadline, || false);
}

/// Waits for `duration`; events are handled meanwhile.
///
/// # Panics
///
/// If called by an event handler.
pub fn sleep(duration: Duration) {
    sleep_until(Instant::now().after(duration));
}

/// Waits until `ready` says so or `deadline` has passed; returns whether it was ready.
///
/// # Panics
///
/// If called by an event handler.
pub fn wait_for_until(deadline: Instant, mut ready: impl FnMut() -> bool) -> bool {
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        // Each time: the timer may just have fired a moment early by our reading of the clock.
        if let Err(error) = hypercall::set_singleshot_timer(deadline.as_ns()) {
            panic!("the timer cannot be set to {deadline:?}: {error}");
        }
        event::wait();
    }
}
