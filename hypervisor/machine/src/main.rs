//! The Bulkhead hypervisor on bare metal: boot, and everything that touches hardware.
//!
//! [`boot_main`] is the boot, step by step: each step returns what the next one needs. `docs/boot.md` tells the
//! same in prose. What needs no hardware is in this package's library, where the host tests it.

#![no_std]
#![no_main]

extern crate alloc;

mod archive;
mod boot;
mod console;
mod cpu;
mod memory;
mod panic;
mod platform;
mod power;
mod serial;

use core::convert::Infallible;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;

use bulkhead_machine::layout::{PAGE_SHIFT, word};
use bulkhead_machine::portable::command_line::Options;
use bulkhead_machine::portable::memory_map::MemoryMap;
use bulkhead_machine::portable::ranges::Full;
use spin::Once;

use crate::boot::entry::EarlyTables;
use crate::boot::firmware::{COMMAND_LINE_SIZE, FirmwareInfo};
use crate::memory::Memory;
use crate::memory::frames::OutOfMemory;
use crate::platform::Platform;

/// Why the machine cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootError {
    /// The boot loader left no start-info record where it said.
    NoStartInfo,
    /// The memory map has more pieces than we keep.
    TooManyRanges,
    /// Not even the hypervisor fits.
    OutOfMemory,
    /// The CPU lacks the named feature.
    MissingFeature(&'static str),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStartInfo => f.write_str("the boot loader passed no PVH start-info record"),
            Self::TooManyRanges => f.write_str("the memory map is in too many pieces"),
            Self::OutOfMemory => f.write_str("the machine has too little memory"),
            Self::MissingFeature(name) => write!(f, "the CPU has no {name}"),
        }
    }
}

impl From<OutOfMemory> for BootError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<Full> for BootError {
    fn from(_: Full) -> Self {
        Self::TooManyRanges
    }
}

/// Where the entry stub arrives: 64-bit mode, early page tables, the boot stack, interrupts off.
/// `start_info` is the physical address of the boot loader's record.
extern "C" fn boot_main(start_info: u32) -> ! {
    // SAFETY: the entry stub calls this function once, with the early tables in force.
    let early = unsafe { EarlyTables::assume() };
    match boot(early, start_info) {
        Ok(never) => match never {},
        Err(error) => panic!("cannot boot: {error}"),
    }
}

/// The boot, in order.
fn boot(early: EarlyTables, start_info: u32) -> Result<Infallible, BootError> {
    console::init();
    let firmware = boot::pvh::read(&early, start_info)?;
    let (command_line, options) = read_command_line(&firmware);

    let features = cpu::features::detect();
    log::info!("CPU: {}", cpu::features::model_name());
    log::debug!("CPU features: {features:?}");
    let map = read_memory_map(&firmware)?;

    let protections = cpu::control::protect(features, options.smap)?;
    let huge_pages = features.contains(cpu::features::Features::HUGE_PAGES);
    let mut memory = Memory::build(early, &protections, map, firmware.module.as_ref(), huge_pages)?;
    let heap = memory::heap::init(&mut memory)?;
    memory.map_frame_tables()?;
    memory.map_stacks(0)?;
    log::info!("page tables in force; heap of {} MiB", heap >> 20);

    let archive = module_bytes(&memory, firmware.module);
    archive::open(archive);

    let (l4, map) = (memory.l4(), memory.map().clone());
    let free = memory.into_free();
    log::info!("{} MiB free", free.len() >> (20_u32.saturating_sub(PAGE_SHIFT)));
    hand_over(Platform {
        free,
        map,
        archive,
        command_line,
        options,
        l4,
        features,
    })
}

/// Keeps the command line, follows it, and says which words it does not know.
fn read_command_line(firmware: &FirmwareInfo) -> (&'static str, Options) {
    static TEXT: Once<heapless::String<COMMAND_LINE_SIZE>> = Once::new();
    let text = TEXT.call_once(|| firmware.command_line.clone()).as_str();
    // Silent first: the log level is one of the options.
    let options = Options::parse(text, |_| ());
    log::set_max_level(options.log_level);
    log::info!("Bulkhead {}", env!("CARGO_PKG_VERSION"));
    if options.debug_exit {
        power::use_debug_exit();
    }
    Options::parse(text, |problem| log::warn!("command line: {problem}"));
    if firmware.command_line_cut {
        log::warn!(
            "the command line is longer than {COMMAND_LINE_SIZE} bytes, or not text; its end is ignored"
        );
    }
    (text, options)
}

/// Makes the firmware's memory map ours, and shows it.
fn read_memory_map(firmware: &FirmwareInfo) -> Result<MemoryMap, BootError> {
    let map = MemoryMap::from_firmware(&firmware.memory)?;
    log::info!(
        "memory: {} MiB",
        map.frames() >> (20_u32.saturating_sub(PAGE_SHIFT))
    );
    for range in map.ram() {
        log::debug!(
            "  RAM {:#014x}..{:#014x}",
            range.start << PAGE_SHIFT,
            range.end << PAGE_SHIFT
        );
    }
    if map.unreachable_frames() > 0 {
        log::warn!(
            "{} frames of RAM lie beyond the direct map",
            map.unreachable_frames()
        );
    }
    if firmware.modules > 1 {
        log::warn!("{} modules: only the first is used", firmware.modules);
    }
    Ok(map)
}

/// The boot archive as the direct map shows it.
fn module_bytes(_memory: &Memory, module: Option<Range<u64>>) -> &'static [u8] {
    let Some(module) = module.filter(|module| module.end > module.start) else {
        return &[];
    };
    let len = word(module.end.saturating_sub(module.start));
    // SAFETY: `Memory::build` mapped these bytes read-only in the direct map and took their frames from the
    // free memory, so nobody writes them for the rest of the machine's life.
    unsafe { core::slice::from_raw_parts(memory::direct(module.start), len) }
}

/// Moves to the boot CPU's own stack and starts the hypervisor.
fn hand_over(platform: Platform) -> ! {
    unsafe extern "C" fn run(platform: *mut ()) -> ! {
        // SAFETY: `hand_over` passes a pointer to a platform that it gives up; its memory, the boot stack, is
        // not used again while this copy is made.
        start(unsafe { platform.cast::<Platform>().read() })
    }
    let mut platform = ManuallyDrop::new(platform);
    // SAFETY: CPU 0's stacks were mapped by the boot and never used; everything on the boot stack that needs
    // dropping is the platform, which `run` takes over.
    unsafe { cpu::stack::enter_main_stack(0, run, (&raw mut platform).cast()) }
}

/// The machine is ready: from here on the hypervisor proper runs.
fn start(platform: Platform) -> ! {
    log::info!(
        "ready: L4 in frame {:#x}, {} ranges of free memory",
        platform.l4,
        platform.free.iter().count()
    );
    power::exit(power::Status::Clean)
}
