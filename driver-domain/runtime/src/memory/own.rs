//! Pages of this domain's memory that the builder has set aside to be shared: the rings of the console and of xenstore.

use core::sync::atomic::Ordering;

use bulkhead_ring::SharedPage;

use super::{Mfn, View, p2m};

/// Such a page.
#[derive(Clone, Copy, Debug)]
pub struct OwnPage(View);

impl OwnPage {
    /// The page that start_info names by its frame; `None` if it is none of this domain's.
    pub(crate) fn at(mfn: Mfn) -> Option<Self> {
        let pfn = p2m::pseudo_physical_frame(mfn)?;
        // SAFETY: start_info names a page that the builder made for this, between image and page tables: mapped writable for good, and
        // given to nobody by the frame map.
        Some(Self(unsafe { View::at(pfn.address()) }))
    }
}

impl SharedPage for OwnPage {
    fn load(&self, offset: usize) -> u32 {
        load(self.0, offset)
    }

    fn store(&self, offset: usize, value: u32) {
        store(self.0, offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        read(self.0, offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        // What does not fit is not written, as the trait says.
        let _ = self.0.write(offset, from);
    }
}

/// Reads an index.
pub(crate) fn load(view: View, offset: usize) -> u32 {
    // Acquire: the peer's store of the index comes after what it wrote.
    view.word(offset).map_or(0, |word| word.load(Ordering::Acquire))
}

/// Writes an index.
pub(crate) fn store(view: View, offset: usize, value: u32) {
    if let Some(word) = view.word(offset) {
        // Release: what was written, or read, comes before it for the peer's load.
        word.store(value, Ordering::Release);
    }
}

/// Copies bytes out.
pub(crate) fn read(view: View, offset: usize, to: &mut [u8]) {
    if view.read(offset, to).is_none() {
        to.fill(0);
    }
}
