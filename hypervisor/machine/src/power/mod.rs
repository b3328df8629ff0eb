//! The end of the machine: power off, reset, or a status for whoever runs the emulator.

use core::sync::atomic::{AtomicBool, Ordering};

use bulkhead_machine::portable::sleep_state::SleepType;
use spin::Once;
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

use crate::acpi::{Fixed, Register};
use crate::memory::map_mmio;

/// How it went; the value is what QEMU's debug-exit device gets, whose exit status is twice that plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// Everything ended as it should.
    Clean = 0x10,
    /// A domain crashed.
    DomainCrashed = 0x11,
    /// The hypervisor itself gave up.
    Panic = 0x12,
}

/// The port of QEMU's `isa-debug-exit` device, as our command lines place it.
const DEBUG_EXIT_PORT: u16 = 0xf4;

static DEBUG_EXIT: AtomicBool = AtomicBool::new(false);
static FIXED: Once<Fixed> = Once::new();

/// Makes [`exit`] use the emulator's debug-exit device.
pub(crate) fn use_debug_exit() {
    // Relaxed: set once, while one CPU runs.
    DEBUG_EXIT.store(true, Ordering::Relaxed);
}

/// Tells how this machine is powered off and reset.
pub(crate) fn init(fixed: Fixed) {
    FIXED.call_once(|| fixed);
}

/// Ends the machine: with `debug-exit` on the command line the emulator ends with `status`; else the power goes
/// off; if it does not, the machine resets; and if even that fails, it stands still.
pub(crate) fn exit(status: Status) -> ! {
    interrupts::disable();
    debug_exit(status);
    if let Some(fixed) = FIXED.get() {
        power_off(fixed);
    }
    reset()
}

/// Starts the machine again; with `debug-exit` on the command line, ends it as [`Status::Clean`].
pub(crate) fn reset() -> ! {
    interrupts::disable();
    debug_exit(Status::Clean);
    if let Some((register, value)) = FIXED.get().and_then(|fixed| fixed.reset) {
        write_register(register, value);
        wait();
    }
    keyboard_reset();
    wait();
    log::error!("the machine neither powers off nor resets; it is safe to switch it off");
    loop {
        hlt();
    }
}

fn debug_exit(status: Status) {
    if DEBUG_EXIT.load(Ordering::Relaxed) {
        // SAFETY: the operator said that this port belongs to the debug-exit device, which touches no memory.
        unsafe { Port::new(DEBUG_EXIT_PORT).write(status as u32) };
    }
}

/// PM1 control: ACPI owns the power-management registers.
const SCI_ENABLE: u16 = 1 << 0;
/// PM1 control: enter the sleep state of bits 10 to 12.
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE_MASK: u16 = 0b111 << SLEEP_TYPE_SHIFT;

/// Enters the soft-off state (ACPI specification 6.5, section 16.1.7); returns if the machine does not know it.
fn power_off(fixed: &Fixed) {
    let (
        [Some(pm1a), pm1b],
        Some(SleepType {
            pm1a: type_a,
            pm1b: type_b,
        }),
    ) = (fixed.pm1_control, fixed.soft_off)
    else {
        return;
    };
    take_over(fixed, pm1a);
    enter(pm1a, type_a);
    if let Some(pm1b) = pm1b {
        enter(pm1b, type_b);
    }
    wait();
}

/// Asks firmware for the power-management registers, if they are still its own.
fn take_over(fixed: &Fixed, pm1a: u16) {
    let mut control = Port::<u16>::new(pm1a);
    // SAFETY: reading a control register has no effect.
    if unsafe { control.read() } & SCI_ENABLE != 0 {
        return;
    }
    if let Some((port, value)) = fixed.enable {
        // SAFETY: the FADT says that this value at this port makes firmware let go of the registers.
        unsafe { Port::new(port).write(value) };
        wait();
    }
}

fn enter(control: u16, sleep_type: u8) {
    let mut control = Port::<u16>::new(control);
    // SAFETY: the FADT says that this is a PM1 control register, and the DSDT that this type is soft off; the
    // machine ends here, as the caller wants.
    unsafe {
        let kept = control.read() & !(SLEEP_TYPE_MASK | SLEEP_ENABLE);
        control.write(kept | u16::from(sleep_type) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
    }
}

fn write_register(register: Register, value: u8) {
    match register {
        // SAFETY: the FADT says that this resets the machine, which the caller wants.
        Register::Port(port) => unsafe { Port::new(port).write(value) },
        Register::Memory(address) => {
            if let Ok(mapped) = map_mmio(address, 1) {
                // SAFETY: mapped just now; the FADT says that this resets the machine.
                unsafe { mapped.write_volatile(value) };
            }
        }
    }
}

/// The keyboard controller's command port, and its command "pulse the reset line".
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

fn keyboard_reset() {
    // SAFETY: on machines with a keyboard controller this resets, which the caller wants; on others it does
    // nothing.
    unsafe { Port::new(KEYBOARD_COMMAND).write(PULSE_RESET) };
}

/// Lets the machine do what it was told: some tens of milliseconds.
fn wait() {
    for _ in 0..50_000 {
        // SAFETY: port 0x80 takes diagnostic codes; a write takes about a microsecond and does nothing.
        unsafe { Port::<u8>::new(0x80).write(0) };
    }
}
