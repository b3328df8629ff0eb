//! Single steps and breakpoints.

use crate::{RIP, regs};
use bulkhead_core::emulate::privileged::Privileged;
use bulkhead_core::emulate::table_write::Faulted;
use bulkhead_core::emulate::{After, Code, SegmentBases};
use bulkhead_core::vcpu::Regs;

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;

fn stepping() -> Regs {
    Regs {
        rflags: regs().rflags | TF | RF,
        ..regs()
    }
}

#[test]
fn a_guest_that_single_steps_is_told_after_a_page_table_write() {
    let mut regs = stepping();
    let code = Code::new(RIP, &[0x48, 0x89, 0x07]);
    let fault = regs.rdi;
    let Ok(Faulted::Write(write)) = Faulted::decode(&code, &regs, SegmentBases::default, fault) else {
        panic!("not explained")
    };
    assert_eq!(write.finish(0, &mut regs), After::SingleStep);
    assert_eq!(regs.rip, RIP + 3);
    assert_eq!(regs.rflags & (TF | RF), TF);
}

#[test]
fn each_iteration_of_a_repeated_store_is_a_step_and_a_breakpoint_strikes_once() {
    let code = Code::new(RIP, &[0xf3, 0x48, 0xab]);
    let mut regs = Regs { rcx: 2, ..stepping() };
    for (rcx, rip, rf) in [(1, RIP, RF), (0, RIP + 3, 0)] {
        let fault = regs.rdi;
        let Ok(Faulted::Write(write)) = Faulted::decode(&code, &regs, SegmentBases::default, fault) else {
            panic!("not explained")
        };
        assert_eq!(write.finish(0, &mut regs), After::SingleStep);
        assert_eq!((regs.rcx, regs.rip, regs.rflags & RF), (rcx, rip, rf));
    }
}

#[test]
fn a_software_interrupt_steps_when_its_handler_returns_and_others_at_once() {
    let after = |bytes| {
        let mut regs = stepping();
        let code = Code::new(RIP, bytes);
        let privileged = Privileged::decode(&code, &regs, SegmentBases::default()).unwrap();
        privileged.finish(&mut regs)
    };
    assert_eq!(after(&[0x0f, 0x30]), After::SingleStep);
    assert_eq!(after(&[0xcd, 0x80]), After::Nothing);
}
