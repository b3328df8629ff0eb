//! Where an operand is: every way to say it.

use super::native::{Arena, Form};
use super::operands::Random;
use crate::form;
use bulkhead_core::emulate::table_write::Faulted;
use bulkhead_core::emulate::{After, Code, SegmentBases};
use bulkhead_core::vcpu::Regs;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

const ROUNDS: u64 = 1000;

/// The base of FS, which the C library's thread record stores at its own start.
fn fs_base() -> u64 {
    let base: u64;
    // SAFETY: reads the first word of the thread's record, as any access to a thread-local variable does.
    unsafe { asm!("mov {}, fs:[0]", out(reg) base, options(nostack, readonly, preserves_flags)) };
    base
}

/// Runs `form` with `regs` such that its operand, of 8 bytes, is word 1 of an arena.
fn check(form: Form, aim: impl Fn(&mut Random, &mut Regs, u64)) {
    let mut arena = Arena::new(3);
    let mut random = Random::new(form.text);
    let bases = SegmentBases { fs: fs_base(), gs: 0 };
    for _ in 0..ROUNDS {
        let before: Vec<u64> = (0..3).map(|_| random.value()).collect();
        let mut regs = random.regs();
        let target = arena.address(1);
        aim(&mut random, &mut regs, target);
        // SAFETY: the operand is word 1 of the arena, says each user below.
        unsafe { arena.compare(form, &regs, bases, &before, target) };
    }
}

#[test]
fn base_index_scale_and_displacement_add_up() {
    check(form!(0, "mov [rbx + r9*1 - 8], rax"), |_, regs, to| {
        regs.rbx = to.wrapping_sub(regs.r9).wrapping_add(8);
    });
    check(form!(0, "mov [r13 + rcx*2 + 0x7f], rax"), |_, regs, to| {
        regs.r13 = to.wrapping_sub(regs.rcx.wrapping_mul(2)).wrapping_sub(0x7f);
    });
    check(form!(0, "mov [r12 + rbp*4 - 0x12345678], rax"), |_, regs, to| {
        regs.r12 = to
            .wrapping_sub(regs.rbp.wrapping_mul(4))
            .wrapping_add(0x1234_5678);
    });
    check(form!(0, "mov [rbp + r15*8], rax"), |_, regs, to| {
        regs.rbp = to.wrapping_sub(regs.r15.wrapping_mul(8));
    });
    check(form!(0, "mov [rdx*8 + 0x1000], rax"), |_, regs, to| {
        regs.rdx = (to - 0x1000) / 8;
    });
}

#[test]
fn thirty_two_bit_addresses_wrap_at_four_gibibytes() {
    check(form!(0, "mov [edi], rax"), |random, regs, to| {
        regs.rdi = to | random.next() << 32;
    });
    check(form!(0, "mov [ebx + r9d*4 - 0x70], rax"), |_, regs, to| {
        regs.rbx = to.wrapping_sub(regs.r9.wrapping_mul(4)).wrapping_add(0x70);
    });
    check(form!(0, "mov [ecx*8 + 0x1000], rax"), |_, regs, to| {
        let index = (to - 0x1000) / 8;
        // Times 8, the upper half and the top three bits of the lower are beyond 32 bits.
        regs.rcx = index | regs.rcx << 32 | 7 << 29;
    });
    // The bit's distance counts before the address is cut.
    check(form!(0, "lock btr qword ptr [edi], rsi"), |random, regs, to| {
        let words = random.next() >> 6;
        regs.rsi = words << 6 | regs.rsi & 63;
        let words = (words << 6).cast_signed() >> 6;
        regs.rdi = to.wrapping_sub(words.cast_unsigned().wrapping_mul(8));
    });
}

#[test]
fn fs_and_gs_have_bases_and_the_other_segments_none() {
    check(form!(0, "mov fs:[rdi], rax"), |_, regs, to| {
        regs.rdi = to.wrapping_sub(fs_base());
    });
    check(form!(0, "mov gs:[rdi], rax"), |_, regs, to| regs.rdi = to);
    check(form!(0, "mov es:[rdi], rax"), |_, regs, to| regs.rdi = to);
    check(form!(0, "mov ds:[rbp + 8], rax"), |_, regs, to| regs.rbp = to - 8);
    // The source of MOVS has a segment, its destination has not.
    check(form!(0, "movs qword ptr [rdi], fs:[rsi]"), |_, regs, to| {
        regs.rdi = to;
        regs.rsi = (to + 8).wrapping_sub(fs_base());
    });
}

static CELL: AtomicU64 = AtomicU64::new(0);

#[unsafe(naked)]
unsafe extern "C" fn relative_to_rip() {
    core::arch::naked_asm!("add qword ptr [rip + {cell}], 5", "ret", ".skip 15, 0xcc", cell = sym CELL)
}

#[test]
fn an_address_relative_to_rip_counts_from_the_instruction_s_end() {
    let form = Form {
        text: "add qword ptr [rip + CELL], 5",
        code: relative_to_rip,
        undefined: 0,
    };
    let mut regs = Regs {
        rip: form.address(),
        ..Regs::default()
    };
    let fault = CELL.as_ptr() as usize as u64;
    let faulted = Faulted::decode(&form.fetched(), &regs, SegmentBases::default, fault);
    let Ok(Faulted::Write(write)) = faulted else {
        panic!("{faulted:?}")
    };
    assert_eq!(write.address(), fault);
    let new = write.apply(CELL.load(Ordering::SeqCst));
    let mut native = regs;
    // SAFETY: it writes an atomic that only this test uses.
    unsafe { form.execute(&mut native) };
    assert_eq!(CELL.load(Ordering::SeqCst), new);
    assert_eq!(write.finish(0, &mut regs), After::Nothing);
    assert!(form.is_end(regs.rip));
}

#[test]
fn an_absolute_address_of_64_bits_is_taken_as_it_is() {
    // MOV moffs64 from AL, AX, EAX, RAX: the address is part of the code, so it is assembled here, and not executed.
    let address = 0xffff_8880_1234_5678u64;
    let regs = Regs {
        rax: 0x1122_3344_5566_7788,
        ..Regs::default()
    };
    for (prefix, opcode, new) in [
        (None, 0xa2, 0x88),
        (Some(0x66), 0xa3, 0x7788),
        (None, 0xa3, 0x5566_7788),
        (Some(0x48), 0xa3, 0x1122_3344_5566_7788),
    ] {
        let bytes: Vec<u8> = prefix
            .into_iter()
            .chain([opcode])
            .chain(address.to_le_bytes())
            .collect();
        let faulted = Faulted::decode(
            &Code::new(regs.rip, &bytes),
            &regs,
            SegmentBases::default,
            address,
        );
        let Ok(Faulted::Write(write)) = faulted else {
            panic!("{faulted:?}")
        };
        assert_eq!((write.address(), write.apply(0)), (address, new));
    }
}
