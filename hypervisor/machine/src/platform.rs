//! What the boot found and prepared, handed to the hypervisor proper.

use bulkhead_abi::memory::E820Entry;
use bulkhead_machine::layout::MAX_CPUS;
use bulkhead_machine::portable::assignable::Assignable;
use bulkhead_machine::portable::command_line::Options;
use bulkhead_machine::portable::memory_map::{MAX_RANGES, MemoryMap};
use bulkhead_machine::portable::ranges::Ranges;
use heapless::Vec;

use crate::cpu::features::Features;
use crate::time::TscClock;

/// The machine after the boot. Frame numbers are of 4 KiB frames.
#[derive(Debug)]
pub(crate) struct Platform {
    /// Frames of RAM that nobody uses.
    pub(crate) free: Ranges<MAX_RANGES>,
    /// All RAM, used or not; the frame table and the machine-to-physical table have an entry for each frame.
    pub(crate) map: MemoryMap,
    /// Firmware's memory map, lowest entry first.
    pub(crate) firmware_map: alloc::vec::Vec<E820Entry>,
    /// What domains may own of devices.
    pub(crate) assignable: Assignable,
    /// What the command line asks for.
    pub(crate) options: Options,
    /// The frame of the hypervisor's own L4 table; its slots 256 to 271 go into every address space.
    pub(crate) l4: u64,
    /// What the CPUs have.
    pub(crate) features: Features,
    /// The APIC id of each CPU; CPU 0 is the one that booted. All have their stacks mapped.
    pub(crate) cpus: Vec<u32, MAX_CPUS>,
    /// The TSC's rate, and the clock that it makes.
    pub(crate) clock: TscClock,
    /// Nanoseconds from 1970 to the moment when the clock showed 0, if the machine knows the date.
    pub(crate) wall_clock_ns: Option<u64>,
}
