//! The system calls of 32-bit programs. SYSCALL is in 32-bit code of AMD's processors alone, SYSENTER in long mode of Intel's: elsewhere they are
//! invalid opcodes. QEMU's TCG (7.2) has both, whoever it says has made the processor.

use core::arch::x86_64::__cpuid;

use bulkhead_abi::selectors::{FLAT_RING3_CS32, FLAT_RING3_SS};
use bulkhead_runtime::{
    Vector,
    report::Checks,
    user::{Code, CompatCalls, Exit, Program, Registers},
};

use crate::user::load;

/// Who made the processor, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Intel,
    Other,
}

fn maker() -> Maker {
    // CPUID is not trapped in ring 3: this is the processor's own answer.
    let answer = __cpuid(0);
    let name = [answer.ebx, answer.edx, answer.ecx].map(u32::to_le_bytes);
    if name.as_flattened() == b"GenuineIntel" {
        Maker::Intel
    } else {
        Maker::Other
    }
}

const SYSCALL: Code<'static> = Code::new(&[0x0f, 0x05]);
const SYSENTER: Code<'static> = Code::new(&[0x0f, 0x34]);
/// PUSHFD; OR of TF and NT into the word that the stack pointer shows; POPFD; SYSENTER.
const SYSENTER_STEPPED: Code<'static> =
    Code::new(&[0x9c, 0x81, 0x0c, 0x24, 0x00, 0x41, 0x00, 0x00, 0x9d, 0x0f, 0x34]);
/// Where the last of these instructions stands in the last of these.
const STEPPED: u64 = 9;
/// Single step, and nested task.
const TF_NT: u64 = 1 << 8 | 1 << 14;

/// What comes of the first instructions of `code`, as 32-bit code: how it exits, and where, in which segment, and on which stack.
fn run(code: Code<'static>) -> (Exit, Registers) {
    let mut registers = Registers {
        cs: FLAT_RING3_CS32.into(),
        rdi: 0x1234,
        ..Registers::at_start()
    };
    let exit = load(code).run(&mut registers);
    (exit, registers)
}

/// The parts of what came of it that are compared.
fn place((exit, registers): (Exit, Registers)) -> (Exit, [u64; 5]) {
    let Registers {
        rip,
        cs,
        rsp,
        ss,
        rdi,
        ..
    } = registers;
    // The address of the last page fault is none of this.
    let exit = if let Exit::Exception {
        vector, error_code, ..
    } = exit
    {
        Exit::Exception {
            vector,
            error_code,
            address: 0,
        }
    } else {
        exit
    };
    (exit, [rip, cs, rsp, ss, rdi])
}

/// An exception at `rip`.
fn fault(vector: Vector, rip: u64, rsp: u64) -> (Exit, [u64; 5]) {
    let exit = Exit::Exception {
        vector: vector.raw().into(),
        error_code: 0,
        address: 0,
    };
    (
        exit,
        [rip, FLAT_RING3_CS32.into(), rsp, FLAT_RING3_SS.into(), 0x1234],
    )
}

pub(super) fn check(checks: &mut Checks) {
    let is_intel = maker() == Maker::Intel;
    let no_instruction = |rip| fault(Vector::InvalidOpcode, rip, Program::STACK);
    checks.equal(
        "a-32-bit-system-call-that-is-not-taken-is-no-instruction",
        place(run(SYSCALL)),
        no_instruction(Program::CODE),
    );
    let refused = place(run(SYSENTER));
    let closed = fault(Vector::GeneralProtection, Program::CODE, Program::STACK);
    let has_sysenter = refused == closed;
    let is_right = has_sysenter || !is_intel && refused == no_instruction(Program::CODE);
    checks.report(
        "sysenter-that-is-not-taken-is-a-fault",
        if is_right { Ok(()) } else { Err(refused) },
    );

    checks.equal("32-bit-calls-can-be-taken", CompatCalls::Taken.apply(), Ok(()));
    let called = place(run(SYSCALL));
    let after = [
        Program::CODE + 2,
        FLAT_RING3_CS32.into(),
        Program::STACK,
        FLAT_RING3_SS.into(),
        0x1234,
    ];
    let is_right = called == (Exit::CompatCall, after) || is_intel && called == no_instruction(Program::CODE);
    checks.report(
        "a-32-bit-system-call-comes-to-its-callback",
        if is_right { Ok(()) } else { Err(called) },
    );
    let lost = (Exit::Sysenter, [0, 3, 0, FLAT_RING3_SS.into(), 0x1234]);
    checks.equal(
        "sysenter-comes-to-its-callback",
        place(run(SYSENTER)),
        if has_sysenter {
            lost
        } else {
            no_instruction(Program::CODE)
        },
    );
    // The processor keeps these flags, and the hypervisor must not trip over them.
    let stepped = run(SYSENTER_STEPPED);
    let flags = stepped.1.rflags & TF_NT;
    let expected = if has_sysenter {
        lost
    } else {
        no_instruction(Program::CODE + STEPPED)
    };
    checks.equal(
        "sysenter-comes-with-whatever-flags",
        (place(stepped), flags),
        (expected, TF_NT),
    );
    checks.equal(
        "32-bit-calls-can-be-refused-again",
        CompatCalls::Refused.apply(),
        Ok(()),
    );
    checks.equal("as-they-were-before", place(run(SYSENTER)), refused);
}
