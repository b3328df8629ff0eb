//! ELF notes by which a kernel tells its builder how it wants to be started.
//!
//! Their owner is [`OWNER`]; numbers are 4 or 8 bytes. The names in the FEATURES note, and the bits in
//! SUPPORTED_FEATURES, are those of [`Feature`](crate::version::Feature).

use crate::numbers;

/// Owner of the notes, without its NUL.
pub const OWNER: &[u8] = b"Xen";
/// The value that the [`XenVersion`](ElfNote::XenVersion) note must have.
pub const XEN_VERSION: &str = "xen-3.0";
/// Section that holds the older form of the notes: `KEY=VALUE`, separated by commas.
pub const LEGACY_SECTION: &str = "__xen_guest";

numbers! {
    /// Type of a note.
    pub enum ElfNote: u32 {
        /// Informational.
        Info = 0, "INFO",
        /// First instruction (va).
        Entry = 1, "ENTRY",
        /// Page to be filled with hypercall stubs (va).
        HypercallPage = 2, "HYPERCALL_PAGE",
        /// va of PFN 0.
        VirtBase = 3, "VIRT_BASE",
        /// Subtracted from the segments' physical addresses.
        PaddrOffset = 4, "PADDR_OFFSET",
        /// ABI: [`XEN_VERSION`].
        XenVersion = 5, "XEN_VERSION",
        /// Name of the kernel; informational.
        GuestOs = 6, "GUEST_OS",
        /// Version of the kernel; informational.
        GuestVersion = 7, "GUEST_VERSION",
        /// Loader; informational.
        Loader = 8, "LOADER",
        /// 32-bit guests only.
        PaeMode = 9, "PAE_MODE",
        /// Features, as text.
        Features = 10, "FEATURES",
        /// Whether the symbol table is to be loaded after the kernel.
        BsdSymtab = 11, "BSD_SYMTAB",
        /// Lowest va that the kernel leaves to the hypervisor; ignored for 64 bits.
        HvStartLow = 12, "HV_START_LOW",
        /// Mask and value that tell valid level-1 entries (migration).
        L1MfnValid = 13, "L1_MFN_VALID",
        /// The kernel understands a cancelled suspend.
        SuspendCancel = 14, "SUSPEND_CANCEL",
        /// va at which to map the p2m list.
        InitP2m = 15, "INIT_P2M",
        /// The ramdisk need not be mapped.
        ModStartPfn = 16, "MOD_START_PFN",
        /// Features, as a bit mask.
        SupportedFeatures = 17, "SUPPORTED_FEATURES",
        /// Entry of another start protocol (PVH); ignored for PV.
        Phys32Entry = 18, "PHYS32_ENTRY",
    }
}
