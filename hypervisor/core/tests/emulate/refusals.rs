//! Writes that are not emulated.

use crate::{faulted, regs, write};
use bulkhead_core::emulate::table_write::Faulted;
use bulkhead_core::emulate::{Code, Refused, SegmentBases};
use bulkhead_core::vcpu::Regs;

const REFUSED: Result<Faulted, Refused> = Err(Refused::NotEmulated);

#[test]
fn an_operand_in_two_words_is_refused() {
    // mov [rdi], al / ax / eax / rax
    let forms: [(&[u8], u64); 4] = [
        (&[0x88, 0x07], 1),
        (&[0x66, 0x89, 0x07], 2),
        (&[0x89, 0x07], 4),
        (&[0x48, 0x89, 0x07], 8),
    ];
    for (bytes, width) in forms {
        for start in 0..8 {
            let at = Regs {
                rdi: 0x5000 + start,
                ..regs()
            };
            let bases = SegmentBases::default();
            let explained = Faulted::decode(&Code::new(at.rip, bytes), &at, || bases, at.rdi);
            assert_eq!(explained.is_ok(), start + width <= 8, "{width} bytes at {start}");
        }
    }
}

#[test]
fn an_operand_elsewhere_than_the_fault_is_refused() {
    // mov [rdi], eax: the four bytes from RDI on, and no other.
    let rdi = regs().rdi;
    for fault in rdi.wrapping_sub(9)..rdi + 16 {
        let is_in_operand = (rdi..rdi + 4).contains(&fault);
        assert_eq!(write(&[0x89, 0x07], fault).is_ok(), is_in_operand);
    }
    assert_eq!(faulted(&[0x89, 0x07], rdi ^ 1 << 63), REFUSED);
}

#[test]
fn writes_that_are_not_listed_are_refused() {
    let rdi = regs().rdi;
    let refused: [(&str, &[u8]); 24] = [
        ("adc [rdi], rax", &[0x48, 0x11, 0x07]),
        ("sbb [rdi], rax", &[0x48, 0x19, 0x07]),
        ("shl qword [rdi], 1", &[0x48, 0xd1, 0x27]),
        ("cmp [rdi], rax", &[0x48, 0x39, 0x07]),
        ("test [rdi], rax", &[0x48, 0x85, 0x07]),
        ("bt [rdi], rax", &[0x48, 0x0f, 0xa3, 0x07]),
        ("mov rax, [rdi]", &[0x48, 0x8b, 0x07]),
        ("add rax, [rdi]", &[0x48, 0x03, 0x07]),
        ("lea rax, [rdi]", &[0x48, 0x8d, 0x07]),
        ("mov [rdi], ds", &[0x8c, 0x1f]),
        ("pop qword [rdi]", &[0x8f, 0x07]),
        ("push qword [rdi]", &[0xff, 0x37]),
        ("call [rdi]", &[0xff, 0x17]),
        ("cmpxchg16b [rdi]", &[0x48, 0x0f, 0xc7, 0x0f]),
        ("setz [rdi]", &[0x0f, 0x94, 0x07]),
        ("movbe [rdi], rax", &[0x48, 0x0f, 0x38, 0xf1, 0x07]),
        ("movq [rdi], mm0", &[0x0f, 0x7f, 0x07]),
        ("movsd [rdi], xmm0", &[0xf2, 0x0f, 0x11, 0x07]),
        ("movnti with no memory", &[0x0f, 0xc3, 0xc7]),
        ("fstp qword [rdi]", &[0xdd, 0x1f]),
        ("fxsave [rdi]", &[0x0f, 0xae, 0x07]),
        ("insd", &[0x6d]),
        ("lock mov [rdi], rax", &[0xf0, 0x48, 0x89, 0x07]),
        ("lock movnti [rdi], rax", &[0xf0, 0x48, 0x0f, 0xc3, 0x07]),
    ];
    for (name, bytes) in refused {
        assert_eq!(faulted(bytes, rdi), REFUSED, "{name}");
    }
    // The ground for this refusal was the instruction: another one there is emulated.
    assert!(write(&[0x48, 0x89, 0x07], rdi).is_ok());
}

#[test]
fn a_repeated_store_with_nothing_left_to_store_is_refused() {
    let none = Regs { rcx: 0, ..regs() };
    let bases = SegmentBases::default();
    let explain = |bytes: &[u8], at: &Regs| Faulted::decode(&Code::new(at.rip, bytes), at, || bases, at.rdi);
    assert_eq!(explain(&[0xf3, 0x48, 0xab], &none), REFUSED);
    assert!(explain(&[0x48, 0xab], &none).is_ok());
}
