//! Exceptions that programs have to ask for: of alignment, of the x87 and of SSE; and software interrupts that nobody handles any more.
//!
//! QEMU's TCG (7.2) checks no alignment and raises no #XM: there, that nothing happens is right.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_abi::{
    Hypercall, Record,
    selectors::FLAT_RING3_CS64,
    trap::{TI_DPL_MASK, TrapInfo, Vector},
};
use bulkhead_runtime::trap;

use crate::{
    attempt::attempt,
    calls::{call, input, tidy},
    probe::Probe,
};

/// A vector that nothing raises unless asked to.
const SPARE_VECTOR: u8 = 0x81;

/// How often its handler was entered.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Whether the emulator is there that does not have them all.
fn is_emulated() -> bool {
    let answer = core::arch::x86_64::__cpuid(0x4000_0000);
    answer.ebx.to_le_bytes() == *b"TCGT"
}

pub(crate) fn check(probe: &mut Probe) {
    let may_be_missing = is_emulated();
    let mut law = |name: &str, found: Option<Vector>, expected: Vector| {
        let is_right = found == Some(expected) || found.is_none() && may_be_missing;
        probe.law(name, if is_right { Ok(()) } else { Err(found) });
    };
    law(
        "a-misaligned-access-is-#AC-if-asked-for",
        misaligned(),
        Vector::AlignmentCheck,
    );
    law("an-sse-error-is-#XM-if-asked-for", sse_error(), Vector::Simd);
    let x87 = x87_error();
    probe.law(
        "an-x87-error-is-#MF-if-asked-for",
        if x87 == Some(Vector::X87) {
            Ok(())
        } else {
            Err(x87)
        },
    );
    probe.law("an-int-whose-handler-is-gone-is-#GP", int_after_its_handler());
}

/// A read of four bytes at an odd address, with alignment checks on around it.
fn misaligned() -> Option<Vector> {
    let words = [0_u64; 2];
    attempt(3, || {
        // SAFETY: reads four of the 16 bytes, in an instruction of three bytes, or faults there and is left out. The flag is as before
        // at the end, whatever the handler does with it; the stack is popped as it was pushed.
        unsafe {
            asm!(
                "pushfq", "or qword ptr [rsp], {AC}", "popfq",
                "mov eax, [rcx + 1]",
                "pushfq", "and qword ptr [rsp], {NOT_AC}", "popfq",
                AC = const 1 << 18, NOT_AC = const !(1_i32 << 18),
                in("rcx") &raw const words, out("eax") _,
            );
        }
    })
}

/// A division by zero with SSE, of which the errors are let through.
fn sse_error() -> Option<Vector> {
    /// All errors masked, and the same but for division by zero.
    const MASKED: u32 = 0x1f80;
    const DIVISIONS: u32 = MASKED & !0x200;
    let words = [DIVISIONS, MASKED];
    attempt(4, || {
        // SAFETY: no compiled code uses the registers, and MXCSR is as after a reset at the end. DIVSS has four bytes.
        unsafe {
            asm!(
                "ldmxcsr [{words}]",
                "xorps xmm0, xmm0", "cvtsi2ss xmm1, {one:e}",
                "divss xmm1, xmm0",
                "ldmxcsr [{words} + 4]",
                words = in(reg) &raw const words, one = in(reg) 1_u32,
                options(nostack),
            );
        }
    })
}

/// A division by zero with the x87, of which the errors are let through: it is told of at the next instruction that waits.
fn x87_error() -> Option<Vector> {
    /// All errors masked but for division by zero.
    const DIVISIONS: u16 = 0x37f & !4;
    let word = DIVISIONS;
    attempt(1, || {
        // SAFETY: no compiled code uses the registers, which are as after a reset at the end. FWAIT has one byte.
        unsafe {
            asm!(
                "fninit", "fldcw [{word}]", "fld1", "fldz", "fdivp st(1), st",
                "fwait",
                "fnclex", "fninit",
                word = in(reg) &raw const word,
                options(nostack),
            );
        }
    })
}

fn int() -> Option<Vector> {
    attempt(2, || {
        // SAFETY: the handler keeps all registers; if there is none, the instruction, of two bytes, is left out.
        unsafe { asm!("int {vector}", vector = const SPARE_VECTOR) };
    })
}

/// What comes of `int n` with a handler, and when that is gone.
fn int_after_its_handler() -> Result<(), (Option<Vector>, u64, Option<Vector>, u64)> {
    let table = [
        TrapInfo {
            vector: SPARE_VECTOR,
            flags: TI_DPL_MASK,
            cs: FLAT_RING3_CS64,
            address: handler as *const () as u64,
        },
        TrapInfo::ZERO,
    ];
    tidy([call(Hypercall::SetTrapTable, [input(&table)])]);
    let (before, counted) = (int(), COUNT.load(Ordering::Relaxed));
    trap::reinstall();
    let (after, still) = (int(), COUNT.load(Ordering::Relaxed));
    let all = (before, counted, after, still);
    if all == (None, 1, Some(Vector::GeneralProtection), 1) {
        Ok(())
    } else {
        Err(all)
    }
}

/// Counts, and returns by the hypercall.
///
/// In: rcx, r11, then rip, cs, rflags, rsp, ss on the interrupted stack: of which the last five are what the hypercall wants at the end of its
/// frame, too.
#[unsafe(naked)]
unsafe extern "C" fn handler() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "inc qword ptr [rip + {count}]",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        count = sym COUNT,
        iret = const Hypercall::Iret.raw(),
    )
}
