//! Disks, and what is on them.

use alloc::{format, string::String, string::ToString, vec::Vec};

use bulkhead_blkback::gpt::{self, Partition, READ_MAX};
use bulkhead_devices::{
    disk::{Completion, Disk, Failed, Geometry, Operation, Refused, SECTOR, Segment, Tag},
    function::{DmaMemory as _, Function as _},
};
use bulkhead_nvme::Nvme;
use bulkhead_pci::Address;
use bulkhead_runtime::{
    device::{DeviceMemory, PciFunction, SystemClock},
    event::Port,
};
use bulkhead_virtio::Block;

use super::Driver;
use crate::block::measure::{self, Measurement};

/// A disk, whoever drives it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are as many as there are disks")]
pub(crate) enum AnyDisk {
    Virtio(Block<PciFunction>),
    Nvme(Nvme<PciFunction>),
}

macro_rules! each {
    ($disk:expr, $name:ident => $do:expr) => {
        match $disk {
            AnyDisk::Virtio($name) => $do,
            AnyDisk::Nvme($name) => $do,
        }
    };
}

impl Disk for AnyDisk {
    fn geometry(&self) -> &Geometry {
        each!(self, disk => disk.geometry())
    }

    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused> {
        each!(self, disk => disk.submit(tag, operation))
    }

    fn commit(&mut self) {
        each!(self, disk => disk.commit());
    }

    fn take(&mut self) -> Option<Completion> {
        each!(self, disk => disk.take())
    }

    fn may_sleep(&mut self) -> bool {
        each!(self, disk => disk.may_sleep())
    }
}

/// A disk at work.
#[derive(Debug)]
pub(crate) struct OpenedDisk {
    pub(crate) disk: AnyDisk,
    /// Who drives it.
    pub(crate) driver: Driver,
    /// Raised when the disk has completed something.
    pub(crate) interrupt: Port,
    /// What is on it, or why that cannot be told.
    pub(crate) partitions: Result<Vec<Partition>, String>,
}

/// Brings a disk to work, and reads its partitions. It may be [measured](measure) before.
pub(super) async fn open(
    address: Address,
    mut function: PciFunction,
    driver: Driver,
    is_measured: bool,
) -> Result<OpenedDisk, String> {
    let interrupt = function
        .bind_interrupt()
        .map_err(|error| format!("its interrupt cannot be had: {error}"))?;
    let memory = function.memory(READ_MAX).map_err(|error| error.to_string())?;
    let pages = is_measured.then(|| measure::memory(&mut function)).transpose()?;
    let mut disk = if driver == Driver::Nvme {
        let nvme = Nvme::start(function, &SystemClock).await;
        AnyDisk::Nvme(nvme.map_err(|error| error.to_string())?)
    } else {
        let block = Block::start(function, &SystemClock).await;
        AnyDisk::Virtio(block.map_err(|error| error.to_string())?)
    };
    if let Some(pages) = &pages {
        let mut measurement = Measurement {
            disk: &mut disk,
            interrupt: &interrupt,
            pages,
        };
        measurement.run().await?;
    }
    let geometry = *disk.geometry();
    let reader = async |first: u64, to: &mut [u8]| read(&mut disk, &interrupt, &memory, first, to).await;
    let table = gpt::read(&geometry, reader).await;
    let partitions = match table {
        Ok(table) => {
            if let Some(damage) = table.warning {
                log::warn!("{address}: the first partition table is damaged: {damage}");
            }
            Ok(table.partitions().to_vec())
        }
        Err(error) => Err(error.to_string()),
    };
    Ok(OpenedDisk {
        disk,
        driver,
        interrupt,
        partitions,
    })
}

/// Why sectors were not read.
#[derive(Debug)]
enum ReadError {
    Refused(Refused),
    Failed(Failed),
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::Failed(failed) => failed.fmt(f),
        }
    }
}

/// Reads sectors from `first` on, of a disk that nobody else uses yet: a page at most.
async fn read(
    disk: &mut AnyDisk,
    interrupt: &Port,
    memory: &DeviceMemory,
    first: u64,
    to: &mut [u8],
) -> Result<(), ReadError> {
    let mut sector = first;
    for part in to.chunks_mut(memory.bytes()) {
        let bytes = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let segment = Segment {
            address: memory.address(),
            bytes,
        };
        disk.submit(Tag(0), Operation::Read(sector, &[segment]))
            .map_err(ReadError::Refused)?;
        disk.commit();
        let completion = loop {
            if let Some(completion) = disk.take() {
                break completion;
            }
            if disk.may_sleep() {
                interrupt.wait().await;
            }
        };
        completion.result.map_err(ReadError::Failed)?;
        memory.read(0, part);
        sector = sector.saturating_add(u64::from(bytes / SECTOR));
    }
    Ok(())
}
