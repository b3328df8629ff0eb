//! STOS and MOVS, once and repeated, up and down.

use super::native::{Arena, DF, Form};
use super::operands::Random;
use crate::form;
use bulkhead_core::emulate::SegmentBases;

const ROUNDS: u64 = 1000;
const WORDS: usize = 64;

/// Runs forms that go up or down from the middle of the arena, `count` elements at most.
fn check(forms: &[(Form, u64)], keep: u64) {
    let mut arena = Arena::new(WORDS);
    for &(form, width) in forms {
        let mut random = Random::new(form.text);
        for _ in 0..ROUNDS {
            let before: Vec<u64> = (0..WORDS).map(|_| random.value()).collect();
            let mut regs = random.regs();
            let garbage = |random: &mut Random| random.next() & keep;
            // Aligned to elements, so that none lies in two words; 16 words from either end.
            let start = random.below(32 * 8 / width) * width;
            regs.rdi = (arena.address(16) + start) | garbage(&mut random);
            // The source need not be aligned, and may overlap.
            regs.rsi = (arena.address(16) + random.below(31 * 8)) | garbage(&mut random);
            if form.text.contains("rep") {
                regs.rcx = (1 + random.below(15)) | garbage(&mut random);
            }
            if random.coin() {
                regs.rflags |= DF;
            }
            let fault = arena.address(16) + start;
            // SAFETY: at most 15 elements up or down from what is 16 words inside the arena.
            unsafe { arena.compare(form, &regs, SegmentBases::default(), &before, fault) };
        }
    }
}

#[test]
fn string_instructions_move_their_pointers() {
    check(
        &[
            (form!(0, "stosb"), 1),
            (form!(0, "stosw"), 2),
            (form!(0, "stosd"), 4),
            (form!(0, "stosq"), 8),
            (form!(0, "movsb"), 1),
            (form!(0, "movsw"), 2),
            (form!(0, "movsd"), 4),
            (form!(0, "movsq"), 8),
        ],
        0,
    );
}

#[test]
fn repeated_string_instructions_end_as_on_the_cpu_one_element_at_a_time() {
    check(
        &[
            (form!(0, "rep stosb"), 1),
            (form!(0, "rep stosw"), 2),
            (form!(0, "rep stosd"), 4),
            (form!(0, "rep stosq"), 8),
            (form!(0, "repne stosq"), 8),
            (form!(0, "rep movsb"), 1),
            (form!(0, "rep movsw"), 2),
            (form!(0, "rep movsd"), 4),
            (form!(0, "rep movsq"), 8),
            (form!(0, "repne movsq"), 8),
        ],
        0,
    );
}

#[test]
fn thirty_two_bit_pointers_lose_their_upper_halves() {
    check(
        &[(form!(0, "addr32 stosq"), 8), (form!(0, "addr32 movsd"), 4)],
        !0 << 32,
    );
}
