//! General registers as operands: which one, and how much of it.

use super::memory::AddressSize;
use crate::vcpu::Regs;
use iced_x86::{MemorySize, Register};

/// How many bytes an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Dword,
    /// 8 bytes.
    Qword,
}

impl Width {
    /// The width of an integer in memory; `None` if it is no integer of at most 8 bytes.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other sizes are no operand of ours"
    )]
    pub(super) const fn of_memory(size: MemorySize) -> Option<Self> {
        match size {
            MemorySize::UInt8 | MemorySize::Int8 => Some(Self::Byte),
            MemorySize::UInt16 | MemorySize::Int16 => Some(Self::Word),
            MemorySize::UInt32 | MemorySize::Int32 => Some(Self::Dword),
            MemorySize::UInt64 | MemorySize::Int64 => Some(Self::Qword),
            _ => None,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// In bits.
    pub(super) const fn bits(self) -> u32 {
        match self {
            Self::Byte => u8::BITS,
            Self::Word => u16::BITS,
            Self::Dword => u32::BITS,
            Self::Qword => u64::BITS,
        }
    }

    /// The bits of a word that such an operand has.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Byte => u8::MAX as u64,
            Self::Word => u16::MAX as u64,
            Self::Dword => u32::MAX as u64,
            Self::Qword => u64::MAX,
        }
    }

    /// The highest bit.
    pub(super) const fn sign(self) -> u64 {
        self.mask() ^ self.mask().wrapping_shr(1)
    }
}

/// Which part of a general register an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The low byte.
    Low,
    /// The byte above: AH, CH, DH, BH.
    High,
    /// The low 16 bits.
    Word,
    /// The low 32 bits; writing them clears the others.
    Dword,
    /// All of it.
    Qword,
}

/// A general register, or a part of one, that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpr {
    /// 0 to 15, as instructions encode it.
    number: u8,
    part: Part,
}

impl Gpr {
    pub(super) const RCX: Self = Self::whole(1);
    pub(super) const RSI: Self = Self::whole(6);
    pub(super) const RDI: Self = Self::whole(7);
    pub(super) const EAX: Self = Self::low_half(0);
    pub(super) const ECX: Self = Self::low_half(1);
    pub(super) const EDX: Self = Self::low_half(2);
    pub(super) const EBX: Self = Self::low_half(3);

    /// All of register `number`, 0 to 15, as instructions encode it.
    pub(super) const fn whole(number: u8) -> Self {
        Self {
            number,
            part: Part::Qword,
        }
    }

    const fn low_half(number: u8) -> Self {
        Self {
            number,
            part: Part::Dword,
        }
    }

    /// What the decoder calls `register`; `None` if it is no general register.
    pub(super) fn new(register: Register) -> Option<Self> {
        /// Which of the `count` registers from `first` on it is, in the decoder's numbering.
        fn index(register: Register, first: Register, count: usize) -> Option<u8> {
            let index = (register as usize).checked_sub(first as usize)?;
            u8::try_from(index).ok().filter(|_| index < count)
        }
        let part = |first, part| index(register, first, 16).map(|number| Self { number, part });
        let byte = || {
            let index = index(register, Register::AL, 20)?;
            // AL to BL, then AH to BH, then SPL to R15L.
            Some(match index {
                0..4 => (index, Part::Low),
                _ => {
                    let number = index.wrapping_sub(4);
                    (number, if number < 4 { Part::High } else { Part::Low })
                }
            })
        };
        byte()
            .map(|(number, part)| Self { number, part })
            .or_else(|| part(Register::AX, Part::Word))
            .or_else(|| part(Register::EAX, Part::Dword))
            .or_else(|| part(Register::RAX, Part::Qword))
    }

    /// How wide an address is that it is part of; `None` if it can be part of none.
    pub(super) const fn address_size(self) -> Option<AddressSize> {
        match self.part {
            Part::Dword => Some(AddressSize::Bits32),
            Part::Qword => Some(AddressSize::Bits64),
            Part::Low | Part::High | Part::Word => None,
        }
    }

    /// The accumulator, in `width`.
    pub(super) const fn accumulator(width: Width) -> Self {
        let part = match width {
            Width::Byte => Part::Low,
            Width::Word => Part::Word,
            Width::Dword => Part::Dword,
            Width::Qword => Part::Qword,
        };
        Self { number: 0, part }
    }

    /// Its value; the bits above its width are zero.
    #[must_use]
    pub const fn load(self, regs: &Regs) -> u64 {
        let whole = match self.number {
            0 => regs.rax,
            1 => regs.rcx,
            2 => regs.rdx,
            3 => regs.rbx,
            4 => regs.rsp,
            5 => regs.rbp,
            6 => regs.rsi,
            7 => regs.rdi,
            8 => regs.r8,
            9 => regs.r9,
            10 => regs.r10,
            11 => regs.r11,
            12 => regs.r12,
            13 => regs.r13,
            14 => regs.r14,
            _ => regs.r15,
        };
        match self.part {
            Part::Low => whole & 0xff,
            Part::High => whole >> 8 & 0xff,
            Part::Word => whole & 0xffff,
            Part::Dword => whole & 0xffff_ffff,
            Part::Qword => whole,
        }
    }

    /// Gives it a value, of which the bits above its width are ignored.
    ///
    /// The rest of the register stays, except that writing 32 bits clears the upper half.
    pub const fn store(self, regs: &mut Regs, value: u64) {
        let whole = match self.number {
            0 => &mut regs.rax,
            1 => &mut regs.rcx,
            2 => &mut regs.rdx,
            3 => &mut regs.rbx,
            4 => &mut regs.rsp,
            5 => &mut regs.rbp,
            6 => &mut regs.rsi,
            7 => &mut regs.rdi,
            8 => &mut regs.r8,
            9 => &mut regs.r9,
            10 => &mut regs.r10,
            11 => &mut regs.r11,
            12 => &mut regs.r12,
            13 => &mut regs.r13,
            14 => &mut regs.r14,
            _ => &mut regs.r15,
        };
        *whole = match self.part {
            Part::Low => *whole & !0xff | value & 0xff,
            Part::High => *whole & !0xff00 | (value & 0xff) << 8,
            Part::Word => *whole & !0xffff | value & 0xffff,
            Part::Dword => value & 0xffff_ffff,
            Part::Qword => value,
        };
    }
}

/// A value of 64 bits in two registers, the upper half in EDX and the lower in EAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdxEax;

impl EdxEax {
    /// Its value.
    #[must_use]
    pub const fn load(self, regs: &Regs) -> u64 {
        Gpr::EDX.load(regs) << 32 | Gpr::EAX.load(regs)
    }

    /// Gives it a value; the upper halves of RDX and RAX become zero.
    pub const fn store(self, regs: &mut Regs, value: u64) {
        Gpr::EDX.store(regs, value >> 32);
        Gpr::EAX.store(regs, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [[&str; 16]; 4] = [
        [
            "AL", "CL", "DL", "BL", "SPL", "BPL", "SIL", "DIL", "R8L", "R9L", "R10L", "R11L", "R12L", "R13L",
            "R14L", "R15L",
        ],
        [
            "AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", "R8W", "R9W", "R10W", "R11W", "R12W", "R13W",
            "R14W", "R15W",
        ],
        [
            "EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI", "R8D", "R9D", "R10D", "R11D", "R12D",
            "R13D", "R14D", "R15D",
        ],
        [
            "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
            "R14", "R15",
        ],
    ];

    #[test]
    fn a_register_is_known_by_its_number_and_part_or_not_at_all() {
        let parts = [Part::Low, Part::Word, Part::Dword, Part::Qword];
        let named = |name: &str| {
            let high = ["AH", "CH", "DH", "BH"].iter().zip(0..4);
            let high = high.map(|(name, number)| (*name, number, Part::High));
            NAMES
                .iter()
                .zip(parts)
                .flat_map(|(names, part)| names.iter().zip(0..16).map(move |(n, number)| (*n, number, part)))
                .chain(high)
                .find(|(n, ..)| *n == name)
                .map(|(_, number, part)| Gpr { number, part })
        };
        let mut known = 0;
        for register in Register::values() {
            let gpr = Gpr::new(register);
            assert_eq!(gpr, named(&format!("{register:?}")), "{register:?}");
            known += u32::from(gpr.is_some());
        }
        assert_eq!(known, 68);
    }

    #[test]
    fn each_number_is_another_register() {
        for number in 0..16 {
            let mut regs = Regs::default();
            Gpr::whole(number).store(&mut regs, !0);
            for other in 0..16 {
                let expected = if other == number { !0 } else { 0 };
                assert_eq!(Gpr::whole(other).load(&regs), expected);
            }
        }
        // And in the order of their encoding.
        let regs = Regs {
            rsp: 4,
            r12: 12,
            ..Regs::default()
        };
        assert_eq!((Gpr::whole(4).load(&regs), Gpr::whole(12).load(&regs)), (4, 12));
    }
}
