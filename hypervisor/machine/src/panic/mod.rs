//! What happens when the hypervisor cannot go on: a dump, and the end of the machine.
//!
//! [`die`] is the one way down. It uses no lock and no heap, and the raw serial port. The first CPU to come here
//! writes the dump; others that come, or that it stops, stand still. If the dump itself fails, one line says so.

mod backtrace;

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use x86_64::instructions::{hlt, interrupts};

use self::backtrace::{Frames, describe};
use crate::cpu::stack::{frame_pointer, this_cpu};
use crate::power::{Status, exit};
use crate::serial::RawPort;
use crate::trace::{self, Event, Line};
use crate::{apic, cpu};

/// How many trace records the dump shows.
const TRACE_RECORDS: usize = 32;

/// Nobody panics.
const NOBODY: usize = usize::MAX;
/// The CPU that writes the dump.
static OWNER: AtomicUsize = AtomicUsize::new(NOBODY);
/// How often the owner came here.
static ENTRIES: AtomicUsize = AtomicUsize::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let place = info.location();
    match place {
        Some(place) => die(format_args!("{} ({place})", info.message()), 0, frame_pointer()),
        None => die(format_args!("{}", info.message()), 0, frame_pointer()),
    }
}

/// Writes a dump that begins with `message` and ends the machine.
///
/// A trap handler passes the instruction pointer and the frame pointer of the code that trapped, and whatever
/// registers it has in `message`; a `rip` of 0 means that the frame pointer is the caller's own. May be called in
/// any context, NMI and machine check included.
pub(crate) fn die(message: fmt::Arguments<'_>, rip: u64, rbp: u64) -> ! {
    interrupts::disable();
    let cpu = this_cpu();
    // Relaxed: only one CPU can win, and nothing else is published by it.
    let owner = OWNER.compare_exchange(NOBODY, cpu, Ordering::Relaxed, Ordering::Relaxed);
    if owner.is_err_and(|owner| owner != cpu) {
        stand_still();
    }
    match ENTRIES.fetch_add(1, Ordering::Relaxed) {
        0 => {
            trace::record(Event::Panic as u16, rip, rbp);
            if cpu::online() > 1 {
                apic::nmi_to_others();
            }
            // The raw port never fails.
            let _ = dump(&mut RawPort::seize(), cpu, message, rip, rbp);
        }
        1 => {
            let _ = writeln!(RawPort::seize(), "\n(bh) PANIC in the dump: {message}");
        }
        _ => {}
    }
    exit(Status::Panic)
}

/// Whether a CPU writes its dump: the NMI handler of the others then calls [`stand_still`].
#[expect(dead_code, reason = "the core schedules on one CPU so far")]
pub(crate) fn is_under_way() -> bool {
    OWNER.load(Ordering::Relaxed) != NOBODY
}

/// Stops this CPU for good.
pub(crate) fn stand_still() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

fn dump(out: &mut impl Write, cpu: usize, message: fmt::Arguments<'_>, rip: u64, rbp: u64) -> fmt::Result {
    writeln!(out, "\n(bh) PANIC on CPU {cpu}: {message}")?;
    writeln!(out, "(bh) backtrace:")?;
    if rip != 0 {
        writeln!(out, "(bh)   {rip:#018x} {}", describe(rip))?;
    }
    for address in Frames::new(cpu, rbp) {
        // A return address is past its call, which may be the last instruction of a function.
        writeln!(
            out,
            "(bh)   {address:#018x} {}",
            describe(address.saturating_sub(1))
        )?;
    }
    if let Some(ring) = trace::ring(cpu) {
        writeln!(out, "(bh) last events on this CPU, oldest first:")?;
        for record in ring.last(TRACE_RECORDS) {
            writeln!(out, "(bh) {}", Line(record))?;
        }
    }
    Ok(())
}
