//! What the entry stubs call: from here on it is Rust.

use core::fmt;

use bulkhead_abi::trap::Vector;
use bulkhead_core::irq::{Kind, Pirq};
use bulkhead_core::vcpu::{Mode, Regs};
use bulkhead_core::{Cpu, Exception};
use bulkhead_machine::portable::crossing::closed;
use x86_64::registers::control::Cr2;

use super::info::CpuInfo;
use super::{crossing, guest_memory, info, stubs};
use crate::cpu::debug;
use crate::hw::hypervisor;
use crate::{apic, console, panic};

/// The first vector that is no exception.
const FIRST_INTERRUPT: u32 = 32;

/// The record of this CPU, for as long as the hypervisor works for the guest that it was entered from.
fn entered_from_guest() -> &'static mut CpuInfo {
    // SAFETY: the record was written before the CPU met a guest. The hypervisor was entered from ring 3 and interrupts
    // are off, so no other such reference of this CPU is alive: `hypervisor_trap`, which can interrupt this, makes one
    // only where a return to a guest failed, when the last one is no longer used.
    unsafe { &mut *info::this() }
}

/// The last thing before a guest goes on.
#[inline(always)]
fn leave(record: &mut CpuInfo) {
    let CpuInfo {
        regs, core, context, ..
    } = record;
    hypervisor().leave(core, regs);
    *context = core.context().unwrap_or_else(closed);
}

/// A hypercall, or a system call that is not quick. The registers are in the CPU's record.
pub(super) extern "C" fn guest_hypercall() {
    let record = entered_from_guest();
    let CpuInfo { regs, core, .. } = record;
    let hypervisor = hypervisor();
    hypervisor.enter_hypervisor(core);
    if regs.is_impossible() {
        hypervisor.impossible(core, regs);
    } else {
        hypervisor.hypercall(core, regs);
    }
    leave(record);
}

/// SYSCALL in 32-bit code.
pub(super) extern "C" fn guest_compat_call() {
    if entered_from_guest().core.mode() == Some(Mode::Kernel) {
        // A kernel may run such code too, and ask by it for what it always asks for.
        return guest_hypercall();
    }
    called(|core, regs| hypervisor().compat_call(core, regs));
}

/// SYSENTER.
pub(super) extern "C" fn guest_sysenter() {
    called(|core, regs| hypervisor().sysenter(core, regs));
}

/// A guest came by one of the rarer ways. The registers are in the CPU's record.
#[cold]
#[inline(never)]
fn called(act: impl FnOnce(&mut Cpu, &mut Regs)) {
    let record = entered_from_guest();
    let CpuInfo { regs, core, .. } = record;
    let hypervisor = hypervisor();
    hypervisor.enter_hypervisor(core);
    if regs.is_impossible() {
        hypervisor.impossible(core, regs);
    } else {
        act(core, regs);
    }
    leave(record);
}

/// An exception or interrupt while a guest ran. The registers are in the CPU's record.
pub(super) extern "C" fn guest_trap() {
    let address = Cr2::read_raw();
    trapped(entered_from_guest(), address);
}

/// The same, with the record; `address` is what CR2 was.
fn trapped(record: &mut CpuInfo, address: u64) {
    let CpuInfo { regs, core, .. } = record;
    let hypervisor = hypervisor();
    hypervisor.enter_hypervisor(core);
    let is_impossible = regs.is_impossible();
    if is_impossible {
        hypervisor.impossible(core, regs);
    }
    match regs.entry_vector {
        vector if vector >= FIRST_INTERRUPT => match apic::acknowledge(vector) {
            apic::Interrupt::Timer => hypervisor.timer_interrupt(core),
            apic::Interrupt::Device(pirq) => device(pirq),
            apic::Interrupt::Other => {}
        },
        vector => {
            let vector = vector.to_le_bytes()[0];
            match Vector::from_raw(vector) {
                Some(Vector::Nmi) => non_maskable(),
                Some(Vector::MachineCheck | Vector::DoubleFault) => die(regs, address),
                _ if is_impossible => {}
                _ => hypervisor.exception(
                    core,
                    regs,
                    Exception {
                        vector,
                        error_code: regs.error_code,
                        address,
                    },
                ),
            }
        }
    }
    leave(record);
}

/// A device interrupts.
fn device(pirq: Pirq) {
    match pirq.kind() {
        Kind::Line(gsi) if console::is_line(gsi) => {
            console::receive();
            hypervisor().console_input();
        }
        Kind::Line(_) | Kind::Message(_) => hypervisor().pirq_interrupt(pirq),
    }
    apic::eoi();
}

/// An exception or interrupt while the hypervisor ran. Returns the registers to go on with.
pub(super) extern "C" fn hypervisor_trap(frame: *mut Regs) -> *mut Regs {
    let address = Cr2::read_raw();
    // SAFETY: the stub passes its own frame, which nobody else refers to.
    let regs = unsafe { &mut *frame };
    if regs.is_impossible() {
        return from_impossible_mode(*regs, address);
    }
    if regs.entry_vector >= FIRST_INTERRUPT {
        // Interrupts are on only while this CPU waits for one; who waits looks for what is due.
        if let apic::Interrupt::Device(pirq) = apic::acknowledge(regs.entry_vector) {
            // It holds no lock while it waits.
            device(pirq);
        }
        return frame;
    }
    match u8::try_from(regs.entry_vector).ok().and_then(Vector::from_raw) {
        // A breakpoint of the guest's, on what we copied for it; or one that waited for the end of an instruction which entered
        // the hypervisor: MOV SS puts it off by one (CVE-2018-8897). It is on a stack of its own, and whatever it interrupted, the
        // stubs' first instructions included, goes on as if nothing had been. The guest is not told.
        Some(Vector::Debug) => {
            let _ = debug::take_status();
            if stubs::is_debug_entry(regs.rip) {
                return lost_frame(*regs, address);
            }
            return frame;
        }
        // These may come at any instruction, one that may fault included.
        Some(Vector::Nmi) => {
            non_maskable();
            return frame;
        }
        Some(Vector::MachineCheck | Vector::DoubleFault) => die(regs, address),
        _ => {}
    }
    if let Some(fixup) = guest_memory::fixup(regs.rip).or_else(|| crossing::fixup(regs.rip)) {
        regs.rip = fixup;
        return frame;
    }
    if stubs::is_guest_iret(regs.rip) {
        return failed_return(*regs);
    }
    die(regs, address)
}

/// The CPU refused to return to the guest: its selectors are bad. `general` has the guest's general registers, and its
/// stack pointer shows what the CPU should have loaded.
fn failed_return(general: Regs) -> *mut Regs {
    let record = entered_from_guest();
    let CpuInfo { regs, core, .. } = record;
    // What was to be loaded is still in its place, at the end of the record; the rest was saved again by the fault, lower down
    // and over the first fields.
    *regs = Regs {
        rip: regs.rip,
        cs: regs.cs,
        rflags: regs.rflags,
        rsp: regs.rsp,
        ss: regs.ss,
        ..general
    };
    hypervisor().failed_return(core, regs);
    leave(record);
    &raw mut record.regs
}

/// The frame says ring 0, and has flags that the hypervisor never has: it is a guest's after all.
fn from_impossible_mode(general: Regs, address: u64) -> *mut Regs {
    let record = entered_from_guest();
    record.regs = general;
    trapped(record, address);
    &raw mut record.regs
}

/// A debug exception came before the first instruction after another, and its frame lies where the first one's did: MOV SS that meets
/// a breakpoint, then INT1; or, under QEMU, a single step that meets one. Returning would lead here again, for ever.
fn lost_frame(general: Regs, address: u64) -> *mut Regs {
    // SAFETY: reads a word of this CPU's own record, of which what was interrupted may have a reference: nothing but a copy is made.
    let is_at_work = unsafe { (*info::this()).core.is_at_work() };
    if is_at_work {
        // Nobody steps through the hypervisor, so there is one reason at a time for it.
        die(&general, address);
    }
    let record = entered_from_guest();
    let CpuInfo { regs, core, .. } = record;
    *regs = general;
    let hypervisor = hypervisor();
    hypervisor.enter_hypervisor(core);
    hypervisor.lost_frame(core, regs);
    leave(record);
    &raw mut record.regs
}

/// A non-maskable interrupt: another CPU writes its dump and stops this one, or the hardware has something to say.
fn non_maskable() {
    if panic::is_under_way() {
        panic::stand_still();
    }
    log::warn!("a non-maskable interrupt, for no known reason");
}

/// A trap that the hypervisor cannot survive.
fn die(regs: &Regs, address: u64) -> ! {
    panic::die(format_args!("{}", Fatal { regs, address }), regs.rip, regs.rbp)
}

/// The registers of a trap, for people.
struct Fatal<'a> {
    regs: &'a Regs,
    address: u64,
}

impl fmt::Display for Fatal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { regs, address } = self;
        let vector = u8::try_from(regs.entry_vector).ok().and_then(Vector::from_raw);
        match vector {
            Some(vector) => write!(f, "{vector}")?,
            None => write!(f, "vector {}", regs.entry_vector)?,
        }
        writeln!(
            f,
            " in the hypervisor, error code {:#x}, cr2 {address:#x}",
            regs.error_code
        )?;
        for row in regs.rows() {
            writeln!(f, "  {row}")?;
        }
        Ok(())
    }
}

/// Runs guests on this CPU, for ever.
pub(crate) fn run_guests() -> ! {
    // SAFETY: this CPU has its record and meets its first guest here: nothing else refers to the record.
    let record = unsafe { &mut *info::this() };
    leave(record);
    // SAFETY: `leave` put a guest's registers there, and this function's stack is not needed any more.
    unsafe { stubs::start_guest(&raw const record.regs) }
}
