//! From a decoded instruction to what it wants.

use super::{Control, CpuidRegisters, Debug, Effect, PortSource, PortTarget, Privileged};
use crate::emulate::memory::{Place, SegmentBases};
use crate::emulate::register::{EdxEax, Gpr, Width};
use crate::emulate::retire::Retirement;
use crate::emulate::string::{StringInstruction, Verb};
use crate::emulate::{Code, Refused};
use crate::vcpu::Regs;
use bulkhead_abi::cpuid::FORCED_EMULATION_PREFIX;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// CPUID, as it is encoded.
const CPUID: [u8; 2] = [0x0f, 0xa2];

pub(super) fn explain_forced(code: &Code, regs: &Regs) -> Result<Privileged, Refused> {
    let forced = FORCED_EMULATION_PREFIX.iter().chain(&CPUID);
    let bytes = code.bytes();
    if !forced.clone().zip(bytes).all(|(wanted, byte)| wanted == byte) {
        return Err(Refused::NotEmulated);
    }
    let len = FORCED_EMULATION_PREFIX.len().saturating_add(CPUID.len());
    if bytes.len() < len {
        return Err(code.truncated());
    }
    Ok(Privileged {
        effect: cpuid(regs),
        retirement: Retirement {
            next_rip: code.rip().wrapping_add(len as u64),
            string: None,
        },
    })
}

/// `None` if the instruction is not emulated.
pub(super) fn explain(instruction: &Instruction, regs: &Regs, bases: SegmentBases) -> Option<Privileged> {
    if let Some(string) = StringInstruction::new(instruction) {
        return explain_string(string, instruction, regs, bases);
    }
    Some(Privileged {
        effect: effect(instruction, regs)?,
        retirement: Retirement {
            next_rip: instruction.next_ip(),
            string: None,
        },
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "no other instruction is known here"
)]
fn effect(instruction: &Instruction, regs: &Regs) -> Option<Effect> {
    Some(match instruction.mnemonic() {
        Mnemonic::Rdmsr => Effect::ReadMsr {
            index: low_half(Gpr::ECX, regs),
            into: EdxEax,
        },
        Mnemonic::Wrmsr => Effect::WriteMsr {
            index: low_half(Gpr::ECX, regs),
            value: EdxEax.load(regs),
        },
        Mnemonic::Cpuid => cpuid(regs),
        Mnemonic::Cli => Effect::MaskEvents,
        Mnemonic::Sti => Effect::UnmaskEvents,
        Mnemonic::Clts => Effect::ClearTaskSwitched,
        Mnemonic::Mov => special_move(instruction, regs)?,
        Mnemonic::In => Effect::In {
            port: port(instruction, 1, regs)?,
            width: accumulator_width(instruction.op0_register())?,
            into: PortTarget::Accumulator(Gpr::new(instruction.op0_register())?),
        },
        Mnemonic::Out => Effect::Out {
            port: port(instruction, 0, regs)?,
            width: accumulator_width(instruction.op1_register())?,
            from: PortSource::Value(low_half(Gpr::new(instruction.op1_register())?, regs)),
        },
        Mnemonic::Rdtsc => Effect::ReadTimestamp { into: EdxEax },
        Mnemonic::Rdtscp => Effect::ReadTimestampAndCpu {
            into: EdxEax,
            cpu: Gpr::ECX,
        },
        Mnemonic::Xsetbv => Effect::WriteExtendedControl {
            index: low_half(Gpr::ECX, regs),
            value: EdxEax.load(regs),
        },
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => Effect::WriteBackCaches,
        Mnemonic::Int => Effect::Interrupt {
            vector: instruction.immediate8(),
        },
        _ => return None,
    })
}

/// MOV from and to control and debug registers.
fn special_move(instruction: &Instruction, regs: &Regs) -> Option<Effect> {
    if instruction.op0_kind() != OpKind::Register || instruction.op1_kind() != OpKind::Register {
        return None;
    }
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    if let Some(into) = Gpr::new(to) {
        let control = control(from).map(|register| Effect::ReadControl { register, into });
        return control.or_else(|| {
            let register = debug(from)?;
            Some(Effect::ReadDebug { register, into })
        });
    }
    let value = Gpr::new(from)?.load(regs);
    let control = control(to).map(|register| Effect::WriteControl { register, value });
    control.or_else(|| {
        let register = debug(to)?;
        Some(Effect::WriteDebug { register, value })
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all others do not exist, or are not emulated"
)]
const fn control(register: Register) -> Option<Control> {
    match register {
        Register::CR0 => Some(Control::Cr0),
        Register::CR2 => Some(Control::Cr2),
        Register::CR3 => Some(Control::Cr3),
        Register::CR4 => Some(Control::Cr4),
        _ => None,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all others do not exist, or are not emulated"
)]
const fn debug(register: Register) -> Option<Debug> {
    match register {
        Register::DR0 => Some(Debug::Address(0)),
        Register::DR1 => Some(Debug::Address(1)),
        Register::DR2 => Some(Debug::Address(2)),
        Register::DR3 => Some(Debug::Address(3)),
        Register::DR6 => Some(Debug::Status),
        Register::DR7 => Some(Debug::Control),
        _ => None,
    }
}

/// INS and OUTS.
fn explain_string(
    string: StringInstruction,
    instruction: &Instruction,
    regs: &Regs,
    bases: SegmentBases,
) -> Option<Privileged> {
    let operand = match string.verb {
        Verb::In => 0,
        Verb::Out => 1,
        Verb::Store | Verb::Move => return None,
    };
    let place = Place::of_operand(instruction, operand, regs, bases)?;
    let retirement = string.retirement(instruction, place.size);
    let port = dx(regs);
    let width = string.element;
    let effect = if retirement.is_over(regs) {
        Effect::Nothing
    } else if string.verb == Verb::In {
        let into = PortTarget::Memory(place.linear());
        Effect::In { port, width, into }
    } else {
        let from = PortSource::Memory(place.linear());
        Effect::Out { port, width, from }
    };
    Some(Privileged { effect, retirement })
}

/// The port that operand `operand` names: an immediate byte, or DX.
fn port(instruction: &Instruction, operand: u32, regs: &Regs) -> Option<u16> {
    let is_immediate = instruction.try_op_kind(operand).ok()? == OpKind::Immediate8;
    Some(if is_immediate {
        u16::from(instruction.immediate8())
    } else {
        dx(regs)
    })
}

/// How much of a port goes through AL, AX or EAX.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "no other register has to do with ports"
)]
const fn accumulator_width(register: Register) -> Option<Width> {
    match register {
        Register::AL => Some(Width::Byte),
        Register::AX => Some(Width::Word),
        Register::EAX => Some(Width::Dword),
        _ => None,
    }
}

fn cpuid(regs: &Regs) -> Effect {
    Effect::Cpuid {
        leaf: low_half(Gpr::EAX, regs),
        subleaf: low_half(Gpr::ECX, regs),
        into: CpuidRegisters,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the register's low half is asked for"
)]
const fn low_half(register: Gpr, regs: &Regs) -> u32 {
    register.load(regs) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "DX is the low 16 bits of RDX")]
const fn dx(regs: &Regs) -> u16 {
    regs.rdx as u16
}
