//! Each instruction, in each width, with each kind of source.

use super::native::{AF, Arena, Form, OF, PF, SF};
use super::operands::Random;
use crate::form;
use bulkhead_core::emulate::SegmentBases;
use bulkhead_core::vcpu::Regs;

/// How often each form runs.
const ROUNDS: u64 = 1000;

/// The flags that bitwise instructions, and those that change a bit, leave undefined.
const LOGIC: u64 = AF;
const BIT: u64 = OF | SF | AF | PF;

/// `prefix op [rdi], source` for sources of each width and kind.
macro_rules! two_operands {
    ($undefined:expr, $op:expr) => {
        [
            form!($undefined, concat!($op, " byte ptr [rdi], cl")),
            form!($undefined, concat!($op, " byte ptr [rdi], ch")),
            form!($undefined, concat!($op, " byte ptr [rdi], dh")),
            form!($undefined, concat!($op, " byte ptr [rdi], ah")),
            form!($undefined, concat!($op, " byte ptr [rdi], bh")),
            form!($undefined, concat!($op, " byte ptr [rdi], sil")),
            form!($undefined, concat!($op, " byte ptr [rdi], bpl")),
            form!($undefined, concat!($op, " byte ptr [rdi], r9b")),
            form!($undefined, concat!($op, " word ptr [rdi], dx")),
            form!($undefined, concat!($op, " word ptr [rdi], r10w")),
            form!($undefined, concat!($op, " dword ptr [rdi], ebx")),
            form!($undefined, concat!($op, " dword ptr [rdi], r15d")),
            form!($undefined, concat!($op, " qword ptr [rdi], rax")),
            form!($undefined, concat!($op, " qword ptr [rdi], rcx")),
            form!($undefined, concat!($op, " qword ptr [rdi], rdi")),
            form!($undefined, concat!($op, " qword ptr [rdi], r8")),
            form!($undefined, concat!($op, " qword ptr [rdi], r11")),
            form!($undefined, concat!($op, " qword ptr [rdi], r12")),
            form!($undefined, concat!($op, " qword ptr [rdi], r13")),
            form!($undefined, concat!($op, " qword ptr [rdi], r14")),
            form!($undefined, concat!($op, " qword ptr [rdi], rbp")),
        ]
    };
}

/// The same for immediates.
macro_rules! immediates {
    ($undefined:expr, $op:expr) => {
        [
            form!($undefined, concat!($op, " byte ptr [rdi], 0x81")),
            form!($undefined, concat!($op, " word ptr [rdi], 0x1234")),
            form!($undefined, concat!($op, " word ptr [rdi], -3")),
            form!($undefined, concat!($op, " dword ptr [rdi], 0x81234567")),
            form!($undefined, concat!($op, " dword ptr [rdi], -3")),
            form!($undefined, concat!($op, " qword ptr [rdi], 0x12345678")),
            form!($undefined, concat!($op, " qword ptr [rdi], -0x12345678")),
            form!($undefined, concat!($op, " qword ptr [rdi], 0x7f")),
            form!($undefined, concat!($op, " qword ptr [rdi], -3")),
        ]
    };
}

/// `prefix op [rdi]` in each width.
macro_rules! one_operand {
    ($op:expr) => {
        [
            form!(0, concat!($op, " byte ptr [rdi]")),
            form!(0, concat!($op, " word ptr [rdi]")),
            form!(0, concat!($op, " dword ptr [rdi]")),
            form!(0, concat!($op, " qword ptr [rdi]")),
        ]
    };
}

/// An instruction on a bit that an immediate names, also beyond the operand's width.
macro_rules! immediate_bit {
    ($op:expr) => {
        [
            form!(BIT, concat!($op, " word ptr [rdi], 3")),
            form!(BIT, concat!($op, " word ptr [rdi], 0xfd")),
            form!(BIT, concat!($op, " dword ptr [rdi], 31")),
            form!(BIT, concat!($op, " dword ptr [rdi], 0x60")),
            form!(BIT, concat!($op, " qword ptr [rdi], 1")),
            form!(BIT, concat!($op, " qword ptr [rdi], 63")),
            form!(BIT, concat!($op, " qword ptr [rdi], 0xff")),
        ]
    };
}

/// How many bytes of memory a form touches, as its text says.
fn width(form: Form) -> u64 {
    let widths = [
        ("byte ptr", 1),
        ("word ptr", 2),
        ("dword ptr", 4),
        ("qword ptr", 8),
    ];
    let named = widths.iter().rev().find(|(name, _)| form.text.contains(name));
    named.unwrap_or_else(|| panic!("{}: which width?", form.text)).1
}

/// Runs forms whose operand is at RDI, at each place in a word where it fits. `prepare` sees the operand and its
/// width in bytes, and may change other registers.
fn check(forms: &[Form], mut prepare: impl FnMut(&mut Random, &mut Regs, u64, u64)) {
    const WORDS: usize = 3;
    let mut arena = Arena::new(WORDS);
    for &form in forms {
        let mut random = Random::new(form.text);
        let width = width(form);
        for _ in 0..ROUNDS {
            let mut before: Vec<u64> = (0..WORDS).map(|_| random.value()).collect();
            let mut regs = random.regs();
            let start = random.below(9 - width);
            regs.rdi = arena.address(1) + start;
            let mask = !0 >> (64 - 8 * width);
            let operand = random.value() & mask;
            before[1] = before[1] & !(mask << (8 * start)) | operand << (8 * start);
            prepare(&mut random, &mut regs, operand, width);
            // SAFETY: the operand is at RDI, in word 1 of the arena.
            unsafe { arena.compare(form, &regs, SegmentBases::default(), &before, regs.rdi) };
        }
    }
}

fn check_plain(forms: &[Form]) {
    check(forms, |_, _, _, _| {});
}

#[test]
fn mov_stores_what_the_cpu_stores() {
    check_plain(&two_operands!(0, "mov"));
    check_plain(&immediates!(0, "mov"));
    check_plain(&[
        form!(0, "movnti dword ptr [rdi], ecx"),
        form!(0, "movnti qword ptr [rdi], r9"),
    ]);
}

#[test]
fn xchg_gives_the_old_value() {
    check_plain(&two_operands!(0, "xchg"));
    check_plain(&two_operands!(0, "lock xchg"));
}

#[test]
fn add_and_sub_carry_as_the_cpu_does() {
    check_plain(&two_operands!(0, "add"));
    check_plain(&immediates!(0, "add"));
    check_plain(&two_operands!(0, "lock add"));
    check_plain(&immediates!(0, "lock add"));
    check_plain(&two_operands!(0, "sub"));
    check_plain(&immediates!(0, "sub"));
    check_plain(&two_operands!(0, "lock sub"));
    check_plain(&immediates!(0, "lock sub"));
}

#[test]
fn xadd_adds_and_gives_the_old_value() {
    check_plain(&two_operands!(0, "xadd"));
    check_plain(&two_operands!(0, "lock xadd"));
}

#[test]
fn bitwise_instructions_clear_carry_and_overflow() {
    check_plain(&two_operands!(LOGIC, "and"));
    check_plain(&immediates!(LOGIC, "and"));
    check_plain(&two_operands!(LOGIC, "lock and"));
    check_plain(&immediates!(LOGIC, "lock and"));
    check_plain(&two_operands!(LOGIC, "or"));
    check_plain(&immediates!(LOGIC, "or"));
    check_plain(&two_operands!(LOGIC, "lock or"));
    check_plain(&immediates!(LOGIC, "lock or"));
    check_plain(&two_operands!(LOGIC, "xor"));
    check_plain(&immediates!(LOGIC, "xor"));
    check_plain(&two_operands!(LOGIC, "lock xor"));
    check_plain(&immediates!(LOGIC, "lock xor"));
}

#[test]
fn instructions_of_one_operand_agree_with_the_cpu() {
    check_plain(&one_operand!("inc"));
    check_plain(&one_operand!("lock inc"));
    check_plain(&one_operand!("dec"));
    check_plain(&one_operand!("lock dec"));
    check_plain(&one_operand!("neg"));
    check_plain(&one_operand!("lock neg"));
    check_plain(&one_operand!("not"));
    check_plain(&one_operand!("lock not"));
}

#[test]
fn cmpxchg_stores_or_loads() {
    /// Half the time the accumulator has what the operand has; above the operand's width it has anything.
    fn expect(random: &mut Random, regs: &mut Regs, operand: u64, width: u64) {
        if random.coin() {
            let mask = !0 >> (64 - 8 * width);
            regs.rax = regs.rax & !mask | operand;
        }
    }
    check(&two_operands!(0, "cmpxchg"), expect);
    check(&two_operands!(0, "lock cmpxchg"), expect);
}

#[test]
fn cmpxchg8b_stores_or_loads_a_pair() {
    let forms = [
        form!(0, "cmpxchg8b qword ptr [rdi]"),
        form!(0, "lock cmpxchg8b qword ptr [rdi]"),
    ];
    check(&forms, |random, regs, operand, _| {
        if random.coin() {
            regs.rax = operand & 0xffff_ffff | regs.rax << 32;
            regs.rdx = operand >> 32 | regs.rdx << 32;
        }
    });
}

#[test]
fn an_immediate_bit_is_taken_modulo_the_width() {
    check_plain(&immediate_bit!("bts"));
    check_plain(&immediate_bit!("lock bts"));
    check_plain(&immediate_bit!("btr"));
    check_plain(&immediate_bit!("lock btr"));
    check_plain(&immediate_bit!("btc"));
    check_plain(&immediate_bit!("lock btc"));
}

#[test]
fn a_bit_in_a_register_may_be_far_from_its_base() {
    /// Enough words on both sides of the middle for any 16-bit offset.
    const WORDS: usize = 1200;
    const MIDDLE: usize = WORDS / 2;
    let mut arena = Arena::new(WORDS);
    let before: Vec<u64> = {
        let mut random = Random::new("bits");
        (0..WORDS).map(|_| random.value()).collect()
    };
    let forms = [
        form!(BIT, "bts word ptr [rdi], si"),
        form!(BIT, "lock btr word ptr [rdi], si"),
        form!(BIT, "btc word ptr [rdi], r9w"),
        form!(BIT, "bts dword ptr [rdi], esi"),
        form!(BIT, "lock btr dword ptr [rdi], esi"),
        form!(BIT, "btc dword ptr [rdi], r9d"),
        form!(BIT, "bts qword ptr [rdi], rsi"),
        form!(BIT, "lock btr qword ptr [rdi], rsi"),
        form!(BIT, "lock btc qword ptr [rdi], r9"),
    ];
    for form in forms {
        let mut random = Random::new(form.text);
        let width = width(form);
        for _ in 0..ROUNDS {
            let mut regs = random.regs();
            let base = arena.address(MIDDLE);
            // The operand that has the bit lies a whole number of operands away.
            let (distance, bit) = (random.below(8192 / width), random.below(8 * width));
            let target = (base - 4096) + distance * width;
            let offset = target.wrapping_sub(base).wrapping_mul(8).wrapping_add(bit);
            let above = if width == 8 {
                0
            } else {
                random.next() << (8 * width)
            };
            let offset = offset & (!0 >> (64 - 8 * width)) | above;
            (regs.rdi, regs.rsi, regs.r9) = (base, offset, offset);
            // SAFETY: the operand is in the arena, at most 4096 bytes from its middle.
            unsafe { arena.compare(form, &regs, SegmentBases::default(), &before, target) };
        }
    }
}
