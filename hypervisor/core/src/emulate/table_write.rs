//! Stores into page tables.
//!
//! A guest maps its page tables read-only; a kernel that writes an entry all the same takes a page fault, and the
//! hypervisor writes it in its place, after validation. Here is what the instruction would have written.
//!
//! | instruction | with LOCK | operand in memory |
//! |---|---|---|
//! | MOV from register or immediate, MOVNTI | | 1 to 8 bytes (MOVNTI 4, 8) |
//! | XCHG | always locked | 1 to 8 |
//! | ADD, SUB, AND, OR, XOR, INC, DEC, NEG, NOT, XADD, CMPXCHG | or without | 1 to 8 |
//! | BTS, BTR, BTC; the bit in a register or an immediate | or without | 2 to 8 |
//! | CMPXCHG8B | or without | 8 |
//! | STOS, MOVS; one iteration | | 1 to 8 |
//!
//! Page-table entries are words of 8 bytes: the operand lies within one, and the change is a function of the whole word.
//! It is run on whatever the entry holds, in a compare-exchange loop, so that it is atomic even without LOCK.

use super::Refused;
use super::code::Code;
use super::memory::{Place, SegmentBases};
use super::operation::{BitAction, Operation, Outcome};
use super::quick;
use super::register::{EdxEax, Gpr, Width};
use super::retire::{After, Retirement};
use super::string::{StringInstruction, Verb};
use crate::vcpu::Regs;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// What an instruction does that faulted as it wrote to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faulted {
    /// It changes a word in a way that is known.
    Write(TableWrite),
    /// It copies what stands elsewhere in the guest's memory, which is to be read first.
    Copy(TableCopy),
}

/// A change to one aligned word of 8 bytes, and what it does to the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableWrite {
    pub(super) target: Target,
    pub(super) operation: Operation,
    pub(super) retirement: Retirement,
}

/// A copy to one aligned word of 8 bytes, or to some of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCopy {
    source: u64,
    target: Target,
    retirement: Retirement,
}

/// Some bytes of an aligned word of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The word's linear address.
    word: u64,
    /// How far up in the word the operand begins, in bits.
    shift: u32,
    width: Width,
}

impl Faulted {
    /// Explains the instruction `code`, which took a page fault at the linear address `fault` as it wrote.
    ///
    /// `regs` are the guest's as it was interrupted; `bases` is asked for those of its segments if they may matter, because to read them takes
    /// long.
    ///
    /// # Errors
    ///
    /// [`Refused::NotEmulated`] if the instruction is not in the table above, if its operand does not contain `fault`, or
    /// if the operand lies in two words; [`Refused::Truncated`].
    pub fn decode(
        code: &Code,
        regs: &Regs,
        bases: impl FnOnce() -> SegmentBases,
        fault: u64,
    ) -> Result<Self, Refused> {
        match quick::explain(code, regs, fault) {
            Some(write) => Ok(Self::Write(write)),
            None => Self::decode_any(code, regs, bases(), fault),
        }
    }

    /// The same by the decoder, whatever instruction it is.
    pub(super) fn decode_any(
        code: &Code,
        regs: &Regs,
        bases: SegmentBases,
        fault: u64,
    ) -> Result<Self, Refused> {
        let instruction = code.decode()?;
        let explained = match StringInstruction::new(&instruction) {
            Some(string) => explain_string(string, &instruction, regs, bases, fault),
            None => explain(&instruction, regs, bases, fault).map(Self::Write),
        };
        explained.ok_or(Refused::NotEmulated)
    }
}

impl TableWrite {
    /// The linear address of the word, a multiple of 8. The fault was in this word.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.target.word
    }

    /// The word's value after the instruction, if it was `old` before.
    ///
    /// The same for the same `old`: it can be asked as often as a compare-exchange fails.
    #[must_use]
    pub const fn apply(&self, old: u64) -> u64 {
        self.target.replace(old, self.run(old).new)
    }

    /// Writes the instruction's results to `regs`, which are those that it was decoded with, and moves them past it: past
    /// one iteration, if it is repeated.
    ///
    /// `old` is what the word was before the change.
    pub fn finish(&self, old: u64, regs: &mut Regs) -> After {
        self.run(old).write_back(regs);
        self.retirement.retire(regs)
    }

    const fn run(&self, old: u64) -> Outcome {
        self.operation.run(self.target.extract(old), self.target.width)
    }
}

impl TableCopy {
    /// The linear address that is read.
    ///
    /// It may be any that a guest can name, the hypervisor's too; if it cannot be read, the guest gets a page fault for it.
    #[must_use]
    pub const fn source(&self) -> u64 {
        self.source
    }

    /// How many bytes are read.
    #[must_use]
    pub const fn width(&self) -> Width {
        self.target.width
    }

    /// The change, now that the bytes at [`TableCopy::source`] are known to be `value`, little-endian.
    ///
    /// Bits above the width are ignored.
    #[must_use]
    pub const fn with(self, value: u64) -> TableWrite {
        TableWrite {
            target: self.target,
            operation: Operation::Store(value & self.target.width.mask()),
            retirement: self.retirement,
        }
    }
}

impl Target {
    /// The `width` bytes at `address`; `None` if they are in two words, or `fault` is not one of them.
    pub(super) fn new(address: u64, width: Width, fault: u64) -> Option<Self> {
        let bytes = u64::from(width.bytes());
        let start = address & 7;
        let is_within_word = start.checked_add(bytes)? <= 8;
        let has_fault = fault.wrapping_sub(address) < bytes;
        (is_within_word && has_fault).then_some(Self {
            word: address & !7,
            shift: u32::try_from(start).ok()?.wrapping_mul(u8::BITS),
            width,
        })
    }

    /// These bytes of `word`.
    const fn extract(self, word: u64) -> u64 {
        word.wrapping_shr(self.shift) & self.width.mask()
    }

    /// `word` with `part` in place of these bytes.
    const fn replace(self, word: u64, part: u64) -> u64 {
        let mask = self.width.mask().wrapping_shl(self.shift);
        word & !mask | part.wrapping_shl(self.shift) & mask
    }
}

/// STOS and MOVS.
fn explain_string(
    string: StringInstruction,
    instruction: &Instruction,
    regs: &Regs,
    bases: SegmentBases,
    fault: u64,
) -> Option<Faulted> {
    let place = Place::of_operand(instruction, 0, regs, bases)?;
    let target = Target::new(place.linear(), string.element, fault)?;
    let retirement = string.retirement(instruction, place.size);
    if retirement.is_over(regs) {
        return None;
    }
    match string.verb {
        Verb::Store => Some(Faulted::Write(TableWrite {
            target,
            operation: Operation::Store(Gpr::accumulator(string.element).load(regs)),
            retirement,
        })),
        Verb::Move => Some(Faulted::Copy(TableCopy {
            source: Place::of_operand(instruction, 1, regs, bases)?.linear(),
            target,
            retirement,
        })),
        // The port was read already, if this faulted as it wrote: doing it again is not the same.
        Verb::In | Verb::Out => None,
    }
}

/// All others: the operand in memory comes first.
fn explain(instruction: &Instruction, regs: &Regs, bases: SegmentBases, fault: u64) -> Option<TableWrite> {
    let place = Place::of_operand(instruction, 0, regs, bases)?;
    let width = Width::of_memory(instruction.memory_size())?;
    let (operation, place) = match bit_action(instruction.mnemonic()) {
        Some(action) => {
            let (bit, place) = bit(instruction, regs, width, place)?;
            (Operation::Bit { action, bit }, place)
        }
        None => (operation(instruction, regs, width)?, place),
    };
    Some(TableWrite {
        target: Target::new(place.linear(), width, fault)?,
        operation,
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
fn operation(instruction: &Instruction, regs: &Regs, width: Width) -> Option<Operation> {
    let source = || source(instruction, regs, width);
    let register = || Gpr::new(instruction.op1_register());
    Some(match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti => Operation::Store(source()?),
        Mnemonic::Xchg => Operation::Exchange {
            source: source()?,
            register: register()?,
        },
        Mnemonic::Add => Operation::Add(source()?),
        Mnemonic::Xadd => Operation::ExchangeAdd {
            source: source()?,
            register: register()?,
        },
        Mnemonic::Sub => Operation::Subtract(source()?),
        Mnemonic::Inc => Operation::Increment,
        Mnemonic::Dec => Operation::Decrement,
        Mnemonic::Neg => Operation::Negate,
        Mnemonic::Not => Operation::Not,
        Mnemonic::And => Operation::And(source()?),
        Mnemonic::Or => Operation::Or(source()?),
        Mnemonic::Xor => Operation::Xor(source()?),
        Mnemonic::Cmpxchg => Operation::CompareExchange {
            expected: Gpr::accumulator(width).load(regs),
            replacement: source()?,
        },
        Mnemonic::Cmpxchg8b => Operation::CompareExchangePair {
            expected: EdxEax.load(regs),
            replacement: Gpr::ECX.load(regs) << 32 | Gpr::EBX.load(regs),
        },
        _ => return None,
    })
}

/// The second operand: a general register or an immediate, cut to `width`.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other kind is a source of ours")]
fn source(instruction: &Instruction, regs: &Regs, width: Width) -> Option<u64> {
    match instruction.op1_kind() {
        OpKind::Register => Some(Gpr::new(instruction.op1_register())?.load(regs)),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Some(instruction.try_immediate(1).ok()? & width.mask()),
        _ => None,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "no other instruction changes one bit"
)]
const fn bit_action(mnemonic: Mnemonic) -> Option<BitAction> {
    match mnemonic {
        Mnemonic::Bts => Some(BitAction::Set),
        Mnemonic::Btr => Some(BitAction::Reset),
        Mnemonic::Btc => Some(BitAction::Complement),
        _ => None,
    }
}

/// Which bit of which operand. An immediate is taken modulo the operand's width; a register is a signed offset into a
/// string of bits that begins at `place`, and may lead far away from there.
fn bit(instruction: &Instruction, regs: &Regs, width: Width, place: Place) -> Option<(u32, Place)> {
    let offset = source(instruction, regs, width)?;
    let bit = u32::try_from(offset & u64::from(width.bits().wrapping_sub(1))).ok()?;
    if instruction.op1_kind() != OpKind::Register {
        return Some((bit, place));
    }
    let above = 64u32.wrapping_sub(width.bits());
    let signed = offset.wrapping_shl(above).cast_signed().wrapping_shr(above);
    // Rounds down to whole operands: the bit's number in its own operand is not negative.
    let in_bits = signed.wrapping_sub(i64::from(bit));
    Some((bit, place.displaced(in_bits >> u8::BITS.trailing_zeros())))
}
