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

/// Takes them out of a page of code.
pub(crate) fn spare(page: &mut [u8]) {
    for byte in page.iter_mut().filter(|byte| **byte == IRET) {
        *byte = RETF;
    }
    for at in 0..page.len() {
        if let Some([0x0f, opcode, modrm, ..]) = page.get_mut(at..)
            && BIT_CHANGES.contains(opcode)
        {
            *modrm &= !REGISTERS;
        }
    }
}
