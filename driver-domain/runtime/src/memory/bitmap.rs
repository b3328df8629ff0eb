//! The free-frame map: one bit for each frame, set while the frame is free.
//!
//! Single frames and runs of neighbours are found by next fit from where the last search ended, so a search
//! is short until memory is nearly gone. The map allocates nothing itself; its words are given to it.

use core::ops::Range;

/// Which of the frames `0..64 * words` are free.
#[derive(Debug)]
pub(super) struct FrameMap {
    words: &'static mut [u64],
    free: usize,
    /// Where the next search starts.
    next: usize,
}

impl FrameMap {
    /// A map without a frame.
    pub(super) const fn empty() -> Self {
        Self {
            words: &mut [],
            free: 0,
            next: 0,
        }
    }

    /// A map over `words`, which may hold anything, with no frame free.
    pub(super) fn new(words: &'static mut [u64]) -> Self {
        words.fill(0);
        Self {
            words,
            free: 0,
            next: 0,
        }
    }

    /// Number of words for `frames` frames.
    pub(super) const fn words_for(frames: usize) -> usize {
        frames.div_ceil(64)
    }

    /// Number of free frames.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Gives frames back. A frame that is free already, or that the map does not cover, is ignored.
    pub(super) fn release(&mut self, frames: Range<usize>) {
        for frame in frames {
            if let Some(word) = self.words.get_mut(frame / 64) {
                let bit = 1 << (frame % 64);
                self.free = self.free.saturating_add(usize::from(*word & bit == 0));
                *word |= bit;
            }
        }
    }

    /// Takes `count` neighbouring frames and returns the first, or `None` if no run is that long.
    pub(super) fn take_run(&mut self, count: usize) -> Option<usize> {
        self.take_run_if(count, |_| true)
    }

    /// As [`Self::take_run`], of frames each of which but the first `continues` the one before it.
    pub(super) fn take_run_if(&mut self, count: usize, continues: impl Fn(usize) -> bool) -> Option<usize> {
        if count == 0 || count > self.free {
            return None;
        }
        let end = self.words.len().saturating_mul(64);
        // Runs that start before `next` may reach past it, so the second search covers everything.
        let start = self
            .find_run(self.next..end, count, &continues)
            .or_else(|| self.find_run(0..end, count, &continues))?;
        self.next = start.saturating_add(count);
        for frame in start..self.next {
            if let Some(word) = self.words.get_mut(frame / 64) {
                *word &= !(1 << (frame % 64));
            }
        }
        self.free = self.free.saturating_sub(count);
        Some(start)
    }

    fn find_run(
        &self,
        within: Range<usize>,
        count: usize,
        continues: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut found = 0_usize;
        let mut frame = within.start;
        while frame < within.end {
            let word = *self.words.get(frame / 64)?;
            if word == 0 {
                // The rest of the word is taken.
                found = 0;
                frame = (frame | 63).saturating_add(1);
                continue;
            }
            found = if word & (1 << (frame % 64)) == 0 {
                0
            } else if found > 0 && !continues(frame) {
                1
            } else {
                found.saturating_add(1)
            };
            frame = frame.saturating_add(1);
            if found == count {
                return frame.checked_sub(count);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{boxed::Box, vec, vec::Vec};

    use super::*;

    fn map(words: usize) -> FrameMap {
        FrameMap::new(Box::leak(vec![!0; words].into_boxed_slice()))
    }

    #[test]
    fn a_new_map_has_no_free_frame() {
        let mut map = map(2);
        assert_eq!(map.free(), 0);
        assert_eq!(map.take_run(1), None);
    }

    #[test]
    fn every_frame_given_is_handed_out_exactly_once() {
        let mut map = map(3);
        map.release(5..190);
        let mut taken: Vec<_> = core::iter::from_fn(|| map.take_run(1)).collect();
        taken.sort_unstable();
        assert_eq!(taken, (5..190).collect::<Vec<_>>());
        assert_eq!(map.free(), 0);
    }

    #[test]
    fn a_run_breaks_where_a_frame_does_not_continue_it() {
        let mut map = map(2);
        map.release(0..128);
        let continues = |frame| frame != 5 && frame != 6 && frame != 70;
        assert_eq!(map.take_run_if(6, continues), Some(6));
        assert_eq!(map.take_run_if(60, continues), None);
        assert_eq!(map.take_run_if(58, continues), Some(12));
        assert_eq!(map.take_run_if(58, continues), Some(70));
        assert_eq!(map.take_run_if(1, |_| false), Some(0));
    }

    #[test]
    fn a_run_crosses_words_but_not_a_taken_frame() {
        let mut map = map(3);
        map.release(60..70);
        map.release(71..192);
        assert_eq!(map.take_run(11), Some(71));
        assert_eq!(map.take_run(10), Some(82));
        assert_eq!(map.take_run(101), None);
    }

    #[test]
    fn a_search_wraps_to_frames_that_were_given_back() {
        let mut map = map(1);
        map.release(0..64);
        assert_eq!(map.take_run(40), Some(0));
        map.release(0..40);
        assert_eq!(map.take_run(30), Some(0));
        assert_eq!(map.take_run(34), Some(30));
        assert_eq!(map.free(), 0);
    }

    #[test]
    fn giving_a_frame_back_twice_counts_once() {
        let mut map = map(1);
        map.release(3..4);
        map.release(3..4);
        map.release(1000..1001);
        assert_eq!(map.free(), 1);
    }

    #[test]
    fn a_run_of_nothing_is_no_run() {
        let mut map = map(1);
        map.release(0..64);
        assert_eq!(map.take_run(0), None);
    }

    #[test]
    fn random_takes_and_releases_agree_with_a_model() {
        let mut map = map(4);
        let mut model = vec![false; 256];
        let mut held: Vec<Range<usize>> = vec![];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        map.release(0..256);
        model.fill(true);
        for _ in 0..20_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let count = usize::try_from(seed % 9).unwrap() + 1;
            if seed & 0x100 == 0 && !held.is_empty() {
                let run = held.swap_remove(count % held.len());
                model[run.clone()].fill(true);
                map.release(run);
            } else {
                let fits = model.windows(count).any(|run| run.iter().all(|free| *free));
                let start = map.take_run(count);
                assert_eq!(start.is_some(), fits);
                if let Some(start) = start {
                    assert!(model[start..start + count].iter().all(|free| *free));
                    model[start..start + count].fill(false);
                    held.push(start..start + count);
                }
            }
            assert_eq!(map.free(), model.iter().filter(|free| **free).count());
        }
    }
}
