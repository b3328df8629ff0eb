//! What the boot found and prepared, handed to the hypervisor proper.

use bulkhead_machine::portable::command_line::Options;
use bulkhead_machine::portable::memory_map::{MAX_RANGES, MemoryMap};
use bulkhead_machine::portable::ranges::Ranges;

use crate::cpu::features::Features;

/// The machine after the boot. Frame numbers are of 4 KiB frames.
#[derive(Debug)]
pub(crate) struct Platform {
    /// Frames of RAM that nobody uses.
    pub(crate) free: Ranges<MAX_RANGES>,
    /// All RAM, used or not; the frame table and the machine-to-physical table have an entry for each frame.
    pub(crate) map: MemoryMap,
    /// The boot archive's bytes, or none.
    pub(crate) archive: &'static [u8],
    /// The command line as it was given.
    pub(crate) command_line: &'static str,
    /// What the command line asks for.
    pub(crate) options: Options,
    /// The frame of the hypervisor's own L4 table; its slots 256 to 271 go into every address space.
    pub(crate) l4: u64,
    /// What the CPUs have.
    pub(crate) features: Features,
}
