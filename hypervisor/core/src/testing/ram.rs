//! Simulated RAM: frames below a limit, with holes as real machines have them.

use crate::frames::Mfn;
use crate::machine::FrameWords;
use crate::sync::{AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_abi::layout::PAGE_SIZE;
use core::ops::Range;

/// The frames of a machine.
#[derive(Debug)]
pub struct Ram {
    frames: Box<[FrameWords]>,
    /// When bytes were last stored in each frame.
    stored: Box<[AtomicU64]>,
    holes: Vec<Range<u64>>,
}

impl Ram {
    /// RAM of `limit` frames, all zero, but for the `holes` where there is none.
    #[must_use]
    pub fn new(limit: u64, holes: Vec<Range<u64>>) -> Self {
        let mut frames = Vec::new();
        let empty = || core::array::from_fn(|_| AtomicU64::new(0));
        frames.resize_with(usize::try_from(limit).unwrap(), empty);
        Self {
            frames: frames.into_boxed_slice(),
            stored: (0..limit).map(|_| AtomicU64::new(0)).collect(),
            holes,
        }
    }

    /// One past the largest frame number.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Where there is none below that.
    #[must_use]
    pub fn holes(&self) -> &[Range<u64>] {
        &self.holes
    }

    /// Whether there is RAM at `mfn`.
    #[must_use]
    pub fn has(&self, mfn: Mfn) -> bool {
        mfn.raw() < self.limit() && !self.holes.iter().any(|hole| hole.contains(&mfn.raw()))
    }

    /// The words of a frame.
    ///
    /// # Panics
    ///
    /// If there is no RAM at `mfn`: on real hardware that would have been a device, or nothing.
    #[must_use]
    pub fn frame(&self, mfn: Mfn) -> &FrameWords {
        assert!(self.has(mfn), "{mfn:?} was touched, which is no RAM");
        &self.frames[usize::try_from(mfn.raw()).unwrap()]
    }

    /// When a guest, or somebody on its behalf, last stored bytes in a frame since that was filled with zeros; 0 if nobody has. Not what the hypervisor
    /// and guests do to its words by their protocols: events, grants.
    pub(crate) fn last_stored(&self, mfn: Mfn) -> &AtomicU64 {
        &self.stored[usize::try_from(mfn.raw()).unwrap()]
    }

    /// Copies bytes from byte `offset` of a frame on; all of them must lie in it.
    pub fn read(&self, mfn: Mfn, offset: usize, into: &mut [u8]) {
        let words = self.frame(mfn);
        for (at, byte) in (offset..).zip(into) {
            *byte = words[at / 8].load(Ordering::Relaxed).to_le_bytes()[at % 8];
        }
    }

    /// Copies bytes to byte `offset` of a frame and on; what would not fit is left out.
    pub fn write(&self, mfn: Mfn, offset: usize, from: &[u8]) {
        let words = self.frame(mfn);
        for (at, byte) in (offset..PAGE_SIZE).zip(from) {
            let word = &words[at / 8];
            let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
            bytes[at % 8] = *byte;
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }
}
