//! Instructions that ring 3 may not execute, and what a guest kernel wants by them.
//!
//! | instruction | effect |
//! |---|---|
//! | RDMSR, WRMSR | [`Effect::ReadMsr`], [`Effect::WriteMsr`] |
//! | CPUID | [`Effect::Cpuid`] |
//! | CLI, STI | [`Effect::MaskEvents`], [`Effect::UnmaskEvents`] |
//! | CLTS; MOV from and to CR0, CR2, CR3, CR4 | [`Effect::ClearTaskSwitched`], [`Effect::ReadControl`], [`Effect::WriteControl`] |
//! | MOV from and to DR0 to DR3, DR6, DR7 | [`Effect::ReadDebug`], [`Effect::WriteDebug`] |
//! | IN, INS; OUT, OUTS: one iteration | [`Effect::In`], [`Effect::Out`] |
//! | RDTSC, RDTSCP | [`Effect::ReadTimestamp`], [`Effect::ReadTimestampAndCpu`] |
//! | XSETBV | [`Effect::WriteExtendedControl`] |
//! | INVD, WBINVD, WBNOINVD | [`Effect::WriteBackCaches`] |
//! | INT n | [`Effect::Interrupt`] |
//!
//! Whether the guest may do so is not asked here: that depends on its mode, its I/O privilege and its policy, which
//! the caller knows.

mod decode;

use super::register::{EdxEax, Gpr, Width};
use super::retire::{After, Retirement};
use super::{Code, Refused, SegmentBases};
use crate::vcpu::Regs;

/// A privileged instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileged {
    /// What it wants.
    pub effect: Effect,
    retirement: Retirement,
}

/// What a privileged instruction wants. What it writes comes with it; what it reads is to be stored where `into` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing at all: a repeated instruction with a count of zero.
    Nothing,
    /// RDMSR.
    ReadMsr {
        /// Which.
        index: u32,
        /// Where its value goes.
        into: EdxEax,
    },
    /// WRMSR.
    WriteMsr {
        /// Which.
        index: u32,
        /// Its value.
        value: u64,
    },
    /// CPUID.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX, which only some leaves look at.
        subleaf: u32,
        /// Where the answer goes.
        into: CpuidRegisters,
    },
    /// CLI.
    MaskEvents,
    /// STI.
    UnmaskEvents,
    /// CLTS.
    ClearTaskSwitched,
    /// MOV from a control register.
    ReadControl {
        /// Which.
        register: Control,
        /// Where its value goes.
        into: Gpr,
    },
    /// MOV to a control register.
    WriteControl {
        /// Which.
        register: Control,
        /// Its value.
        value: u64,
    },
    /// MOV from a debug register.
    ReadDebug {
        /// Which.
        register: Debug,
        /// Where its value goes.
        into: Gpr,
    },
    /// MOV to a debug register.
    WriteDebug {
        /// Which.
        register: Debug,
        /// Its value.
        value: u64,
    },
    /// IN, INS.
    In {
        /// Which port.
        port: u16,
        /// How much of it: 1, 2 or 4 bytes.
        width: Width,
        /// Where its value goes.
        into: PortTarget,
    },
    /// OUT, OUTS.
    Out {
        /// Which port.
        port: u16,
        /// How much of it: 1, 2 or 4 bytes.
        width: Width,
        /// Where its value comes from.
        from: PortSource,
    },
    /// RDTSC.
    ReadTimestamp {
        /// Where it goes.
        into: EdxEax,
    },
    /// RDTSCP.
    ReadTimestampAndCpu {
        /// Where the time stamp goes.
        into: EdxEax,
        /// Where the value of the MSR TSC_AUX goes.
        cpu: Gpr,
    },
    /// XSETBV.
    WriteExtendedControl {
        /// Which; the only one that exists is 0.
        index: u32,
        /// Its value.
        value: u64,
    },
    /// INVD, WBINVD, WBNOINVD. The first throws changes away, which no guest may: it is taken for the second.
    WriteBackCaches,
    /// INT n. The handler returns behind the instruction: it is entered after [`Privileged::finish`].
    Interrupt {
        /// n.
        vector: u8,
    },
}

/// A control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the CPU's registers")]
pub enum Control {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
}

/// A debug register. DR4 and DR5 are refused: they are other names of DR6 and DR7 on some CPUs, and none on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debug {
    /// DR0 to DR3: the address of this breakpoint.
    Address(u8),
    /// DR6.
    Status,
    /// DR7.
    Control,
}

impl Debug {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Address(number) => number.into(),
            Self::Status => 6,
            Self::Control => 7,
        }
    }
}

/// Where what was read from a port goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortTarget {
    /// IN: to the accumulator.
    Accumulator(Gpr),
    /// INS: to this linear address, which may be any that a guest can name.
    Memory(u64),
}

/// Where what is written to a port comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSource {
    /// OUT: this value.
    Value(u32),
    /// OUTS: what stands at this linear address, which may be any that a guest can name.
    Memory(u64),
}

/// EAX, EBX, ECX and EDX, to which CPUID answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidRegisters;

impl CpuidRegisters {
    /// Stores an answer, in the order EAX, EBX, ECX, EDX.
    pub fn store(self, regs: &mut Regs, answer: [u32; 4]) {
        for (register, value) in [Gpr::EAX, Gpr::EBX, Gpr::ECX, Gpr::EDX].into_iter().zip(answer) {
            register.store(regs, u64::from(value));
        }
    }
}

impl Privileged {
    /// Explains the instruction `code`, which took a general protection fault.
    ///
    /// `regs` are the guest's as it was interrupted.
    ///
    /// # Errors
    ///
    /// [`Refused::NotEmulated`] if the instruction is not in the table above; [`Refused::Truncated`].
    pub fn decode(code: &Code, regs: &Regs, bases: SegmentBases) -> Result<Self, Refused> {
        let instruction = code.decode()?;
        decode::explain(&instruction, regs, bases).ok_or(Refused::NotEmulated)
    }

    /// Explains the instruction `code`, which took an invalid-opcode fault: CPUID behind the forced-emulation prefix, and
    /// nothing else.
    ///
    /// # Errors
    ///
    /// As [`Privileged::decode`].
    pub fn decode_forced(code: &Code, regs: &Regs) -> Result<Self, Refused> {
        decode::explain_forced(code, regs)
    }

    /// Moves the guest past the instruction, or past one iteration, if it is repeated. What it reads has been stored.
    pub fn finish(&self, regs: &mut Regs) -> After {
        let after = self.retirement.retire(regs);
        if let Effect::Interrupt { .. } = self.effect {
            // The handler is entered with TF clear; the guest steps again when it returns.
            return After::Nothing;
        }
        after
    }
}
