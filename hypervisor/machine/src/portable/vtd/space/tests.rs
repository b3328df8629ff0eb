//! The tree of tables beside a plain list of pages.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

extern crate std;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Tables, the entries that a unit sees of them, and who has which frame.
#[derive(Default)]
struct Tables {
    entries: RefCell<BTreeMap<(Mfn, usize), u64>>,
    published: RefCell<BTreeSet<Mfn>>,
}

impl TableMemory for Tables {
    fn load(&self, table: Mfn, index: usize) -> u64 {
        assert!(self.published.borrow().contains(&table), "{table:?} is no table");
        self.entries.borrow().get(&(table, index)).copied().unwrap_or(0)
    }

    fn store(&self, table: Mfn, index: usize, entry: u64) {
        assert!(self.published.borrow().contains(&table), "{table:?} is no table");
        self.entries.borrow_mut().insert((table, index), entry);
    }

    fn publish(&self, table: Mfn) {
        assert!(
            self.published.borrow_mut().insert(table),
            "{table:?} is a table already"
        );
    }
}

impl Tables {
    /// What a device may do at an address, by the bits of the entries on the way.
    fn walk(&self, space: &Space, address: u64) -> (u64, bool, bool) {
        let (mut table, mut can_read, mut can_write) = (space.top(), true, true);
        for level in (1..=space.depth.levels()).rev() {
            let index = (address >> (12 + 9 * (level - 1))) & 511;
            let entry = self.load(table, usize::try_from(index).unwrap());
            can_read &= entry & 1 != 0;
            can_write &= entry & 2 != 0;
            if entry & 3 == 0 {
                return (0, false, false);
            }
            table = Mfn::from_maddr(entry & !0xfff);
        }
        (table.maddr() | address & 0xfff, can_read, can_write)
    }
}

/// Frames for tables, counted from one on.
struct Supply {
    next: u32,
    left: usize,
}

impl Supply {
    const fn of(left: usize) -> Self {
        Self { next: 1, left }
    }

    fn take(&mut self) -> Option<Mfn> {
        self.left = self.left.checked_sub(1)?;
        self.next += 1;
        Some(Mfn::from_u32(self.next))
    }
}

fn new(tables: &Tables, depth: Depth, supply: &mut Supply) -> Space {
    Space::new(tables, depth, &mut || supply.take()).unwrap()
}

const SOME: Mfn = Mfn::from_u32(0x12345);

#[test]
fn a_device_reaches_what_is_mapped_and_nothing_else() {
    for depth in Depth::ALL {
        let (tables, mut supply) = (Tables::default(), Supply::of(9));
        let space = new(&tables, depth, &mut supply);
        let before = space.map(&tables, SOME, Access::ReadOnly, &mut || supply.take());
        assert_eq!(before, Ok(Before::Absent));
        assert_eq!(tables.walk(&space, 0x1234_5678), (0x1234_5678, true, false));
        for other in [0x1234_4fff, 0x1234_6000, 0, 0x40_1234_5678] {
            assert_eq!(tables.walk(&space, other), (0, false, false), "{other:#x}");
        }
    }
}

#[test]
fn another_access_replaces_the_first() {
    let (tables, mut supply) = (Tables::default(), Supply::of(9));
    let space = new(&tables, Depth::Three, &mut supply);
    let mut map = |access| space.map(&tables, SOME, access, &mut || supply.take());
    assert_eq!(map(Access::ReadWrite), Ok(Before::Absent));
    assert_eq!(map(Access::ReadWrite), Ok(Before::Same));
    assert_eq!(map(Access::ReadOnly), Ok(Before::Other));
    assert_eq!(tables.walk(&space, SOME.maddr()), (SOME.maddr(), true, false));
    assert!(space.unmap(&tables, SOME));
    assert!(!space.unmap(&tables, SOME));
    assert_eq!(tables.walk(&space, SOME.maddr()), (0, false, false));
}

#[test]
fn a_frame_beyond_the_reach_is_refused() {
    for (depth, first_beyond) in [(Depth::Three, 1 << 27), (Depth::Four, 1 << 36)] {
        let (tables, mut supply) = (Tables::default(), Supply::of(9));
        let space = new(&tables, depth, &mut supply);
        let mut map = |raw| {
            let frame = Mfn::new(raw).unwrap();
            (
                space.map(&tables, frame, Access::ReadOnly, &mut || supply.take()),
                frame,
            )
        };
        assert_eq!(map(first_beyond - 1).0, Ok(Before::Absent));
        let (result, frame) = map(first_beyond);
        assert_eq!(result, Err(MapError::OutOfReach));
        assert!(!space.unmap(&tables, frame));
    }
}

#[test]
fn want_of_memory_leaves_what_is_mapped_and_loses_no_frame() {
    let (tables, mut supply) = (Tables::default(), Supply::of(4));
    let space = new(&tables, Depth::Three, &mut supply);
    // The second needs two tables, of which one is left.
    let other = Mfn::from_u32(1 << 18);
    for (frame, expected) in [(SOME, Ok(Before::Absent)), (other, Err(MapError::NoMemory))] {
        assert_eq!(
            space.map(&tables, frame, Access::ReadOnly, &mut || supply.take()),
            expected
        );
    }
    assert_eq!(tables.walk(&space, SOME.maddr()), (SOME.maddr(), true, false));
    assert_eq!(tables.walk(&space, other.maddr()), (0, false, false));
    let mut back = 0;
    assert!(space.take_apart(&tables, usize::MAX, &mut |_| back += 1));
    assert_eq!(back, 4);
}

proptest! {
    #[test]
    fn the_tables_say_what_a_plain_list_says(
        is_deep: bool,
        steps in prop::collection::vec((0..1u64 << 27, 0..3u8, any::<bool>()), 1..60),
    ) {
        let depth = if is_deep { Depth::Four } else { Depth::Three };
        let (tables, mut supply) = (Tables::default(), Supply::of(1000));
        let space = new(&tables, depth, &mut supply);
        let mut list: BTreeMap<u64, Access> = BTreeMap::new();
        let mut frames = BTreeSet::new();
        for (raw, what, is_near) in steps {
            // Near ones meet each other.
            let raw = if is_near { raw & 0x203 } else { raw };
            let frame = Mfn::new(raw).unwrap();
            frames.insert(raw);
            let access = match what {
                0 => {
                    prop_assert_eq!(space.unmap(&tables, frame), list.remove(&raw).is_some());
                    continue;
                }
                1 => Access::ReadOnly,
                _ => Access::ReadWrite,
            };
            let expected = match list.insert(raw, access) {
                None => Before::Absent,
                Some(before) if before == access => Before::Same,
                Some(_) => Before::Other,
            };
            prop_assert_eq!(space.map(&tables, frame, access, &mut || supply.take()), Ok(expected));
        }
        for raw in frames {
            let expected = match list.get(&raw) {
                None => (0, false, false),
                Some(access) => (raw << 12, true, *access == Access::ReadWrite),
            };
            prop_assert_eq!(tables.walk(&space, raw << 12), expected);
        }
    }

    #[test]
    fn every_table_comes_back_once_however_often_it_is_interrupted(
        frames in prop::collection::vec(0..1u64 << 27, 0..60),
        limit in 1..20_usize,
    ) {
        let (tables, mut supply) = (Tables::default(), Supply::of(1000));
        let space = new(&tables, Depth::Three, &mut supply);
        for raw in frames {
            let frame = Mfn::new(raw).unwrap();
            space.map(&tables, frame, Access::ReadOnly, &mut || supply.take()).unwrap();
        }
        let mut back = BTreeSet::new();
        loop {
            let mut given = 0;
            let is_done = space.take_apart(&tables, limit, &mut |table| {
                given += 1;
                assert!(back.insert(table), "{table:?} comes back twice");
            });
            assert!(given <= limit && (is_done || given == limit));
            if is_done {
                break;
            }
        }
        prop_assert_eq!(back, tables.published.take());
    }
}
