//! The vCPU's one-shot timer: one deadline at a time, that of the first sleeper.
//!
//! The timer is set when the vCPU is about to sleep, and only if the first deadline has changed since it was
//! last set. A timer that nobody needs any more is left to fire: that costs one look, a hypercall would cost
//! the same.

use core::{
    sync::atomic::{AtomicU64, Ordering},
    task::Waker,
};

use bulkhead_abi::event::Virq;
use embassy_time_driver::Driver;
use spin::{Mutex, Once};

use super::{queue::TimerQueue, system_time_ns};
use crate::{event::Port, hypercall};

/// The timer interrupt's port, for the life of the guest.
static TIMER: Once<Port> = Once::new();

/// The deadline that the timer was set to and has not fired for.
static ARMED: AtomicU64 = AtomicU64::new(NOT_ARMED);
const NOT_ARMED: u64 = u64::MAX;

static SLEEPERS: Mutex<TimerQueue> = Mutex::new(TimerQueue::new());

/// What embassy-time asks.
struct Clock;

impl Driver for Clock {
    fn now(&self) -> u64 {
        system_time_ns()
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        // A deadline that has passed is found by the next look.
        SLEEPERS.lock().schedule(at, waker);
    }
}

#[cfg(target_os = "none")]
embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);

/// Stops the default tick and binds the timer interrupt.
pub(crate) fn init() {
    if let Err(error) = hypercall::stop_periodic_timer() {
        log::warn!("the periodic timer cannot be stopped: {error}");
    }
    match Port::bind_virq(Virq::Timer) {
        Ok(port) => {
            TIMER.call_once(|| port);
        }
        Err(error) => panic!("the timer interrupt cannot be bound: {error}"),
    }
}

/// Wakes all whose time has come.
pub(crate) fn wake_sleepers() {
    // Most looks find a first deadline that is far off, many none at all.
    let Some(next) = SLEEPERS.lock().next_deadline() else {
        return;
    };
    let now = system_time_ns();
    if next > now {
        return;
    }
    loop {
        let due = SLEEPERS.lock().pop_due(now);
        // Outside the lock: waking may run code that is not ours.
        let Some(waker) = due else { return };
        waker.wake();
    }
}

/// Sets the timer to the first deadline, if there is one and it is not set to it.
pub(crate) fn arm_timer() {
    if TIMER.get().is_some_and(Port::has_fired) {
        // Perhaps a moment early, by our reading of the clock: then it is set once more to the same time.
        ARMED.store(NOT_ARMED, Ordering::Relaxed);
    }
    let Some(deadline) = SLEEPERS.lock().next_deadline() else {
        return;
    };
    // Relaxed: only this vCPU looks at what is after all its own timer.
    if ARMED.swap(deadline, Ordering::Relaxed) == deadline {
        return;
    }
    if let Err(error) = hypercall::set_singleshot_timer(deadline) {
        panic!("the timer cannot be set to {deadline} ns: {error}");
    }
}
