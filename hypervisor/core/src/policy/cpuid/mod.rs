//! CPUID as guests see it through the forced-emulation prefix. Source: the guest ABI's section 6.11.
//!
//! What needs privilege, what the hypervisor does not save and restore, and what is not virtualised is hidden: [`features`] has the
//! reason for each bit. Programs that execute CPUID without the prefix see the processor as it is: there is no way to keep
//! them from it.

mod features;

use crate::policy::xstate;
use bulkhead_abi::cpuid::{
    FEATURES_ECX_PRESERVE_AD, HYPERVISOR_PRESENT, LEAF_BASE, LEAF_FEATURES, LEAF_MAX, LEAF_PV, LEAF_TIME,
    LEAF_VERSION, SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX, TIME_EAX_TSC_RELIABLE, TIME_EBX_TSC_NATIVE,
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
    /// Which extended state is kept: see [`xstate::kept`].
    pub kept_state: u64,
    /// What of it the vCPU has enabled.
    pub xcr0: u64,
    /// The control register CR4 that the vCPU thinks it has.
    pub cr4: u64,
    /// Whether it is the guest's kernel that asks, and none of its programs.
    pub for_kernel: bool,
    /// How fast the time-stamp counter is, in kHz, if it is stable: of one pace, and the same on all CPUs.
    pub stable_tsc: Option<u32>,
}

/// CR4: the kernel uses XSAVE, and programs may.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// Leaf 1 ECX: the same, as programs are told.
const LEAF_1_ECX_OSXSAVE: u32 = 1 << 27;
/// Leaf 0x8000_0007 EDX: the time-stamp counter keeps its pace in every power state.
const INVARIANT_TSC: u32 = 1 << 8;
/// The largest leaf, and the largest extended one: what is beyond tells of the PMU, of tracing, of encryption and so on.
const MAX: u32 = xstate::LEAF;
const EXTENDED_MAX: u32 = 0x8000_0008;

/// What a guest is told about `leaf` and `subleaf`, where the hardware says `hardware`.
#[must_use]
pub fn answer(leaf: u32, subleaf: u32, hardware: Answer, facts: Facts) -> Answer {
    let [eax, ebx, ecx, edx] = hardware;
    let filter = |word, hardware| features::filter(word, hardware, facts);
    match leaf {
        0 => [eax.min(MAX), ebx, ecx, edx],
        // Of EBX, what a processor is called and the size of cache lines: how many there are, and which one runs, is nobody's business.
        1 => {
            // Kernels are told that XSAVE is used before they do: Linux takes it for a promise that it may, and does without AVX otherwise.
            let is_used = facts.for_kernel || facts.cr4 & CR4_OSXSAVE != 0;
            let osxsave = if facts.kept_state != 0 && is_used {
                LEAF_1_ECX_OSXSAVE
            } else {
                0
            };
            let shown = filter(features::LEAF_1_ECX, ecx) | osxsave | HYPERVISOR_PRESENT;
            [eax, ebx & 0xffff, shown, filter(features::LEAF_1_EDX, edx)]
        }
        // Caches.
        2 | 4 => hardware,
        // Serial number, MONITOR, power, direct cache access, PMU, topology: none of them a guest's.
        3 | 5 | 6 | 9..=0xc => [0; 4],
        7 if subleaf == 0 => [
            0,
            filter(features::LEAF_7_EBX, ebx),
            filter(features::LEAF_7_ECX, ecx),
            filter(features::LEAF_7_EDX, edx),
        ],
        xstate::LEAF => xstate::answer(subleaf, hardware, facts.kept_state, facts.xcr0),
        LEAF_BASE => [LEAF_MAX, SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX],
        LEAF_VERSION => [REPORTED_VERSION, 0, 0, 0],
        LEAF_FEATURES => [1, HYPERCALL_PAGE, FEATURES_ECX_PRESERVE_AD, 0],
        LEAF_TIME => match facts.stable_tsc.filter(|_| subleaf == 0) {
            Some(khz) => [TIME_EAX_TSC_RELIABLE, TIME_EBX_TSC_NATIVE, khz, 0],
            None => [0; 4],
        },
        LEAF_PV => [0, facts.machine_address_bits.into(), 0, 0],
        0x8000_0000 => [eax.min(EXTENDED_MAX), ebx, ecx, edx],
        0x8000_0001 => [
            eax,
            ebx,
            filter(features::EXTENDED_ECX, ecx),
            filter(features::EXTENDED_EDX, edx),
        ],
        // The name, and caches.
        0x8000_0002..=0x8000_0006 => hardware,
        // Of power management. What is known to be stable is as good, whatever the processor says of it.
        0x8000_0007 if facts.stable_tsc.is_some() => [0, 0, 0, INVARIANT_TSC],
        0x8000_0007 => [0, 0, 0, edx & INVARIANT_TSC],
        // Sizes of addresses; how many cores there are is nobody's business.
        EXTENDED_MAX => [eax, 0, 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        machine_address_bits: 31,
        kept_state: 0,
        xcr0: xstate::X87,
        cr4: 0,
        for_kernel: false,
        stable_tsc: None,
    };
    /// A processor with AVX, and a guest that uses XSAVE.
    const WITH_AVX: Facts = Facts {
        kept_state: 7,
        xcr0: 7,
        cr4: CR4_OSXSAVE,
        ..FACTS
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
    fn a_program_is_told_that_its_kernel_uses_xsave_when_it_does() {
        let osxsave = |facts| answer(1, 0, ALL, facts)[2] & LEAF_1_ECX_OSXSAVE != 0;
        assert!(osxsave(WITH_AVX));
        assert!(!osxsave(Facts { cr4: 0, ..WITH_AVX }));
        assert!(!osxsave(Facts {
            kept_state: 0,
            ..WITH_AVX
        }));
        assert_eq!(answer(0xd, 0, ALL, WITH_AVX), [7, 832, 832, 0]);
        assert_eq!(answer(0xd, 0, ALL, FACTS), [0; 4]);
    }

    /// Linux took the missing bit for a ban: no program of its had AVX.
    #[test]
    fn a_kernel_is_told_that_xsave_is_used_where_it_may_be() {
        let osxsave = |kept_state| {
            let facts = Facts {
                kept_state,
                for_kernel: true,
                ..FACTS
            };
            answer(1, 0, ALL, facts)[2] & LEAF_1_ECX_OSXSAVE != 0
        };
        assert!(osxsave(7) && !osxsave(0));
    }

    /// With both, Linux takes the counter for its clock.
    #[test]
    fn a_stable_counter_is_told_as_one_that_is_invariant_and_read_natively() {
        let stable = Facts {
            stable_tsc: Some(2_596_120),
            ..FACTS
        };
        assert_eq!(answer(0x4000_0003, 0, ALL, stable), [2, 2, 2_596_120, 0]);
        assert_eq!(answer(0x4000_0003, 1, ALL, stable), [0; 4]);
        assert_eq!(answer(0x8000_0007, 0, [0; 4], stable), [0, 0, 0, 1 << 8]);
        assert_eq!(answer(0x4000_0003, 0, ALL, FACTS), [0; 4]);
        assert_eq!(answer(0x8000_0007, 0, [0; 4], FACTS), [0; 4]);
    }

    #[test]
    fn leaves_that_are_not_a_guests_are_empty_and_none_are_beyond_the_largest() {
        for leaf in [
            3,
            5,
            6,
            8,
            9,
            0xa,
            0xb,
            0xc,
            0xe,
            0x14,
            0x1f,
            0x4000_0006,
            0x8000_0009,
            u32::MAX,
        ] {
            assert_eq!(answer(leaf, 0, ALL, WITH_AVX), [0; 4], "{leaf:#x}");
        }
        assert_eq!(answer(7, 1, ALL, WITH_AVX), [0; 4]);
        assert_eq!(answer(0, 0, ALL, WITH_AVX)[0], 0xd);
        assert_eq!(answer(0x8000_0000, 0, ALL, WITH_AVX)[0], 0x8000_0008);
        assert_eq!(answer(0x8000_0007, 0, ALL, WITH_AVX), [0, 0, 0, 1 << 8]);
    }
}
