//! Bytes of a page that others may write at any time.

use core::sync::atomic::AtomicU32;

use bulkhead_abi::layout::PAGE_SIZE;

/// A page, as something to copy from and to: no Rust reference to its bytes exists, but for atomics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    address: usize,
}

/// Bytes that are copied at a time where that can be. What others write meanwhile may be torn anywhere.
const WORD: usize = size_of::<u64>();

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
        // SAFETY: in the page, which is mapped; another domain's concurrent write changes which byte is
        // read, no more.
        let byte_at = |at| unsafe { self.pointer().add(at).read_volatile() };
        let (before, whole) = bytes.split_at_mut(Self::to_word(offset, bytes.len()));
        let begin = offset.saturating_add(before.len());
        for (byte, at) in before.iter_mut().zip(offset..) {
            *byte = byte_at(at);
        }
        let mut end = begin;
        let (words, after) = whole.as_chunks_mut::<WORD>();
        for (word, at) in words.iter_mut().zip((begin..).step_by(WORD)) {
            // SAFETY: the same; it is aligned.
            let read = unsafe { self.pointer().add(at).cast::<u64>().read_volatile() };
            *word = read.to_ne_bytes();
            end = at.saturating_add(WORD);
        }
        for (byte, at) in after.iter_mut().zip(end..) {
            *byte = byte_at(at);
        }
        Some(())
    }

    /// Copies `bytes` into the page from `offset` on; `None`, and nothing copied, if they do not fit.
    pub(crate) fn write(self, offset: usize, bytes: &[u8]) -> Option<()> {
        if !Self::contains(offset, bytes.len()) {
            return None;
        }
        // SAFETY: in the page, which is mapped writable and of which no Rust reference exists.
        let put = |at, byte| unsafe { self.pointer().add(at).write_volatile(byte) };
        let (before, whole) = bytes.split_at(Self::to_word(offset, bytes.len()));
        let begin = offset.saturating_add(before.len());
        for (byte, at) in before.iter().zip(offset..) {
            put(at, *byte);
        }
        let (words, after) = whole.as_chunks::<WORD>();
        let mut end = begin;
        for (word, at) in words.iter().zip((begin..).step_by(WORD)) {
            let word = u64::from_ne_bytes(*word);
            // SAFETY: the same; it is aligned.
            unsafe { self.pointer().add(at).cast::<u64>().write_volatile(word) };
            end = at.saturating_add(WORD);
        }
        for (byte, at) in after.iter().zip(end..) {
            put(at, *byte);
        }
        Some(())
    }

    /// How many of `len` bytes from `offset` on are before the first aligned word.
    fn to_word(offset: usize, len: usize) -> usize {
        offset.next_multiple_of(WORD).saturating_sub(offset).min(len)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);

    #[test]
    fn any_bytes_of_a_page_are_read_and_written_and_no_others() {
        let mut page = Page([0; PAGE_SIZE]);
        let address = (&raw mut page.0).expose_provenance();
        // SAFETY: it is a page, used by nothing but the view until the end.
        let view = unsafe { View::at(address) };
        let new: [u8; 40] = core::array::from_fn(|at| 100 + u8::try_from(at).unwrap());
        let starts = (0..17).chain(PAGE_SIZE - 40..PAGE_SIZE - 23);
        for (start, len) in starts.flat_map(|start| (0..24).map(move |len| (start, len))) {
            view.write(0, &[7; PAGE_SIZE]).unwrap();
            view.write(start, &new[..len]).unwrap();
            let mut all = [0; PAGE_SIZE];
            view.read(0, &mut all).unwrap();
            let mut expected = [7; PAGE_SIZE];
            expected[start..start + len].copy_from_slice(&new[..len]);
            assert!(all == expected, "{len} bytes at {start}");
            let mut part = [0; 40];
            view.read(start, &mut part[..len]).unwrap();
            assert_eq!(part[..len], new[..len], "{len} bytes at {start}");
            assert_eq!(part[len..], [0; 40][len..]);
        }
        assert!(view.write(PAGE_SIZE - 3, &[0; 4]).is_none() && view.read(PAGE_SIZE, &mut [0]).is_none());
    }
}
