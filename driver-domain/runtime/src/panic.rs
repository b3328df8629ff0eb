//! The end of a guest that found itself wrong: message, backtrace, crash.

use core::sync::atomic::{AtomicBool, Ordering};

use bulkhead_abi::sched::ShutdownReason;

use crate::{backtrace, console, hypercall};

/// Whether the end has begun; a panic while reporting one is not reported.
static DYING: AtomicBool = AtomicBool::new(false);

/// Prints what `report` prints and a backtrace from `frame_pointer`, then shuts the domain down as crashed.
///
/// Called again while it runs, it shuts down at once.
pub(crate) fn die(frame_pointer: usize, report: impl FnOnce()) -> ! {
    // Nothing else is told by the flag. A second vCPU that dies meanwhile adds nothing to the report.
    if !DYING.swap(true, Ordering::Relaxed) {
        console::unspool();
        report();
        backtrace::print(frame_pointer);
    }
    hypercall::shutdown(ShutdownReason::Crash)
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    die(backtrace::frame_pointer(), || crate::println!("{info}"))
}
