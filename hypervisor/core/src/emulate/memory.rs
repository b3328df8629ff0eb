//! Memory operands: which linear address an instruction means (Intel SDM vol. 1, section 3.7.5).

use super::register::Gpr;
use crate::vcpu::Regs;
use iced_x86::{Instruction, OpKind, Register};

/// The segment bases that count in 64-bit mode, as the guest has them where it was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentBases {
    /// Base of FS.
    pub fs: u64,
    /// Base of GS.
    pub gs: u64,
}

impl SegmentBases {
    /// The base of `segment`: zero for all but two.
    fn of(self, segment: Register) -> u64 {
        if segment == Register::FS {
            self.fs
        } else if segment == Register::GS {
            self.gs
        } else {
            0
        }
    }
}

/// How many bits an instruction's addresses have, before the segment's base is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressSize {
    Bits32,
    Bits64,
}

impl AddressSize {
    /// What remains of `offset`.
    pub(super) const fn truncate(self, offset: u64) -> u64 {
        match self {
            Self::Bits32 => offset & 0xffff_ffff,
            Self::Bits64 => offset,
        }
    }
}

/// A place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    base: u64,
    offset: u64,
    /// How addresses wrap, and pointers are written back.
    pub(super) size: AddressSize,
}

impl Place {
    /// Where operand `operand` lies; `None` if it is none in memory.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other kinds are none in memory of 64-bit code"
    )]
    pub(super) fn of_operand(
        instruction: &Instruction,
        operand: u32,
        regs: &Regs,
        bases: SegmentBases,
    ) -> Option<Self> {
        let segment = bases.of(instruction.memory_segment());
        let string = |base, pointer: Gpr, size| Self {
            base,
            offset: pointer.load(regs),
            size,
        };
        match instruction.try_op_kind(operand).ok()? {
            OpKind::Memory => Self::of_modrm(instruction, regs, segment),
            OpKind::MemorySegRSI => Some(string(segment, Gpr::RSI, AddressSize::Bits64)),
            OpKind::MemorySegESI => Some(string(segment, Gpr::RSI, AddressSize::Bits32)),
            // The base of ES is zero, and no prefix overrides it.
            OpKind::MemoryESRDI => Some(string(0, Gpr::RDI, AddressSize::Bits64)),
            OpKind::MemoryESEDI => Some(string(0, Gpr::RDI, AddressSize::Bits32)),
            _ => None,
        }
    }

    fn of_modrm(instruction: &Instruction, regs: &Regs, segment: u64) -> Option<Self> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let value = |register| match Component::new(register)? {
            // Of an address relative to RIP the decoder has made a displacement.
            Component::Nothing | Component::Rip(_) => Some(0),
            Component::General(register) => Some(register.load(regs)),
        };
        let scale = u64::from(instruction.memory_index_scale());
        let offset = value(base)?
            .wrapping_add(value(index)?.wrapping_mul(scale))
            .wrapping_add(instruction.memory_displacement64());
        Some(Self {
            base: segment,
            offset,
            size: address_size(instruction)?,
        })
    }

    /// The place `bytes` further on, which may be negative.
    pub(super) const fn displaced(self, bytes: i64) -> Self {
        Self {
            offset: self.offset.wrapping_add_signed(bytes),
            ..self
        }
    }

    /// Its linear address.
    pub(super) const fn linear(self) -> u64 {
        self.base.wrapping_add(self.size.truncate(self.offset))
    }
}

/// A register's part in an address.
enum Component {
    Nothing,
    Rip(AddressSize),
    General(Gpr),
}

impl Component {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other registers are general or no part of an address"
    )]
    fn new(register: Register) -> Option<Self> {
        match register {
            Register::None => Some(Self::Nothing),
            Register::RIP => Some(Self::Rip(AddressSize::Bits64)),
            Register::EIP => Some(Self::Rip(AddressSize::Bits32)),
            _ => Gpr::new(register).map(Self::General),
        }
    }

    const fn size(&self) -> Option<AddressSize> {
        match self {
            Self::Nothing => None,
            Self::Rip(size) => Some(*size),
            Self::General(register) => register.address_size(),
        }
    }
}

/// How wide the addresses of an operand in memory are: as wide as the registers in it, or else as its displacement.
fn address_size(instruction: &Instruction) -> Option<AddressSize> {
    let of_registers = [instruction.memory_base(), instruction.memory_index()]
        .into_iter()
        .find_map(|register| Component::new(register)?.size());
    of_registers.or_else(|| match instruction.memory_displ_size() {
        4 => Some(AddressSize::Bits32),
        8 => Some(AddressSize::Bits64),
        _ => None,
    })
}
