//! Instructions that streams do not have, because the emulator that runs all this does not survive them.
//!
//! They are looked for at every byte of a page, since streams jump anywhere. All are of QEMU 7.2.

/// IRET. One of 32 bits in ring 3 takes the VM and interrupt flags from the stack: the CPU is in virtual 8086 mode then, with interrupts
/// off if the stack says so, and if the stream does not end, nor does the machine get its CPU back. (The hypervisor ends a domain that
/// it finds there. A real CPU lets nobody in.)
const IRET: u8 = 0xcf;
/// What stands there instead.
const RETF: u8 = 0xcb;

/// The second opcode bytes of instructions that change a bit. With a LOCK prefix and a register, which is no instruction, they
/// end the emulator.
const BIT_CHANGES: [u8; 4] = [0xab, 0xb3, 0xba, 0xbb];
/// ModRM bytes from here on name a register.
const REGISTERS: u8 = 0xc0;

/// Whether a rotation (opcode) is one through the carry (ModRM): RCL or RCR.
///
/// These compute the flags before they touch memory, and so does [SETcc](SET_BYTE). The emulator forgets meanwhile what a rotation before
/// them left of its result; where the memory cannot be touched, the exception has any number for flags, VM and IOPL among them, and
/// the hypervisor ends the domain.
const fn is_rotation_through_carry(opcode: u8, modrm: u8) -> bool {
    matches!(opcode, 0xc0 | 0xc1 | 0xd0..=0xd3) && matches!(field(modrm), 2 | 3)
}

/// The second opcode bytes of SETcc.
const SET_BYTE: core::ops::RangeInclusive<u8> = 0x90..=0x9f;

/// The second opcode byte of CMPXCHG8B and CMPXCHG16B, and their register field. The emulator computes the flags that they keep from
/// operands of whatever came before, taken for flags: again any number.
const COMPARE_PAIR: (u8, u8) = (0xc7, 1);

/// The register field of a ModRM byte.
const fn field(modrm: u8) -> u8 {
    modrm >> 3 & 7
}

/// Takes them out of a page of code.
pub(crate) fn spare(page: &mut [u8]) {
    for at in 0..page.len() {
        match page.get_mut(at..) {
            Some([0x0f, opcode, modrm, ..]) if BIT_CHANGES.contains(opcode) => *modrm &= !REGISTERS,
            Some([0x0f, opcode, modrm, ..]) if SET_BYTE.contains(opcode) => *modrm |= REGISTERS,
            Some([0x0f, opcode, modrm, ..]) if (*opcode, field(*modrm)) == COMPARE_PAIR => {
                *modrm |= REGISTERS
            }
            Some([opcode, modrm, ..]) if is_rotation_through_carry(*opcode, *modrm) => *modrm |= REGISTERS,
            _ => {}
        }
    }
    // Last, as the above may make such bytes.
    for byte in page.iter_mut().filter(|byte| **byte == IRET) {
        *byte = RETF;
    }
}
