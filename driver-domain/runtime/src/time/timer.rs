//! The sleepers of this vCPU, and the timer that wakes it for the first of them.

use core::task::Waker;

use bulkhead_abi::event::Virq;
use embassy_time_driver::Driver;
use spin::{Mutex, Once};

use super::{alarm::Alarm, queue::TimerQueue, system_time_ns};
use crate::{event::Port, hypercall};

/// The timer interrupt's port, for the life of the guest.
static INTERRUPT: Once<Port> = Once::new();

static SLEEPERS: Mutex<TimerQueue> = Mutex::new(TimerQueue::new());
static ALARM: Mutex<Alarm> = Mutex::new(Alarm::new());

/// What embassy-time asks.
struct Clock;

impl Driver for Clock {
    fn now(&self) -> u64 {
        system_time_ns()
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        // The next look finds a deadline that has passed, the next sleep sets the timer to one that has not.
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
            INTERRUPT.call_once(|| port);
        }
        Err(error) => panic!("the timer interrupt cannot be bound: {error}"),
    }
}

/// Wakes all whose time has come.
pub(crate) fn wake_sleepers() {
    // Many looks find no deadline at all: then the clock need not be read.
    let Some(first) = SLEEPERS.lock().next_deadline() else {
        return;
    };
    let now = system_time_ns();
    if first > now {
        return;
    }
    loop {
        let due = SLEEPERS.lock().pop_due(now);
        // Outside the lock: waking may run code that is not ours.
        let Some(waker) = due else { return };
        waker.wake();
    }
}

/// Makes sure that the vCPU, if it sleeps now, is woken for the first sleeper.
pub(crate) fn arm_timer() {
    let deadline = SLEEPERS.lock().next_deadline();
    let has_fired = INTERRUPT.get().is_some_and(Port::has_fired);
    let setting = ALARM.lock().setting_for(deadline, has_fired);
    if let Some(deadline) = setting
        && let Err(error) = hypercall::set_singleshot_timer(deadline)
    {
        panic!("the timer cannot be set to {deadline} ns: {error}");
    }
}
