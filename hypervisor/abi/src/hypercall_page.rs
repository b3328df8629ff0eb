//! The hypercall page: stubs that a guest calls instead of writing SYSCALL itself.
//!
//! Whoever honours the guest's hypercall-page note fills the page; stub `n` starts at `n * STUB_SIZE`.

use crate::hypercall::Hypercall;
use crate::layout::PAGE_SIZE;

/// Bytes per stub.
pub const STUB_SIZE: usize = 32;

/// What lies between stubs: `int3`, so that straying there traps.
pub const FILLER: u8 = 0xcc;

/// `push rcx; push r11`: SYSCALL destroys both.
const SAVE: [u8; 3] = [0x51, 0x41, 0x53];
/// `push rax`: the third word of an iret frame.
const PUSH_RAX: [u8; 1] = [0x50];
/// Opcode of `mov eax, imm32`.
const MOV_EAX: [u8; 1] = [0xb8];
/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `pop r11; pop rcx; ret`.
const RESTORE_AND_RETURN: [u8; 4] = [0x41, 0x5b, 0x59, 0xc3];

/// Fills a page with the stubs of all hypercall numbers that fit, known or not.
///
/// The iret stub pushes rax too and does not return: its three pushes are the first three words of
/// [`IretFrame`](crate::trap::IretFrame).
pub fn fill(page: &mut [u8; PAGE_SIZE]) {
    page.fill(FILLER);
    for (stub, number) in page.chunks_exact_mut(STUB_SIZE).zip(0_u32..) {
        let number_bytes = number.to_le_bytes();
        if u64::from(number) == Hypercall::Iret.raw() {
            write(stub, &[&SAVE, &PUSH_RAX, &MOV_EAX, &number_bytes, &SYSCALL]);
        } else {
            write(
                stub,
                &[&SAVE, &MOV_EAX, &number_bytes, &SYSCALL, &RESTORE_AND_RETURN],
            );
        }
    }
}

/// Writes `parts` one after the other from the start of `stub`.
fn write(stub: &mut [u8], parts: &[&[u8]]) {
    let code = parts.iter().flat_map(|part| part.iter());
    for (byte, code) in stub.iter_mut().zip(code) {
        *byte = *code;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stub(number: usize) -> [u8; STUB_SIZE] {
        let mut page = [0; PAGE_SIZE];
        fill(&mut page);
        page.chunks_exact(STUB_SIZE)
            .nth(number)
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_stub_saves_rcx_and_r11_around_its_syscall() {
        let stub = stub(32);
        assert_eq!(
            stub[..14],
            [
                0x51, 0x41, 0x53, 0xb8, 32, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3
            ]
        );
        assert!(stub[14..].iter().all(|&byte| byte == FILLER));
    }

    #[test]
    fn the_iret_stub_pushes_rax_and_never_returns() {
        let stub = stub(23);
        assert_eq!(
            stub[..11],
            [0x51, 0x41, 0x53, 0x50, 0xb8, 0x17, 0, 0, 0, 0x0f, 0x05]
        );
        assert!(stub[11..].iter().all(|&byte| byte == FILLER));
    }

    #[test]
    fn the_last_stub_fills_the_page_to_its_end() {
        assert_eq!(stub(127)[3..8], [0xb8, 127, 0, 0, 0]);
    }
}
