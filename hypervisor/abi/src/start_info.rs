//! The start-info page: what a guest kernel is told when it starts (rsi holds its va).

use crate::record;

/// [`StartInfo::magic`], NUL-padded.
pub const MAGIC: &[u8] = b"xen-3.0-x86_64";

/// Flag: the domain is privileged.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// Flag: the domain is the first one.
pub const SIF_INITDOMAIN: u32 = 1 << 1;
/// Flag: the ramdisk is a list of multiboot modules.
pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
/// Flag: [`StartInfo::mod_start`] is a PFN, and the ramdisk is not mapped.
pub const SIF_MOD_START_PFN: u32 = 1 << 3;
/// Flag: the toolstack can read the p2m list through the guest's page tables.
pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;
/// Where the mask of processor power-management options starts (8 bits).
pub const SIF_PM_SHIFT: u32 = 8;

/// Bytes of [`StartInfo::cmd_line`], NUL included.
pub const CMD_LINE_SIZE: usize = 1024;

record! {
    /// Start of day for a guest. Written by the builder before the guest runs; then the guest's own.
    pub struct StartInfo: 1168 {
        /// [`MAGIC`].
        0 => pub magic: [u8; 32],
        /// Frames that the domain has.
        32 => pub nr_pages: u64,
        /// Machine address of the shared-info frame.
        40 => pub shared_info: u64,
        /// `SIF_*`.
        48 => pub flags: u32,
        /// MFN of the xenstore ring page.
        56 => pub store_mfn: u64,
        /// Port of xenstore.
        64 => pub store_evtchn: u32,
        /// MFN of the console ring page. (For a first domain with a screen, two u32 instead: offset and
        /// size of the video information in this page.)
        72 => pub console_mfn: u64,
        /// Port of the console.
        80 => pub console_evtchn: u32,
        /// va of the level-4 table.
        88 => pub pt_base: u64,
        /// Frames of the initial page tables, which are contiguous from `pt_base`.
        96 => pub nr_pt_frames: u64,
        /// va of the p2m list: u64 MFNs indexed by PFN.
        104 => pub mfn_list: u64,
        /// va or PFN of the ramdisk, by [`SIF_MOD_START_PFN`]; 0 if there is none.
        112 => pub mod_start: u64,
        /// Bytes of the ramdisk.
        120 => pub mod_len: u64,
        /// The command line, NUL-terminated.
        128 => pub cmd_line: [u8; CMD_LINE_SIZE],
        /// First PFN of the p2m list, if it lies outside the initial region; else 0.
        1152 => pub first_p2m_pfn: u64,
        /// Frames of that list and of the page tables that map it.
        1160 => pub nr_p2m_frames: u64,
    }
}

const _: () = assert!(MAGIC.len() < 32);
