//! The Bulkhead hypervisor on bare metal: boot, and everything that touches hardware.
//!
//! [`boot_main`] is the boot, step by step: each step returns what the next one needs. `docs/boot.md` tells the
//! same in prose. What needs no hardware is in this package's library, where the host tests it.

#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod apic;
mod archive;
mod boot;
mod console;
mod cpu;
mod domains;
mod entry;
mod hw;
mod iommu;
mod memory;
mod panic;
mod pci;
mod platform;
mod power;
mod serial;
mod shootdown;
mod smp;
mod time;
mod trace;

use core::convert::Infallible;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;

use bulkhead_abi::memory::{E820Entry, E820Type};
use bulkhead_machine::layout::{MAX_CPUS, PAGE_SHIFT, word};
use bulkhead_machine::portable::command_line::Options;
use bulkhead_machine::portable::firmware::{BadPlace, COMMAND_LINE_SIZE, FirmwareInfo};
use bulkhead_machine::portable::memory_map::{Entry, Kind, MemoryMap};
use bulkhead_machine::portable::ranges::Full;
use heapless::Vec;

use crate::boot::entry::EarlyTables;
use crate::cpu::features::Features;
use crate::memory::Memory;
use crate::memory::audit::Violation;
use crate::memory::frames::OutOfMemory;
use crate::platform::Platform;

/// Why the machine cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootError {
    /// Whoever started us follows no boot protocol that we know; this is what it had in EAX.
    UnknownLoader(u32),
    /// The boot loader left no record of its protocol where it said.
    NoBootRecord,
    /// The boot archive is where it cannot be.
    Archive(BadPlace),
    /// Free memory is in more pieces than we keep.
    TooManyRanges,
    /// Not even the hypervisor fits.
    OutOfMemory,
    /// The page tables break a law.
    PageTables(Violation),
    /// The CPU lacks the named feature.
    MissingFeature(&'static str),
    /// No clock of the machine tells how fast the TSC runs.
    NoClock,
    /// The local APIC cannot be reached, or its timer stands still.
    NoLocalApic,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLoader(eax) => write!(
                f,
                "neither a PVH nor a Multiboot2 loader started this image (EAX is {eax:#x})"
            ),
            Self::NoBootRecord => f.write_str("the boot loader's record is not where it says, or is broken"),
            Self::Archive(place) => write!(f, "{place}"),
            Self::TooManyRanges => f.write_str("free memory is in too many pieces"),
            Self::OutOfMemory => f.write_str("the machine has too little memory"),
            Self::PageTables(violation) => write!(f, "{violation}"),
            Self::MissingFeature(name) => write!(f, "the CPU has no {name}"),
            Self::NoClock => f.write_str("no clock of the machine tells how fast the TSC runs"),
            Self::NoLocalApic => f.write_str("the local APIC does not work"),
        }
    }
}

impl From<BadPlace> for BootError {
    fn from(place: BadPlace) -> Self {
        Self::Archive(place)
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
/// `protocol` tells the boot protocol, and `record` is the physical address of the boot loader's record.
extern "C" fn boot_main(protocol: u32, record: u32) -> ! {
    // SAFETY: the entry stub calls this function once, with the early tables in force.
    let early = unsafe { EarlyTables::assume() };
    match boot(early, protocol, record) {
        Ok(never) => match never {},
        Err(error) => panic!("cannot boot: {error}"),
    }
}

/// The boot, in order.
fn boot(early: EarlyTables, protocol: u32, record: u32) -> Result<Infallible, BootError> {
    console::init();
    let firmware = boot::read(&early, protocol, record)?;
    let options = read_command_line(&firmware);
    let archive = firmware.archive(&[memory::image::boot_frames(), memory::image::high_frames()])?;
    if let Some(bytes) = &archive {
        log::debug!("boot archive at {:#014x}..{:#014x}", bytes.start, bytes.end);
    }

    let features = cpu::features::detect();
    log::info!("CPU: {}", cpu::features::model_name());
    log::debug!("CPU features: {features:?}");
    let map = read_memory_map(&firmware);
    let acpi = acpi::read(&early, firmware.rsdp);

    let protections = cpu::control::protect(features, options.smap)?;
    if protections.smap() {
        entry::guest_memory::use_smap();
    }
    let huge_pages = features.contains(Features::HUGE_PAGES);
    let mut memory = Memory::build(early, &protections, map, archive.as_ref(), huge_pages)?;
    let heap = memory::heap::init(&mut memory, acpi.controllers.cpus.len())?;
    memory.map_frame_tables()?;
    log::info!("page tables in force; heap of {} MiB", heap >> 20);
    archive::open(module_bytes(&memory, archive));
    trace::init(0);
    power::init(acpi.fixed);

    apic::mask_8259s();
    let clock = time::start(&acpi).ok_or(BootError::NoClock)?;
    let wall_clock_ns = time::date::at_boot(acpi.fixed.century, time::now_ns());
    apic::init(features, acpi.controllers.local_apic).ok_or(BootError::NoLocalApic)?;
    apic::init_lines(&acpi.controllers);
    apic::calibrate(features, &clock).ok_or(BootError::NoLocalApic)?;

    iommu::start(&acpi, features, options.iommu, &mut memory)?;

    trace::record(
        trace::Event::CpuStarted as u16,
        u64::from(apic::id().unwrap_or(0)),
        0,
    );

    let cpus = boot_cpu_first(&acpi.controllers.cpus).ok_or(BootError::NoLocalApic)?;
    for cpu in 0..cpus.len() {
        memory.map_stacks(cpu)?;
    }
    let leaves = memory.audit().map_err(BootError::PageTables)?;
    log::debug!("page tables: {leaves} leaf entries keep the laws");
    let assignable = acpi.leave_to_domains(&firmware.memory, apic::lines());
    let (l4, map) = (memory.l4(), memory.map().clone());
    let free = memory.into_free();
    log::info!(
        "{} MiB free; booted in {} us",
        mebibytes(free.len()),
        time::now_ns() / 1000
    );
    hand_over(Platform {
        free,
        map,
        firmware_map: told_map(&firmware),
        assignable,
        options,
        l4,
        features,
        cpus,
        clock,
        wall_clock_ns,
    })
}

/// Follows the command line, and says which words it does not know.
fn read_command_line(firmware: &FirmwareInfo) -> Options {
    let text = firmware.command_line.as_str();
    // Silent first: the log level is one of the options.
    let options = Options::parse(text, |_| ());
    log::set_max_level(options.log_level);
    log::info!(
        "Bulkhead {}, loaded by {}",
        env!("CARGO_PKG_VERSION"),
        firmware.loader
    );
    if options.debug_exit {
        power::use_debug_exit();
    }
    Options::parse(text, |problem| log::warn!("command line: {problem}"));
    if firmware.command_line_cut {
        log::warn!(
            "the command line is longer than {COMMAND_LINE_SIZE} bytes, or not text; its end is ignored"
        );
    }
    options
}

/// Firmware's memory map, as the control domain may read it. Empty if there is no memory for it.
fn told_map(firmware: &FirmwareInfo) -> alloc::vec::Vec<E820Entry> {
    let entry = |entry: Entry| E820Entry {
        addr: entry.start,
        size: entry.len,
        range_type: match entry.kind {
            Kind::Ram => E820Type::Ram.raw(),
            Kind::Other => E820Type::Reserved.raw(),
        },
    };
    let mut told = alloc::vec::Vec::new();
    if told.try_reserve_exact(firmware.memory.entries().count()).is_ok() {
        told.extend(firmware.memory.entries().map(entry));
        told.sort_unstable_by_key(|entry| entry.addr);
    }
    told
}

/// Makes the firmware's memory map ours, and shows it.
fn read_memory_map(firmware: &FirmwareInfo) -> MemoryMap {
    let map = MemoryMap::of(&firmware.memory);
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
    if map.scattered_frames() > 0 {
        log::warn!(
            "{} frames of RAM are left out: RAM is in too many pieces",
            map.scattered_frames()
        );
    }
    if firmware.modules > 1 {
        log::warn!("{} modules: only the first is used", firmware.modules);
    }
    map
}

/// The APIC ids of the CPUs, this one's first. Without ACPI tables it is the only one.
fn boot_cpu_first(listed: &[u32]) -> Option<Vec<u32, MAX_CPUS>> {
    let own = apic::id()?;
    let others = listed.iter().copied().filter(|&id| id != own);
    Some(core::iter::once(own).chain(others).take(MAX_CPUS).collect())
}

const fn mebibytes(frames: u64) -> u64 {
    frames >> (20_u32.saturating_sub(PAGE_SHIFT))
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
    match domains::start(platform) {
        Ok(()) => entry::dispatch::run_guests(),
        Err(error) => panic!("cannot start: {error}"),
    }
}
