//! An address space for devices: a tree of tables, as page tables are.
//!
//! A device's address is the machine address itself, if the page is mapped; so [`Space::map`] takes a frame and no address. A table that
//! has become empty stays until the space is destroyed, so that a frame that is lent and taken back over and over costs no more than two stores.
//!
//! The frames of tables are the caller's: it gives zeroed ones and gets them all back.
//!
//! Source: the specification, section 9.8 (second-stage paging entries).

#[cfg(test)]
mod tests;

use bulkhead_core::frames::Mfn;

use super::capabilities::Depth;

/// Entries of a table.
pub const ENTRIES: usize = 512;

/// Entry: reading is allowed, as far as lower tables allow it.
const READ: u64 = 1 << 0;
/// Entry: writing is.
const WRITE: u64 = 1 << 1;
/// Where an entry has its frame.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a device may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Self::ReadOnly => READ,
            Self::ReadWrite => READ | WRITE,
        }
    }
}

/// What a change found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The page was not mapped.
    Absent,
    /// It was mapped as it is now.
    Same,
    /// It was mapped, and the unit may still know it so.
    Other,
}

/// Why a page could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There was no frame for a table.
    NoMemory,
    /// The frame lies beyond what the space reaches.
    OutOfReach,
}

/// Access to the memory of tables. Units read it at any time.
pub trait TableMemory {
    /// Reads an entry.
    fn load(&self, table: Mfn, index: usize) -> u64;

    /// Writes an entry, for units to see.
    fn store(&self, table: Mfn, index: usize, entry: u64);

    /// Lets units see a table that was filled with zeros.
    fn publish(&self, table: Mfn);
}

/// Where frames for tables come from: zeroed, and used for nothing else.
pub type Frames<'a> = &'a mut dyn FnMut() -> Option<Mfn>;

/// An address space.
#[derive(Debug)]
pub struct Space {
    top: Mfn,
    depth: Depth,
}

impl Space {
    /// A space in which nothing is mapped, or `None` if there is no frame for its table.
    pub fn new(memory: &impl TableMemory, depth: Depth, frames: Frames<'_>) -> Option<Self> {
        let top = frames()?;
        memory.publish(top);
        Some(Self { top, depth })
    }

    /// Its first table.
    #[must_use]
    pub const fn top(&self) -> Mfn {
        self.top
    }

    /// Lets devices access a frame. Says how they could before.
    ///
    /// # Errors
    ///
    /// [`MapError`]; devices can do what they could before.
    pub fn map(
        &self,
        memory: &impl TableMemory,
        frame: Mfn,
        access: Access,
        frames: Frames<'_>,
    ) -> Result<Before, MapError> {
        if !self.reaches(frame) {
            return Err(MapError::OutOfReach);
        }
        let mut table = self.top;
        for level in (2..=self.depth.levels()).rev() {
            let index = index(frame, level);
            table = match child(memory.load(table, index)) {
                Some(below) => below,
                None => {
                    let below = frames().ok_or(MapError::NoMemory)?;
                    // What it holds is seen before it is.
                    memory.publish(below);
                    memory.store(table, index, below.maddr() | READ | WRITE);
                    below
                }
            };
        }
        let entry = frame.maddr() | access.bits();
        let before = memory.load(table, index(frame, 1));
        if before == entry {
            return Ok(Before::Same);
        }
        memory.store(table, index(frame, 1), entry);
        Ok(if before == 0 {
            Before::Absent
        } else {
            Before::Other
        })
    }

    /// Takes a frame from devices, and says whether they had it. They may use it until the units have forgotten it.
    #[must_use]
    pub fn unmap(&self, memory: &impl TableMemory, frame: Mfn) -> bool {
        let Some((table, index)) = self.leaf(memory, frame) else {
            return false;
        };
        memory.store(table, index, 0);
        true
    }

    /// Gives at most `limit` tables back, and says whether that were all of them: the space is gone then. It does nothing but give back from
    /// the first call on. No unit may use the tables.
    pub fn take_apart(&self, memory: &impl TableMemory, limit: usize, give: &mut dyn FnMut(Mfn)) -> bool {
        let mut left = limit;
        release(memory, self.top, self.depth.levels(), &mut left, give)
    }

    /// The entry of a frame that is mapped.
    fn leaf(&self, memory: &impl TableMemory, frame: Mfn) -> Option<(Mfn, usize)> {
        if !self.reaches(frame) {
            return None;
        }
        let mut table = self.top;
        for level in (2..=self.depth.levels()).rev() {
            table = child(memory.load(table, index(frame, level)))?;
        }
        let index = index(frame, 1);
        child(memory.load(table, index)).map(|_| (table, index))
    }

    fn reaches(&self, frame: Mfn) -> bool {
        frame.maddr() >> self.depth.address_bits() == 0
    }
}

/// What an entry leads to, if it leads anywhere.
fn child(entry: u64) -> Option<Mfn> {
    (entry & (READ | WRITE) != 0).then(|| Mfn::from_maddr(entry & ADDRESS))
}

/// Where a table of level `level` has the entry for a frame.
#[expect(clippy::cast_possible_truncation, reason = "it has nine bits")]
const fn index(frame: Mfn, level: u32) -> usize {
    (frame.raw() >> level.saturating_sub(1).saturating_mul(9)) as usize & (ENTRIES - 1)
}

/// Gives the tables below `table`, and then itself, as long as `left` is not used up. Says whether `table` is gone.
///
/// It calls itself as deep as there are levels.
fn release(
    memory: &impl TableMemory,
    table: Mfn,
    level: u32,
    left: &mut usize,
    give: &mut dyn FnMut(Mfn),
) -> bool {
    if level > 1 {
        for index in 0..ENTRIES {
            if let Some(below) = child(memory.load(table, index)) {
                if !release(memory, below, level.saturating_sub(1), left, give) {
                    return false;
                }
                memory.store(table, index, 0);
            }
        }
    }
    match left.checked_sub(1) {
        Some(fewer) => *left = fewer,
        None => return false,
    }
    give(table);
    true
}
