//! From the machine that the boot prepared to the hypervisor with its first domains.

use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_core::domains::boot_list;
use bulkhead_core::frames::Buddy;
use bulkhead_core::ids::CpuId;
use bulkhead_core::memory::Memory;
use bulkhead_core::{EndPolicy, Hypervisor};
use bulkhead_machine::portable::command_line::End;

use crate::archive;
use crate::entry;
use crate::entry::TableFrames;
use crate::hw::{self, Hw};
use crate::platform::Platform;

/// The archive's file that names the first domains.
const BOOT_LIST: &str = "boot.list";

/// Why there is nothing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartError {
    /// No memory for the hypervisor's own tables.
    NoMemory,
    /// The archive has no boot list, or it is not text.
    NoBootList,
    /// No domain of the list could be made.
    NoDomain,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("there is no memory for the hypervisor's own tables"),
            Self::NoBootList => write!(
                f,
                "the boot archive should have a text file {BOOT_LIST} that names the domains"
            ),
            Self::NoDomain => write!(f, "no domain of {BOOT_LIST} could be started"),
        }
    }
}

/// Makes the hypervisor and the domains of the boot list.
pub(crate) fn start(platform: Platform) -> Result<(), StartError> {
    let frames = hw::frame_table(platform.map.frame_limit());
    let mut buddy = Buddy::new(frames);
    for range in platform.free.iter() {
        buddy.add(range.clone());
    }
    let mut take = || buddy.alloc(0).ok_or(StartError::NoMemory);
    let tables = TableFrames {
        empty: take()?.raw(),
        own: take()?.raw(),
    };
    for frame in [tables.empty, tables.own] {
        for word in hw::frame_words(frame) {
            word.store(0, core::sync::atomic::Ordering::Relaxed);
        }
    }
    // SAFETY: the boot CPU runs this on its main stack, and has met no guest; the frames were taken just now and zeroed.
    unsafe { entry::init_cpu(0, CpuId::BOOT, tables) };

    let machine = Hw::new(platform.l4, platform.clock, platform.wall_clock_ns);
    let end = match platform.options.end {
        End::Domain0 => EndPolicy::ControlDomain,
        End::Last => EndPolicy::LastDomain,
    };
    let hypervisor =
        Hypervisor::new(Memory::new(machine, frames, buddy), 1, end).ok_or(StartError::NoMemory)?;
    boot_domains(hw::install(hypervisor))
}

/// Makes the domains of the boot list, in its order; the first is domain 0. One that cannot be made is left out, and said.
fn boot_domains(hypervisor: &Hypervisor<Hw>) -> Result<(), StartError> {
    let list = archive::file(BOOT_LIST).and_then(|file| core::str::from_utf8(file).ok());
    let mut started = 0_u16;
    for (number, entry) in (0_u16..).zip(boot_list::parse(list.ok_or(StartError::NoBootList)?)) {
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
        match hypervisor.create_domain(DomId::new(number), &entry, kernel, ramdisk, CpuId::BOOT) {
            Ok(()) => {
                started = started.saturating_add(1);
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
    if started == 0 {
        Err(StartError::NoDomain)
    } else {
        Ok(())
    }
}
