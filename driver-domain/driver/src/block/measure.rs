//! What a disk does for its driver alone, in the loads and the words of the guest `disk`: the benchmark holds the two together.
//!
//! Writes put back what was read before: nothing on the disk changes.

use alloc::{format, string::String, vec::Vec};

use bulkhead_devices::{
    BusAddress,
    disk::{Disk as _, Operation, SECTOR, Segment, Tag},
    function::{DmaMemory as _, Function as _},
};
use bulkhead_runtime::{
    device::{DeviceMemory, PciFunction},
    event::Port,
    println,
    random::Random,
    time::{Duration, Instant},
};

use crate::device::AnyDisk;

/// Where on the disk, from its beginning on; and how much is moved, if it does not take too long.
const REGION: u64 = 64 << 20;
const LONGEST: Duration = Duration::from_secs(2);
/// The most requests at a time, and the most pages of one.
const DEEPEST: usize = 32;
const LARGEST: usize = 16;
const PAGE: u32 = 4096;
const PAGE_SECTORS: u64 = (PAGE / SECTOR) as u64;
const REGION_SECTORS: u64 = REGION / SECTOR as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// Reads anywhere.
    Random,
}

/// A disk of which it is told what it does.
#[derive(Debug)]
pub(crate) struct Measurement<'a> {
    pub(crate) disk: &'a mut AnyDisk,
    pub(crate) interrupt: &'a Port,
    /// Of [`memory`].
    pub(crate) pages: &'a [DeviceMemory],
}

/// The memory that it takes, in pages as guests' is.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn memory(function: &mut PciFunction) -> Result<Vec<DeviceMemory>, String> {
    let pages = (0..DEEPEST.saturating_mul(LARGEST)).map(|_| function.memory(PAGE as usize));
    pages
        .collect::<Result<_, _>>()
        .map_err(|error| format!("to be measured: {error}"))
}

impl Measurement<'_> {
    /// Tells rates, a line each.
    ///
    /// # Errors
    ///
    /// In a sentence: the disk does not do what it is asked.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        for (name, kind, pages) in [
            ("write-64k", Kind::Write, 16),
            ("write-44k", Kind::Write, 11),
            ("read-64k", Kind::Read, 16),
            ("read-44k", Kind::Read, 11),
            ("randread-4k", Kind::Random, 1),
        ] {
            for depth in [1, 8, DEEPEST] {
                if kind == Kind::Write {
                    // What is to be written again.
                    self.load(Kind::Read, pages, depth, depth as u64).await?;
                }
                let started = Instant::now();
                let done = self.load(kind, pages, depth, u64::MAX).await?;
                let micros = started.elapsed().as_micros().max(1);
                if kind == Kind::Random {
                    let rate = done.saturating_mul(1_000_000).checked_div(micros);
                    println!("BENCH raw-{name}-d{depth} {} IOPS", rate.unwrap_or(0));
                } else {
                    // A byte in a microsecond is a megabyte in a second.
                    let bytes = done.saturating_mul(pages as u64).saturating_mul(u64::from(PAGE));
                    let rate = bytes.saturating_mul(100).checked_div(micros).unwrap_or(0);
                    println!("BENCH raw-{name}-d{depth} {}.{:02} MB/s", rate / 100, rate % 100);
                }
            }
        }
        Ok(())
    }

    /// Does a load until `most` requests or all of the region are done, or it has taken long enough. Returns how many were done.
    async fn load(&mut self, kind: Kind, pages: usize, depth: usize, most: u64) -> Result<u64, String> {
        let sectors = (pages as u64).saturating_mul(PAGE_SECTORS);
        let region = self.disk.geometry().sectors.min(REGION_SECTORS);
        let count = region.checked_div(sectors).unwrap_or(0);
        let most = most.min(count);
        let mut random = Random::new(1);
        let (mut begun, mut done) = (0_u64, 0_u64);
        let mut free: Vec<usize> = (0..depth).rev().collect();
        let started = Instant::now();
        loop {
            let is_over = begun >= most || started.elapsed() >= LONGEST;
            if is_over && free.len() == depth {
                return Ok(done);
            }
            while begun < most && !is_over {
                let Some(slot) = free.pop() else { break };
                let number = match kind {
                    Kind::Read => begun,
                    // What this memory has is what was read there.
                    Kind::Write => slot as u64,
                    Kind::Random => random.below(count),
                };
                self.submit(kind, slot, pages, number.saturating_mul(sectors))?;
                begun = begun.saturating_add(1);
            }
            self.disk.commit();
            let before = done;
            while let Some(completion) = self.disk.take() {
                completion.result.map_err(|error| format!("measured: {error}"))?;
                free.push(completion.tag.0 as usize);
                done = done.saturating_add(1);
            }
            if done == before && self.disk.may_sleep() {
                self.interrupt.wait().await;
            }
        }
    }

    /// Hands the disk a request of so many pages from a sector on.
    fn submit(&mut self, kind: Kind, slot: usize, pages: usize, sector: u64) -> Result<(), String> {
        let own = self.pages.get(slot.saturating_mul(pages)..).unwrap_or_default();
        let mut segments = [Segment {
            address: BusAddress(0),
            bytes: PAGE,
        }; LARGEST];
        for (segment, page) in segments.iter_mut().zip(own) {
            segment.address = page.address();
        }
        let segments = segments.get(..pages).unwrap_or_default();
        let operation = match kind {
            Kind::Read | Kind::Random => Operation::Read(sector, segments),
            Kind::Write => Operation::Write(sector, segments),
        };
        let tag = Tag(u32::try_from(slot).unwrap_or(u32::MAX));
        let submitted = self.disk.submit(tag, operation);
        submitted.map_err(|error| format!("measured: {error}"))
    }
}
