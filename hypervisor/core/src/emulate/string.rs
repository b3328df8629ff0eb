//! String instructions: what they have in common.

use super::memory::AddressSize;
use super::register::Width;
use super::retire::{Iteration, Retirement};
use iced_x86::{Code as Form, Instruction};

/// A string instruction that the emulator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StringInstruction {
    /// What it does.
    pub(super) verb: Verb,
    /// The size of its elements.
    pub(super) element: Width,
}

/// What a string instruction does with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// STOS: from the accumulator to RDI.
    Store,
    /// MOVS: from RSI to RDI.
    Move,
    /// INS: from the port DX to RDI.
    In,
    /// OUTS: from RSI to the port DX.
    Out,
}

impl StringInstruction {
    /// `None` if the instruction is no string instruction that we know.
    ///
    /// By form and not by mnemonic: MOVSD names an SSE instruction too.
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other form is known here")]
    pub(super) fn new(instruction: &Instruction) -> Option<Self> {
        let (verb, element) = match instruction.code() {
            Form::Stosb_m8_AL => (Verb::Store, Width::Byte),
            Form::Stosw_m16_AX => (Verb::Store, Width::Word),
            Form::Stosd_m32_EAX => (Verb::Store, Width::Dword),
            Form::Stosq_m64_RAX => (Verb::Store, Width::Qword),
            Form::Movsb_m8_m8 => (Verb::Move, Width::Byte),
            Form::Movsw_m16_m16 => (Verb::Move, Width::Word),
            Form::Movsd_m32_m32 => (Verb::Move, Width::Dword),
            Form::Movsq_m64_m64 => (Verb::Move, Width::Qword),
            Form::Insb_m8_DX => (Verb::In, Width::Byte),
            Form::Insw_m16_DX => (Verb::In, Width::Word),
            Form::Insd_m32_DX => (Verb::In, Width::Dword),
            Form::Outsb_DX_m8 => (Verb::Out, Width::Byte),
            Form::Outsw_DX_m16 => (Verb::Out, Width::Word),
            Form::Outsd_DX_m32 => (Verb::Out, Width::Dword),
            _ => return None,
        };
        Some(Self { verb, element })
    }

    /// How one iteration ends.
    pub(super) fn retirement(self, instruction: &Instruction, size: AddressSize) -> Retirement {
        Retirement {
            next_rip: instruction.next_ip(),
            string: Some(Iteration {
                element: self.element,
                size,
                has_source: matches!(self.verb, Verb::Move | Verb::Out),
                has_destination: matches!(self.verb, Verb::Store | Verb::Move | Verb::In),
                // These instructions do not compare, and REPNE repeats them like REP.
                is_repeated: instruction.has_rep_prefix() || instruction.has_repne_prefix(),
            }),
        }
    }
}
