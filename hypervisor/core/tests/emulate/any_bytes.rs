//! Whatever a guest puts where its code is.

use crate::RIP;
use bulkhead_core::emulate::privileged::Privileged;
use bulkhead_core::emulate::table_write::{Faulted, TableWrite};
use bulkhead_core::emulate::{Code, Refused, SegmentBases};
use bulkhead_core::vcpu::Regs;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};

/// First bytes of the opcodes that write memory, and of some that do not.
const OPCODES: [&[u8]; 40] = [
    &[0x00],
    &[0x01],
    &[0x08],
    &[0x09],
    &[0x20],
    &[0x21],
    &[0x28],
    &[0x29],
    &[0x30],
    &[0x31],
    &[0x80],
    &[0x81],
    &[0x83],
    &[0x86],
    &[0x87],
    &[0x88],
    &[0x89],
    &[0xa2],
    &[0xa3],
    &[0xa4],
    &[0xa5],
    &[0xaa],
    &[0xab],
    &[0xc6],
    &[0xc7],
    &[0xf6],
    &[0xf7],
    &[0xfe],
    &[0xff],
    &[0x0f, 0xab],
    &[0x0f, 0xb0],
    &[0x0f, 0xb1],
    &[0x0f, 0xb3],
    &[0x0f, 0xba],
    &[0x0f, 0xbb],
    &[0x0f, 0xc0],
    &[0x0f, 0xc1],
    &[0x0f, 0xc3],
    &[0x0f, 0xc7],
    &[0x0f, 0x22],
];

/// Bytes that are likely to be an instruction with an operand near address zero, if the registers are zero.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefixes = vec(
        select(&[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e][..]),
        0..3,
    );
    let rex = prop_oneof![Just(None), (0x40..0x50u8).prop_map(Some)];
    let opcode = select(&OPCODES[..]);
    (prefixes, rex, opcode, any::<[u8; 10]>()).prop_map(|(prefixes, rex, opcode, rest)| {
        let mut bytes: Vec<u8> = prefixes.into_iter().chain(rex).collect();
        bytes.extend(opcode.iter().chain(&rest));
        bytes.truncate(Code::MAX);
        bytes
    })
}

fn any_regs() -> impl Strategy<Value = Regs> {
    any::<[u64; 18]>().prop_map(|r| Regs {
        r15: r[0],
        r14: r[1],
        r13: r[2],
        r12: r[3],
        rbp: r[4],
        rbx: r[5],
        r11: r[6],
        r10: r[7],
        r9: r[8],
        r8: r[9],
        rax: r[10],
        rcx: r[11],
        rdx: r[12],
        rsi: r[13],
        rdi: r[14],
        rip: r[15],
        rflags: r[16],
        rsp: r[17],
        ..Regs::default()
    })
}

/// What is to be written, for whatever a copy reads.
fn resolve(faulted: Faulted, value: u64) -> TableWrite {
    match faulted {
        Faulted::Write(write) => write,
        Faulted::Copy(copy) => copy.with(value),
    }
}

/// Registers that are all zero, but a count of one: operands are where their displacements say.
const ZERO: Regs = Regs {
    r15: 0,
    r14: 0,
    r13: 0,
    r12: 0,
    rbp: 0,
    rbx: 0,
    r11: 0,
    r10: 0,
    r9: 0,
    r8: 0,
    rax: 0,
    rcx: 1,
    rdx: 0,
    rsi: 0,
    rdi: 0,
    error_code: 0,
    entry_vector: 0,
    rip: RIP,
    cs: 0xe033,
    rflags: 0x202,
    rsp: 0,
    ss: 0xe02b,
};

/// What `bytes` would do if they had faulted at `fault`, with registers of [`ZERO`].
fn explain(bytes: &[u8], fault: i64) -> Result<Faulted, Refused> {
    let code = Code::new(RIP, bytes);
    Faulted::decode(&code, &ZERO, SegmentBases::default, fault.cast_unsigned())
}

/// All faults near zero that `bytes` may have caused, and what they would do.
fn claims(bytes: &[u8]) -> Vec<(i64, Faulted)> {
    (-140..140)
        .filter_map(|fault| Some((fault, explain(bytes, fault).ok()?)))
        .collect()
}

/// RIP after an instruction, or after an iteration, of those in `code`.
fn is_next(rip: u64, from: u64) -> bool {
    rip.wrapping_sub(from) <= Code::MAX as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, rng_seed: RngSeed::Fixed(0xe3), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_and_no_registers_make_the_emulator_panic(
        bytes in prop_oneof![likely(), vec(any::<u8>(), 0..=15)],
        regs in any_regs(),
        fs in any::<u64>(),
        fault in any::<u64>(),
    ) {
        let code = Code::new(regs.rip, &bytes);
        let bases = SegmentBases { fs, gs: !fs };
        match Privileged::decode(&code, &regs, bases) {
            Ok(privileged) => {
                let mut after = regs;
                let _ = privileged.finish(&mut after);
                prop_assert!(is_next(after.rip, regs.rip));
            }
            Err(Refused::Truncated { at }) => prop_assert_eq!(at, regs.rip.wrapping_add(bytes.len() as u64)),
            Err(Refused::NotEmulated) => {}
        }
        let forced = Privileged::decode_forced(&code, &regs);
        let is_short = matches!(forced, Err(Refused::Truncated { .. }));
        prop_assert!(!is_short || bytes.len() < 7);
        // That it hits a random address is unlikely; the next test has those that do.
        let _ = Faulted::decode(&code, &regs, || bases, fault);
    }

    #[test]
    fn a_write_is_claimed_for_the_bytes_of_one_operand_in_one_word_and_changes_no_other(
        bytes in likely(),
        old: u64,
        value: u64,
    ) {
        let claimed = claims(&bytes);
        let Some(&(first, faulted)) = claimed.first() else { return Ok(()) };
        // The operand's bytes, one after the other, each with the same explanation.
        prop_assert!(claimed.iter().zip(first..).all(|(&claim, fault)| claim == (fault, faulted)));
        prop_assert!([1, 2, 4, 8].contains(&claimed.len()));
        let start = first & 7;
        prop_assert!(start + i64::try_from(claimed.len()).unwrap() <= 8);
        let write = resolve(faulted, value);
        if let Faulted::Copy(copy) = faulted {
            // What is read is as long as the operand; what stands above it is not.
            prop_assert_eq!(copy.with(value & !0 >> (64 - 8 * claimed.len())), write);
        }
        prop_assert_eq!(write.address(), (first & !7).cast_unsigned());
        let mask = (!0 >> (64 - 8 * claimed.len())) << (8 * start);
        prop_assert_eq!(write.apply(old) & !mask, old & !mask);
        // What else is in the word matters to nothing.
        prop_assert_eq!(write.apply(old) & mask, write.apply(old & mask) & mask);
        let (mut after, mut alone) = (ZERO, ZERO);
        prop_assert_eq!(write.finish(old, &mut after), write.finish(old & mask, &mut alone));
        prop_assert_eq!(after, alone);
        prop_assert!(after.rip != RIP && is_next(after.rip, RIP));
        prop_assert_eq!((after.cs, after.ss), (ZERO.cs, ZERO.ss));
    }

    #[test]
    fn bytes_behind_an_instruction_do_not_change_it_and_none_of_its_own_is_dispensable(
        bytes in likely(),
        other in any::<[u8; 15]>(),
    ) {
        let Some(&(fault, faulted)) = claims(&bytes).first() else { return Ok(()) };
        let mut after = ZERO;
        let _ = resolve(faulted, 0).finish(0, &mut after);
        let len = usize::try_from(after.rip.wrapping_sub(RIP)).unwrap();
        let mut changed = bytes[..len].to_vec();
        prop_assert_eq!(explain(&changed, fault), Ok(faulted));
        changed.extend(other);
        prop_assert_eq!(explain(&changed, fault), Ok(faulted));
        for short in 0..len {
            let at = RIP + short as u64;
            prop_assert_eq!(explain(&bytes[..short], fault), Err(Refused::Truncated { at }));
        }
    }
}

#[test]
fn the_bytes_that_are_likely_to_be_an_instruction_often_are() {
    let config = ProptestConfig {
        rng_seed: RngSeed::Fixed(0xe3),
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let mut is_claimed = |_: u32| {
        let bytes = likely().new_tree(&mut runner).unwrap().current();
        !claims(&bytes).is_empty()
    };
    let claimed = (0..1000).map(&mut is_claimed).filter(|&is| is).count();
    assert!(
        claimed > 250,
        "only {claimed} of 1000: the properties above hold of little"
    );
}
