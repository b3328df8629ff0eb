//! The words of feature bits, bit by bit: what a guest is shown of each, and why not if it is not.
//!
//! A bit that is in no row is not known, and not shown. Source: Intel SDM volume 2A (CPUID); AMD APM volume 3, appendix E.

use super::Facts;
use crate::policy::xstate;

/// When a feature is shown that the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Always: programs use it without anybody's help, or a guest kernel has it by the ABI.
    Yes,
    /// If XSAVE is.
    WithXsave,
    /// If AVX registers are kept.
    WithAvx,
    /// Never, for this reason.
    No(Why),
}

/// Why a feature is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It needs ring 0, and there is no hypercall in its place.
    Privileged,
    /// Its paging structures or flags are not among those that guests may have.
    Paging,
    /// The hypervisor does not switch the state that it brings.
    State,
    /// Its model-specific registers are not a guest's.
    Msr,
    /// It tells of the machine or its firmware, not of a vCPU.
    Machine,
    /// A guest kernel that knew of it would trap at every switch of its tasks: see `crates` of the design.
    Slow,
}

/// One bit: its number, its name in the manuals, and when it is shown.
pub(super) type Row = (u32, &'static str, Shown);

use Shown::{No, WithAvx, WithXsave, Yes};
use Why::{Machine, Msr, Paging, Privileged, Slow, State};

/// Leaf 1 ECX. OSXSAVE and the presence of a hypervisor are not features of the processor, and no rows.
pub(super) const LEAF_1_ECX: &[Row] = &[
    (0, "SSE3", Yes),
    (1, "PCLMULQDQ", Yes),
    (2, "DTES64", No(Msr)),
    (3, "MONITOR", No(Privileged)),
    (4, "DS-CPL", No(Msr)),
    (5, "VMX", No(Privileged)),
    (6, "SMX", No(Privileged)),
    (7, "EIST", No(Msr)),
    (8, "TM2", No(Msr)),
    (9, "SSSE3", Yes),
    (10, "CNXT-ID", No(Machine)),
    (11, "SDBG", No(Msr)),
    (12, "FMA", WithAvx),
    (13, "CMPXCHG16B", Yes),
    (14, "xTPR", No(Msr)),
    (15, "PDCM", No(Msr)),
    (17, "PCID", No(Paging)),
    (18, "DCA", No(Msr)),
    (19, "SSE4.1", Yes),
    (20, "SSE4.2", Yes),
    (21, "x2APIC", No(Msr)),
    (22, "MOVBE", Yes),
    (23, "POPCNT", Yes),
    (24, "TSC-deadline", No(Msr)),
    (25, "AES", Yes),
    (26, "XSAVE", WithXsave),
    (28, "AVX", WithAvx),
    (29, "F16C", WithAvx),
    (30, "RDRAND", Yes),
];

/// Leaf 1 EDX.
pub(super) const LEAF_1_EDX: &[Row] = &[
    (0, "FPU", Yes),
    (1, "VME", No(Privileged)),
    (2, "DE", Yes),
    (3, "PSE", No(Paging)),
    (4, "TSC", Yes),
    (5, "MSR", Yes),
    (6, "PAE", Yes),
    (7, "MCE", Yes),
    (8, "CX8", Yes),
    (9, "APIC", Yes),
    (11, "SEP", Yes),
    (12, "MTRR", No(Msr)),
    (13, "PGE", No(Paging)),
    (14, "MCA", Yes),
    (15, "CMOV", Yes),
    (16, "PAT", Yes),
    (17, "PSE-36", No(Paging)),
    (18, "PSN", No(Machine)),
    (19, "CLFSH", Yes),
    (21, "DS", No(Msr)),
    (22, "ACPI", No(Msr)),
    (23, "MMX", Yes),
    (24, "FXSR", Yes),
    (25, "SSE", Yes),
    (26, "SSE2", Yes),
    (27, "SS", Yes),
    (28, "HTT", Yes),
    (29, "TM", No(Msr)),
    (30, "IA64", No(Machine)),
    (31, "PBE", No(Msr)),
];

/// Leaf 7 EBX.
pub(super) const LEAF_7_EBX: &[Row] = &[
    (0, "FSGSBASE", No(Slow)),
    (1, "TSC_ADJUST", No(Msr)),
    (2, "SGX", No(Privileged)),
    (3, "BMI1", Yes),
    (4, "HLE", No(Machine)),
    (5, "AVX2", WithAvx),
    (7, "SMEP", No(Privileged)),
    (8, "BMI2", Yes),
    (9, "ERMS", Yes),
    (10, "INVPCID", No(Privileged)),
    (11, "RTM", No(Machine)),
    (12, "PQM", No(Msr)),
    (14, "MPX", No(State)),
    (15, "PQE", No(Msr)),
    (16, "AVX512F", No(State)),
    (17, "AVX512DQ", No(State)),
    (18, "RDSEED", Yes),
    (19, "ADX", Yes),
    (20, "SMAP", No(Privileged)),
    (21, "AVX512_IFMA", No(State)),
    (23, "CLFLUSHOPT", Yes),
    (24, "CLWB", Yes),
    (25, "PT", No(Msr)),
    (28, "AVX512CD", No(State)),
    (29, "SHA", Yes),
    (30, "AVX512BW", No(State)),
    (31, "AVX512VL", No(State)),
];

/// Leaf 7 ECX.
pub(super) const LEAF_7_ECX: &[Row] = &[
    (1, "AVX512_VBMI", No(State)),
    (2, "UMIP", No(Privileged)),
    (3, "PKU", No(State)),
    (4, "OSPKE", No(State)),
    (5, "WAITPKG", No(Msr)),
    (6, "AVX512_VBMI2", No(State)),
    (7, "CET_SS", No(State)),
    (8, "GFNI", Yes),
    (9, "VAES", WithAvx),
    (10, "VPCLMULQDQ", WithAvx),
    (11, "AVX512_VNNI", No(State)),
    (12, "AVX512_BITALG", No(State)),
    (13, "TME_EN", No(Machine)),
    (14, "AVX512_VPOPCNTDQ", No(State)),
    (16, "LA57", No(Paging)),
    (22, "RDPID", Yes),
    (30, "SGX_LC", No(Privileged)),
    (31, "PKS", No(State)),
];

/// Leaf 7 EDX.
pub(super) const LEAF_7_EDX: &[Row] = &[
    (4, "FSRM", Yes),
    (8, "AVX512_VP2INTERSECT", No(State)),
    (18, "PCONFIG", No(Privileged)),
    (19, "LBR", No(State)),
    (20, "CET_IBT", No(State)),
    (22, "AMX-BF16", No(State)),
    (24, "AMX-TILE", No(State)),
    (25, "AMX-INT8", No(State)),
    (26, "IBRS_IBPB", No(Msr)),
    (27, "STIBP", No(Msr)),
    (28, "L1D_FLUSH", No(Msr)),
    (29, "ARCH_CAPABILITIES", No(Msr)),
    (30, "CORE_CAPABILITIES", No(Msr)),
    (31, "SSBD", No(Msr)),
];

/// Leaf 0x8000_0001 ECX.
pub(super) const EXTENDED_ECX: &[Row] = &[
    (0, "LAHF", Yes),
    (1, "CMP_LEGACY", Yes),
    (2, "SVM", No(Privileged)),
    (3, "EXTAPIC", No(Machine)),
    (4, "CR8_LEGACY", No(Privileged)),
    (5, "ABM", Yes),
    (6, "SSE4A", Yes),
    (7, "MISALIGNSSE", Yes),
    (8, "3DNOWPREFETCH", Yes),
    (9, "OSVW", No(Msr)),
    (10, "IBS", No(Msr)),
    (11, "XOP", WithAvx),
    (12, "SKINIT", No(Privileged)),
    (13, "WDT", No(Msr)),
    (15, "LWP", No(State)),
    (16, "FMA4", WithAvx),
    (17, "TCE", No(Paging)),
    (19, "NODEID_MSR", No(Msr)),
    (21, "TBM", Yes),
    (22, "TOPOEXT", No(Machine)),
    (23, "PERFCTR_CORE", No(Msr)),
    (24, "PERFCTR_NB", No(Msr)),
    (26, "BPEXT", No(Msr)),
    (27, "PERFTSC", No(Msr)),
    (28, "PERFCTR_LLC", No(Msr)),
    (29, "MWAITX", No(Privileged)),
];

/// Leaf 0x8000_0001 EDX.
pub(super) const EXTENDED_EDX: &[Row] = &[
    (0, "FPU", Yes),
    (1, "VME", No(Privileged)),
    (2, "DE", Yes),
    (3, "PSE", No(Paging)),
    (4, "TSC", Yes),
    (5, "MSR", Yes),
    (6, "PAE", Yes),
    (7, "MCE", Yes),
    (8, "CX8", Yes),
    (9, "APIC", Yes),
    (11, "SYSCALL", Yes),
    (12, "MTRR", No(Msr)),
    (13, "PGE", No(Paging)),
    (14, "MCA", Yes),
    (15, "CMOV", Yes),
    (16, "PAT", Yes),
    (17, "PSE-36", No(Paging)),
    (19, "MP", No(Machine)),
    (20, "NX", Yes),
    (22, "MMXEXT", Yes),
    (23, "MMX", Yes),
    (24, "FXSR", Yes),
    (25, "FFXSR", No(Msr)),
    (26, "1-GiB pages", No(Paging)),
    (27, "RDTSCP", Yes),
    (29, "LM", Yes),
    (30, "3DNOWEXT", Yes),
    (31, "3DNOW", Yes),
];

/// What of `hardware` a guest is shown by the rows of `word`.
pub(super) fn filter(word: &[Row], hardware: u32, facts: Facts) -> u32 {
    let mask = word
        .iter()
        .filter(|(_, _, shown)| match shown {
            Yes => true,
            WithXsave => facts.kept_state != 0,
            WithAvx => facts.kept_state & xstate::AVX != 0,
            No(_) => false,
        })
        .fold(0, |mask, &(bit, ..)| mask | 1 << bit);
    hardware & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&[Row]; 7] = [
        LEAF_1_ECX,
        LEAF_1_EDX,
        LEAF_7_EBX,
        LEAF_7_ECX,
        LEAF_7_EDX,
        EXTENDED_ECX,
        EXTENDED_EDX,
    ];

    const KEPT: [u64; 3] = [
        0,
        xstate::X87 | xstate::SSE,
        xstate::X87 | xstate::SSE | xstate::AVX,
    ];

    fn facts(kept_state: u64) -> Facts {
        Facts {
            machine_address_bits: 31,
            kept_state,
            xcr0: xstate::X87,
            cr4: 0,
            for_kernel: false,
            stable_tsc: None,
        }
    }

    /// What guests are shown of them would come to nothing at the next switch: there is no room for the registers, and XCR0 takes none of
    /// their bits.
    #[test]
    fn avx_512_tiles_and_protection_keys_are_neither_shown_nor_enabled() {
        let all = xstate::X87 | xstate::SSE | xstate::AVX;
        let is_theirs = |name: &str| {
            ["AVX512", "AMX", "PKU", "OSPKE", "PKS"]
                .iter()
                .any(|part| name.starts_with(part))
        };
        let theirs = || WORDS.into_iter().flatten().filter(|(_, name, _)| is_theirs(name));
        assert_eq!(theirs().count(), 18);
        assert!(theirs().all(|(.., shown)| *shown == No(State)));
        // MPX, AVX-512 in three parts, protection keys, tiles in two.
        for bit in [3, 4, 5, 6, 7, 9, 17, 18] {
            assert!(!xstate::is_valid(all | 1 << bit, all), "bit {bit}");
        }
    }

    #[test]
    fn each_bit_has_one_row_at_most() {
        for word in WORDS {
            assert!(word.is_sorted_by(|(a, ..), (b, ..)| a < b), "{word:?}");
        }
    }

    #[test]
    fn each_row_is_shown_as_it_says_and_nothing_without_one() {
        for kept in KEPT {
            for word in WORDS {
                let shown = filter(word, u32::MAX, facts(kept));
                for bit in 0..32 {
                    let row = word.iter().find(|(number, ..)| *number == bit);
                    let expected = match row {
                        Some((_, _, Yes)) => true,
                        Some((_, _, WithXsave)) => kept != 0,
                        Some((_, _, WithAvx)) => kept & xstate::AVX != 0,
                        Some((_, _, No(_))) | None => false,
                    };
                    assert_eq!(
                        shown & 1 << bit != 0,
                        expected,
                        "{row:?} bit {bit}, kept {kept:#x}"
                    );
                }
                assert_eq!(filter(word, 0, facts(kept)), 0, "what is not there is not shown");
            }
        }
    }
}
