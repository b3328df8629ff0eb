//! What of the physical address space is RAM that we may use.
//!
//! Firmware gives a list in any order, with overlaps, and with borders anywhere. [`MemoryMap::from_firmware`]
//! makes whole frames of it: a byte is ours only if some entry says RAM and no entry says anything else.

use core::ops::Range;

use super::ranges::{Full, Ranges};
use crate::layout::{DIRECT_MAP_SIZE, PAGE_SHIFT, PAGE_SIZE};

/// Most ranges of RAM that a machine may have.
pub const MAX_RANGES: usize = 128;

/// What firmware says about a range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory for anyone's use.
    Ram,
    /// Anything else: reserved, ACPI tables, defective memory, registers.
    Other,
}

/// One entry of firmware's memory map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first byte.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
    /// What they are.
    pub kind: Kind,
}

/// The machine's RAM in whole frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    ram: Ranges<MAX_RANGES>,
    unreachable: u64,
}

impl MemoryMap {
    /// Reads firmware's map. RAM shrinks to whole frames; RAM that the direct map cannot show is left out, and
    /// counted ([`unreachable_frames`](Self::unreachable_frames)).
    ///
    /// # Errors
    ///
    /// [`Full`] if RAM is in more than [`MAX_RANGES`] pieces.
    pub fn from_firmware(entries: &[Entry]) -> Result<Self, Full> {
        let mut bytes = Ranges::<MAX_RANGES>::new();
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Ram) {
            bytes.insert(span(entry))?;
        }
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Other) {
            bytes.remove(&span(entry))?;
        }
        let mut ram = Ranges::new();
        for range in bytes.iter() {
            let start = range.start.div_ceil(PAGE_SIZE as u64);
            let end = range.end >> PAGE_SHIFT;
            ram.insert(start..end)?;
        }
        let whole = ram.len();
        ram.remove(&(DIRECT_MAP_SIZE >> PAGE_SHIFT..u64::MAX))?;
        let unreachable = whole.saturating_sub(ram.len());
        Ok(Self { ram, unreachable })
    }

    /// The ranges of frame numbers that are RAM, lowest first.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> {
        self.ram.iter()
    }

    /// The same, as a set to take from.
    #[must_use]
    pub fn to_ranges(&self) -> Ranges<MAX_RANGES> {
        self.ram.clone()
    }

    /// How many frames of RAM there are.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.ram.len()
    }

    /// One past the highest frame number that is RAM.
    #[must_use]
    pub fn frame_limit(&self) -> u64 {
        self.ram.end()
    }

    /// How many frames of RAM lie beyond what the direct map can show.
    #[must_use]
    pub fn unreachable_frames(&self) -> u64 {
        self.unreachable
    }
}

/// The bytes that an entry covers, cut at the end of the address space.
fn span(entry: &Entry) -> Range<u64> {
    entry.start..entry.start.saturating_add(entry.len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::iter::once;

    const MIB: u64 = 1 << 20;

    fn ram(start: u64, len: u64) -> Entry {
        Entry {
            start,
            len,
            kind: Kind::Ram,
        }
    }

    fn other(start: u64, len: u64) -> Entry {
        Entry {
            start,
            len,
            kind: Kind::Other,
        }
    }

    #[test]
    fn ram_shrinks_to_whole_frames() {
        let map = MemoryMap::from_firmware(&[ram(0x800, 0x2000)]).unwrap();
        assert!(map.ram().cloned().eq(once(1..2)));
    }

    #[test]
    fn pieces_that_meet_inside_a_frame_lose_nothing() {
        let map = MemoryMap::from_firmware(&[ram(0x1800, 0x1800), ram(0, 0x1800)]).unwrap();
        assert!(map.ram().cloned().eq(once(0..3)));
    }

    #[test]
    fn what_any_entry_reserves_is_not_ram() {
        let map = MemoryMap::from_firmware(&[other(MIB, 0x1001), ram(0, 2 * MIB)]).unwrap();
        assert!(map.ram().cloned().eq([0..256, 258..512]));
        assert_eq!(map.frames(), 510);
    }

    #[test]
    fn a_reserved_range_far_above_does_not_raise_the_limit() {
        let map = MemoryMap::from_firmware(&[ram(0, MIB), other(0xfd_0000_0000, 12 << 30)]).unwrap();
        assert_eq!(map.frame_limit(), 256);
    }

    #[test]
    fn ram_beyond_the_direct_map_is_counted_and_left_out() {
        let map = MemoryMap::from_firmware(&[ram(DIRECT_MAP_SIZE - MIB, 3 * MIB)]).unwrap();
        assert_eq!(map.frames(), 256);
        assert_eq!(map.unreachable_frames(), 512);
    }

    #[test]
    fn an_entry_that_wraps_is_cut_at_the_end_of_the_address_space() {
        let map = MemoryMap::from_firmware(&[ram(0, MIB), other(u64::MAX - 10, 100)]).unwrap();
        assert_eq!(map.frames(), 256);
    }
}
