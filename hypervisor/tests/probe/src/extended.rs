//! What some processors have: XSAVE, XCR0 and the AVX registers; RDTSCP and RDPID; instructions for segment bases.

use core::arch::asm;

use bulkhead_abi::{Hypercall, msr, sched::SchedOp, trap::Vector};

use crate::{
    attempt::{attempt, forced_cpuid},
    calls::{call, tidy},
    privileged::{rdmsr, wrmsr},
    probe::Probe,
};

/// CR4: XSAVE is used.
const OSXSAVE: u64 = 1 << 18;
/// Leaf 1 ECX: XSAVE; that it is used; AVX.
const HAS_XSAVE: u32 = 1 << 26;
const USES_XSAVE: u32 = 1 << 27;
const HAS_AVX: u32 = 1 << 28;
/// XCR0: x87, SSE, AVX.
const ALL: u32 = 7;

/// How often other vCPUs may run while the registers are looked at.
const YIELDS: u32 = 100;

/// XSETBV, with the length of its encoding.
fn xsetbv(index: u32, low: u32, high: u32) -> Option<Vector> {
    attempt(3, || {
        // SAFETY: enables or disables registers that no compiled code uses.
        unsafe { asm!("xsetbv", in("ecx") index, in("eax") low, in("edx") high, options(nomem, nostack)) };
    })
}

/// XCR0, as programs read it. Only where XSAVE is used.
fn xgetbv() -> u32 {
    let low: u32;
    // SAFETY: reads a register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack)) };
    low
}

/// Changes the bits `mask` of CR4; what it is then.
fn change_cr4(set: bool, mask: u64) -> u64 {
    let mut cr4: u64;
    // SAFETY: a kernel's own register, of which this changes what a guest may.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack)) };
    cr4 = if set { cr4 | mask } else { cr4 & !mask };
    // SAFETY: as above.
    unsafe { asm!("mov cr4, {0}", "mov {0}, cr4", inout(reg) cr4, options(nomem, nostack)) };
    cr4
}

fn equal<T: PartialEq>(found: T, expected: &T) -> Result<(), T> {
    if found == *expected { Ok(()) } else { Err(found) }
}

/// RDTSCP's second answer.
fn rdtscp() -> u32 {
    let aux: u32;
    // SAFETY: reads registers.
    unsafe { asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") aux, options(nomem, nostack)) };
    aux
}

/// RDPID's answer, by its bytes: it is one of four with a prefix.
fn rdpid() -> u64 {
    let aux: u64;
    // SAFETY: RDPID RAX reads a register.
    unsafe { asm!(".byte 0xf3, 0x0f, 0xc7, 0xf8", out("rax") aux, options(nomem, nostack)) };
    aux
}

/// What RDTSCP and RDPID tell is the vCPU's own, where they are shown.
fn processor_number(probe: &mut Probe) {
    /// Leaf 0x8000_0001 EDX: RDTSCP. Leaf 7 ECX: RDPID.
    const HAS_RDTSCP: u32 = 1 << 27;
    const HAS_RDPID: u32 = 1 << 22;
    let [_, _, _, edx] = forced_cpuid(0x8000_0001, 0);
    let [_, _, ecx, _] = forced_cpuid(7, 0);
    let has = (edx & HAS_RDTSCP != 0, ecx & HAS_RDPID != 0);
    if has == (false, false) {
        let refused = (rdmsr(msr::TSC_AUX), wrmsr(msr::TSC_AUX, 0));
        probe.law(
            "a-processor-number-that-nobody-can-read-cannot-be-set",
            equal(refused, &(None, false)),
        );
        return;
    }
    // Each domain has one of its own.
    let own = if probe.is_control() {
        0x8000_0001
    } else {
        0x7000_0002
    };
    let first = rdmsr(msr::TSC_AUX);
    let set = (wrmsr(msr::TSC_AUX, own), wrmsr(msr::TSC_AUX, own | 1 << 32));
    let look = || {
        let by_rdtscp = if has.0 { rdtscp().into() } else { own };
        let by_rdpid = if has.1 { rdpid() } else { own };
        [by_rdtscp, by_rdpid, rdmsr(msr::TSC_AUX).unwrap_or(0)]
    };
    let mut found = look();
    for _ in 0..YIELDS {
        if found == [own; 3] {
            tidy([call(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw())])]);
            found = look();
        }
    }
    let reset = wrmsr(msr::TSC_AUX, 0);
    probe.law(
        "what-rdtscp-tells-goes-with-its-vcpu",
        equal(
            (first, set, found, reset),
            &(Some(0), (true, false), [own; 3], true),
        ),
    );
}

/// Programs cannot change bases behind their kernel's back: whatever the processor has, the instructions are not there.
fn base_instructions(probe: &mut Probe) {
    let [_, ebx, _, _] = forced_cpuid(7, 0);
    let faults = [
        attempt(5, || {
            // SAFETY: RDFSBASE RAX faults and is skipped, or reads a register.
            unsafe { asm!(".byte 0xf3, 0x48, 0x0f, 0xae, 0xc0", out("rax") _, options(nomem, nostack)) };
        }),
        attempt(5, || {
            // SAFETY: WRGSBASE RAX faults and is skipped, or sets what nothing here uses to what it is.
            unsafe { asm!(".byte 0xf3, 0x48, 0x0f, 0xae, 0xd8", in("rax") 0, options(nomem, nostack)) };
        }),
    ];
    probe.law(
        "segment-bases-have-no-instructions",
        equal((ebx & 1, faults), &(0, [Some(Vector::InvalidOpcode); 2])),
    );
}

pub(crate) fn check(probe: &mut Probe) {
    processor_number(probe);
    base_instructions(probe);
    let [_, _, features, _] = forced_cpuid(1, 0);
    let has_xsave = features & HAS_XSAVE != 0;
    probe.law(
        "a-kernel-is-told-that-xsave-may-be-used",
        equal(features & USES_XSAVE != 0, &has_xsave),
    );
    probe.law(
        "xcr0-cannot-be-written-before-xsave-is-used",
        equal(xsetbv(0, 1, 0), &Some(Vector::InvalidOpcode)),
    );
    let cr4 = change_cr4(true, OSXSAVE);
    let [_, _, features, _] = forced_cpuid(1, 0);
    let says = (cr4 & OSXSAVE != 0, features & USES_XSAVE != 0);
    probe.law(
        "xsave-is-used-where-it-is-shown",
        equal(says, &(has_xsave, has_xsave)),
    );
    if has_xsave {
        registers(probe, features & HAS_AVX != 0);
        change_cr4(false, OSXSAVE);
    }
}

fn registers(probe: &mut Probe, has_avx: bool) {
    probe.law("xcr0-is-as-after-a-reset-at-first", equal(xgetbv(), &1));
    let general = Some(Vector::GeneralProtection);
    let refused = [
        (0, 0, 0),
        (0, 2, 0),
        (0, 5, 0),
        (0, 7 | 1 << 9, 0),
        (0, 7, 1),
        (1, 7, 0),
    ];
    let refused = refused.map(|(index, low, high)| xsetbv(index, low, high));
    probe.law(
        "xcr0-takes-what-is-kept-and-nothing-else",
        equal((refused, xgetbv()), &([general; 6], 1)),
    );
    if !has_avx {
        return;
    }
    let taken = (xsetbv(0, ALL, 0), xgetbv(), forced_cpuid(0xd, 0));
    probe.law(
        "avx-is-enabled-by-xcr0",
        equal(taken, &(None, ALL, [ALL, 832, 832, 0])),
    );
    // Each domain has a pattern of its own.
    let pattern = if probe.is_control() {
        0x5a5a_1111
    } else {
        0xa5a5_2222
    };
    probe.law("avx-registers-go-with-their-vcpu", keep_avx(pattern));
    // What is disabled for a while is not lost, and not another's.
    fill(pattern);
    let disabled = xsetbv(0, 3, 0);
    tidy([call(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw())])]);
    let enabled = xsetbv(0, ALL, 0);
    probe.law(
        "avx-registers-that-are-disabled-are-kept",
        equal((disabled, enabled, found()), &(None, None, [pattern; 8])),
    );
    let back = xsetbv(0, 1, 0);
    // SAFETY: the instruction (four bytes) faults and is skipped, or copies a register that nobody uses.
    let use_avx = || unsafe { asm!("vmovdqa ymm0, ymm7", options(nomem, nostack)) };
    probe.law(
        "avx-that-is-not-enabled-is-no-instruction",
        equal((back, attempt(4, use_avx)), &(None, Some(Vector::InvalidOpcode))),
    );
}

/// Fills YMM7 with `pattern`.
fn fill(pattern: u32) {
    let words = [pattern; 8];
    // SAFETY: reads the words; no compiled code uses the register.
    unsafe { asm!("vmovdqu ymm7, [{}]", in(reg) &raw const words, options(nostack, readonly)) };
}

/// What stands in YMM7.
fn found() -> [u32; 8] {
    let mut words = [0_u32; 8];
    // SAFETY: writes the words.
    unsafe { asm!("vmovdqu [{}], ymm7", in(reg) &raw mut words, options(nostack)) };
    words
}

/// Lets others run, and looks whether all of the register is still there.
fn keep_avx(pattern: u32) -> Result<(), [u32; 8]> {
    fill(pattern);
    for _ in 0..YIELDS {
        tidy([call(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw())])]);
        equal(found(), &[pattern; 8])?;
    }
    Ok(())
}
