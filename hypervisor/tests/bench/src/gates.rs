//! A software interrupt of a guest's to its own handler and back: through the hypervisor, which bounces it, and through a direct gate,
//! which needs a machine that has them or was told to (`direct-gates=on`).
//!
//! Each is measured whole and [by parts](crate::split).

use core::arch::{asm, naked_asm};

use bulkhead_abi::{
    Hypercall,
    extension::DIRECT_GATE_VECTORS,
    selectors::FLAT_RING3_CS64,
    trap::{TI_DPL_MASK, TrapInfo},
};
use bulkhead_runtime::{extension::set_direct_gate, hypervisor::raw_call, println};

use crate::split::{self, Parts};

/// Interrupts in one run.
const INTERRUPTS: u64 = 1000;

/// Three of the loop, four of [`bounced`]; between stamps three and six.
const BOUNCED: Parts = Parts {
    kernel: 3 + 4,
    program: 0,
    between: 3 + 6,
};

/// Three of the loop, one of [`direct`]; between stamps three and three.
const DIRECT: Parts = Parts {
    kernel: 3 + 1,
    program: 0,
    between: 3 + 3,
};

const VECTOR: u8 = *DIRECT_GATE_VECTORS.start();

/// Measures both ways. Says so and does nothing more if there are no direct gates.
pub(super) fn measure_all() {
    bounce_to(bounced);
    split::whole("bounced-gate", INTERRUPTS, 1, interrupt);
    bounce_to(bounced_with_stamps);
    split::parts("bounced-gate", INTERRUPTS, 1, BOUNCED, stamped);

    // SAFETY: the handler returns at once, and keeps all registers.
    if let Err(error) = unsafe { set_direct_gate(VECTOR, Some(direct)) } {
        println!("no direct gates here: {error}");
        return;
    }
    split::whole("direct-gate", INTERRUPTS, 1, interrupt);
    // SAFETY: the handler changes the registers that `stamped` leaves to it.
    let changed = unsafe { set_direct_gate(VECTOR, Some(direct_with_stamps)) };
    assert_eq!(changed, Ok(()), "a gate was refused");
    split::parts("direct-gate", INTERRUPTS, 1, DIRECT, stamped);
}

/// Raises the software interrupt so many times.
fn interrupt(count: u64) {
    // SAFETY: the handlers that there are without stamps keep all registers. They write below the stack pointer, where nothing lies: the
    // target has no red zone.
    unsafe {
        asm!(
            "2: int {vector}",
            "dec {left:e}",
            "jnz 2b",
            vector = const VECTOR,
            left = inout(reg) count => _,
        );
    }
}

/// The same for the handlers with stamps. Returns what lay between these.
fn stamped(count: u64) -> u64 {
    let sum: u64;
    // SAFETY: as above; the handlers with stamps change rax, rdx, r12 and r14, which are declared.
    unsafe {
        asm!(
            "2: rdtsc",
            "mov r12d, eax",
            "int {vector}",
            "rdtsc",
            "sub eax, r12d",
            "add r14, rax",
            "dec {left:e}",
            "jnz 2b",
            vector = const VECTOR,
            left = inout(reg) count => _,
            inout("r14") 0_u64 => sum,
            out("r12") _,
            out("rax") _,
            out("rdx") _,
        );
    }
    sum
}

/// Has the hypervisor bounce the vector to `entry`.
fn bounce_to(entry: unsafe extern "C" fn() -> !) {
    let table = [
        TrapInfo {
            vector: VECTOR,
            flags: TI_DPL_MASK,
            cs: FLAT_RING3_CS64,
            address: entry as *const () as u64,
        },
        TrapInfo::default(),
    ];
    let at = core::ptr::from_ref(&table).expose_provenance() as u64;
    // SAFETY: registers an entry point of this module for a vector that only this module raises; the table is borrowed for the call.
    let answer = unsafe { raw_call(Hypercall::SetTrapTable.raw(), [at, 0, 0, 0, 0]) };
    assert_eq!(answer, 0, "a handler was refused");
}

/// In: rip, cs, rflags, rsp, ss on the stack.
#[unsafe(naked)]
unsafe extern "C" fn direct() -> ! {
    naked_asm!("iretq")
}

/// The same with stamps: the interrupted code's is in r12, the sum in r14.
#[unsafe(naked)]
unsafe extern "C" fn direct_with_stamps() -> ! {
    naked_asm!(
        "rdtsc",
        "sub eax, r12d",
        "add r14, rax",
        "rdtsc",
        "mov r12d, eax",
        "iretq",
    )
}

/// In: rcx, r11, rip, cs, rflags, rsp, ss on the stack. The selector says ring 0, as a kernel is shown, and means ring 3.
#[unsafe(naked)]
unsafe extern "C" fn bounced() -> ! {
    naked_asm!("pop rcx", "pop r11", "or byte ptr [rsp + 8], 3", "iretq")
}

/// The same with stamps.
#[unsafe(naked)]
unsafe extern "C" fn bounced_with_stamps() -> ! {
    naked_asm!(
        "rdtsc",
        "sub eax, r12d",
        "add r14, rax",
        "rdtsc",
        "mov r12d, eax",
        "pop rcx",
        "pop r11",
        "or byte ptr [rsp + 8], 3",
        "iretq",
    )
}
