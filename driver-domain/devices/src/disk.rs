//! What a disk driver is to the back-end.
//!
//! Requests are submitted, then committed together, and complete in any order. A driver does nothing by itself: who uses it waits for the device's
//! interrupt, and then takes what is completed until there is no more.

pub use crate::request::{Failed, Refused, Segment, Tag};

/// Bytes of a sector, in which places on a disk and lengths are counted, whatever the disk's blocks are.
pub const SECTOR: u32 = 512;

/// The most sectors that a disk can have: their bytes are counted in 64 bits.
pub const MAX_SECTORS: u64 = u64::MAX / 512;

/// What a disk is like. It does not change while the driver lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// How many sectors it has, at most [`MAX_SECTORS`].
    pub sectors: u64,
    /// Bytes of the smallest piece that can be read and written: a power of two, a sector at least.
    pub logical_block: u32,
    /// Bytes of the smallest piece that is written without reading others: a power of two, a logical block at least.
    pub physical_block: u32,
    /// Nothing can be written.
    pub read_only: bool,
    /// What was written may be lost with the power until a flush. Without it a flush does nothing.
    pub write_cache: bool,
    /// How much can be discarded at a time, if anything.
    pub discard: Option<Discard>,
    /// The most segments of a request, 1 at least.
    pub max_segments: u16,
    /// The most sectors of a request that reads or writes: a logical block at least.
    pub max_sectors: u32,
    /// How many requests can be outstanding, 1 at least.
    pub depth: u16,
}

impl Geometry {
    /// Whether a request is as the disk and [`Segment`] want it. Drivers refuse others.
    #[must_use]
    pub fn admits(&self, operation: &Operation<'_>) -> bool {
        match *operation {
            Operation::Read(first, segments) => self.admits_transfer(first, segments),
            Operation::Write(first, segments) => !self.read_only && self.admits_transfer(first, segments),
            Operation::Flush => true,
            Operation::Discard(first, sectors) => {
                let max = self.discard.map_or(0, |discard| discard.max_sectors);
                !self.read_only && sectors <= max && self.has(first, sectors)
            }
        }
    }

    fn admits_transfer(&self, first: u64, segments: &[Segment]) -> bool {
        let sectors = segments.iter().try_fold(0_u32, |sum, segment| {
            sum.checked_add(segment.sectors()?)
                .filter(|sum| *sum <= self.max_sectors)
        });
        segments.len() <= self.max_segments.into() && sectors.is_some_and(|sectors| self.has(first, sectors))
    }

    /// Whether there are these sectors, at least one, and they are whole blocks.
    fn has(&self, first: u64, sectors: u32) -> bool {
        let block = u64::from(self.logical_block / SECTOR).max(1);
        let end = first.checked_add(sectors.into());
        sectors != 0
            && first.is_multiple_of(block)
            && u64::from(sectors).is_multiple_of(block)
            && end.is_some_and(|end| end <= self.sectors)
    }
}

/// How sectors can be discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// The most sectors of a request.
    pub max_sectors: u32,
    /// Sectors that are discarded together: others are left as they are.
    pub granularity: u32,
}

/// As a disk has it, a segment begins at a multiple of 4 and holds whole sectors.
impl Segment {
    /// How many sectors it holds; `None` if it is not as a segment should be.
    #[must_use]
    pub fn sectors(&self) -> Option<u32> {
        let is_whole = self.address.0.is_multiple_of(4) && self.bytes.is_multiple_of(SECTOR);
        (is_whole && self.is_in_page()).then_some(self.bytes / SECTOR)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Read sectors, from this one on, into memory.
    Read(u64, &'a [Segment]),
    /// Write sectors, from this one on.
    Write(u64, &'a [Segment]),
    /// Let everything survive the loss of power that was completed before this was submitted.
    Flush,
    /// Forget what is in sectors: the first, and how many. What is read there afterwards is anything.
    Discard(u64, u32),
}

/// A request that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which.
    pub tag: Tag,
    /// How.
    pub result: Result<(), Failed>,
}

/// A disk. What the device answers is checked: one that completes what was not asked of it is [broken](Failed::Broken), and its requests all complete so.
pub trait Disk {
    /// What it is like.
    fn geometry(&self) -> &Geometry;

    /// Puts a request to those that the device will be told of. The device uses the segments' memory until the request completes.
    ///
    /// # Errors
    ///
    /// [`Refused`], if the request cannot be taken, or not now.
    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused>;

    /// Tells the device of what was submitted.
    fn commit(&mut self);

    /// Takes a request that has come to its end, if there is one.
    fn take(&mut self) -> Option<Completion>;

    /// Asks for an interrupt when something completes from now on. Says whether nothing has completed yet: otherwise take that first.
    #[must_use = "what has completed already raises no interrupt"]
    fn may_sleep(&mut self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BusAddress;

    const DISK: Geometry = Geometry {
        sectors: 1000,
        logical_block: 4096,
        physical_block: 4096,
        read_only: false,
        write_cache: false,
        discard: Some(Discard {
            max_sectors: 80,
            granularity: 8,
        }),
        max_segments: 4,
        max_sectors: 24,
        depth: 1,
    };

    fn segment(address: u64, bytes: u32) -> Segment {
        Segment {
            address: BusAddress(address),
            bytes,
        }
    }

    #[test]
    fn segments_that_are_none_are_refused() {
        for (address, bytes, sectors) in [
            (0x1000, 4096, Some(8)),
            (0x1e00, 512, Some(1)),
            (0x1004, 512, Some(1)),
            (0x1002, 512, None),
            (0x1000, 0, None),
            (0x1000, 100, None),
            (0x1200, 4096, None),
            (0xffff_ffff_ffff_fe00, 1024, None),
            (0x1000, !511, None),
        ] {
            assert_eq!(segment(address, bytes).sectors(), sectors, "{address:#x} {bytes}");
        }
    }

    #[test]
    fn only_whole_blocks_that_the_disk_has_are_admitted() {
        let page = segment(0x1000, 4096);
        let halves = [segment(0x1000, 2048), segment(0x3800, 2048)];
        for (operation, is_admitted) in [
            (Operation::Read(0, &[page]), true),
            (Operation::Read(992, &[page]), true),
            (Operation::Read(8, &halves), true),
            (Operation::Write(8, &[page; 3]), true),
            (Operation::Read(8, &[page; 4]), false),
            (Operation::Read(8, &[segment(0, 512); 5]), false),
            (Operation::Read(8, &halves[..1]), false),
            (Operation::Read(4, &[page]), false),
            (Operation::Read(1000, &[page]), false),
            (Operation::Write(996, &[page]), false),
            (Operation::Read(!7, &[page]), false),
            (Operation::Read(0, &[]), false),
            (Operation::Discard(0, 80), true),
            (Operation::Discard(0, 88), false),
            (Operation::Discard(0, 0), false),
            (Operation::Discard(960, 48), false),
            (Operation::Flush, true),
        ] {
            assert_eq!(DISK.admits(&operation), is_admitted, "{operation:?}");
            let read_only = Geometry {
                read_only: true,
                ..DISK
            };
            let is_read = matches!(operation, Operation::Read(..) | Operation::Flush);
            assert_eq!(read_only.admits(&operation), is_admitted && is_read);
        }
    }
}
