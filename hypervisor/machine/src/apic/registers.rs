//! The registers of a local APIC, by memory (xAPIC) or by MSR (x2APIC).
//!
//! Source: Intel SDM volume 3A, chapter 10, table 10-1 and table 10-6.

use core::ptr::NonNull;

use bitflags::bitflags;
use x86_64::registers::model_specific::Msr;

/// A register, by its offset in the memory-mapped block; its MSR is `0x800 + offset / 16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Register {
    /// The APIC's id (in the top byte of the memory-mapped register).
    Id = 0x020,
    /// Task priority: interrupts of its class and below wait.
    TaskPriority = 0x080,
    /// End of interrupt.
    Eoi = 0x0b0,
    /// Software enable, and the spurious vector.
    Spurious = 0x0f0,
    /// Interrupt command; in x2APIC mode all 64 bits of it.
    Command = 0x300,
    /// The destination half of the command, memory-mapped only.
    CommandHigh = 0x310,
    /// Local vector table: timer.
    LvtTimer = 0x320,
    /// Local vector table: thermal sensor.
    LvtThermal = 0x330,
    /// Local vector table: performance counters.
    LvtPerformance = 0x340,
    /// Local vector table: pin LINT0, where the 8259s arrive.
    LvtLint0 = 0x350,
    /// Local vector table: pin LINT1, where NMIs arrive.
    LvtLint1 = 0x360,
    /// Local vector table: errors.
    LvtError = 0x370,
    /// The timer's start value; writing it starts the timer.
    InitialCount = 0x380,
    /// The timer's value now.
    CurrentCount = 0x390,
    /// What the timer's input is divided by.
    Divide = 0x3e0,
}

bitflags! {
    /// An entry of the local vector table, beside its vector.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Lvt: u32 {
        /// The low eight bits.
        const VECTOR = 0xff;
        /// Delivered as an NMI, whatever the vector.
        const NMI = 0b100 << 8;
        /// Not delivered.
        const MASKED = 1 << 16;
        /// Timer: fires when the TSC reaches a value.
        const TSC_DEADLINE = 0b10 << 17;
    }
}

/// Spurious-vector register: the APIC works.
pub(super) const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Divide register: by one.
pub(super) const DIVIDE_BY_1: u32 = 0b1011;

const IA32_APIC_BASE: u32 = 0x1b;
/// APIC base: the APIC exists, as far as the CPU is concerned.
const GLOBAL_ENABLE: u64 = 1 << 11;
/// APIC base: the registers are MSRs.
const X2APIC_ENABLE: u64 = 1 << 10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_MSR_BASE: u32 = 0x800;

/// Bytes of the memory-mapped block.
pub(super) const SIZE: u64 = 0x1000;

/// How this machine's APICs are reached. Each CPU sees its own at the same place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    /// Mapped registers.
    Memory(NonNull<u8>),
    /// MSRs.
    Msr,
}

// SAFETY: the pointer is to device registers, mapped for good, which every CPU may use: each reaches its own.
unsafe impl Send for Access {}
// SAFETY: as above; each access is one load or store of a register of the CPU that does it.
unsafe impl Sync for Access {}

impl Access {
    /// Turns this CPU's APIC on.
    pub(super) fn enable(self) {
        let mut base = Msr::new(IA32_APIC_BASE);
        // SAFETY: turns the APIC on and does not move it. x2APIC mode is entered from xAPIC mode or from itself,
        // as it must be.
        unsafe {
            let value = base.read() | GLOBAL_ENABLE;
            base.write(value);
            if let Self::Msr = self {
                base.write(value | X2APIC_ENABLE);
            }
        }
    }

    /// Reads a register of this CPU's APIC.
    pub(super) fn read(self, register: Register) -> u32 {
        match self {
            // SAFETY: the block is mapped for good and every offset is inside and aligned.
            Self::Memory(base) => unsafe { base.add(register as usize).cast::<u32>().read_volatile() },
            Self::Msr => {
                // SAFETY: every register that is read exists in x2APIC mode.
                let value = unsafe { msr(register).read() };
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the upper half is the command's destination"
                )]
                let value = value as u32;
                value
            }
        }
    }

    /// Writes a register of this CPU's APIC.
    ///
    /// # Safety
    ///
    /// The value must make the APIC do nothing that the hypervisor is not ready for: what interrupts it may
    /// send, and to whom, is up to it.
    pub(super) unsafe fn write(self, register: Register, value: u32) {
        match self {
            // SAFETY: the block is mapped for good and every offset is inside and aligned; the caller answers for
            // the effect.
            Self::Memory(base) => unsafe { base.add(register as usize).cast::<u32>().write_volatile(value) },
            // SAFETY: the caller answers for the effect.
            Self::Msr => unsafe { msr(register).write(u64::from(value)) },
        }
    }

    /// Writes the whole 64 bits of the interrupt command in x2APIC mode.
    ///
    /// # Safety
    ///
    /// As for [`write`](Self::write).
    pub(super) unsafe fn write_command_msr(value: u64) {
        // SAFETY: the caller answers for the effect.
        unsafe { msr(Register::Command).write(value) };
    }

    /// Sets the TSC value at which the timer fires, in TSC-deadline mode; 0 stops it.
    ///
    /// # Safety
    ///
    /// The CPU must have the TSC-deadline timer.
    pub(super) unsafe fn write_tsc_deadline(tsc: u64) {
        // SAFETY: the register exists, as the caller promises; the timer's interrupt is expected at any time.
        unsafe { Msr::new(IA32_TSC_DEADLINE).write(tsc) };
    }
}

fn msr(register: Register) -> Msr {
    Msr::new(X2APIC_MSR_BASE.saturating_add(register as u32 >> 4))
}
