//! Model-specific registers that PV guests are known to touch.
//!
//! What each access does is the emulator's policy; here are the numbers and the fixed values.

/// Local APIC base.
pub const APIC_BASE: u32 = 0x1b;
/// Count of system-management interrupts.
pub const SMI_COUNT: u32 = 0x34;
/// Feature control.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// Speculation control.
pub const SPEC_CTRL: u32 = 0x48;
/// Prediction command.
pub const PRED_CMD: u32 = 0x49;
/// Microcode revision.
pub const UCODE_REV: u32 = 0x8b;
/// Platform information.
pub const PLATFORM_INFO: u32 = 0xce;
/// Architectural capabilities.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// Cache-flush command.
pub const FLUSH_CMD: u32 = 0x10b;
/// Enables of miscellaneous features, CPUID faulting among them.
pub const MISC_FEATURES_ENABLES: u32 = 0x140;
/// Machine-check capabilities.
pub const MCG_CAP: u32 = 0x179;
/// Machine-check status: whether one is in progress.
pub const MCG_STATUS: u32 = 0x17a;
/// Miscellaneous enables.
pub const MISC_ENABLE: u32 = 0x1a0;
/// Page attribute table.
pub const PAT: u32 = 0x277;
/// First register of the first machine-check bank.
pub const MC0_CTL: u32 = 0x400;

/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base in force.
pub const GS_BASE: u32 = 0xc000_0101;
/// The inactive GS base: that of guest user mode, while the guest kernel runs.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// What RDTSCP and RDPID read besides: 32 bits of the kernel's choice.
pub const TSC_AUX: u32 = 0xc000_0103;

/// First of the K7 performance-event selectors.
pub const K7_EVNTSEL0: u32 = 0xc001_0000;
/// Last of the K7 performance counters.
pub const K7_PERFCTR3: u32 = 0xc001_0007;
/// AMD hardware configuration.
pub const HWCR: u32 = 0xc001_0015;
/// AMD northbridge configuration.
pub const NB_CFG: u32 = 0xc001_001f;
/// AMD interrupt-pending message (C1E).
pub const INT_PENDING_MSG: u32 = 0xc001_0055;
/// AMD floating-point configuration.
pub const FP_CFG: u32 = 0xc001_1028;
/// AMD decode configuration; bit 1 tells that LFENCE serialises.
pub const DE_CFG: u32 = 0xc001_1029;

/// Hypervisor MSR: writing a frame number places the hypercall page.
pub const HYPERCALL_PAGE: u32 = 0x4000_0000;

/// What [`PAT`] reads as: WB, WT, UC-, UC, WC, WP, UC, UC from entry 0 up.
pub const PAT_VALUE: u64 = 0x0000_0501_0007_0406;
