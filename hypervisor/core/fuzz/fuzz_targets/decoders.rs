//! What the emulator makes of any bytes and registers: it explains them or refuses, and what it explains stays in its word and
//! leaves a register state that a guest may have.
#![no_main]

use bulkhead_core::emulate::privileged::Privileged;
use bulkhead_core::emulate::table_write::Faulted;
use bulkhead_core::emulate::{Code, SegmentBases};
use bulkhead_core::testing::Choices;
use bulkhead_core::vcpu::Regs;
use libfuzzer_sys::fuzz_target;

const RIP: u64 = 0x1_0000;

fuzz_target!(|bytes: &[u8]| {
    let (code, rest) = bytes.split_at(bytes.len().min(Code::MAX));
    let mut choices = Choices::Bytes(rest.iter().copied().collect());
    let mut regs = Regs {
        rip: RIP,
        rflags: 0x202,
        ..Regs::default()
    };
    for register in [
        &mut regs.rax,
        &mut regs.rbx,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.rbp,
        &mut regs.rsp,
        &mut regs.r8,
        &mut regs.r15,
    ] {
        *register = choices.any();
    }
    let bases = SegmentBases {
        fs: choices.any(),
        gs: choices.any(),
    };
    let fault = choices.any();
    let code = Code::new(RIP, code);
    let write = match Faulted::decode(&code, &regs, || bases, fault) {
        Ok(Faulted::Write(write)) => Some(write),
        Ok(Faulted::Copy(copy)) => Some(copy.with(choices.any())),
        Err(_) => None,
    };
    if let Some(write) = write {
        let old = choices.any();
        assert_eq!(write.address(), fault & !7, "the word that faulted");
        assert_eq!(write.apply(old), write.apply(old), "the same again");
        let mut after = regs;
        let _ = write.finish(old, &mut after);
        assert!(after.rip.wrapping_sub(RIP) <= Code::MAX as u64);
    }
    for decoded in [
        Privileged::decode(&code, &regs, bases),
        Privileged::decode_forced(&code, &regs),
    ] {
        if let Ok(instruction) = decoded {
            let mut after = regs;
            let _ = instruction.finish(&mut after);
            assert!(after.rip.wrapping_sub(RIP) <= Code::MAX as u64);
        }
    }
});
