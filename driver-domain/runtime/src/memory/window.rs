//! Addresses for frames that are none of this domain's memory: its grant table, and what others grant.
//!
//! The window lies behind the linear mapping. Nothing is mapped there but what is asked for; page tables are made when they are
//! needed, and stay.
//!
//! Lock order: window, then frames.

use alloc::{boxed::Box, vec};

use bulkhead_abi::{layout::PAGE_SIZE, pte::ENTRIES};
use spin::Mutex;

use super::{
    bitmap::FrameMap,
    frame::{Pfn, VIRT_BASE},
    frames,
    tables::WindowTables,
};

/// Where the window begins: 1 GiB above the linear mapping, which ends there.
const BASE: usize = VIRT_BASE + (1 << 30);

/// Level-1 tables that there can be: 16 MiB of addresses.
const TABLES: usize = 8;

/// Pages that the window has at most.
pub(crate) const PAGES: usize = TABLES * ENTRIES;

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
        let index = window.as_mut()?.take()?;
        Some(Self { index })
    }

    /// Its address.
    pub(crate) const fn address(&self) -> usize {
        // No overflow: the index is below `PAGES`.
        BASE.wrapping_add(self.index.wrapping_mul(PAGE_SIZE))
    }

    /// Gives it back. Nothing must be mapped there.
    pub(crate) fn release(self) {
        if let Some(window) = WINDOW.lock().as_mut() {
            window.free.release(self.index..self.index.saturating_add(1));
        }
    }
}

/// Opens the window, in the address space whose level-4 table is in frame `top`. Needs the heap.
///
/// # Safety
///
/// `top` must be the level-4 table in use.
pub(super) unsafe fn init(top: Pfn) {
    let words = vec![0; FrameMap::words_for(PAGES)];
    *WINDOW.lock() = Some(Window {
        top,
        tables: None,
        made: 0,
        free: FrameMap::new(Box::leak(words.into_boxed_slice())),
    });
}

/// The window's tables, and which of its pages are free.
struct Window {
    /// The level-4 table in use.
    top: Pfn,
    tables: Option<WindowTables>,
    /// How many level-1 tables there are.
    made: usize,
    free: FrameMap,
}

impl Window {
    fn take(&mut self) -> Option<usize> {
        if self.free.free() == 0 {
            self.grow()?;
        }
        self.free.take_run(1)
    }

    /// Makes another level-1 table.
    fn grow(&mut self) -> Option<()> {
        if self.made >= TABLES {
            return None;
        }
        let tables = match self.tables {
            Some(tables) => tables,
            // SAFETY: `init`'s caller promised that the table is in use; the frame was free.
            None => *self
                .tables
                .insert(unsafe { WindowTables::make(self.top, BASE, frames::take(1)?) }?),
        };
        // SAFETY: the frame was free, and nothing is mapped under an entry that was never written.
        unsafe { tables.add_table(frames::take(1)?, self.made) }.ok()?;
        let first = self.made.saturating_mul(ENTRIES);
        self.made = self.made.saturating_add(1);
        self.free.release(first..first.saturating_add(ENTRIES));
        Some(())
    }
}
