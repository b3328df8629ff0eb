//! What one CPU remembers of page tables: translations, and the upper-level entries on the way (paging-structure caches).
//!
//! Nothing leaves the caches but by a flush; hardware may forget earlier, but must not be relied upon to. A lookup
//! starts from the lowest level that is cached, so that it is as stale as hardware may be. Walks set accessed and dirty bits
//! in the tables that they go through, stale ones included. Source: Intel SDM vol. 3A, sections 4.8 and 4.10.

use super::Ram;
use crate::frames::Mfn;
use crate::machine::GuestFault;
use crate::paging::Level;
use crate::paging::entry::{self, is_present, is_writable};
use crate::sync::Ordering;
use alloc::collections::BTreeMap;
use bulkhead_abi::layout::{self, PAGE_SHIFT};
use bulkhead_abi::pte;

/// What a guest wants of an address. Guests run in ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To write it.
    Write,
}

/// What all entries on the way to a page allow together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// It may be written.
    pub writable: bool,
    /// Ring 3 may use it.
    pub user: bool,
}

impl Rights {
    const ALL: Self = Self {
        writable: true,
        user: true,
    };

    const fn through(self, entry: u64) -> Self {
        Self {
            writable: self.writable && is_writable(entry),
            user: self.user && entry & pte::USER != 0,
        }
    }

    const fn allow(self, access: Access) -> bool {
        self.user
            && match access {
                Access::Read => true,
                Access::Write => self.writable,
            }
    }
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The frame that the page is in.
    pub frame: Mfn,
    /// What may be done with it.
    pub rights: Rights,
    /// Whether the dirty bit was set when it was cached; if not, a write walks again.
    pub dirty: bool,
}

/// What is remembered of an address: the table or page that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The first address that it is about.
    pub va: u64,
    /// The level of the entry that was cached: level 1 leads to a page, the others to tables of the next level.
    pub level: Level,
    /// The frame that it leads to.
    pub frame: Mfn,
    /// What it allows.
    pub rights: Rights,
}

/// The caches of one CPU, for one address space.
#[derive(Clone, Debug, Default)]
pub struct Tlb {
    /// How often everything was forgotten.
    pub flushes: u64,
    leaves: BTreeMap<u64, Leaf>,
    /// Entries of levels 2, 3 and 4, by what is left of the address.
    upper: [BTreeMap<u64, (Mfn, Rights)>; 3],
}

/// The levels whose entries are paging-structure cached, lowest first, as [`Tlb::upper`] has them.
const UPPER: [Level; 3] = [Level::L2, Level::L3, Level::L4];

impl Tlb {
    /// Forgets everything.
    pub fn flush(&mut self) {
        *self = Self {
            flushes: self.flushes + 1,
            ..Self::default()
        };
    }

    /// Forgets the translation of the page at `va`; of the upper levels nothing.
    pub fn flush_page(&mut self, va: u64) {
        self.leaves.remove(&(va >> PAGE_SHIFT));
    }

    /// All that is remembered.
    pub fn entries(&self) -> impl Iterator<Item = Cached> + '_ {
        let leaves = self.leaves.iter().map(|(page, leaf)| Cached {
            va: page << PAGE_SHIFT,
            level: Level::L1,
            frame: leaf.frame,
            rights: leaf.rights,
        });
        let upper = UPPER.into_iter().zip(&self.upper).flat_map(|(level, cache)| {
            cache.iter().map(move |(at, &(frame, rights))| Cached {
                va: at << level.shift(),
                level,
                frame,
                rights,
            })
        });
        leaves.chain(upper)
    }

    /// Finds the frame of `va` for a guest that wants `access`, by what is cached or else in the tables under `root`.
    ///
    /// # Errors
    ///
    /// The address, if a guest may not do that.
    ///
    /// # Panics
    ///
    /// If the walk leads through something that is no RAM, or a superpage: no guest can have such tables.
    pub fn translate(&mut self, ram: &Ram, root: Mfn, va: u64, access: Access) -> Result<Mfn, GuestFault> {
        if !layout::is_canonical(va) {
            return Err(GuestFault(va));
        }
        let page = va >> PAGE_SHIFT;
        if let Some(leaf) = self.leaves.get(&page)
            && leaf.rights.allow(access)
            && (leaf.dirty || access == Access::Read)
        {
            return Ok(leaf.frame);
        }
        let (mut level, mut table, mut rights) = self.start(root, va);
        loop {
            let word = &ram.frame(table)[level.index(va)];
            let entry = word.load(Ordering::Relaxed);
            if !is_present(entry) {
                return Err(GuestFault(va));
            }
            let frame = entry::frame(entry);
            rights = rights.through(entry);
            let below = match level {
                Level::L1 => {
                    if !rights.allow(access) {
                        return Err(GuestFault(va));
                    }
                    let dirty = access == Access::Write || entry & pte::DIRTY != 0;
                    let bits = if access == Access::Write { pte::DIRTY } else { 0 };
                    word.fetch_or(pte::ACCESSED | bits, Ordering::Relaxed);
                    let leaf = Leaf { frame, rights, dirty };
                    self.leaves.insert(page, leaf);
                    return Ok(frame);
                }
                Level::L2 => Level::L1,
                Level::L3 => Level::L2,
                Level::L4 => Level::L3,
            };
            assert_eq!(
                entry & pte::PAGE_SIZE_BIT,
                0,
                "a superpage at {va:#x}: {entry:#x}"
            );
            word.fetch_or(pte::ACCESSED, Ordering::Relaxed);
            for (cached, cache) in UPPER.into_iter().zip(&mut self.upper) {
                if cached == level {
                    cache.insert(va >> level.shift(), (frame, rights));
                }
            }
            (level, table) = (below, frame);
        }
    }

    /// Where a walk begins: below the lowest cached entry, or at the root.
    fn start(&self, root: Mfn, va: u64) -> (Level, Mfn, Rights) {
        let below = [Level::L1, Level::L2, Level::L3];
        for ((level, cached), cache) in below.into_iter().zip(UPPER).zip(&self.upper) {
            if let Some(&(table, rights)) = cache.get(&(va >> cached.shift())) {
                return (level, table, rights);
            }
        }
        (Level::L4, root, Rights::ALL)
    }
}
