//! Addresses for frames that are none of this domain's numbered memory: its grant table, what others grant, and what it borrows.
//!
//! The window lies behind the linear mapping. Nothing is mapped there but what is asked for; page tables are made when they are
//! needed, and stay. It has two parts: small pieces, of which few are needed, and runs of pages, of which nothing is made before there is
//! need for one.
//!
//! Lock order: heap, then window, then frames. The heap is needed under the window's lock only before anything of the heap needs a run.

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

/// Those for runs that are blocks of memory, each by itself: 752 MiB.
const BLOCKS: Range<usize> = SINGLE.end..384;

/// Those for runs that the heap grows by: all that one level-2 table has left but for the last, behind which there are no addresses.
const HEAP: Range<usize> = BLOCKS.end..ENTRIES - 1;

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

/// Neighbouring pages' worth of such addresses, given back in the same way.
#[derive(Debug)]
#[must_use]
pub(crate) struct WindowPages(Range<usize>);

impl WindowPages {
    /// Takes `count` pages, or returns `None` if there are not so many together, or no memory for the tables.
    pub(crate) fn take(count: usize) -> Option<Self> {
        let mut window = WINDOW.lock();
        let Window { tables, single, .. } = window.as_mut()?;
        let first = single.take(tables, count)?;
        Some(Self(first..first.saturating_add(count)))
    }

    /// The address of the first.
    pub(crate) const fn address(&self) -> usize {
        address(self.0.start)
    }

    /// The addresses of all.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = usize> + use<> {
        self.0.clone().map(address)
    }

    /// Gives them back. Nothing must be mapped there.
    pub(crate) fn release(self) {
        if let Some(window) = WINDOW.lock().as_mut() {
            window.single.release(self.0);
        }
    }
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A block of memory that goes when it is no longer used.
    Block,
    /// The heap, for good.
    Heap,
}

/// Neighbouring pages' worth of addresses, as [`WindowPage`] is one.
#[derive(Debug)]
#[must_use]
pub(super) struct Run {
    pages: Range<usize>,
}

impl Run {
    /// Takes `count` pages, or returns `None` if there are not so many together, no memory for the tables, or none are [allowed](Self::allow).
    pub(super) fn take(what_for: Use, count: usize) -> Option<Self> {
        let mut window = WINDOW.lock();
        let Window { tables, runs, .. } = window.as_mut()?;
        let [blocks, heap] = runs.as_mut()?;
        let part = match what_for {
            Use::Block => blocks,
            Use::Heap => heap,
        };
        let first = part.take(tables, count)?;
        Some(Self {
            pages: first..first.saturating_add(count),
        })
    }

    /// Has there be runs, from now on. Needs the heap.
    pub(super) fn allow() {
        if let Some(window) = WINDOW.lock().as_mut() {
            window.runs.get_or_insert_with(|| [BLOCKS, HEAP].map(Part::new));
        }
    }

    /// The run of `count` pages that begins at `address` and is a block; `None` if no block can begin there.
    pub(super) fn at(address: usize, count: usize) -> Option<Self> {
        let first = address.checked_sub(BASE)? / PAGE_SIZE;
        let end = first.checked_add(count)?;
        (first >= BLOCKS.start * ENTRIES && end <= BLOCKS.end * ENTRIES).then_some(Self { pages: first..end })
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
        let mut window = WINDOW.lock();
        for part in window
            .as_mut()
            .into_iter()
            .flat_map(|window| window.runs.iter_mut())
            .flatten()
        {
            // Pages that are none of a part's are nothing to it.
            part.release(self.pages.clone());
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
    /// `None` until they are allowed.
    runs: Option<[Part; 2]>,
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
        let unmade = self.unmade.len().saturating_mul(ENTRIES);
        if count > self.free.free().saturating_add(unmade) {
            return None;
        }
        loop {
            if let Some(first) = self.free.take_run(count) {
                return first.checked_add(self.first);
            }
            let number = self.unmade.clone().next()?;
            tables.add(number)?;
            self.unmade.start = number.saturating_add(1);
            let first = number.saturating_mul(ENTRIES);
            self.release(first..first.saturating_add(ENTRIES));
        }
    }

    fn release(&mut self, pages: Range<usize>) {
        let from_first = |page: usize| page.saturating_sub(self.first);
        self.free.release(from_first(pages.start)..from_first(pages.end));
    }
}
