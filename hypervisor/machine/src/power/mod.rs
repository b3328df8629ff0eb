//! The end of the machine: power off, reset, or a status for whoever runs the emulator.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

/// How it went; the value is what QEMU's debug-exit device gets, whose exit status is twice that plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// Everything ended as it should.
    Clean = 0x10,
    /// A domain crashed.
    #[expect(dead_code, reason = "for the end of the last domain")]
    DomainCrashed = 0x11,
    /// The hypervisor itself gave up.
    Panic = 0x12,
}

/// The port of QEMU's `isa-debug-exit` device, as our command lines place it.
const DEBUG_EXIT_PORT: u16 = 0xf4;

static DEBUG_EXIT: AtomicBool = AtomicBool::new(false);

/// Makes [`exit`] use the emulator's debug-exit device.
pub(crate) fn use_debug_exit() {
    // Relaxed: set once, while one CPU runs.
    DEBUG_EXIT.store(true, Ordering::Relaxed);
}

/// Ends the machine. With `debug-exit` on the command line the emulator ends with `status`.
pub(crate) fn exit(status: Status) -> ! {
    interrupts::disable();
    if DEBUG_EXIT.load(Ordering::Relaxed) {
        // SAFETY: the operator said that this port belongs to the debug-exit device, which touches no memory.
        unsafe { Port::new(DEBUG_EXIT_PORT).write(status as u32) };
    }
    loop {
        hlt();
    }
}
