//! Each privileged instruction, by its effect.

use crate::{RIP, regs};
use bulkhead_core::emulate::privileged::{
    Control, CpuidRegisters, Debug, Effect, PortSource, PortTarget, Privileged,
};
use bulkhead_core::emulate::{After, Code, EdxEax, Refused, SegmentBases, Width};
use bulkhead_core::vcpu::Regs;

const FS: u64 = 0x1_0000_0000;

fn decode(bytes: &[u8], regs: &Regs) -> Result<Privileged, Refused> {
    let bases = SegmentBases { fs: FS, gs: 0 };
    Privileged::decode(&Code::new(RIP, bytes), regs, bases)
}

/// The effect of `bytes`, all of which are the instruction.
#[track_caller]
fn effect(bytes: &[u8]) -> Effect {
    let mut regs = regs();
    let privileged = decode(bytes, &regs).unwrap();
    let before = regs;
    assert_eq!(privileged.finish(&mut regs), After::Nothing);
    let moved = Regs {
        rip: RIP + bytes.len() as u64,
        rflags: before.rflags & !(1 << 16),
        ..before
    };
    assert_eq!(regs, moved);
    privileged.effect
}

#[test]
fn msrs_are_named_by_ecx_and_written_from_edx_eax() {
    let index = 0x1415_1617;
    assert_eq!(effect(&[0x0f, 0x32]), Effect::ReadMsr { index, into: EdxEax });
    assert_eq!(
        effect(&[0x0f, 0x30]),
        Effect::WriteMsr {
            index,
            value: 0x2425_2627_0405_0607
        }
    );
}

#[test]
fn a_pair_is_stored_in_halves_that_clear_the_rest() {
    let mut regs = regs();
    EdxEax.store(&mut regs, 0x1234_5678_9abc_def0);
    assert_eq!((regs.rdx, regs.rax), (0x1234_5678, 0x9abc_def0));
    assert_eq!(EdxEax.load(&regs), 0x1234_5678_9abc_def0);
}

#[test]
fn cpuid_asks_with_eax_and_ecx_and_is_answered_in_four() {
    let wanted = Effect::Cpuid {
        leaf: 0x0405_0607,
        subleaf: 0x1415_1617,
        into: CpuidRegisters,
    };
    assert_eq!(effect(&[0x0f, 0xa2]), wanted);
    let mut regs = regs();
    CpuidRegisters.store(&mut regs, [1, 2, 3, 4]);
    assert_eq!((regs.rax, regs.rbx, regs.rcx, regs.rdx), (1, 2, 3, 4));
}

#[test]
fn forced_emulation_is_the_prefix_and_cpuid() {
    const FORCED: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];
    let mut regs = regs();
    let forced = |bytes: &[u8]| Privileged::decode_forced(&Code::new(RIP, bytes), &crate::regs());
    let privileged = forced(&FORCED).unwrap();
    assert!(matches!(
        privileged.effect,
        Effect::Cpuid {
            leaf: 0x0405_0607,
            ..
        }
    ));
    assert_eq!(privileged.finish(&mut regs), After::Nothing);
    assert_eq!(regs.rip, RIP + 7);
    for len in 0..FORCED.len() {
        let at = RIP + len as u64;
        assert_eq!(forced(&FORCED[..len]), Err(Refused::Truncated { at }));
    }
    for changed in 0..FORCED.len() {
        let mut other = FORCED;
        other[changed] ^= 1;
        assert_eq!(forced(&other), Err(Refused::NotEmulated));
    }
    // After a general protection fault it is UD2, which never raises one.
    assert_eq!(decode(&FORCED, &regs), Err(Refused::NotEmulated));
    // And CPUID alone is no invalid opcode.
    assert_eq!(forced(&[0x0f, 0xa2]), Err(Refused::NotEmulated));
}

#[test]
fn instructions_without_operands_are_told_apart() {
    assert_eq!(effect(&[0xfa]), Effect::MaskEvents);
    assert_eq!(effect(&[0xfb]), Effect::UnmaskEvents);
    assert_eq!(effect(&[0x0f, 0x06]), Effect::ClearTaskSwitched);
    assert_eq!(effect(&[0x0f, 0x08]), Effect::WriteBackCaches);
    assert_eq!(effect(&[0x0f, 0x09]), Effect::WriteBackCaches);
    assert_eq!(effect(&[0xf3, 0x0f, 0x09]), Effect::WriteBackCaches);
    assert_eq!(effect(&[0x0f, 0x31]), Effect::ReadTimestamp { into: EdxEax });
    assert_eq!(
        effect(&[0x0f, 0x01, 0xd1]),
        Effect::WriteExtendedControl {
            index: 0x1415_1617,
            value: 0x2425_2627_0405_0607
        }
    );
}

#[test]
fn rdtscp_has_a_third_result() {
    let Effect::ReadTimestampAndCpu { into: EdxEax, cpu } = effect(&[0x0f, 0x01, 0xf9]) else {
        panic!("not RDTSCP")
    };
    let mut regs = regs();
    cpu.store(&mut regs, 0xffff_ffff_0000_0005);
    assert_eq!(regs.rcx, 5);
}

#[test]
fn control_registers_are_read_and_written_whole() {
    for (code, register) in [
        (0, Control::Cr0),
        (2, Control::Cr2),
        (3, Control::Cr3),
        (4, Control::Cr4),
    ] {
        // MOV CRn, rbx; with REX.B, r11. The mode bits are ignored.
        for mode in [0u8, 0x40, 0x80, 0xc0] {
            let value = regs().rbx;
            assert_eq!(
                effect(&[0x0f, 0x22, mode | code << 3 | 3]),
                Effect::WriteControl { register, value }
            );
        }
        let value = regs().r11;
        assert_eq!(
            effect(&[0x41, 0x0f, 0x22, 0xc0 | code << 3 | 3]),
            Effect::WriteControl { register, value }
        );
        // MOV r14, CRn.
        let Effect::ReadControl { register: read, into } = effect(&[0x41, 0x0f, 0x20, 0xc0 | code << 3 | 6])
        else {
            panic!("not a read")
        };
        assert_eq!(read, register);
        let mut regs = regs();
        into.store(&mut regs, 0xfedc_ba98_7654_3210);
        assert_eq!(regs.r14, 0xfedc_ba98_7654_3210);
    }
}

#[test]
fn debug_registers_are_read_and_written_whole() {
    for (code, register) in [
        (0, Debug::Address(0)),
        (1, Debug::Address(1)),
        (2, Debug::Address(2)),
        (3, Debug::Address(3)),
        (6, Debug::Status),
        (7, Debug::Control),
    ] {
        // MOV DRn, rsi and MOV rsi, DRn.
        let value = regs().rsi;
        assert_eq!(
            effect(&[0x0f, 0x23, 0xc0 | code << 3 | 6]),
            Effect::WriteDebug { register, value }
        );
        let Effect::ReadDebug { register: read, into } = effect(&[0x0f, 0x21, 0xc0 | code << 3 | 6]) else {
            panic!("not a read")
        };
        assert_eq!(read, register);
        let mut regs = regs();
        into.store(&mut regs, 7);
        assert_eq!(regs.rsi, 7);
    }
}

#[test]
fn ports_are_read_into_as_much_of_rax_as_the_width_says() {
    // IN al/ax/eax, imm8 and IN al/ax/eax, dx. A 64-bit operand size does not exist.
    let cases: [(&[u8], u16, Width, u64); 8] = [
        (&[0xe4, 0x61], 0x61, Width::Byte, 0x0001_0203_0405_06ff),
        (&[0x66, 0xe5, 0x61], 0x61, Width::Word, 0x0001_0203_0405_ffff),
        (&[0xe5, 0x61], 0x61, Width::Dword, 0xffff_ffff),
        (&[0x48, 0xe5, 0xf8], 0xf8, Width::Dword, 0xffff_ffff),
        (&[0xec], 0x2627, Width::Byte, 0x0001_0203_0405_06ff),
        (&[0x66, 0xed], 0x2627, Width::Word, 0x0001_0203_0405_ffff),
        (&[0xed], 0x2627, Width::Dword, 0xffff_ffff),
        (&[0x48, 0xed], 0x2627, Width::Dword, 0xffff_ffff),
    ];
    for (bytes, port, width, rax) in cases {
        let Effect::In {
            port: read,
            width: wide,
            into: PortTarget::Accumulator(accumulator),
        } = effect(bytes)
        else {
            panic!("{bytes:x?}: not IN")
        };
        assert_eq!((read, wide), (port, width));
        let mut regs = regs();
        accumulator.store(&mut regs, !0);
        assert_eq!(regs.rax, rax);
    }
}

#[test]
fn ports_are_written_from_as_much_of_rax_as_the_width_says() {
    let cases: [(&[u8], u16, Width, u32); 6] = [
        (&[0xe6, 0x80], 0x80, Width::Byte, 0x07),
        (&[0x66, 0xe7, 0x80], 0x80, Width::Word, 0x0607),
        (&[0xe7, 0x80], 0x80, Width::Dword, 0x0405_0607),
        (&[0xee], 0x2627, Width::Byte, 0x07),
        (&[0x66, 0xef], 0x2627, Width::Word, 0x0607),
        (&[0xef], 0x2627, Width::Dword, 0x0405_0607),
    ];
    for (bytes, port, width, value) in cases {
        let from = PortSource::Value(value);
        assert_eq!(effect(bytes), Effect::Out { port, width, from });
    }
}

/// What `bytes` want, and the registers after them, if RSI and RDI are 0x1000 and 0x2000 and DF is as given.
fn string(bytes: &[u8], rcx: u64, is_down: bool) -> (Effect, Regs) {
    let mut regs = Regs {
        rsi: 0x1000,
        rdi: 0x2000,
        rcx,
        rflags: if is_down { 1 << 10 } else { 0 },
        ..regs()
    };
    let privileged = decode(bytes, &regs).unwrap();
    assert_eq!(privileged.finish(&mut regs), After::Nothing);
    (privileged.effect, regs)
}

#[test]
fn string_input_goes_to_rdi_and_string_output_comes_from_rsi() {
    let port = 0x2627;
    for (opcode, prefix, width, bytes) in [
        (0x6c, None, Width::Byte, 1),
        (0x6d, Some(0x66), Width::Word, 2),
        (0x6d, None, Width::Dword, 4),
    ] {
        let encode = |opcode| prefix.into_iter().chain([opcode]).collect::<Vec<u8>>();
        let into = PortTarget::Memory(0x2000);
        let (effect, after) = string(&encode(opcode), 9, false);
        assert_eq!(effect, Effect::In { port, width, into });
        assert_eq!((after.rsi, after.rdi, after.rcx), (0x1000, 0x2000 + bytes, 9));
        assert_ne!(after.rip, RIP);
        let from = PortSource::Memory(0x1000);
        let (effect, after) = string(&encode(opcode + 2), 9, true);
        assert_eq!(effect, Effect::Out { port, width, from });
        assert_eq!((after.rsi, after.rdi, after.rcx), (0x1000 - bytes, 0x2000, 9));
    }
    // FS: OUTSB
    let from = PortSource::Memory(FS + 0x1000);
    let width = Width::Byte;
    assert_eq!(
        string(&[0x64, 0x6e], 0, false).0,
        Effect::Out { port, width, from }
    );
    // FS: INSB. The prefix means nothing to it.
    let into = PortTarget::Memory(0x2000);
    assert_eq!(
        string(&[0x64, 0x6c], 0, false).0,
        Effect::In { port, width, into }
    );
}

#[test]
fn a_repeated_string_instruction_counts_down_and_stays_until_zero() {
    let (_, after) = string(&[0xf3, 0x6e], 2, false);
    assert_eq!((after.rip, after.rcx, after.rsi), (RIP, 1, 0x1001));
    let (_, after) = string(&[0xf3, 0x6e], 1, false);
    assert_eq!((after.rip, after.rcx, after.rsi), (RIP + 2, 0, 0x1001));
    // No iteration at all.
    let (effect, after) = string(&[0xf3, 0x6e], 0, false);
    assert_eq!(effect, Effect::Nothing);
    assert_eq!((after.rip, after.rcx, after.rsi), (RIP + 2, 0, 0x1000));
    // Of a 32-bit count the upper half says nothing.
    let (effect, after) = string(&[0x67, 0xf3, 0x6e], 1 << 32, false);
    assert_eq!(effect, Effect::Nothing);
    assert_eq!((after.rip, after.rcx, after.rsi), (RIP + 3, 1 << 32, 0x1000));
}

#[test]
fn software_interrupts_have_their_number() {
    assert_eq!(effect(&[0xcd, 0x80]), Effect::Interrupt { vector: 0x80 });
    assert_eq!(effect(&[0xcd, 0x03]), Effect::Interrupt { vector: 3 });
}

#[test]
fn other_instructions_that_fault_are_the_guest_s_affair() {
    let refused: [(&str, &[u8]); 22] = [
        ("hlt", &[0xf4]),
        ("lgdt [rdi]", &[0x0f, 0x01, 0x17]),
        ("lidt [rdi]", &[0x0f, 0x01, 0x1f]),
        ("lldt ax", &[0x0f, 0x00, 0xd0]),
        ("ltr ax", &[0x0f, 0x00, 0xd8]),
        ("invlpg [rdi]", &[0x0f, 0x01, 0x3f]),
        ("lmsw ax", &[0x0f, 0x01, 0xf0]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0]),
        ("mov rax, cr8", &[0x44, 0x0f, 0x20, 0xc0]),
        ("lock mov cr0, rax", &[0xf0, 0x0f, 0x22, 0xc0]),
        ("mov cr1, rax", &[0x0f, 0x22, 0xc8]),
        ("mov dr4, rax", &[0x0f, 0x23, 0xe0]),
        ("mov rax, dr5", &[0x0f, 0x21, 0xe8]),
        ("iretq", &[0x48, 0xcf]),
        ("int3", &[0xcc]),
        ("sysret", &[0x48, 0x0f, 0x07]),
        ("rdpmc", &[0x0f, 0x33]),
        ("xgetbv", &[0x0f, 0x01, 0xd0]),
        ("vmcall", &[0x0f, 0x01, 0xc1]),
        ("mov rax, rbx", &[0x48, 0x89, 0xd8]),
        ("mov fs, ax", &[0x8e, 0xe0]),
    ];
    for (name, bytes) in refused {
        assert_eq!(decode(bytes, &regs()), Err(Refused::NotEmulated), "{name}");
    }
}
