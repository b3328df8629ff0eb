//! Addresses for frames that are none of this domain's numbered memory: its grant table, what others grant, and what it borrows.
//!
//! The window lies behind the linear mapping. Nothing is mapped there but what is asked for; page tables are made when they are
//! needed, and stay. It has two parts: single pages, of which few are needed, and runs of pages, of which nothing is made before there is
//! need for one.
//!
//! Lock order: window, then heap, then frames.

use alloc::{boxed::Box, vec};
use core::ops::Range;

use bulkhead_abi::{layout::PAGE_SIZE, pte::ENTRIES};
use spin::Mutex;

use super::{
    bitmap::FrameMap,
    frame::{Mfn, Pfn, VIRT_BASE},
    frames,
    tables::WindowTables,
};

/// Where the window begins: 1 GiB above the linear mapping, which ends there.
const BASE: usize = VIRT_BASE + (1 << 30);

/// The level-1 tables that there can be for single pages: 16 MiB of addresses.
const SINGLE: Range<usize> = 0..8;

/// Those for runs: all that one level-2 table has left.
const RUNS: Range<usize> = SINGLE.end..ENTRIES;

static WINDOW: Mutex<Option<Window>> = Mutex::new(None);

/// A page's worth of addresses at which nothing is mapped, or what its owner maps there.
///
/// It is given back with [`WindowPage::release`], when nothing is mapped there again; one that is dropped is lost.
#[derive(Debug)]
#[must_use]
pub(crate) struct WindowPage {
    index: usize,
}

impl WindowPage {
    /// Takes one, or returns `None` if there is none, or no memory for the tables.
    pub(crate) fn take() -> Option<Self> {
        let mut window = WINDOW.lock();
        let Window { tables, single, .. } = window.as_mut()?;
        let index = single.take(tables, 1)?;
        Some(Self { index })
    }

    /// Its address.
    pub(crate) const fn address(&self) -> usize {
        address(self.index)
    }

    /// Gives it back. Nothing must be mapped there.
    pub(crate) fn release(self) {
        if let Some(window) = WINDOW.lock().as_mut() {
            window.single.release(self.index..self.index.saturating_add(1));
        }
    }
}

/// Neighbouring pages' worth of addresses, as [`WindowPage`] is one.
#[derive(Debug)]
#[must_use]
pub(super) struct Run {
    pages: Range<usize>,
}

impl Run {
    /// Takes `count` pages, or returns `None` if there are not so many together, or no memory for the tables.
    pub(super) fn take(count: usize) -> Option<Self> {
        let mut window = WINDOW.lock();
        let Window { tables, runs, .. } = window.as_mut()?;
        let runs = runs.get_or_insert_with(|| Part::new(RUNS));
        let first = runs.take(tables, count)?;
        Some(Self {
            pages: first..first.saturating_add(count),
        })
    }

    /// The run of `count` pages that begins at `address` and was taken; `None` if no run can begin there.
    pub(super) fn at(address: usize, count: usize) -> Option<Self> {
        let first = address.checked_sub(BASE)? / PAGE_SIZE;
        let end = first.checked_add(count)?;
        (first >= RUNS.start * ENTRIES && end <= RUNS.end * ENTRIES).then_some(Self { pages: first..end })
    }

    /// The numbers of its pages in the window.
    pub(super) fn pages(&self) -> Range<usize> {
        self.pages.clone()
    }

    /// Its first address.
    pub(super) const fn address(&self) -> usize {
        address(self.pages.start)
    }

    /// Gives it back. Nothing must be mapped there.
    pub(super) fn release(self) {
        if let Some(runs) = WINDOW.lock().as_mut().and_then(|window| window.runs.as_mut()) {
            runs.release(self.pages);
        }
    }
}

/// The address of page `index` of the window.
pub(super) const fn address(index: usize) -> usize {
    // No overflow: an index is below 512 * 512.
    BASE.wrapping_add(index.wrapping_mul(PAGE_SIZE))
}

/// The frame that page `index` of the window shows.
pub(super) fn shown(index: usize) -> Option<Mfn> {
    WINDOW.lock().as_ref()?.tables.made?.shown(index)
}

/// Opens the window, in the address space whose level-4 table is in frame `top`. Needs the heap.
///
/// # Safety
///
/// `top` must be the level-4 table in use.
pub(super) unsafe fn init(top: Pfn) {
    let single = Part::new(SINGLE);
    *WINDOW.lock() = Some(Window {
        tables: Tables { top, made: None },
        single,
        runs: None,
    });
}

/// The window's tables, and which of its pages are free.
struct Window {
    tables: Tables,
    single: Part,
    /// `None` until there is need for one.
    runs: Option<Part>,
}

/// The window's level-2 table.
struct Tables {
    /// The level-4 table in use.
    top: Pfn,
    /// `None` until there is need for one.
    made: Option<WindowTables>,
}

impl Tables {
    /// Makes the level-1 table with this number, of which there is none.
    fn add(&mut self, number: usize) -> Option<()> {
        let tables = match self.made {
            Some(tables) => tables,
            // SAFETY: `init`'s caller promised that the table is in use; the frame was free.
            None => *self
                .made
                .insert(unsafe { WindowTables::make(self.top, BASE, frames::take(1)?) }?),
        };
        // SAFETY: the frame was free, and nothing is mapped under an entry that was never written.
        unsafe { tables.add_table(frames::take(1)?, number) }.ok()
    }
}

/// Pages of the window that are given out together or singly.
struct Part {
    /// The level-1 tables that are still to be made.
    unmade: Range<usize>,
    /// The number of the first page.
    first: usize,
    /// Counted from the first.
    free: FrameMap,
}

impl Part {
    /// The pages under these level-1 tables, none of which there is. Needs the heap.
    fn new(tables: Range<usize>) -> Self {
        let words = vec![0; FrameMap::words_for(tables.len().saturating_mul(ENTRIES))];
        Self {
            first: tables.start.saturating_mul(ENTRIES),
            unmade: tables,
            free: FrameMap::new(Box::leak(words.into_boxed_slice())),
        }
    }

    /// Takes `count` neighbouring pages, and returns the number of the first.
    fn take(&mut self, tables: &mut Tables, count: usize) -> Option<usize> {
        loop {
            if let Some(first) = self.free.take_run(count) {
                return first.checked_add(self.first);
            }
            let number = self.unmade.next()?;
            tables.add(number)?;
            let first = number.saturating_mul(ENTRIES);
            self.release(first..first.saturating_add(ENTRIES));
        }
    }

    fn release(&mut self, pages: Range<usize>) {
        let from_first = |page: usize| page.saturating_sub(self.first);
        self.free.release(from_first(pages.start)..from_first(pages.end));
    }
}
