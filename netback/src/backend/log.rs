//! How many packets are told in the log: whoever writes it may be slow, and guests must not make everybody wait for that.

use crate::vfr::bucket::Bucket;

/// The most packets that are told at once, and in a second.
const MOST: u32 = 32;
const SECOND: u64 = 1_000_000_000;

/// What was told, and what was not.
#[derive(Debug, Default)]
pub(super) struct Log {
    bucket: Bucket,
    missed: u64,
    /// When it is told how many were missed, if any were.
    due: u64,
}

impl Log {
    /// Whether another packet may be told at `now` (ns); if not, it is counted.
    pub(super) fn admits(&mut self, now: u64) -> bool {
        let admits = self.bucket.take(now, MOST, MOST);
        if !admits {
            if self.missed == 0 {
                self.due = now.saturating_add(SECOND);
            }
            self.missed = self.missed.saturating_add(1);
        }
        admits
    }

    /// How many were missed, if it is time to tell that.
    pub(super) fn missed(&mut self, now: u64) -> Option<u64> {
        let is_due = self.due()? <= now;
        is_due.then(|| core::mem::take(&mut self.missed))
    }

    /// When it is.
    pub(super) fn due(&self) -> Option<u64> {
        (self.missed > 0).then_some(self.due)
    }
}
