//! Bytes of a page that others may write at any time.

use core::sync::atomic::AtomicU32;

use bulkhead_abi::layout::PAGE_SIZE;

/// A page, as something to copy from and to: no Rust reference to its bytes exists, but for atomics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    address: usize,
}

impl View {
    /// The page at `address`.
    ///
    /// # Safety
    ///
    /// The address is a page's. For as long as this or anything from it is used, the page is mapped, and nobody has a reference to its
    /// bytes but through a view. It is mapped writable if [`View::write`] is used, or a [`View::word`] written.
    pub(crate) const unsafe fn at(address: usize) -> Self {
        Self { address }
    }

    /// The word at `offset`, or `None` if it is not aligned or not in the page. It lives as long as the page is mapped.
    pub(crate) fn word<'a>(self, offset: usize) -> Option<&'a AtomicU32> {
        let fits = offset.is_multiple_of(size_of::<u32>()) && Self::contains(offset, size_of::<u32>());
        // SAFETY: aligned and in the page, which is mapped, as `at`'s caller promised; all access to it is atomic or volatile, by other
        // domains too.
        fits.then(|| unsafe { AtomicU32::from_ptr(self.pointer().add(offset).cast()) })
    }

    /// Copies the bytes from `offset` on into `bytes`; `None`, and nothing copied, if they leave the page.
    pub(crate) fn read(self, offset: usize, bytes: &mut [u8]) -> Option<()> {
        if !Self::contains(offset, bytes.len()) {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip(offset..) {
            // SAFETY: in the page, which is mapped; another domain's concurrent write changes which byte is
            // read, no more.
            *byte = unsafe { self.pointer().add(at).read_volatile() };
        }
        Some(())
    }

    /// Copies `bytes` into the page from `offset` on; `None`, and nothing copied, if they do not fit.
    pub(crate) fn write(self, offset: usize, bytes: &[u8]) -> Option<()> {
        if !Self::contains(offset, bytes.len()) {
            return None;
        }
        for (byte, at) in bytes.iter().zip(offset..) {
            // SAFETY: in the page, which is mapped writable and of which no Rust reference exists.
            unsafe { self.pointer().add(at).write_volatile(*byte) };
        }
        Some(())
    }

    const fn contains(offset: usize, len: usize) -> bool {
        match offset.checked_add(len) {
            Some(end) => end <= PAGE_SIZE,
            None => false,
        }
    }

    fn pointer(self) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.address)
    }
}
