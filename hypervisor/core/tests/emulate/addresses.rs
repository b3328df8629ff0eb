//! Addresses that cannot be made to happen natively: bases of GS, bases beyond 32-bit offsets, wrapping bit strings.

use crate::RIP;
use bulkhead_core::emulate::table_write::Faulted;
use bulkhead_core::emulate::{Code, Refused, SegmentBases};
use bulkhead_core::vcpu::Regs;

const FS: u64 = 0xffff_8880_0000_0000;
const GS: u64 = 0xffff_8881_0000_0000;

/// Registers with an RDI of which the upper half is not zero, and an RSI that leads a whole word down.
fn regs() -> Regs {
    Regs {
        rip: RIP,
        rdi: 0x1_0000_2000,
        rsi: (-64i64).cast_unsigned(),
        rcx: 1,
        ..Regs::default()
    }
}

#[track_caller]
fn check(text: &str, bytes: &[u8], address: u64) {
    let explain = |fault| {
        let bases = SegmentBases { fs: FS, gs: GS };
        Faulted::decode(&Code::new(RIP, bytes), &regs(), || bases, fault)
    };
    let Ok(Faulted::Write(write)) = explain(address) else {
        panic!("{text}: not at {address:#x}")
    };
    assert_eq!(write.address(), address, "{text}");
    // With another base, or another upper half: not accepted.
    for other in [address ^ 1 << 32, address ^ FS, address ^ GS] {
        assert_eq!(explain(other), Err(Refused::NotEmulated), "{text}: {other:#x}");
    }
}

#[test]
fn a_segment_s_base_is_added_after_the_offset_was_cut() {
    check("mov fs:[rdi], rax", &[0x64, 0x48, 0x89, 0x07], FS + 0x1_0000_2000);
    check("mov gs:[rdi], rax", &[0x65, 0x48, 0x89, 0x07], GS + 0x1_0000_2000);
    check("mov fs:[edi], rax", &[0x67, 0x64, 0x48, 0x89, 0x07], FS + 0x2000);
    check("mov gs:[edi], rax", &[0x67, 0x65, 0x48, 0x89, 0x07], GS + 0x2000);
}

#[test]
fn the_destination_of_a_string_instruction_has_no_base() {
    check("gs stosq", &[0x65, 0x48, 0xab], 0x1_0000_2000);
    check("gs addr32 stosq", &[0x67, 0x65, 0x48, 0xab], 0x2000);
}

#[test]
fn the_source_of_a_copy_has_a_base() {
    for (bytes, source) in [
        (&[0x48, 0xa5][..], 0xffff_ffff_ffff_ffc0),
        (&[0x64, 0x48, 0xa5], FS.wrapping_sub(64)),
        (&[0x65, 0x48, 0xa5], GS.wrapping_sub(64)),
        (&[0x67, 0x65, 0x48, 0xa5], GS + 0xffff_ffc0),
    ] {
        let is_short = bytes[0] == 0x67;
        let fault = if is_short { 0x2000 } else { 0x1_0000_2000 };
        let bases = SegmentBases { fs: FS, gs: GS };
        let faulted = Faulted::decode(&Code::new(RIP, bytes), &regs(), || bases, fault);
        let Ok(Faulted::Copy(copy)) = faulted else {
            panic!("{bytes:x?}: {faulted:?}")
        };
        assert_eq!((copy.source(), copy.width().bytes()), (source, 8));
    }
}

#[test]
fn a_string_of_bits_wraps_at_the_size_of_addresses() {
    // A word below address 0.
    check(
        "btr fs:[abs 0], rsi",
        &[0x64, 0x48, 0x0f, 0xb3, 0x34, 0x25, 0, 0, 0, 0],
        FS - 8,
    );
    check(
        "addr32 btr fs:[abs 0], rsi",
        &[0x67, 0x64, 0x48, 0x0f, 0xb3, 0x34, 0x25, 0, 0, 0, 0],
        FS + 0xffff_fff8,
    );
    // Relative to the end of the instruction, which is 10 bytes long: a word below its page.
    let to_page = |end: u64| u32::try_from(RIP + 0x1000 - end).unwrap().to_le_bytes();
    let displaced = |bytes: &[u8]| {
        let end = RIP + bytes.len() as u64 + 4;
        [bytes, &to_page(end)].concat()
    };
    check(
        "btr gs:[rip + next page], rsi",
        &displaced(&[0x65, 0x48, 0x0f, 0xb3, 0x35]),
        GS.wrapping_add(RIP + 0x1000 - 8),
    );
    check(
        "addr32 btr gs:[eip + next page], rsi",
        &displaced(&[0x67, 0x65, 0x48, 0x0f, 0xb3, 0x35]),
        GS + ((RIP + 0x1000 - 8) & 0xffff_ffff),
    );
    // And from address 0, to which the displacement leads back.
    let back = 0u32
        .wrapping_sub(u32::try_from(RIP & 0xffff_ffff).unwrap() + 10)
        .to_le_bytes();
    check(
        "addr32 btr gs:[eip back to 0], rsi",
        &[&[0x67, 0x65, 0x48, 0x0f, 0xb3, 0x35], &back[..]].concat(),
        GS + 0xffff_fff8,
    );
}
