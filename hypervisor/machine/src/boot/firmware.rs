//! What the boot loader and the firmware said, copied out of their memory.

use core::ops::Range;

use bulkhead_machine::portable::memory_map::{self, MAX_RANGES};
use heapless::{String, Vec};

/// Most bytes of the command line that are kept.
pub(crate) const COMMAND_LINE_SIZE: usize = 1024;

/// The boot loader's records. Every address is physical.
#[derive(Debug, Default)]
pub(crate) struct FirmwareInfo {
    /// The command line.
    pub(crate) command_line: String<COMMAND_LINE_SIZE>,
    /// Whether the command line was longer, or not text, so that its end is missing.
    pub(crate) command_line_cut: bool,
    /// The memory map, in the loader's own order.
    pub(crate) memory: Vec<memory_map::Entry, MAX_RANGES>,
    /// The boot archive, in bytes, if there is one.
    pub(crate) module: Option<Range<u64>>,
    /// How many modules there were; only the first is used.
    pub(crate) modules: u32,
    /// The ACPI root pointer, if the loader told.
    pub(crate) rsdp: Option<u64>,
}
