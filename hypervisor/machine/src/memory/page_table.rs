//! Page tables of the hypervisor: entries, and the walk that makes them.
//!
//! Key type: [`Table`], a frame that is one of our own page tables. Tables are never freed, and an entry that
//! points to a table is written once, so a walk needs no lock; whoever changes leaf entries after the boot
//! ([`super::window`]) has its own. Guests' page tables are not made here.
//!
//! Source: Intel SDM volume 3A, section 4.5 (4-level paging).

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_machine::layout::{PAGE_SHIFT, word};
use x86_64::structures::paging::PageTableFlags as Flags;

use super::direct;
use super::frames::{BootFrames, OutOfMemory};

/// Bits of an entry that hold the physical address.
pub(crate) const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Rights that every entry starts from. The accessed and dirty bits are set beforehand: nobody reads them, and
/// the CPU need not.
const BASE: Flags = Flags::PRESENT.union(Flags::ACCESSED).union(Flags::DIRTY);

/// Code: read and execute.
pub(crate) const CODE: Flags = BASE;
/// Constants: read.
pub(crate) const READ_ONLY: Flags = BASE.union(Flags::NO_EXECUTE);
/// Data: read and write.
pub(crate) const READ_WRITE: Flags = READ_ONLY.union(Flags::WRITABLE);
/// Data that ring 3 may read.
pub(crate) const USER_READ_ONLY: Flags = READ_ONLY.union(Flags::USER_ACCESSIBLE);
/// Device registers: read and write, uncached (entry 3 of the PAT, see [`crate::cpu::control`]).
pub(crate) const DEVICE: Flags = READ_WRITE.union(Flags::NO_CACHE).union(Flags::WRITE_THROUGH);

/// How much one leaf entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageSize {
    /// 4 KiB, in an L1 table.
    Small,
    /// 2 MiB, in an L2 table.
    Large,
    /// 1 GiB, in an L3 table.
    Huge,
}

impl PageSize {
    /// How many frames it maps.
    pub(crate) const fn frames(self) -> u64 {
        match self {
            Self::Small => 1,
            Self::Large => 1 << 9,
            Self::Huge => 1 << 18,
        }
    }

    /// The level of the table that holds the leaf: 1 to 3.
    const fn level(self) -> u32 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
            Self::Huge => 3,
        }
    }
}

/// Who may use what a table maps, as far as its leaves allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The hypervisor alone.
    Ring0,
    /// Guests too.
    Ring3,
}

/// A page table of ours: a frame of RAM that is used as nothing else for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    frame: u64,
}

impl Table {
    /// A new table without any entry.
    pub(crate) fn new(frames: &mut BootFrames) -> Result<Self, OutOfMemory> {
        Ok(Self {
            frame: frames.take_zeroed()?,
        })
    }

    /// The table that `entry`, a present entry of one of our tables and no leaf, points to.
    pub(crate) const fn of_entry(entry: u64) -> Self {
        Self {
            frame: (entry & ADDRESS_MASK) >> PAGE_SHIFT,
        }
    }

    /// The frame number, for CR3 or another table.
    pub(crate) const fn frame(self) -> u64 {
        self.frame
    }

    /// Its 512 entries. The CPU reads them at any time.
    pub(crate) fn entries(self) -> &'static [AtomicU64; 512] {
        // SAFETY: `new` makes a `Table`, and `of_entry` finds one again: the frame is RAM in the direct map,
        // page-aligned, initialised, and never used for anything else; all access is atomic.
        unsafe { &*direct(self.frame << PAGE_SHIFT).cast() }
    }

    /// The table below the entry for `address` in this table of level `level`, made if it is missing.
    ///
    /// The entry allows writing, whatever the leaves below allow, and ring 3 only if `reach` says so when the
    /// table is made.
    pub(crate) fn child(
        self,
        address: u64,
        level: u32,
        reach: Reach,
        frames: &mut BootFrames,
    ) -> Result<Self, OutOfMemory> {
        let entry = self.entry(address, level);
        // Relaxed: tables are made by the boot CPU alone; others see them when they start.
        let held = Flags::from_bits_retain(entry.load(Ordering::Relaxed));
        if held.contains(Flags::PRESENT) {
            assert!(
                !held.contains(Flags::HUGE_PAGE),
                "{address:#x} is inside a larger page already"
            );
            return Ok(Self::of_entry(held.bits()));
        }
        let table = Self::new(frames)?;
        let rights = Flags::PRESENT | Flags::WRITABLE | Flags::ACCESSED;
        let rights = if reach == Reach::Ring3 {
            rights | Flags::USER_ACCESSIBLE
        } else {
            rights
        };
        entry.store(leaf(table.frame, rights), Ordering::Relaxed);
        Ok(table)
    }

    /// Maps the frames from `frame` at `address` with one leaf entry. This table is an L4. `address` and `frame`
    /// are multiples of the size, and nothing is mapped there yet.
    pub(crate) fn map(
        self,
        address: u64,
        frame: u64,
        size: PageSize,
        rights: Flags,
        frames: &mut BootFrames,
    ) -> Result<(), OutOfMemory> {
        let reach = if rights.contains(Flags::USER_ACCESSIBLE) {
            Reach::Ring3
        } else {
            Reach::Ring0
        };
        let mut table = self;
        for level in (size.level().saturating_add(1)..=4).rev() {
            table = table.child(address, level, reach, frames)?;
        }
        let rights = if size == PageSize::Small {
            rights
        } else {
            rights | Flags::HUGE_PAGE
        };
        let entry = table.entry(address, size.level());
        let before = entry.swap(leaf(frame, rights), Ordering::Relaxed);
        assert!(before == 0, "{address:#x} is mapped already");
        Ok(())
    }

    /// The frame that is shown at `address`, if one is. This table is an L4.
    pub(crate) fn shown(self, address: u64) -> Option<u64> {
        let mut table = self;
        for level in (1..=4_u32).rev() {
            let entry = table.entry(address, level).load(Ordering::Relaxed);
            let flags = Flags::from_bits_retain(entry);
            if !flags.contains(Flags::PRESENT) {
                return None;
            }
            if level == 1 || flags.contains(Flags::HUGE_PAGE) {
                let within = (1_u64 << level.saturating_sub(1).saturating_mul(9)).wrapping_sub(1);
                let first = (entry & ADDRESS_MASK) >> PAGE_SHIFT & !within;
                return Some(first | address >> PAGE_SHIFT & within);
            }
            table = Self::of_entry(entry);
        }
        None
    }

    /// The entry for `address` in this table of level `level` (1 to 4).
    pub(crate) fn entry(self, address: u64, level: u32) -> &'static AtomicU64 {
        let index = word(address >> (level.saturating_mul(9).saturating_add(3)) & 511);
        #[expect(clippy::indexing_slicing, reason = "nine bits index 512 entries")]
        &self.entries()[index]
    }
}

/// An entry for `frame`.
pub(crate) const fn leaf(frame: u64, rights: Flags) -> u64 {
    frame << PAGE_SHIFT | rights.bits()
}
