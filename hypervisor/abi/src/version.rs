//! `xen_version`: which hypervisor this is and what it can do.
//!
//! Guests also use sub-operation [`VersionOp::Version`] as a cheap "deliver my pending events" call.

use crate::{numbers, record};

/// The version that we report: 4.17, as major << 16 | minor.
pub const REPORTED_VERSION: u32 = 4 << 16 | 17;

/// Bytes of the answers that are strings, NUL included.
pub mod len {
    /// [`VersionOp::Extraversion`](super::VersionOp::Extraversion).
    pub const EXTRAVERSION: usize = 16;
    /// [`VersionOp::Capabilities`](super::VersionOp::Capabilities).
    pub const CAPABILITIES: usize = 1024;
    /// [`VersionOp::Changeset`](super::VersionOp::Changeset).
    pub const CHANGESET: usize = 64;
    /// [`VersionOp::GuestHandle`](super::VersionOp::GuestHandle), not a string: a UUID.
    pub const GUEST_HANDLE: usize = 16;
    /// [`VersionOp::Commandline`](super::VersionOp::Commandline).
    pub const COMMANDLINE: usize = 1024;
}

numbers! {
    /// Sub-operation of `xen_version` (`rdi`); the answer's address is in `rsi`.
    pub enum VersionOp: u32 {
        /// Returns major << 16 | minor; no answer in memory.
        Version = 0, "version",
        /// The rest of the version, such as ".0".
        Extraversion = 1, "extraversion",
        /// Who compiled it: [`CompileInfo`].
        CompileInfo = 2, "compile_info",
        /// The guest ABIs, separated and ended by spaces.
        Capabilities = 3, "capabilities",
        /// The source revision.
        Changeset = 4, "changeset",
        /// Start of the hypervisor's virtual range: [`PlatformParameters`].
        PlatformParameters = 5, "platform_parameters",
        /// A word of the feature map: [`FeatureInfo`].
        GetFeatures = 6, "get_features",
        /// Returns the page size; the address must be null.
        Pagesize = 7, "pagesize",
        /// The domain's UUID.
        GuestHandle = 8, "guest_handle",
        /// The hypervisor's command line.
        Commandline = 9, "commandline",
        /// The build identifier: a u32 length, then the bytes.
        BuildId = 10, "build_id",
    }
}

record! {
    /// Who compiled the hypervisor. All fields are **Out**, NUL-terminated.
    pub struct CompileInfo: 144 {
        /// The compiler.
        0 => pub compiler: [u8; 64],
        /// The user.
        64 => pub compile_by: [u8; 16],
        /// The domain name.
        80 => pub compile_domain: [u8; 32],
        /// The date.
        112 => pub compile_date: [u8; 32],
    }
}

record! {
    /// Where the hypervisor's virtual range starts.
    pub struct PlatformParameters: 8 {
        /// Out: the start of [`HYPERVISOR`](crate::layout::HYPERVISOR).
        0 => pub virt_start: u64,
    }
}

record! {
    /// One word of the feature map.
    pub struct FeatureInfo: 8 {
        /// In: which word; only 0 exists.
        0 => pub submap_idx: u32,
        /// Out: bits numbered by [`Feature`].
        4 => pub submap: u32,
    }
}

numbers! {
    /// A feature bit: in the feature map, and in the ELF notes of a kernel.
    ///
    /// The names are those of the FEATURES note.
    pub enum Feature: u32 {
        /// The hypervisor lets the guest write page tables as if they were its own memory.
        WritablePageTables = 0, "writable_page_tables",
        /// Likewise for descriptor tables.
        WritableDescriptorTables = 1, "writable_descriptor_tables",
        /// The hypervisor translates frame numbers.
        AutoTranslatedPhysmap = 2, "auto_translated_physmap",
        /// The guest kernel runs in ring 0.
        SupervisorModeKernel = 3, "supervisor_mode_kernel",
        /// Page directories may lie above 4 GiB (32-bit guests).
        PaePgdirAbove4gb = 4, "pae_pgdir_above_4gb",
        /// `mmu_update` can preserve accessed and dirty bits. Linux requires it.
        MmuPtUpdatePreserveAd = 5, "mmu_pt_update_preserve_ad",
        /// `mmuext_op` can clear and copy frames.
        HighmemAssist = 6, "highmem_assist",
        /// Grant maps set the available bits of the entry. Linux requires it.
        GnttabMapAvailBits = 7, "gnttab_map_avail_bits",
        /// Events arrive by a vector (HVM).
        HvmCallbackVector = 8, "hvm_callback_vector",
        /// The clock is safe for HVM guests.
        HvmSafePvclock = 9, "hvm_safe_pvclock",
        /// Physical interrupts for HVM guests.
        HvmPirqs = 10, "hvm_pirqs",
        /// The kernel can be, or is, domain 0.
        Dom0 = 11, "dom0",
        /// Grants are mapped at their machine address.
        GrantMapIdentity = 12, "grant_map_identity",
        /// `memory_op` takes virtual NUMA nodes.
        MemoryOpVnodeSupported = 13, "memory_op_vnode_supported",
        /// Arm's calling convention for secure monitors.
        ArmSmcccSupported = 14, "ARM_SMCCC_supported",
        /// The kernel takes its ACPI root pointer from anywhere.
        LinuxRsdpUnrestricted = 15, "linux_rsdp_unrestricted",
        /// Frame numbers are not machine frame numbers.
        NotDirectMapped = 16, "not_direct_mapped",
        /// Frame numbers are machine frame numbers.
        DirectMapped = 17, "direct_mapped",
    }
}

impl Feature {
    /// The feature's bit in a feature map.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self.raw()
    }
}

/// The feature map that we report to a PV guest.
///
/// Linux panics without the first and the last of these; the middle one tells that `mmuext_op` clears
/// and copies frames. Bits that promise other paging modes must stay clear for PV.
pub const REPORTED_FEATURES: u32 =
    Feature::MmuPtUpdatePreserveAd.bit() | Feature::HighmemAssist.bit() | Feature::GnttabMapAvailBits.bit();

const _: () = assert!(REPORTED_VERSION == 0x4_0011);
const _: () = assert!(REPORTED_FEATURES == 0xe0);
