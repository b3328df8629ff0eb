//! A ring of the last things that happened on a CPU, always on.
//!
//! Writing takes an atomic addition and four stores: it never waits, and an NMI in the middle of it writes its own
//! entry. Reading is for a crash, or for statistics: an entry that was being overwritten is recognised by its
//! sequence number and left out.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// What happened. The numbers appear in dumps; they never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Event {
    /// The CPU runs. First argument: its APIC id.
    CpuStarted = 1,
    /// A trap or exception. Arguments: vector, address of the instruction.
    Trap = 2,
    /// A hypercall begins. Arguments: number, first argument.
    Hypercall = 3,
    /// A hypercall ends. Arguments: number, result.
    HypercallDone = 4,
    /// An interrupt from outside. First argument: vector.
    Interrupt = 5,
    /// A vCPU begins to run here. Arguments: domain and vCPU (`domain << 16 | vcpu`), virtual time.
    Switch = 6,
    /// The CPU is idle.
    Idle = 7,
    /// The timer was set. First argument: deadline in ns since boot.
    TimerSet = 8,
    /// The timer fired. First argument: ns since boot.
    TimerFired = 9,
    /// An event channel was notified. Arguments: domain, port.
    EventSent = 10,
    /// Control goes to a guest's event callback. First argument: domain and vCPU.
    Upcall = 11,
    /// The TLB was flushed. Arguments: scope, reason.
    TlbFlush = 12,
    /// A grant was used. Arguments: grantor's domain, reference.
    Grant = 13,
    /// A domain changed its state. Arguments: domain, new state.
    Domain = 14,
    /// An interrupt was sent to another CPU. Arguments: CPU, vector.
    IpiSent = 15,
    /// A panic began. First argument: address of the instruction.
    Panic = 16,
}

impl Event {
    /// Every event, for decoding.
    const ALL: [Self; 16] = [
        Self::CpuStarted,
        Self::Trap,
        Self::Hypercall,
        Self::HypercallDone,
        Self::Interrupt,
        Self::Switch,
        Self::Idle,
        Self::TimerSet,
        Self::TimerFired,
        Self::EventSent,
        Self::Upcall,
        Self::TlbFlush,
        Self::Grant,
        Self::Domain,
        Self::IpiSent,
        Self::Panic,
    ];

    /// The event of this number.
    fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|&event| event as u64 == number)
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The TSC when it happened.
    pub tsc: u64,
    /// What it was.
    pub event: Event,
    /// What [`Event`] says about it.
    pub arguments: [u64; 2],
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.arguments;
        write!(f, "{:>20} {:?} {first:#x} {second:#x}", self.tsc, self.event)
    }
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

    /// Notes that `event` happened when the TSC showed `tsc`.
    #[inline]
    pub fn record(&self, tsc: u64, event: Event, arguments: [u64; 2]) {
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
        what.store(tag(sequence, event as u64), Ordering::Release);
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
        let event = Event::from_number(before & EVENT_MASK)?;
        let record = Record {
            tsc: when.load(Ordering::Relaxed),
            event,
            arguments: [first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)],
        };
        // Pairs with the Release fence in `record`: if any of the three was overwritten, so is the tag.
        core::sync::atomic::fence(Ordering::Acquire);
        let after = what.load(Ordering::Relaxed);
        (before == tag(sequence, event as u64) && before == after).then_some(record)
    }
}

const EVENT_MASK: u64 = 0xffff;

/// Sequence number and event in one word. The sequence is cut to 48 bits: years, at a million records a second.
const fn tag(sequence: u64, event: u64) -> u64 {
    sequence << 16 | event
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
        ring.record(100, Event::Trap, [14, 0x1000]);
        ring.record(200, Event::Hypercall, [1, 2]);
        let records: Vec<_> = ring.last(8).collect();
        assert_eq!(
            records[0],
            Record {
                tsc: 100,
                event: Event::Trap,
                arguments: [14, 0x1000]
            }
        );
        assert_eq!(
            records[1],
            Record {
                tsc: 200,
                event: Event::Hypercall,
                arguments: [1, 2]
            }
        );
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_full_ring_keeps_the_newest() {
        let ring = Ring::new(4);
        for tsc in 0..10 {
            ring.record(tsc, Event::Idle, [tsc, 0]);
        }
        assert!(ring.last(100).map(|record| record.tsc).eq(6..10));
        assert!(ring.last(2).map(|record| record.tsc).eq(8..10));
    }

    #[test]
    fn an_entry_that_is_being_written_is_left_out() {
        let ring = Ring::new(4);
        ring.record(1, Event::Idle, [0, 0]);
        ring.record(2, Event::Idle, [0, 0]);
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
                    ring.record(round, Event::Grant, [round, !round]);
                }
            });
            for _ in 0..2_000 {
                for record in ring.last(8) {
                    assert_eq!(record.arguments, [record.tsc, !record.tsc]);
                }
            }
        });
    }

    #[test]
    fn every_event_is_decoded_by_its_number() {
        for event in Event::ALL {
            assert_eq!(Event::from_number(event as u64), Some(event));
        }
        assert_eq!(Event::from_number(0), None);
    }
}
