//! What the CPU has, as far as the hypervisor cares.
//!
//! Source: Intel SDM volume 2A (CPUID); AMD APM volume 3, appendix E.

use bitflags::bitflags;
use heapless::String;
use raw_cpuid::{CpuId, CpuIdReaderNative, Hypervisor};

bitflags! {
    /// Features that the hypervisor looks at. All CPUs of a machine are taken to be alike.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Features: u32 {
        /// Pages can be marked as not executable.
        const NX = 1 << 0;
        /// Pages of 1 GiB.
        const HUGE_PAGES = 1 << 1;
        /// Ring 0 can be kept from executing ring-3 pages.
        const SMEP = 1 << 2;
        /// Ring 0 can be kept from reading and writing ring-3 pages.
        const SMAP = 1 << 3;
        /// Ring 3 can be kept from reading descriptor-table addresses.
        const UMIP = 1 << 4;
        /// Instructions for the FS and GS bases.
        const FSGSBASE = 1 << 5;
        /// The local APIC is reached through MSRs.
        const X2APIC = 1 << 6;
        /// The local APIC's timer compares with the TSC.
        const TSC_DEADLINE = 1 << 7;
        /// The TSC runs at one rate in every power state.
        const INVARIANT_TSC = 1 << 8;
        /// TLB entries are tagged with an address-space number.
        const PCID = 1 << 9;
        /// TLB entries of another address space can be flushed.
        const INVPCID = 1 << 10;
        /// RDTSCP or RDPID, and so the TSC_AUX MSR.
        const TSC_AUX = 1 << 11;
        /// Extended FPU state is saved with XSAVE.
        const XSAVE = 1 << 12;
        /// XSAVE can skip what did not change.
        const XSAVEOPT = 1 << 13;
        /// The caching of pages is chosen through the PAT MSR.
        const PAT = 1 << 14;
        /// The TCG emulator of QEMU runs us.
        const EMULATED_TCG = 1 << 15;
    }
}

/// The features of this CPU.
pub(crate) fn detect() -> Features {
    let cpuid = CpuId::new();
    let mut found = Features::empty();
    let mut note = |feature, present: bool| {
        if present {
            found.insert(feature);
        }
    };
    if let Some(info) = cpuid.get_feature_info() {
        note(Features::X2APIC, info.has_x2apic());
        note(Features::TSC_DEADLINE, info.has_tsc_deadline());
        note(Features::PCID, info.has_pcid());
        note(Features::XSAVE, info.has_xsave());
        note(Features::PAT, info.has_pat());
    }
    if let Some(info) = cpuid.get_extended_feature_info() {
        note(Features::SMEP, info.has_smep());
        note(Features::SMAP, info.has_smap());
        note(Features::UMIP, info.has_umip());
        note(Features::FSGSBASE, info.has_fsgsbase());
        note(Features::INVPCID, info.has_invpcid());
        note(Features::TSC_AUX, info.has_rdpid());
    }
    if let Some(info) = cpuid.get_extended_processor_and_feature_identifiers() {
        note(Features::NX, info.has_execute_disable());
        note(Features::HUGE_PAGES, info.has_1gib_pages());
        note(Features::TSC_AUX, info.has_rdtscp());
    }
    if let Some(info) = cpuid.get_extended_state_info() {
        note(Features::XSAVEOPT, info.has_xsaveopt());
    }
    if let Some(info) = cpuid.get_advanced_power_mgmt_info() {
        note(Features::INVARIANT_TSC, info.has_invariant_tsc());
    }
    note(Features::EMULATED_TCG, is_tcg(&cpuid));
    found
}

/// Whether the hypervisor leaves carry TCG's signature, "TCGTCGTCGTCG".
fn is_tcg(cpuid: &CpuId<CpuIdReaderNative>) -> bool {
    // The CPUID crate calls it by the name of the program that TCG is a part of.
    cpuid
        .get_hypervisor_info()
        .is_some_and(|info| info.identify() == Hypervisor::QEMU)
}

/// The CPU's name for itself.
pub(crate) fn model_name() -> String<48> {
    let cpuid = CpuId::new();
    let brand = cpuid.get_processor_brand_string();
    let mut name = String::new();
    // The brand string has at most 48 bytes.
    let _ = name.push_str(brand.as_ref().map_or("unknown", |brand| brand.as_str().trim()));
    name
}
