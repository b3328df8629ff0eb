//! Partitions by name: the GUID partition table of a disk, read with suspicion.
//!
//! A disk has its table twice, at its beginning and at its end, each with checksums. [`read()`] believes one that is whole: the first, or else the
//! second, with a warning that says what is wrong with the first. A table that is whole and still makes no sense, because its partitions
//! overlap or leave the disk, is refused.
//!
//! Source: UEFI specification 2.10, section 5.3. The parser is our own: the library that would fit, `gpt_disk_types`, brings one under the
//! MPL into the driver domain, and leaves most of these checks to its user.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bulkhead_devices::disk::{Geometry, SECTOR};

use crate::vbd::Extent;

/// The most entries that a table may have; 128 are usual.
pub const MAX_ENTRIES: u32 = 1024;
/// The most bytes that an entry may have; 128 are usual.
pub const MAX_ENTRY: u32 = 4096;
/// The most bytes that all entries may have together.
pub const MAX_TABLE: usize = 256 << 10;
/// The most bytes that are read at once, if the disk's blocks are no larger.
pub const READ_MAX: usize = 4096;

/// Bytes of a sector.
const SECTOR_BYTES: usize = SECTOR as usize;

/// Bytes of a header that are in use.
const HEADER: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name; what is not UTF-16 in it is replaced.
    pub name: String,
    /// Its sectors.
    pub extent: Extent,
}

/// The partitions of a disk, ascending by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    partitions: Vec<Partition>,
    /// What is wrong with the first table, if this is the second.
    pub warning: Option<Damage>,
}

impl Table {
    /// All partitions.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition of this name.
    ///
    /// # Errors
    ///
    /// [`NameError`] if there is none, or more than one.
    pub fn find(&self, name: &str) -> Result<&Partition, NameError> {
        let mut found = self.partitions.iter().filter(|partition| partition.name == name);
        match (found.next(), found.next()) {
            (Some(partition), None) => Ok(partition),
            (Some(_), Some(_)) => Err(NameError::Ambiguous),
            (None, _) => Err(NameError::Unknown),
        }
    }
}

/// Why a name is not that of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No partition has it.
    Unknown,
    /// Several have it.
    Ambiguous,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no partition has this name",
            Self::Ambiguous => "several partitions have this name; each needs its own",
        })
    }
}

impl core::error::Error for NameError {}

/// Why a table is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// There is no header where one should be.
    Missing,
    /// The header is of this revision, not of 1.0.
    Revision(u32),
    /// The header says that it has so many bytes.
    HeaderSize(u32),
    /// The header's checksum is not that of its bytes.
    HeaderChecksum,
    /// The header says that it lies in this block, where it does not.
    Place(u64),
    /// So many entries of so many bytes make no table.
    Entries(u32, u32),
    /// The entries, or the blocks for partitions, are not where they can be.
    Layout,
    /// The entries' checksum is not that of their bytes.
    EntriesChecksum,
    /// Sectors from this one on cannot be read.
    Unreadable(u64),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no header"),
            Self::Revision(revision) => write!(f, "its revision is {revision:#x} and not 0x10000"),
            Self::HeaderSize(bytes) => write!(f, "its header has {bytes} bytes"),
            Self::HeaderChecksum => f.write_str("its header does not match its checksum"),
            Self::Place(block) => write!(f, "its header is meant for block {block}"),
            Self::Entries(count, bytes) => write!(f, "it says it has {count} entries of {bytes} bytes"),
            Self::Layout => f.write_str("its parts lie where they cannot"),
            Self::EntriesChecksum => f.write_str("its entries do not match their checksum"),
            Self::Unreadable(sector) => write!(f, "it cannot be read at sector {sector}"),
        }
    }
}

/// Why a disk has no partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GptError<E> {
    /// Sectors from this one on could not be read, nor some of the other table.
    Read(u64, E),
    /// The disk is too small for a table, or its blocks are of a size that none has.
    Disk,
    /// There is no table on the disk, neither at its beginning nor at its end.
    None,
    /// Neither table is whole: what is wrong with the first, and with the second.
    Damaged(Damage, Damage),
    /// This partition has no sectors, or some that are not for partitions.
    Outside(String),
    /// These two partitions have sectors in common.
    Overlap(String, String),
}

impl<E: fmt::Display> fmt::Display for GptError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(sector, error) => write!(f, "the disk cannot be read at sector {sector}: {error}"),
            Self::Disk => {
                f.write_str("the disk is too small for a partition table, or its blocks are too large")
            }
            Self::None => f.write_str("the disk has no partition table; it needs a GPT"),
            Self::Damaged(first, second) => write!(
                f,
                "both partition tables are damaged: of the first, {first}; of the second, {second}"
            ),
            Self::Outside(name) => {
                write!(f, "partition `{name}` lies where no partition can")
            }
            Self::Overlap(one, other) => {
                write!(f, "partitions `{one}` and `{other}` have sectors in common")
            }
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for GptError<E> {}

/// Reads the table of a disk. `sectors` fills a buffer with what the disk has from a sector on; it is asked for whole logical blocks, and for
/// [`READ_MAX`] bytes or one block at most.
///
/// # Errors
///
/// [`GptError`] says why there are no partitions.
pub async fn read<E>(
    geometry: &Geometry,
    mut sectors: impl AsyncFnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Table, GptError<E>> {
    let disk = Layout::of(geometry).ok_or(GptError::Disk)?;
    let first = match believe(&disk, 1, &mut sectors).await {
        Ok((header, entries)) => return partitions(&disk, &header, &entries, None),
        Err(doubt) => doubt,
    };
    let second = match believe(&disk, disk.last, &mut sectors).await {
        Ok((header, entries)) => return partitions(&disk, &header, &entries, Some(first.damage())),
        Err(doubt) => doubt,
    };
    Err(match (first, second) {
        (Doubt::Read(sector, error), Doubt::Read(..)) => GptError::Read(sector, error),
        (Doubt::Damage(Damage::Missing), Doubt::Damage(Damage::Missing)) => GptError::None,
        (first, second) => GptError::Damaged(first.damage(), second.damage()),
    })
}

/// Why one of the tables is not believed.
enum Doubt<E> {
    Damage(Damage),
    /// Sectors from this one on could not be read.
    Read(u64, E),
}

impl<E> Doubt<E> {
    fn damage(&self) -> Damage {
        match self {
            Self::Damage(damage) => *damage,
            Self::Read(sector, _) => Damage::Unreadable(*sector),
        }
    }
}

/// The disk, in logical blocks.
struct Layout {
    /// Bytes of a block.
    block: usize,
    /// Sectors of a block.
    sectors: u64,
    /// The last block.
    last: u64,
}

impl Layout {
    fn of(geometry: &Geometry) -> Option<Self> {
        let block = geometry.logical_block;
        let sectors = u64::from(block / SECTOR);
        let last = geometry.sectors.checked_div(sectors)?.checked_sub(1)?;
        // Two headers, two tables of a block, and the block that is kept for other systems.
        (block.is_power_of_two() && block <= 1 << 16 && last >= 4).then_some(Self {
            block: block as usize,
            sectors,
            last,
        })
    }
}

/// What a header says, checked.
struct Header {
    entries: u64,
    count: u32,
    entry: u32,
    checksum: u32,
    /// The first and the last block for partitions.
    usable: (u64, u64),
}

impl Header {
    /// Bytes of all entries. Both numbers have been checked.
    fn bytes(&self) -> usize {
        (self.count as usize).saturating_mul(self.entry as usize)
    }
}

/// Reads the header in block `at`, and its entries, if it is whole.
async fn believe<E>(
    disk: &Layout,
    at: u64,
    sectors: &mut impl AsyncFnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(Header, Vec<u8>), Doubt<E>> {
    let mut block = alloc::vec![0; disk.block];
    read_blocks(disk, at, &mut block, sectors).await?;
    let header = check(disk, at, &block).map_err(Doubt::Damage)?;
    let mut entries = alloc::vec![0; blocks_of(&header, disk).saturating_mul(disk.block)];
    read_blocks(disk, header.entries, &mut entries, sectors).await?;
    entries.truncate(header.bytes());
    if crc32fast::hash(&entries) != header.checksum {
        return Err(Doubt::Damage(Damage::EntriesChecksum));
    }
    Ok((header, entries))
}

/// Fills `to` from block `first` on.
async fn read_blocks<E>(
    disk: &Layout,
    first: u64,
    to: &mut [u8],
    sectors: &mut impl AsyncFnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), Doubt<E>> {
    let mut sector = first.saturating_mul(disk.sectors);
    for part in to.chunks_mut(disk.block.max(READ_MAX)) {
        let read = sectors(sector, part).await;
        read.map_err(|error| Doubt::Read(sector, error))?;
        sector = sector.saturating_add((part.len() / SECTOR_BYTES) as u64);
    }
    Ok(())
}

/// Checks the header in block `at`.
fn check(disk: &Layout, at: u64, block: &[u8]) -> Result<Header, Damage> {
    let word = |offset: usize| -> u32 {
        let bytes = block.get(offset..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(*bytes.unwrap_or(&[0; 4]))
    };
    let long = |offset: usize| long(block, offset);
    if block.first_chunk() != Some(SIGNATURE) {
        return Err(Damage::Missing);
    }
    if word(8) != 0x1_0000 {
        return Err(Damage::Revision(word(8)));
    }
    let size = word(12);
    let bytes = block
        .get(..size as usize)
        .filter(|bytes| bytes.len() >= HEADER)
        .ok_or(Damage::HeaderSize(size))?;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(bytes.get(..16).unwrap_or_default());
    checksum.update(&[0; 4]);
    checksum.update(bytes.get(20..).unwrap_or_default());
    if checksum.finalize() != word(16) {
        return Err(Damage::HeaderChecksum);
    }
    if long(24) != at {
        return Err(Damage::Place(long(24)));
    }
    let header = Header {
        entries: long(72),
        count: word(80),
        entry: word(84),
        checksum: word(88),
        usable: (long(40), long(48)),
    };
    let is_entry = (128..=MAX_ENTRY).contains(&header.entry) && header.entry.is_power_of_two();
    if !is_entry || !(1..=MAX_ENTRIES).contains(&header.count) || header.bytes() > MAX_TABLE {
        return Err(Damage::Entries(header.count, header.entry));
    }
    // The entries lie between their header and the partitions' blocks, on either side of these.
    let blocks = blocks_of(&header, disk) as u64;
    let (first, last) = header.usable;
    let end = header.entries.checked_add(blocks).ok_or(Damage::Layout)?;
    let is_there = if at == 1 {
        header.entries >= 2 && end <= first
    } else {
        header.entries > last && end <= at
    };
    if !is_there || first < 2 || first > last || last >= disk.last {
        return Err(Damage::Layout);
    }
    Ok(header)
}

/// Blocks that the entries take.
fn blocks_of(header: &Header, disk: &Layout) -> usize {
    let whole = header.bytes().checked_next_multiple_of(disk.block);
    whole
        .and_then(|bytes| bytes.checked_div(disk.block))
        .unwrap_or(usize::MAX)
}

fn long(bytes: &[u8], offset: usize) -> u64 {
    let bytes = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    u64::from_le_bytes(*bytes.unwrap_or(&[0; 8]))
}

/// The partitions that the entries name.
fn partitions<E>(
    disk: &Layout,
    header: &Header,
    entries: &[u8],
    warning: Option<Damage>,
) -> Result<Table, GptError<E>> {
    let mut partitions = Vec::new();
    for entry in entries.chunks_exact(header.entry as usize) {
        // An entry without a type is not in use.
        if entry.iter().take(16).all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (long(entry, 32), long(entry, 40));
        let name = name(entry.get(56..128).unwrap_or_default());
        if first < header.usable.0 || last > header.usable.1 || first > last {
            return Err(GptError::Outside(name));
        }
        // Both blocks are on the disk, so that their sectors have numbers.
        let sectors = last.saturating_sub(first).saturating_add(1);
        partitions.push(Partition {
            name,
            extent: Extent {
                first: first.saturating_mul(disk.sectors),
                sectors: sectors.saturating_mul(disk.sectors),
            },
        });
    }
    partitions.sort_by_key(|partition| partition.extent.first);
    for pair in partitions.windows(2) {
        if let [one, other] = pair
            && one.extent.overlaps(other.extent)
        {
            return Err(GptError::Overlap(one.name.clone(), other.name.clone()));
        }
    }
    Ok(Table { partitions, warning })
}

/// A name in UTF-16, up to the first zero.
fn name(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes(*unit.first_chunk().unwrap_or(&[0; 2])))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
mod tests;
