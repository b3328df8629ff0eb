//! CPUID as guests see it through the forced-emulation prefix. Source: the guest ABI's section 6.11.
//!
//! What needs privilege, what the hypervisor does not save and restore, and what is not virtualised is hidden. Extended FPU state
//! (XSAVE and what lives in it) is hidden until it is switched with the vCPU.

use bulkhead_abi::cpuid::{
    FEATURES_ECX_PRESERVE_AD, HYPERVISOR_PRESENT, LEAF_BASE, LEAF_FEATURES, LEAF_MAX, LEAF_PV, LEAF_VERSION,
    SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX,
};
use bulkhead_abi::msr::HYPERCALL_PAGE;
use bulkhead_abi::version::REPORTED_VERSION;

/// The four registers of an answer: EAX, EBX, ECX, EDX.
pub type Answer = [u32; 4];

/// The machine, as far as the answers depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How many bits a machine address has that a guest may come to see.
    pub machine_address_bits: u8,
}

/// The word with these bits set. Only the compiler runs it, and a mistake would not compile.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated at compile time"
)]
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut n = 0;
    while n < N {
        mask |= 1 << numbers[n];
        n += 1;
    }
    mask
}

/// Leaf 1 ECX: DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, PDCM, PCID, DCA, x2APIC, TSC-deadline, XSAVE, OSXSAVE, AVX, F16C; FMA.
const LEAF1_ECX_HIDDEN: u32 = bits([2, 3, 4, 5, 6, 7, 8, 12, 15, 17, 18, 21, 24, 26, 27, 28, 29]);
/// Leaf 1 EDX: VME, PSE, MTRR, PGE, PSE36, DS, ACPI, TM.
const LEAF1_EDX_HIDDEN: u32 = bits([1, 3, 12, 13, 17, 21, 22, 29]);
/// Leaf 7 EBX: what programs may use without anybody's help: BMI1, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX_SHOWN: u32 = bits([3, 8, 9, 18, 19, 23, 24, 29]);
/// Leaf 0x8000_0001 ECX: SVM, extended APIC space, CR8, OSVW, IBS, XOP, SKINIT, watchdog, LWP, FMA4, performance counters.
const EXT1_ECX_HIDDEN: u32 = bits([2, 3, 4, 9, 10, 11, 12, 13, 15, 16, 22, 23, 24, 28, 29]);
/// Leaf 0x8000_0001 EDX: VME, PSE, MTRR, PGE, PSE36, 1 GiB pages.
const EXT1_EDX_HIDDEN: u32 = bits([1, 3, 12, 13, 17, 26]);

/// What a guest is told about `leaf` and `subleaf`, where the hardware says `hardware`.
#[must_use]
pub const fn answer(leaf: u32, subleaf: u32, hardware: Answer, facts: Facts) -> Answer {
    let [eax, ebx, ecx, edx] = hardware;
    match leaf {
        // No leaves beyond those of topology: they tell of XSAVE, PMU, tracing and so on.
        0 => [if eax > 0xd { 0xd } else { eax }, ebx, ecx, edx],
        1 => [
            eax,
            ebx & 0x0000_ffff,
            ecx & !LEAF1_ECX_HIDDEN | HYPERVISOR_PRESENT,
            edx & !LEAF1_EDX_HIDDEN,
        ],
        2 | 4 => hardware,
        7 if subleaf == 0 => [0, ebx & LEAF7_EBX_SHOWN, 0, 0],
        LEAF_BASE => [LEAF_MAX, SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX],
        LEAF_VERSION => [REPORTED_VERSION, 0, 0, 0],
        LEAF_FEATURES => [1, HYPERCALL_PAGE, FEATURES_ECX_PRESERVE_AD, 0],
        LEAF_PV => [0, facts.machine_address_bits as u32, 0, 0],
        0x8000_0000 => [if eax > 0x8000_0008 { 0x8000_0008 } else { eax }, ebx, ecx, edx],
        0x8000_0001 => [eax, ebx, ecx & !EXT1_ECX_HIDDEN, edx & !EXT1_EDX_HIDDEN],
        0x8000_0002..=0x8000_0006 => hardware,
        // Of power management: whether the time-stamp counter keeps its pace.
        0x8000_0007 => [0, 0, 0, edx & 1 << 8],
        // Sizes of addresses; how many cores there are is nobody's business.
        0x8000_0008 => [eax, 0, 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        machine_address_bits: 31,
    };
    const ALL: Answer = [u32::MAX; 4];

    /// The emulated AMD model of the ABI's measurements.
    #[test]
    fn the_features_of_the_measured_guest_are_hidden_as_xen_hides_them() {
        let [_, _, ecx, edx] = answer(1, 0, [0x60fb1, 0x800, 0x8000_2001, 0x178b_fbfd], FACTS);
        // Xen hides SYSENTER besides, on processors that do not have it in 64-bit mode.
        assert_eq!((ecx, edx), (0x8000_2001, 0x1789_c3f5 | 1 << 11));
        let [_, _, ecx, edx] = answer(0x8000_0001, 0, [0, 0, 7, 0x2193_fbfd], FACTS);
        assert_eq!((ecx, edx), (3, 0x2191_cbf5));
    }

    #[test]
    fn the_signature_is_xens() {
        let [max, ebx, ecx, edx] = answer(0x4000_0000, 0, [0; 4], FACTS);
        let text: std::vec::Vec<u8> = [ebx, ecx, edx].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!((max, &text[..]), (0x4000_0005, &b"XenVMMXenVMM"[..]));
        assert_eq!(answer(0x4000_0001, 0, ALL, FACTS)[0], 0x4_0011);
        assert_eq!(answer(0x4000_0005, 0, ALL, FACTS), [0, 31, 0, 0]);
    }

    #[test]
    fn nothing_is_shown_that_needs_ring_0() {
        let [_, _, ecx, edx] = answer(1, 0, ALL, FACTS);
        for (name, bit) in [
            ("VMX", 5),
            ("PCID", 17),
            ("x2APIC", 21),
            ("XSAVE", 26),
            ("OSXSAVE", 27),
        ] {
            assert_eq!(ecx & 1 << bit, 0, "{name}");
        }
        for (name, bit) in [("PSE", 3), ("MTRR", 12), ("PGE", 13), ("PSE36", 17)] {
            assert_eq!(edx & 1 << bit, 0, "{name}");
        }
        let [_, ebx, ecx, edx] = answer(7, 0, ALL, FACTS);
        for (name, bit) in [("FSGSBASE", 0), ("SMEP", 7), ("INVPCID", 10), ("SMAP", 20)] {
            assert_eq!(ebx & 1 << bit, 0, "{name}");
        }
        assert_eq!((ecx, edx), (0, 0), "PKU, UMIP, LA57, speculation controls");
        assert_eq!(answer(0xa, 0, ALL, FACTS), [0; 4], "performance counters");
        assert_eq!(answer(0xd, 1, ALL, FACTS), [0; 4], "extended state");
    }
}
