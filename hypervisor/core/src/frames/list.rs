//! A doubly linked list of frames, threaded through their records: no allocation, constant-time removal.

use super::{FrameTable, Mfn};
use core::sync::atomic::Ordering;

/// A list of frames. A frame is on at most one list; whoever owns the list guards it with a lock.
#[derive(Debug)]
pub struct FrameList {
    head: u32,
    len: u64,
}

/// Ends a list. No frame has this number: it would lie at 16 TiB, and the boot code stops short of that.
const END: u32 = u32::MAX;

impl FrameList {
    /// The empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { head: END, len: 0 }
    }

    /// How many frames are on it.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first frame.
    #[must_use]
    pub fn first(&self) -> Option<Mfn> {
        to_mfn(self.head)
    }

    /// The frame after `mfn`, which is on this list.
    #[must_use]
    pub fn next(&self, table: &FrameTable, mfn: Mfn) -> Option<Mfn> {
        to_mfn(read(table, mfn).1)
    }

    /// Puts `mfn` in front.
    pub fn push(&mut self, table: &FrameTable, mfn: Mfn) {
        let Some(number) = to_link(mfn) else { return };
        write(table, mfn, (END, self.head));
        if let Some(old) = self.first() {
            let (_, next) = read(table, old);
            write(table, old, (number, next));
        }
        self.head = number;
        self.len = self.len.saturating_add(1);
    }

    /// Takes `mfn`, which is on this list, off it.
    pub fn remove(&mut self, table: &FrameTable, mfn: Mfn) {
        let (prev, next) = read(table, mfn);
        match to_mfn(prev) {
            Some(before) => write(table, before, (read(table, before).0, next)),
            None => self.head = next,
        }
        if let Some(after) = to_mfn(next) {
            write(table, after, (prev, read(table, after).1));
        }
        write(table, mfn, (END, END));
        self.len = self.len.saturating_sub(1);
    }

    /// Takes the first frame off.
    pub fn pop(&mut self, table: &FrameTable) -> Option<Mfn> {
        let mfn = self.first()?;
        self.remove(table, mfn);
        Some(mfn)
    }
}

impl Default for FrameList {
    fn default() -> Self {
        Self::new()
    }
}

fn to_mfn(link: u32) -> Option<Mfn> {
    if link == END {
        None
    } else {
        Mfn::new(u64::from(link))
    }
}

fn to_link(mfn: Mfn) -> Option<u32> {
    u32::try_from(mfn.raw()).ok().filter(|&n| n != END)
}

/// The neighbours of `mfn`: before, after. Relaxed: the list's lock orders these.
#[expect(clippy::cast_possible_truncation, reason = "two 32-bit links share the word")]
fn read(table: &FrameTable, mfn: Mfn) -> (u32, u32) {
    let word = table
        .links(mfn)
        .map_or(u64::MAX, |links| links.load(Ordering::Relaxed));
    ((word >> 32) as u32, word as u32)
}

fn write(table: &FrameTable, mfn: Mfn, (prev, next): (u32, u32)) {
    if let Some(links) = table.links(mfn) {
        links.store(u64::from(prev) << 32 | u64::from(next), Ordering::Relaxed);
    }
}
