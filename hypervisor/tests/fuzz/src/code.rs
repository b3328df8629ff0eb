//! The code of streams: pages of random bytes, and of instructions made by a grammar.
//!
//! The grammar knows what a hypervisor has to do with: instructions that ring 3 may not execute, those that change
//! privilege, segments, stack or flags, those that touch memory in unusual ways. Operands, prefixes and addresses
//! are random.

use bulkhead_abi::layout::PAGE_SIZE;

use bulkhead_runtime::random::Random;

use crate::{emulator, hypercalls, stream::Mode};

/// What follows an opcode.
#[derive(Clone, Copy, Debug)]
enum Tail {
    /// Nothing.
    None,
    /// An immediate of so many bytes.
    Bytes(usize),
    /// A ModRM byte and what it calls for.
    ModRm,
    /// A ModRM byte with this in its register field.
    Field(u8),
    /// A ModRM byte that names a register, with this in its register field.
    Register(u8),
    /// A ModRM byte, and an immediate of so many bytes.
    ModRmBytes(usize),
}

use Tail::{Bytes, Field, ModRm, ModRmBytes, None as Nothing, Register};

/// Opcodes and what follows them.
const GRAMMAR: &[(&[u8], Tail)] = &[
    // Flags, halting, interrupts.
    (&[0xfa], Nothing),
    (&[0xfb], Nothing),
    (&[0xf4], Nothing),
    (&[0x9c], Nothing),
    (&[0x9d], Nothing),
    (&[0xcc], Nothing),
    (&[0xcd], Bytes(1)),
    (&[0xcd, 0x80], Nothing),
    (&[0xf1], Nothing),
    (&[0xce], Nothing),
    (&[0x0f, 0x0b], Nothing),
    (&[0xfd], Nothing),
    // Ways in and out.
    (&[0x0f, 0x05], Nothing),
    (&[0x0f, 0x07], Nothing),
    (&[0x48, 0x0f, 0x07], Nothing),
    (&[0x0f, 0x34], Nothing),
    (&[0x0f, 0x35], Nothing),
    (&[0xcb], Nothing),
    (&[0x48, 0xcb], Nothing),
    (&[0xca], Bytes(2)),
    (&[0xff], Field(3)),
    (&[0xff], Field(5)),
    (&[0x48, 0xff], Field(5)),
    (&[0x9a], Bytes(6)),
    (&[0xea], Bytes(6)),
    // Privileged.
    (&[0x0f, 0x06], Nothing),
    (&[0x0f, 0x08], Nothing),
    (&[0x0f, 0x09], Nothing),
    (&[0xf3, 0x0f, 0x09], Nothing),
    (&[0x0f, 0x20], ModRm),
    (&[0x0f, 0x21], ModRm),
    (&[0x0f, 0x22], ModRm),
    (&[0x0f, 0x23], ModRm),
    (&[0x0f, 0x30], Nothing),
    (&[0x0f, 0x31], Nothing),
    (&[0x0f, 0x32], Nothing),
    (&[0x0f, 0x33], Nothing),
    (&[0x0f, 0x37], Nothing),
    (&[0x0f, 0xaa], Nothing),
    (&[0x0f, 0x00], ModRm),
    (&[0x0f, 0x01], ModRm),
    (&[0x0f, 0x01, 0xd0], Nothing),
    (&[0x0f, 0x01, 0xd1], Nothing),
    (&[0x0f, 0x01, 0xf8], Nothing),
    (&[0x0f, 0x01, 0xf9], Nothing),
    (&[0x0f, 0x01, 0xca], Nothing),
    (&[0x0f, 0x01, 0xcb], Nothing),
    (&[0x0f, 0x78], ModRm),
    (&[0x0f, 0x79], ModRm),
    (&[0xe4], Bytes(1)),
    (&[0xe5], Bytes(1)),
    (&[0xe6], Bytes(1)),
    (&[0xe7], Bytes(1)),
    (&[0xec], Nothing),
    (&[0xed], Nothing),
    (&[0xee], Nothing),
    (&[0xef], Nothing),
    (&[0x6c], Nothing),
    (&[0x6d], Nothing),
    (&[0x6e], Nothing),
    (&[0xf3, 0x6f], Nothing),
    (&[0xf3, 0x6c], Nothing),
    (&[0x0f, 0xa2], Nothing),
    (&[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2], Nothing),
    (&[0x0f, 0x0b, 0x78, 0x65, 0x6e], Nothing),
    // Segments.
    (&[0x8e], ModRm),
    (&[0x8e], Register(0)),
    (&[0x8e], Register(2)),
    (&[0x8e], Register(3)),
    (&[0x8e], Register(4)),
    (&[0x8e], Register(5)),
    (&[0x8c], ModRm),
    (&[0x0f, 0xa0], Nothing),
    (&[0x0f, 0xa1], Nothing),
    (&[0x0f, 0xa8], Nothing),
    (&[0x0f, 0xa9], Nothing),
    (&[0x0f, 0xb2], ModRm),
    (&[0x0f, 0xb4], ModRm),
    (&[0x0f, 0xb5], ModRm),
    (&[0x0f, 0x02], ModRm),
    (&[0x0f, 0x03], ModRm),
    (&[0xf3, 0x0f, 0xae], Register(0)),
    (&[0xf3, 0x0f, 0xae], Register(2)),
    (&[0xf3, 0x48, 0x0f, 0xae], Register(2)),
    (&[0xf3, 0x48, 0x0f, 0xae], Register(3)),
    // Stack.
    (&[0x5c], Nothing),
    (&[0xc9], Nothing),
    (&[0xc8], Bytes(3)),
    (&[0x94], Nothing),
    (&[0x48, 0x94], Nothing),
    (&[0xc3], Nothing),
    (&[0x8f], Field(0)),
    (&[0xff], Field(2)),
    (&[0xff], Field(4)),
    (&[0xff], Field(6)),
    (&[0xe8], Bytes(4)),
    (&[0xe9], Bytes(4)),
    (&[0xeb], Bytes(1)),
    (&[0x74], Bytes(1)),
    (&[0xe2], Bytes(1)),
    // Extended state.
    (&[0x0f, 0xae], ModRm),
    (&[0x48, 0x0f, 0xae], ModRm),
    (&[0x0f, 0xc7], ModRm),
    (&[0x48, 0x0f, 0xc7], ModRm),
    (&[0xd8], ModRm),
    (&[0xd9], ModRm),
    (&[0xdb], ModRm),
    (&[0xdd], ModRm),
    (&[0xdb, 0xe3], Nothing),
    (&[0x9b], Nothing),
    (&[0x0f, 0x77], Nothing),
    (&[0x0f, 0x58], ModRm),
    (&[0x0f, 0x5e], ModRm),
    (&[0x0f, 0x28], ModRm),
    (&[0x66, 0x0f, 0xe7], ModRm),
    (&[0xc5, 0xfc, 0x28], ModRm),
    (&[0xc5, 0xf8, 0x77], Nothing),
    // Memory, also what the emulator of table writes knows.
    (&[0x88], ModRm),
    (&[0x89], ModRm),
    (&[0x48, 0x89], ModRm),
    (&[0x8b], ModRm),
    (&[0x48, 0x8b], ModRm),
    (&[0xc7], ModRmBytes(4)),
    (&[0x48, 0x87], ModRm),
    (&[0xf0, 0x48, 0x0f, 0xb1], ModRm),
    (&[0xf0, 0x48, 0x0f, 0xc1], ModRm),
    (&[0xf0, 0x0f, 0xba], ModRmBytes(1)),
    (&[0x48, 0x0f, 0xab], ModRm),
    (&[0x48, 0x01], ModRm),
    (&[0x48, 0x21], ModRm),
    (&[0x48, 0x81], ModRmBytes(4)),
    (&[0xf7], Field(6)),
    (&[0x48, 0xf7], Field(7)),
    (&[0xa4], Nothing),
    (&[0x48, 0xa5], Nothing),
    (&[0x48, 0xab], Nothing),
    (&[0xf3, 0x48, 0xab], Nothing),
    (&[0xf3, 0xa4], Nothing),
    (&[0x48, 0xa3], Bytes(8)),
    (&[0x0f, 0x18], ModRm),
    (&[0x0f, 0x1f], ModRm),
    (&[0x0f, 0x01], Field(7)),
];

/// Prefixes, of which each changes some instruction above.
const PREFIXES: [u8; 14] = [
    0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x2e, 0x36, 0x26, 0x48, 0x41, 0x4c, 0x44,
];

/// A page of code, and where streams may begin in it.
#[derive(Debug)]
pub(crate) struct Code {
    /// The bytes.
    pub(crate) page: [u8; PAGE_SIZE],
    starts: [u16; Self::STARTS],
    next: usize,
    left: usize,
}

impl Code {
    /// How many streams begin in one page at most: writing a page that was executed is slow under an emulator.
    const STARTS: usize = 1024;

    /// No code yet.
    pub(crate) const fn none() -> Self {
        let mut page = [0; PAGE_SIZE];
        let (first, _) = page.split_at_mut(hypercalls::CODE_BYTES.len());
        first.copy_from_slice(&hypercalls::CODE_BYTES);
        Self {
            page,
            starts: [0; Self::STARTS],
            next: 0,
            left: 0,
        }
    }

    /// Where the next stream begins; `None` if the page is used up.
    pub(crate) fn next_start(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let start = *self.starts.get(self.next)?;
        self.next = self.next.wrapping_add(1);
        Some(start.into())
    }

    /// The code from `offset` on, as long as an instruction can be; none if that is not in the page.
    pub(crate) fn at(&self, offset: u64) -> &[u8] {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.page.get(offset..));
        rest.and_then(|rest| rest.first_chunk::<15>())
            .map_or(&[], |code| code)
    }

    /// Fills the page anew, but for its first bytes, which [make a hypercall](hypercalls::CODE_BYTES).
    pub(crate) fn fill(&mut self, random: &mut Random, mode: Mode) {
        if random.one_in(2) {
            self.fill_with_bytes(random);
        } else {
            self.fill_with_instructions(random);
        }
        emulator::spare(&mut self.page);
        if mode == Mode::Kernel && !random.one_in(8) {
            self.spare_stack();
        }
    }

    /// Takes out what most often takes the stack pointer to where no frame can be: POP RSP, LEAVE and XCHG with RAX.
    fn spare_stack(&mut self) {
        const STACK: [u8; 3] = [0x5c, 0xc9, 0x94];
        const NOP: u8 = 0x90;
        for byte in self.page.iter_mut().filter(|byte| STACK.contains(byte)) {
            *byte = NOP;
        }
    }

    /// Fills the page with any bytes.
    fn fill_with_bytes(&mut self, random: &mut Random) {
        let (_, rest) = self.page.split_at_mut(hypercalls::CODE_BYTES.len());
        for word in rest.as_chunks_mut().0 {
            *word = random.next().to_le_bytes();
        }
        for start in &mut self.starts {
            *start = u16::try_from(random.below(PAGE_SIZE as u64)).unwrap_or(0);
        }
        (self.next, self.left) = (0, Self::STARTS);
    }

    /// Fills the page with instructions.
    fn fill_with_instructions(&mut self, random: &mut Random) {
        let mut at = hypercalls::CODE_BYTES.len();
        let mut count = 0;
        for start in &mut self.starts {
            let mut instruction = Instruction::default();
            instruction.choose(random);
            let bytes = instruction.bytes();
            let end = bytes.len().wrapping_add(at);
            let Some(room) = self.page.get_mut(at..end) else {
                break;
            };
            room.copy_from_slice(bytes);
            *start = u16::try_from(at).unwrap_or(0);
            at = end;
            count = usize::wrapping_add(count, 1);
        }
        (self.next, self.left) = (0, count);
    }
}

/// An instruction that grows.
#[derive(Debug, Default)]
struct Instruction {
    bytes: [u8; 32],
    len: usize,
}

impl Instruction {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len = self.len.wrapping_add(1);
        }
    }

    fn push_random(&mut self, count: usize, random: &mut Random) {
        for _ in 0..count {
            let byte = random.byte();
            self.push(byte);
        }
    }

    fn choose(&mut self, random: &mut Random) {
        while random.one_in(6) {
            self.push(random.pick(&PREFIXES));
        }
        let index = usize::try_from(random.below(GRAMMAR.len() as u64)).unwrap_or(0);
        let Some(&(opcode, tail)) = GRAMMAR.get(index) else {
            return;
        };
        for byte in opcode {
            self.push(*byte);
        }
        match tail {
            Nothing => {}
            Bytes(count) => self.push_random(count, random),
            ModRm => self.push_modrm(random.byte(), random),
            Field(field) => self.push_modrm(random.byte() & 0xc7 | field << 3, random),
            Register(field) => self.push_modrm(random.byte() & 7 | 0xc0 | field << 3, random),
            ModRmBytes(count) => {
                self.push_modrm(random.byte(), random);
                self.push_random(count, random);
            }
        }
    }

    /// A ModRM byte with the SIB byte and the displacement that it calls for (Intel SDM volume 2A, section 2.1.5).
    fn push_modrm(&mut self, modrm: u8, random: &mut Random) {
        self.push(modrm);
        let (mode, register) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return;
        }
        let mut has_no_base = mode == 0 && register == 5;
        if register == 4 {
            let sib = random.byte();
            self.push(sib);
            has_no_base = mode == 0 && sib & 7 == 5;
        }
        let displacement = match mode {
            1 => 1,
            2 => 4,
            _ if has_no_base => 4,
            _ => 0,
        };
        self.push_random(displacement, random);
    }
}
