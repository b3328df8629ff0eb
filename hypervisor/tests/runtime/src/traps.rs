//! Exceptions reach their handler with the right vector and error code, and the interrupted code goes on
//! unharmed.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_runtime::{
    Vector,
    report::Checks,
    trap::{self, Fault, TrapFrame, probe_read},
};

static BREAKPOINTS: AtomicU64 = AtomicU64::new(0);
static SKIPPED: AtomicU64 = AtomicU64::new(0);

fn count_breakpoint(_: &mut TrapFrame) {
    BREAKPOINTS.fetch_add(1, Ordering::Relaxed);
}

/// Skips a two-byte instruction.
fn skip_two_bytes(frame: &mut TrapFrame) {
    SKIPPED.store(frame.vector() << 32 | frame.error_code(), Ordering::Relaxed);
    // SAFETY: the instructions that the checks below let fault are two bytes long, and nothing depends on what they would
    // have done.
    unsafe { frame.skip(2) };
}

pub(super) fn check(checks: &mut Checks) {
    trap::set_handler(Vector::Breakpoint, Some(count_breakpoint));
    for _ in 0..1000 {
        trap::breakpoint();
    }
    checks.equal(
        "flags-and-stack-survive-a-trap",
        flags_and_stack_after_trap(),
        [(1, 11, 22); 2],
    );
    trap::set_handler(Vector::Breakpoint, None);
    checks.equal(
        "breakpoints-are-counted",
        BREAKPOINTS.load(Ordering::Relaxed),
        1002,
    );

    trap::set_handler(Vector::InvalidOpcode, Some(skip_two_bytes));
    checks.equal(
        "registers-survive-a-fault",
        registers_after_fault(),
        [1, 2, 3, 4, 5, 6, 7, 8],
    );
    trap::set_handler(Vector::InvalidOpcode, None);
    checks.equal(
        "an-invalid-opcode-has-no-error-code",
        SKIPPED.load(Ordering::Relaxed),
        6 << 32,
    );

    trap::set_handler(Vector::GeneralProtection, Some(skip_two_bytes));
    load_local_selector();
    trap::set_handler(Vector::GeneralProtection, None);
    checks.equal(
        "there-is-no-local-descriptor-table",
        SKIPPED.load(Ordering::Relaxed),
        13 << 32 | 4,
    );
    checks.equal(
        "the-fpu-is-there-and-as-after-a-reset",
        fpu_control(),
        (0x37f, 0x1f80),
    );

    let not_canonical = Fault {
        vector: Vector::GeneralProtection,
        error_code: 0,
    };
    checks.equal(
        "a-non-canonical-address-is-#GP",
        probe_read(1 << 47).err(),
        Some(not_canonical),
    );
    // A load from the hypervisor's own memory: present or not, it must look like a fault at an address of
    // nobody's.
    let hypervisor = probe_read(0xffff_8300_0000_0000).err().map(|fault| fault.vector);
    checks.equal(
        "the-hypervisor-cannot-be-read",
        hypervisor,
        Some(Vector::PageFault),
    );
}

/// Loads a selector of the local descriptor table. A table that a CPU has after its reset would be at address 0.
fn load_local_selector() {
    // SAFETY: the instruction (two bytes) faults and is skipped; a data segment means nothing in 64-bit mode.
    unsafe { asm!("mov ds, {:e}", in(reg) 7) };
}

/// The control word of the x87 and MXCSR. Nothing in this guest has used them before.
fn fpu_control() -> (u16, u32) {
    let (mut x87, mut sse) = (0_u16, 0_u32);
    // SAFETY: the instructions write the two variables, which are as long as what is written.
    unsafe {
        asm!("fnstcw [{}]", in(reg) &raw mut x87, options(nostack, preserves_flags));
        asm!("stmxcsr [{}]", in(reg) &raw mut sse, options(nostack, preserves_flags));
    }
    (x87, sse)
}

/// The carry flag and the two words at the top of the stack after a trap, for both alignments of the stack
/// that there are.
fn flags_and_stack_after_trap() -> [(u8, u64, u64); 2] {
    let (mut carry, mut top, mut next) = ([0_u8; 2], [0_u64; 2], [0_u64; 2]);
    let ([carry_a, carry_b], [top_a, top_b], [next_a, next_b]) = (&mut carry, &mut top, &mut next);
    // SAFETY: the breakpoint's handler only counts and all registers come back; what is pushed is popped.
    unsafe {
        asm!(
            "push 22", "push 11", "stc", "int3", "setc {carry_a}", "pop {top_a}", "pop {next_a}",
            "push 0",
            "push 22", "push 11", "stc", "int3", "setc {carry_b}", "pop {top_b}", "pop {next_b}",
            "pop {discard}",
            carry_a = lateout(reg_byte) *carry_a, top_a = lateout(reg) *top_a, next_a = lateout(reg) *next_a,
            carry_b = lateout(reg_byte) *carry_b, top_b = lateout(reg) *top_b, next_b = lateout(reg) *next_b,
            discard = lateout(reg) _,
        );
    }
    let [carry_a, carry_b] = carry;
    let ([top_a, top_b], [next_a, next_b]) = (top, next);
    [(carry_a, top_a, next_a), (carry_b, top_b, next_b)]
}

/// Eight registers, the two that SYSCALL and bounce frames treat specially among them, after a fault that was
/// skipped.
fn registers_after_fault() -> [u64; 8] {
    let mut registers = [1, 2, 3, 4, 5, 6, 7, 8];
    let [a, b, c, d, e, f, g, h] = &mut registers;
    // SAFETY: UD2 is skipped by the handler, which preserves all registers; flags are declared lost.
    unsafe {
        asm!(
            "ud2",
            inout("rax") * a,
            inout("rcx") * b,
            inout("rdx") * c,
            inout("rdi") * d,
            inout("r8") * e,
            inout("r11") * f,
            inout("r12") * g,
            inout("r15") * h,
        );
    }
    registers
}
