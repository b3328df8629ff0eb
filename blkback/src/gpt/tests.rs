//! Tables as other tools write them, damaged ones, and any bytes.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use embassy_futures::block_on;
use proptest::prelude::*;

use super::*;

/// A disk of blocks of 512 bytes or more.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    block: usize,
}

const BLOCKS: usize = 8192;
const ENTRIES_BYTES: usize = 128 * 128;

fn geometry(image: &Image) -> Geometry {
    Geometry {
        sectors: (image.bytes.len() / 512) as u64,
        logical_block: image.block as u32,
        physical_block: image.block as u32,
        read_only: false,
        write_cache: false,
        discard: None,
        max_segments: 1,
        max_sectors: 8,
        depth: 1,
    }
}

impl Image {
    /// A disk with both tables and these partitions: name, first and last block.
    fn new(block: usize, partitions: &[(&str, u64, u64)]) -> Self {
        let mut image = Self {
            bytes: vec![0; BLOCKS * block],
            block,
        };
        let mut entries = vec![0; ENTRIES_BYTES];
        for ((name, first, last), entry) in partitions.iter().zip(entries.chunks_mut(128)) {
            entry[..16].fill(7);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (unit, to) in name.encode_utf16().zip(entry[56..].chunks_mut(2)) {
                to.copy_from_slice(&unit.to_le_bytes());
            }
        }
        image.put_tables(&entries);
        image
    }

    fn put_tables(&mut self, entries: &[u8]) {
        let table = ENTRIES_BYTES.div_ceil(self.block);
        let last = BLOCKS - 1;
        for (at, other, start) in [(1, last, 2), (last, 1, last - table)] {
            let put = |image: &mut Self, offset: usize, bytes: &[u8]| {
                let from = at * image.block + offset;
                image.bytes[from..from + bytes.len()].copy_from_slice(bytes);
            };
            put(self, 0, b"EFI PART");
            put(self, 8, &[0, 0, 1, 0, 92, 0, 0, 0]);
            put(self, 24, &(at as u64).to_le_bytes());
            put(self, 32, &(other as u64).to_le_bytes());
            put(self, 40, &(table as u64 + 2).to_le_bytes());
            put(self, 48, &((last - table - 1) as u64).to_le_bytes());
            put(self, 72, &(start as u64).to_le_bytes());
            put(self, 80, &[128, 0, 0, 0, 128, 0, 0, 0]);
            put(self, 88, &crc32fast::hash(entries).to_le_bytes());
            let from = start * self.block;
            self.bytes[from..from + entries.len()].copy_from_slice(entries);
            self.seal(at);
        }
    }

    /// Makes the checksum of a header match its bytes.
    fn seal(&mut self, at: usize) {
        let header = &mut self.bytes[at * self.block..][..92];
        header[16..20].fill(0);
        let checksum = crc32fast::hash(header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Overwrites bytes in a block, and nothing else.
    fn damage(&mut self, at: usize, offset: usize, bytes: &[u8]) {
        let from = at * self.block + offset;
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&self) -> Result<Table, GptError<&'static str>> {
        block_on(read(&geometry(self), async |sector: u64, to: &mut [u8]| {
            assert!(to.len() <= READ_MAX.max(self.block));
            assert!(to.len().is_multiple_of(self.block));
            let from = usize::try_from(sector).unwrap() * 512;
            to.copy_from_slice(&self.bytes[from..from + to.len()]);
            Ok(())
        }))
    }
}

fn guid(a: u32, b: u16, c: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = a.to_le_bytes().to_vec();
    bytes.extend(b.to_le_bytes());
    bytes.extend(c.to_le_bytes());
    bytes.extend(rest);
    bytes
}

const TWO: &[(&str, u64, u64)] = &[("web-data", 2048, 4095), ("log", 40, 47)];

fn names(table: &Table) -> Vec<(&str, u64, u64)> {
    let partitions = table.partitions().iter();
    partitions
        .map(|p| (p.name.as_str(), p.extent.first, p.extent.sectors))
        .collect()
}

#[test]
fn a_table_that_another_tool_made_is_read() {
    // Fields and both checksums are those of the example of the Rust library `gpt_disk_types`.
    let mut image = Image::new(512, &[]);
    let mut entries = vec![0; ENTRIES_BYTES];
    let kind = guid(0xccf0_994f, 0xf7e0, 0x4e26, b"\xa0\x11\x84\x3e\x38\xaa\x2e\xac");
    let unique = guid(0x37c7_5ffd, 0x8932, 0x467a, b"\x9c\x56\x8c\xf1\xf0\x45\x6b\x12");
    let disk = guid(0x57a7_feb6, 0x8cd5, 0x4922, b"\xb7\xbd\xc7\x8b\x09\x14\xe8\x70");
    entries[..16].copy_from_slice(&kind);
    entries[16..32].copy_from_slice(&unique);
    entries[32..40].copy_from_slice(&2048_u64.to_le_bytes());
    entries[40..48].copy_from_slice(&4096_u64.to_le_bytes());
    for (unit, to) in "hello world!".encode_utf16().zip(entries[56..128].chunks_mut(2)) {
        to.copy_from_slice(&unit.to_le_bytes());
    }
    image.put_tables(&entries);
    image.damage(1, 56, &disk);
    image.damage(1, 16, &0xa487_7843_u32.to_le_bytes());
    image.damage(1, 88, &0x9206_adff_u32.to_le_bytes());
    let table = image.read().unwrap();
    assert_eq!(table.warning, None, "both checksums are right");
    assert_eq!(names(&table), [("hello world!", 2048, 2049)]);
}

#[test]
fn partitions_are_found_by_name_whatever_the_size_of_a_block() {
    for block in [512, 4096] {
        let image = Image::new(block, TWO);
        let table = image.read().unwrap();
        let sectors = block as u64 / 512;
        assert_eq!(
            names(&table),
            [
                ("log", 40 * sectors, 8 * sectors),
                ("web-data", 2048 * sectors, 2048 * sectors)
            ]
        );
        assert_eq!(table.find("log").unwrap().extent.first, 40 * sectors);
        assert_eq!(table.find("lo"), Err(NameError::Unknown));
    }
    let twice = Image::new(512, &[("a", 40, 41), ("a", 50, 51)]);
    assert_eq!(twice.read().unwrap().find("a"), Err(NameError::Ambiguous));
}

#[test]
fn a_damaged_first_table_is_replaced_by_the_second_with_a_warning() {
    let damages: [(usize, usize, &[u8], Damage, bool); 8] = [
        (1, 0, b"F", Damage::Missing, false),
        (1, 60, b"x", Damage::HeaderChecksum, false),
        (2, 60, b"x", Damage::EntriesChecksum, false),
        (1, 10, &[2], Damage::Revision(0x2_0000), true),
        (1, 12, &[91], Damage::HeaderSize(91), true),
        (1, 24, &[2], Damage::Place(2), true),
        (1, 80, &[0], Damage::Entries(0, 128), true),
        (1, 40, &[33], Damage::Layout, true),
    ];
    for (block, offset, bytes, damage, is_sealed) in damages {
        let mut image = Image::new(512, TWO);
        image.damage(block, offset, bytes);
        if is_sealed {
            image.seal(1);
        }
        let table = image.read().unwrap();
        assert_eq!(table.warning, Some(damage));
        assert_eq!(names(&table), names(&Image::new(512, TWO).read().unwrap()));
    }
}

#[test]
fn without_a_whole_table_there_are_no_partitions() {
    let mut image = Image::new(512, TWO);
    image.damage(1, 60, b"x");
    image.damage(BLOCKS - 2, 0, b"x");
    let error = image.read().unwrap_err();
    assert_eq!(
        error,
        GptError::Damaged(Damage::HeaderChecksum, Damage::EntriesChecksum)
    );
    assert_eq!(
        error.to_string(),
        "both partition tables are damaged: of the first, its header does not match its checksum; \
         of the second, its entries do not match their checksum"
    );
    image.bytes.fill(0);
    assert_eq!(image.read(), Err(GptError::None));
    image.bytes.truncate(512 * 4);
    assert_eq!(image.read(), Err(GptError::Disk));
}

#[test]
fn partitions_that_overlap_or_leave_their_place_are_refused() {
    let refused = |partitions: &[(&str, u64, u64)]| Image::new(512, partitions).read().unwrap_err();
    assert_eq!(
        refused(&[("b", 47, 50), ("a", 40, 47)]),
        GptError::Overlap("a".into(), "b".into())
    );
    let outside = GptError::Outside("a".into());
    assert_eq!(refused(&[("a", 33, 40)]), outside, "the table itself");
    assert_eq!(
        refused(&[("a", 40, BLOCKS as u64 - 33)]),
        outside,
        "the second table"
    );
    assert_eq!(refused(&[("a", 40, 39)]), outside);
    assert_eq!(refused(&[("a", u64::MAX, u64::MAX)]), outside);
}

/// What is read of a disk with two partitions that cannot be read at these sectors.
fn unreadable(bad: &[u64]) -> Result<Table, GptError<&'static str>> {
    let image = Image::new(512, TWO);
    block_on(read(&geometry(&image), async |sector: u64, to: &mut [u8]| {
        let sectors = sector..sector + to.len() as u64 / 512;
        if bad.iter().any(|bad| sectors.contains(bad)) {
            return Err("broken");
        }
        to.copy_from_slice(&image.bytes[sector as usize * 512..][..to.len()]);
        Ok(())
    }))
}

#[test]
fn a_table_that_cannot_be_read_is_replaced_by_the_second_one() {
    let whole = unreadable(&[]).unwrap();
    for (bad, told) in [(1, 1), (2, 2), (33, 26)] {
        let table = unreadable(&[bad]).unwrap();
        assert_eq!(table.partitions(), whole.partitions());
        assert_eq!(table.warning, Some(Damage::Unreadable(told)));
    }
}

#[test]
fn a_disk_that_cannot_be_read_says_where() {
    let last = BLOCKS as u64 - 1;
    assert_eq!(unreadable(&[2, last]), Err(GptError::Read(2, "broken")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_of_any_content_are_read_without_harm(
        bytes in prop::collection::btree_map(0..92_usize, any::<u8>(), 0..6),
        entries in prop::collection::btree_map(0..512_usize, any::<u8>(), 0..6),
        at_the_end: bool,
    ) {
        let mut image = Image::new(512, TWO);
        let put = |image: &mut Image, block, bytes: &BTreeMap<usize, u8>| {
            for (offset, byte) in bytes {
                image.damage(block, *offset, &[*byte]);
            }
        };
        let (header, table) = if at_the_end { (BLOCKS - 1, BLOCKS - 33) } else { (1, 2) };
        put(&mut image, table, &entries);
        let checksum = crc32fast::hash(&image.bytes[table * 512..][..ENTRIES_BYTES]);
        image.damage(header, 88, &checksum.to_le_bytes());
        put(&mut image, header, &bytes);
        image.seal(header);
        if at_the_end {
            image.damage(1, 0, b"F");
        }
        if let Ok(table) = image.read() {
            for partition in table.partitions() {
                let end = partition.extent.first + partition.extent.sectors;
                prop_assert!(partition.extent.first >= 34 && end <= BLOCKS as u64 - 33);
            }
        }
    }
}
