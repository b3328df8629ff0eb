//! Memory in one piece of the machine.

use core::ptr::NonNull;

use super::{
    frame::{Mfn, Pfn, pages_for},
    frames, p2m,
};

/// Neighbouring pages of this domain, owned, whose machine frames are neighbours too: what a device sees in one piece.
///
/// Others may write it at any time, so no Rust reference to its bytes exists. Dropping it gives the frames back.
#[derive(Debug)]
pub struct Contiguous {
    first: Pfn,
    bytes: usize,
    maddr: u64,
}

impl Contiguous {
    /// Takes pages for `bytes` bytes and fills them with zeros; `None` if memory is used up or scattered.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Option<Self> {
        let pages = pages_for(bytes);
        let first = frames::take_contiguous(pages)?;
        let Some(mfn) = p2m::machine_frame(first) else {
            release(first, pages);
            return None;
        };
        let taken = Self {
            first,
            bytes,
            maddr: mfn.maddr(),
        };
        // SAFETY: the frames were free and are mapped writable at neighbouring addresses; they are this value's now.
        unsafe {
            taken
                .start()
                .write_bytes(0, pages.saturating_mul(bulkhead_abi::layout::PAGE_SIZE))
        };
        Some(taken)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its machine address, for as long as it lives.
    #[must_use]
    pub const fn maddr(&self) -> u64 {
        self.maddr
    }

    /// The first of its machine frames, and how many there are.
    pub(crate) const fn machine_frames(&self) -> (Mfn, u64) {
        (Mfn::in_entry(self.maddr), pages_for(self.bytes) as u64)
    }

    /// A pointer to `count` pieces of `size` bytes from `offset` on, aligned to that; `None` if that is no multiple of `size`, or not all of it is in the
    /// memory.
    ///
    /// It may be read and written as long as this lives, by accesses that allow for others' writing.
    pub(crate) fn place(&self, offset: usize, size: usize, count: usize) -> Option<NonNull<u8>> {
        let end = size.checked_mul(count)?.checked_add(offset)?;
        let fits = offset.is_multiple_of(size) && end <= self.bytes;
        fits.then(|| {
            let address = self.first.address().wrapping_add(offset);
            NonNull::new(core::ptr::with_exposed_provenance_mut(address))
        })?
    }

    fn start(&self) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.first.address())
    }
}

impl Drop for Contiguous {
    fn drop(&mut self) {
        release(self.first, pages_for(self.bytes));
    }
}

fn release(first: Pfn, pages: usize) {
    let end = first.raw().saturating_add(pages as u64);
    Pfn::range(first.raw()..end).for_each(frames::release);
}
