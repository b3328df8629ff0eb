//! The stores that kernels make most often, known by their bytes: whatever is not is [decoded](super::Code::decode), which takes several
//! times as long.
//!
//! They are MOV and XCHG of a general register of 64 bits (`REX.W 89` and `87`), at the address that is in another such register, with a
//! displacement of 8 bits or without (Intel SDM vol. 2A, section 2.1.5, tables 2-2 and 2-4 for the bytes).

use super::Code;
use super::operation::Operation;
use super::register::{Gpr, Width};
use super::retire::Retirement;
use super::table_write::{TableWrite, Target};
use crate::vcpu::Regs;

/// The opcode of XCHG.
const XCHG: u8 = 0x87;

/// The opcode of MOV to memory.
const MOV: u8 = 0x89;

/// A REX prefix with W, which makes operands 64 bits wide; its other bits are below.
const REX_W: u8 = 0x48;

/// In a REX prefix: what is above the number of ModRM's `reg`, and of its `rm`. The third is the index's, of which there is none.
const REX_R: u8 = 1 << 2;
const REX_B: u8 = 1 << 0;

/// What such an instruction writes, which took a page fault at `fault`; `None` if it is none, or does not write there.
pub(super) fn explain(code: &Code, regs: &Regs, fault: u64) -> Option<TableWrite> {
    let [rex, opcode @ (MOV | XCHG), modrm, displacement, ..] = *code.bytes() else {
        return None;
    };
    if rex & 0xf8 != REX_W {
        return None;
    }
    let (offset, len) = match (modrm >> 6, modrm & 7) {
        // A byte follows that names more registers; or there is an address relative to RIP.
        (_, 4) | (0, 5) => return None,
        (0, _) => (0, 3),
        (1, _) => (i64::from(displacement.cast_signed()), 4),
        _ => return None,
    };
    let number = |low: u8, is_high: bool| Gpr::whole(low & 7 | u8::from(is_high) << 3);
    let register = number(modrm >> 3, rex & REX_R != 0);
    let base = number(modrm, rex & REX_B != 0);
    let source = register.load(regs);
    let operation = if opcode == MOV {
        Operation::Store(source)
    } else {
        Operation::Exchange { source, register }
    };
    let address = base.load(regs).wrapping_add_signed(offset);
    Some(TableWrite {
        target: Target::new(address, Width::Qword, fault)?,
        operation,
        retirement: Retirement {
            next_rip: code.rip().wrapping_add(len),
            string: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::memory::SegmentBases;
    use super::super::table_write::Faulted;
    use super::*;

    /// Every REX prefix, opcode and ModRM byte: as the decoder says it, or not at all.
    #[test]
    fn what_is_known_by_its_bytes_is_what_the_decoder_says() {
        let mut regs = Regs {
            rip: 0xffff_ffff_8100_0000,
            ..Regs::default()
        };
        for number in 0..16 {
            Gpr::whole(number).store(&mut regs, 0xffff_8880_0000_1000 + u64::from(number) * 0x1010);
        }
        let bases = SegmentBases { fs: 0x10, gs: 0x20 };
        let mut known = 0;
        for first in 0..=u8::MAX {
            for opcode in [MOV, XCHG, MOV - 1, XCHG - 1, 0x8b] {
                for modrm in 0..=u8::MAX {
                    for displacement in [0, 8, 0xf8] {
                        let mut bytes = [0; Code::MAX];
                        bytes[..4].copy_from_slice(&[first, opcode, modrm, displacement]);
                        let code = Code::new(regs.rip, &bytes);
                        let base = Gpr::whole(modrm & 7 | (first & REX_B) << 3).load(&regs);
                        let displaced = base.wrapping_add_signed(i64::from(displacement.cast_signed()));
                        for fault in [base, displaced, displaced + 7] {
                            if let Some(write) = explain(&code, &regs, fault) {
                                known += 1;
                                let decoded = Faulted::decode_any(&code, &regs, bases, fault);
                                assert_eq!(decoded, Ok(Faulted::Write(write)), "{bytes:02x?}");
                            }
                        }
                    }
                }
            }
        }
        // Of each prefix, opcode and register: six bases without a displacement, and seven with one. Of the faults, those that are in the
        // operand: with a displacement of 0 all, with others the last two, and without one all that are at the base.
        assert_eq!(known, 8 * 2 * 8 * (6 * (3 + 1 + 1) + 7 * (3 + 2 + 2)));
    }

    #[test]
    fn what_could_not_be_read_whole_is_left_to_the_decoder() {
        let regs = Regs::default();
        for len in 0..4 {
            let code = Code::new(0, [0x48, MOV, 0x47, 8].split_at(len).0);
            assert_eq!(explain(&code, &regs, 8), None, "{len}");
        }
        assert!(explain(&Code::new(0, &[0x48, MOV, 0x47, 8]), &regs, 8).is_some());
    }
}
