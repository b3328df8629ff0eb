//! From the machine that the boot prepared to the hypervisor with its first domains.

use core::fmt;
use core::sync::atomic::Ordering;

use bulkhead_abi::DomId;
use bulkhead_core::domains::boot_list;
use bulkhead_core::emulate;
use bulkhead_core::frames::Buddy;
use bulkhead_core::ids::CpuId;
use bulkhead_core::lock;
use bulkhead_core::memory::Memory;
use bulkhead_core::{EndPolicy, Hypervisor};
use bulkhead_machine::layout::{MAX_CPUS, PAGE_SHIFT};
use bulkhead_machine::portable::command_line::End;
use heapless::Vec;
use spin::Once;

use crate::archive;
use crate::console;
use crate::cpu::stack::this_cpu;
use crate::entry;
use crate::entry::{TableFrames, ring3};
use crate::hw::{self, Hw};
use crate::memory::heap;
use crate::platform::Platform;
use crate::time::warp;
use crate::{cpu, smp};

/// The archive's file that names the first domains.
const BOOT_LIST: &str = "boot.list";

/// Why there is nothing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartError {
    /// No memory for the hypervisor's own tables.
    OutOfMemory,
    /// The archive has no boot list, or it is not text.
    BootListMissing,
    /// No domain of the list could be made.
    NothingStarted,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("there is no memory for the hypervisor's own tables"),
            Self::BootListMissing => write!(
                f,
                "the boot archive should have a text file {BOOT_LIST} that names the domains"
            ),
            Self::NothingStarted => write!(f, "no domain of {BOOT_LIST} could be started"),
        }
    }
}

/// Makes the hypervisor, starts the other CPUs, and makes the domains of the boot list.
pub(crate) fn start(platform: Platform) -> Result<(), StartError> {
    let frames = hw::frame_table(platform.map.frame_limit());
    let mut buddy = Buddy::new(frames);
    for range in platform.free.iter() {
        buddy.add(range.clone());
    }
    let tables = table_frames(&mut buddy, platform.cpus.len())?;
    lock::use_cpu_number(this_cpu);
    emulate::prepare();

    TABLES.call_once(|| tables);
    prepare(0);
    let direct_gates = ring3::judge(&mut buddy, platform.l4, platform.options.direct_gates)
        .ok_or(StartError::OutOfMemory)?;
    let ram = platform.map.frames();
    let times = (platform.clock, platform.wall_clock_ns);
    let machine = Hw::new(
        platform.l4,
        times,
        direct_gates,
        (platform.assignable, platform.firmware_map),
        ram,
    );
    let end = match platform.options.end {
        End::Domain0 => EndPolicy::ControlDomain,
        End::Last => EndPolicy::LastDomain,
    };
    let memory = Memory::new(machine, frames, buddy);
    let hypervisor = Hypervisor::new(memory, platform.cpus.len(), end).ok_or(StartError::OutOfMemory)?;
    let hypervisor = hw::install(hypervisor);

    hypervisor.cpu_online(CpuId::BOOT);
    match hypervisor.discover_functions() {
        (all, 0) => log::info!("{all} PCI functions"),
        (all, left_out) => {
            log::warn!("{all} PCI functions, of which {left_out} are left out: there is no room for more")
        }
    }
    let common = smp::Common {
        features: platform.features,
        smap: platform.options.smap,
        l4: platform.l4,
        run: run_other,
        meet: warp::check,
    };
    smp::start_others(&platform.cpus, &platform.map, common);
    warp::judge(platform.features, platform.options.stable_tsc);
    console::listen();
    let end = boot_domains(hypervisor)?;
    // The control domain last: it finds the others there.
    for domain in (0..end)
        .rev()
        .filter_map(|number| hypervisor.domain(DomId::new(number)))
    {
        hypervisor.unpause(&domain);
    }
    Ok(())
}

/// The frames for the descriptor tables of each CPU, by its number.
static TABLES: Once<Vec<TableFrames, MAX_CPUS>> = Once::new();

fn table_frames(buddy: &mut Buddy, cpus: usize) -> Result<Vec<TableFrames, MAX_CPUS>, StartError> {
    let mut take = || {
        let frame = buddy.alloc(0).ok_or(StartError::OutOfMemory)?.raw();
        for word in hw::frame_words(frame) {
            word.store(0, Ordering::Relaxed);
        }
        Ok(frame)
    };
    let empty = take()?;
    (0..cpus)
        .map(|_| {
            Ok(TableFrames {
                empty,
                own: take()?,
                idt: take()?,
            })
        })
        .collect()
}

/// Gives the CPU that runs this, number `cpu`, what it needs to run guests. Returns what the core calls it.
fn prepare(cpu: usize) -> CpuId {
    let Some(&tables) = TABLES.get().and_then(|tables| tables.get(cpu)) else {
        unreachable!("there are tables for every CPU that is started");
    };
    let id = CpuId::new(u32::try_from(cpu).unwrap_or(u32::MAX));
    // SAFETY: the CPU runs this once, on its main stack, and has met no guest; its frames were zeroed and are used for nothing else.
    unsafe { entry::init_cpu(cpu, id, tables) };
    cpu::note_apic_id();
    id
}

/// What every CPU but the first does.
fn run_other(cpu: usize) -> ! {
    hw::hypervisor().cpu_online(prepare(cpu));
    cpu::mark_online();
    warp::join(cpu);
    entry::dispatch::run_guests()
}

/// How much memory is in use.
struct Footprint {
    heap: u64,
    free_frames: u64,
}

impl Footprint {
    fn now(hypervisor: &Hypervisor<Hw>) -> Self {
        Self {
            heap: heap::used(),
            free_frames: hypervisor.memory().free_frames(),
        }
    }

    /// How many bytes the hypervisor took from then to `now` for a domain with `pages` frames of its own.
    fn until(&self, now: &Self, pages: u64) -> u64 {
        let frames = self.free_frames.saturating_sub(now.free_frames);
        let own = frames.saturating_sub(pages) << PAGE_SHIFT;
        now.heap.saturating_sub(self.heap).saturating_add(own)
    }
}

/// Makes the domains of the boot list, in its order; the first is domain 0. One that cannot be made is left out, and said. They do not run
/// yet. Returns the number after the last one's.
fn boot_domains(hypervisor: &Hypervisor<Hw>) -> Result<u16, StartError> {
    let list = archive::file(BOOT_LIST).and_then(|file| core::str::from_utf8(file).ok());
    let mut end = None;
    for (number, entry) in (0_u16..).zip(boot_list::parse(list.ok_or(StartError::BootListMissing)?)) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(mistake) => {
                log::error!("{mistake}");
                continue;
            }
        };
        let Some(kernel) = archive::file(entry.kernel) else {
            log::error!(
                "domain {}: the boot archive has no file {}",
                entry.name,
                entry.kernel
            );
            continue;
        };
        let ramdisk = match entry
            .ramdisk
            .map(|name| archive::file(name).ok_or(name))
            .transpose()
        {
            Ok(ramdisk) => ramdisk,
            Err(name) => {
                log::error!("domain {}: the boot archive has no file {name}", entry.name);
                continue;
            }
        };
        let before = Footprint::now(hypervisor);
        match hypervisor.create_domain(DomId::new(number), &entry, kernel, ramdisk) {
            Ok(()) => {
                end = Some(number.saturating_add(1));
                let cost = before.until(&Footprint::now(hypervisor), entry.pages);
                log::debug!("domain {number}: {cost} bytes of hypervisor memory");
                log::info!(
                    "domain {number} ({}): {} MiB, {} vCPUs",
                    entry.name,
                    entry.pages >> 8,
                    entry.vcpus
                );
            }
            Err(error) => log::error!("domain {number} ({}): {error}", entry.name),
        }
    }
    end.ok_or(StartError::NothingStarted)
}
