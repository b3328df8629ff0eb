//! Instructions that may fault, tried one at a time; and CPUID in both its forms.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_abi::trap::Vector;
use bulkhead_runtime::trap::{self, TrapFrame};

/// The exceptions that are expected.
const EXPECTED: [Vector; 6] = [
    Vector::GeneralProtection,
    Vector::InvalidOpcode,
    Vector::DeviceNotAvailable,
    Vector::AlignmentCheck,
    Vector::X87,
    Vector::Simd,
];

/// How long the instruction is that is tried.
static LENGTH: AtomicU64 = AtomicU64::new(0);
/// The vector of the last fault; [`NONE`] if there was none.
static FAULT: AtomicU64 = AtomicU64::new(NONE);

const NONE: u64 = u64::MAX;

fn skip(frame: &mut TrapFrame) {
    FAULT.store(frame.vector(), Ordering::Relaxed);
    // SAFETY: the caller of `attempt` promises the length, and that nothing depends on what the instruction would have done.
    unsafe { frame.skip(LENGTH.load(Ordering::Relaxed)) };
}

/// The exception that an instruction of `length` bytes in `act` caused, if it caused one.
///
/// The instruction is left out then: `act` must have no other that may fault, and depend on nothing that it does.
pub(crate) fn attempt(length: u64, act: impl FnOnce()) -> Option<Vector> {
    LENGTH.store(length, Ordering::Relaxed);
    FAULT.store(NONE, Ordering::Relaxed);
    let before = EXPECTED.map(|vector| (vector, trap::set_handler(vector, Some(skip))));
    act();
    for (vector, handler) in before {
        trap::set_handler(vector, handler);
    }
    let fault = FAULT.load(Ordering::Relaxed);
    u8::try_from(fault).ok().and_then(Vector::from_raw)
}

/// What CPUID says behind the prefix that asks for the hypervisor's answer: EAX, EBX, ECX, EDX.
pub(crate) fn forced_cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (mut eax, mut ecx) = (leaf, subleaf);
    let (ebx, edx): (u64, u32);
    // SAFETY: the prefix and CPUID change these registers alone. RBX is the compiler's own, and put back.
    unsafe {
        asm!(
            "mov {keep}, rbx", "ud2", ".byte 0x78, 0x65, 0x6e", "cpuid", "xchg {keep}, rbx",
            keep = out(reg) ebx, inout("eax") eax, inout("ecx") ecx, out("edx") edx,
            options(nostack, preserves_flags)
        );
    }
    [eax, u32::try_from(ebx).unwrap_or(u32::MAX), ecx, edx]
}
