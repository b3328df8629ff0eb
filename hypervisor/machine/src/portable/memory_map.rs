//! What of the physical address space is RAM that we may use.
//!
//! Firmware gives a list in any order, with overlaps, and with borders anywhere; UEFI's may have hundreds of
//! entries. A [`Survey`] takes it in piece by piece, and [`MemoryMap::of`] makes whole frames of it: a byte is ours
//! only if some entry says RAM and no entry says anything else. Neither ever fails: a map in more pieces than
//! we have room for costs memory, and never makes RAM of what is none.

use core::ops::Range;

use heapless::Vec;

use super::ranges::{Full, Ranges};
use crate::layout::{DIRECT_MAP_SIZE, PAGE_SHIFT, PAGE_SIZE};

/// Room for ranges of RAM, or of frames that are free.
pub const MAX_RANGES: usize = 128;
/// Most ranges of RAM that a machine may have: what is taken out of RAM later (image, modules, aligned runs of
/// frames) splits ranges, and must find room.
const MAX_PIECES: usize = MAX_RANGES - 32;
/// Room for what is left of as many ranges of RAM when as many other ranges are taken out.
const MAX_DIFFERENCE: usize = 2 * MAX_RANGES;

/// One past the last byte of low memory, which is never handed out: real-mode vectors, BIOS data, and the page that
/// other CPUs start in.
pub const LOW_MEMORY_END: u64 = 1 << 20;

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
    /// How many bytes; an entry that would pass the end of the address space is cut there.
    pub len: u64,
    /// What they are.
    pub kind: Kind,
}

/// What firmware said so far, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    ram: Ranges<MAX_RANGES>,
    other: Ranges<MAX_RANGES>,
}

impl Survey {
    /// A map of the same: no entry is in another, and RAM is what no entry says anything else of.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let entry = |range: &Range<u64>, kind| Entry {
            start: range.start,
            len: span_len(range),
            kind,
        };
        let ram: Vec<Entry, MAX_DIFFERENCE> = difference(self)
            .iter()
            .map(|range| entry(range, Kind::Ram))
            .collect();
        let other = self.other.iter().map(move |range| entry(range, Kind::Other));
        ram.into_iter().chain(other)
    }

    /// All that it knows of, RAM and other, in bytes.
    pub fn described(&self) -> impl Iterator<Item = Range<u64>> {
        self.ram.iter().chain(self.other.iter()).cloned()
    }

    /// Takes in one entry. Where there is no room for one more range, the smallest range of RAM is forgotten, or
    /// the two nearest other ranges become one.
    pub fn note(&mut self, entry: &Entry) {
        let span = entry.start..entry.start.saturating_add(entry.len);
        match entry.kind {
            Kind::Ram => {
                while self.ram.insert(span.clone()).is_err() {
                    let is_smaller = |range: &Range<u64>| span_len(range) < span_len(&span);
                    match self.ram.smallest().filter(is_smaller) {
                        Some(smallest) => drop(self.ram.remove(&smallest)),
                        None => return,
                    }
                }
            }
            Kind::Other => {
                while self.other.insert(span.clone()).is_err() {
                    self.other.close_smallest_gap();
                }
            }
        }
    }
}

/// The machine's RAM in whole frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    ram: Ranges<MAX_RANGES>,
    unreachable: u64,
    scattered: u64,
}

impl MemoryMap {
    /// Makes frames of what firmware said. RAM shrinks to whole frames. What the direct map cannot show is left out,
    /// and so are the smallest ranges if there are too many; both are counted
    /// ([`unreachable_frames`](Self::unreachable_frames), [`scattered_frames`](Self::scattered_frames)).
    #[must_use]
    pub fn of(survey: &Survey) -> Self {
        let mut frames = Ranges::<MAX_DIFFERENCE>::new();
        for range in difference(survey).iter() {
            let start = range.start.div_ceil(PAGE_SIZE as u64);
            let end = range.end >> PAGE_SHIFT;
            // No more ranges than there were of bytes, so there is room.
            let _ = frames.insert(start..end);
        }
        let whole = frames.len();
        // The end of a set can be cut without room for more.
        let _ = frames.remove(&(DIRECT_MAP_SIZE >> PAGE_SHIFT..u64::MAX));
        let reachable = frames.len();
        while frames.iter().len() > MAX_PIECES {
            let Some(smallest) = frames.smallest() else { break };
            // A whole range goes without room for more.
            let _ = frames.remove(&smallest);
        }
        let mut ram = Ranges::new();
        for range in frames.iter() {
            // At most `MAX_PIECES`.
            let _ = ram.insert(range.clone());
        }
        Self {
            unreachable: whole.saturating_sub(reachable),
            scattered: reachable.saturating_sub(ram.len()),
            ram,
        }
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

    /// The frames that may be handed out when those of `taken` may not: RAM but neither them nor low memory.
    ///
    /// # Errors
    ///
    /// [`Full`] if that is in more than [`MAX_RANGES`] pieces, which takes dozens of ranges in `taken`.
    pub fn free_beside(&self, taken: &[Range<u64>]) -> Result<Ranges<MAX_RANGES>, Full> {
        let mut free = self.to_ranges();
        free.remove(&(0..LOW_MEMORY_END >> PAGE_SHIFT))?;
        for frames in taken {
            free.remove(frames)?;
        }
        Ok(free)
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

    /// How many frames of RAM are left out because RAM is in too many pieces.
    #[must_use]
    pub fn scattered_frames(&self) -> u64 {
        self.scattered
    }
}

/// The bytes that are RAM and nothing else.
fn difference(survey: &Survey) -> Ranges<MAX_DIFFERENCE> {
    let mut bytes = Ranges::new();
    for range in survey.ram.iter() {
        // There is room for all of them, and each range that is taken out makes at most one more.
        let _ = bytes.insert(range.clone());
    }
    for range in survey.other.iter() {
        let _ = bytes.remove(range);
    }
    bytes
}

fn span_len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests;
