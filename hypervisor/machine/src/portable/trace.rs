//! A ring of the last things that happened on a CPU, always on.
//!
//! Writing takes an atomic addition and four stores: it never waits, and an NMI in the middle of it writes its own
//! entry. Reading is for a crash, or for statistics: an entry that was being overwritten is recognised by its
//! sequence number and left out.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The TSC when it happened.
    pub tsc: u64,
    /// What it was; whoever records gives the numbers their meaning.
    pub event: u16,
    /// What is to be said about it.
    pub arguments: [u64; 2],
}

/// An entry, 32 bytes: the TSC, sequence number and event (`sequence << 16 | event`), two arguments.
#[derive(Debug, Default)]
#[repr(C, align(32))]
struct Slot([AtomicU64; 4]);

const _: () = assert!(size_of::<Slot>() == 32);

/// The ring of one CPU.
#[derive(Debug)]
pub struct Ring {
    /// How many records were ever begun; the next one's sequence number.
    next: AtomicU64,
    slots: Box<[Slot]>,
    mask: u64,
}

impl Ring {
    /// An empty ring of `len` entries, a power of two (rounded up if it is not).
    #[must_use]
    pub fn new(len: usize) -> Self {
        let len = len.next_power_of_two();
        let slots = (0..len).map(|_| Slot::default()).collect();
        Self {
            next: AtomicU64::new(0),
            slots,
            mask: (len as u64).wrapping_sub(1),
        }
    }

    /// Notes that `event`, any number but 0, happened when the TSC showed `tsc`.
    #[inline]
    pub fn record(&self, tsc: u64, event: u16, arguments: [u64; 2]) {
        // Relaxed throughout: the writer is this CPU alone, interrupted by itself at most, and a reader checks
        // the sequence number, which is wrong until the entry is whole: the first store destroys it, the last
        // one makes it, with Release for the reader's Acquire.
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(Slot([when, what, first, second])) = self.slots.get(index(sequence & self.mask)) else {
            return;
        };
        what.store(0, Ordering::Relaxed);
        core::sync::atomic::fence(Ordering::Release);
        when.store(tsc, Ordering::Relaxed);
        let [one, two] = arguments;
        first.store(one, Ordering::Relaxed);
        second.store(two, Ordering::Relaxed);
        what.store(tag(sequence, event), Ordering::Release);
    }

    /// The sequence number of the next record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The records from `from` on that are still there and whole, oldest first, with their sequence numbers.
    pub fn since(&self, from: u64) -> impl Iterator<Item = (u64, Record)> {
        let end = self.end();
        let oldest = end.saturating_sub(self.slots.len() as u64);
        (from.max(oldest)..end).filter_map(|sequence| Some((sequence, self.read(sequence)?)))
    }

    /// The last `count` records, oldest first; those that are being written are left out.
    pub fn last(&self, count: usize) -> impl Iterator<Item = Record> {
        let end = self.next.load(Ordering::Relaxed);
        let kept = (count as u64).min(self.slots.len() as u64);
        (end.saturating_sub(kept)..end).filter_map(|sequence| self.read(sequence))
    }

    /// The record with this sequence number, if it is whole and not overwritten.
    fn read(&self, sequence: u64) -> Option<Record> {
        let Slot([when, what, first, second]) = self.slots.get(index(sequence & self.mask))?;
        // Acquire pairs with the Release of the last store in `record`.
        let before = what.load(Ordering::Acquire);
        let [low, high, ..] = before.to_le_bytes();
        let event = u16::from_le_bytes([low, high]);
        let record = Record {
            tsc: when.load(Ordering::Relaxed),
            event,
            arguments: [first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)],
        };
        // Pairs with the Release fence in `record`: if any of the three was overwritten, so is the tag.
        core::sync::atomic::fence(Ordering::Acquire);
        let after = what.load(Ordering::Relaxed);
        (event != 0 && before == tag(sequence, event) && before == after).then_some(record)
    }
}

/// Sequence number and event in one word. The sequence is cut to 48 bits: years, at a million records a second.
const fn tag(sequence: u64, event: u16) -> u64 {
    sequence << 16 | event as u64
}

const fn index(number: u64) -> usize {
    crate::layout::word(number)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn records_come_back_oldest_first() {
        let ring = Ring::new(8);
        ring.record(100, 2, [14, 0x1000]);
        ring.record(200, 3, [1, 2]);
        let records: Vec<_> = ring.last(8).collect();
        assert_eq!(
            records[0],
            Record {
                tsc: 100,
                event: 2,
                arguments: [14, 0x1000]
            }
        );
        assert_eq!(
            records[1],
            Record {
                tsc: 200,
                event: 3,
                arguments: [1, 2]
            }
        );
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_full_ring_keeps_the_newest() {
        let ring = Ring::new(4);
        for tsc in 0..10 {
            ring.record(tsc, 7, [tsc, 0]);
        }
        assert!(ring.last(100).map(|record| record.tsc).eq(6..10));
        assert!(ring.last(2).map(|record| record.tsc).eq(8..10));
    }

    #[test]
    fn an_entry_that_is_being_written_is_left_out() {
        let ring = Ring::new(4);
        ring.record(1, 7, [0, 0]);
        ring.record(2, 7, [0, 0]);
        // What `record` does first.
        ring.slots[0].0[1].store(0, Ordering::Relaxed);
        assert!(ring.last(4).map(|record| record.tsc).eq([2]));
    }

    #[test]
    fn a_reader_beside_a_writer_sees_whole_records_only() {
        let ring = Ring::new(8);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..200_000_u64 {
                    ring.record(round, 9, [round, !round]);
                }
            });
            for _ in 0..2_000 {
                for record in ring.last(8) {
                    assert_eq!(record.arguments, [record.tsc, !record.tsc]);
                }
            }
        });
    }
}
