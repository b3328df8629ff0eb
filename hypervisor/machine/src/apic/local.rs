//! The local APIC: set up on each CPU, end of interrupt, and interrupts between CPUs.

use spin::Once;

use super::Vector;
use super::registers::{Access, DIVIDE_BY_1, Lvt, Register, SIZE, SOFTWARE_ENABLE};
use crate::cpu::features::Features;
use crate::memory::map_mmio;

static ACCESS: Once<Access> = Once::new();

/// Where local APICs are if no table says otherwise.
const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Turns this CPU's local APIC on. `base` is the physical address that the ACPI tables give. The timer stands
/// still; the pin for NMIs works; everything else is masked. Every CPU calls it once.
///
/// Returns `None` if the registers cannot be mapped.
pub(crate) fn init(features: Features, base: Option<u64>) -> Option<()> {
    let access = *ACCESS
        .try_call_once(|| {
            if features.contains(Features::X2APIC) {
                return Ok(Access::Msr);
            }
            map_mmio(base.unwrap_or(DEFAULT_BASE), SIZE).map(Access::Memory)
        })
        .ok()?;
    access.enable();
    let masked = Lvt::MASKED.bits();
    // SAFETY: nothing of this lets an interrupt through but NMIs, which the CPU must be ready for at any time,
    // and errors, which are reported on a vector that has a handler before interrupts are enabled.
    unsafe {
        access.write(Register::TaskPriority, 0);
        access.write(Register::LvtTimer, masked | Vector::Timer as u32);
        access.write(Register::LvtThermal, masked);
        access.write(Register::LvtPerformance, masked);
        access.write(Register::LvtLint0, masked);
        access.write(Register::LvtLint1, Lvt::NMI.bits());
        access.write(Register::LvtError, Vector::Error as u32);
        access.write(Register::InitialCount, 0);
        access.write(Register::Divide, DIVIDE_BY_1);
        access.write(Register::Spurious, SOFTWARE_ENABLE | Vector::Spurious as u32);
    }
    Some(())
}

/// How to reach this CPU's APIC, once it is on.
pub(super) fn access() -> Option<Access> {
    ACCESS.get().copied()
}

/// The APIC id of this CPU.
pub(crate) fn id() -> Option<u32> {
    let access = access()?;
    let value = access.read(Register::Id);
    Some(match access {
        Access::Memory(_) => value >> 24,
        Access::Msr => value,
    })
}

/// Tells the APIC that the interrupt in service is done. Every handler of an APIC interrupt calls it once, except
/// the spurious one's.
#[inline]
pub(crate) fn eoi() {
    if let Some(access) = access() {
        // SAFETY: the next interrupt may come as soon as interrupts are enabled, which handlers expect.
        unsafe { access.write(Register::Eoi, 0) };
    }
}

/// What to send to another CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipi {
    /// An interrupt with this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Reset, and wait for a start-up.
    Init,
    /// Start in real mode at this page below 1 MiB.
    StartUp(u8),
}

/// Command: the level is asserted, as every mode but one needs.
const ASSERT: u32 = 1 << 14;
/// Command: not yet accepted (memory-mapped only).
const PENDING: u32 = 1 << 12;
/// Command: to every CPU but the sender.
const ALL_BUT_SELF: u32 = 0b11 << 18;

impl Ipi {
    const fn bits(self) -> u32 {
        ASSERT
            | match self {
                Self::Fixed(vector) => vector as u32,
                Self::Nmi => 0b100 << 8,
                Self::Init => 0b101 << 8,
                Self::StartUp(page) => 0b110 << 8 | page as u32,
            }
    }
}

/// Sends `ipi` to the CPU whose APIC id is `to`.
pub(crate) fn send_ipi(to: u32, ipi: Ipi) {
    if let Some(access) = access() {
        send(access, ipi.bits(), to);
    }
}

/// Sends an NMI to every CPU but this one, started or not: call it only when all of them are.
pub(crate) fn nmi_to_others() {
    if let Some(access) = access() {
        send(access, Ipi::Nmi.bits() | ALL_BUT_SELF, 0);
    }
}

/// How often a command that is not accepted is looked at.
const PATIENCE: u32 = 1_000_000;

fn send(access: Access, command: u32, to: u32) {
    match access {
        Access::Memory(_) => {
            wait_until_accepted(access);
            // SAFETY: what is sent is chosen by the hypervisor, and its receivers have handlers for it. Interrupts
            // are off in the hypervisor, so nothing comes between the two halves; an NMI that sends one too is a
            // crash, and its own command is whole.
            unsafe {
                access.write(Register::CommandHigh, to << 24);
                access.write(Register::Command, command);
            }
            wait_until_accepted(access);
        }
        // SAFETY: as above.
        Access::Msr => unsafe { Access::write_command_msr(u64::from(to) << 32 | u64::from(command)) },
    }
}

fn wait_until_accepted(access: Access) {
    for _ in 0..PATIENCE {
        if access.read(Register::Command) & PENDING == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}
