//! The trace rings of this machine's CPUs; [`Ring`] is the mechanism.
//!
//! Events of the core have the core's numbers ([`Trace`]); those of the machine ([`Event`]) begin at 0x100.

use core::fmt;

use bulkhead_abi::control::TraceRecord;
use bulkhead_core::machine::Trace;
use bulkhead_machine::layout::MAX_CPUS;
use bulkhead_machine::portable::trace::{Record, Ring};
use spin::Once;

use crate::cpu::stack::this_cpu;
use crate::time::{self, tsc};

/// Entries of each ring: 128 KiB.
const LEN: usize = 4096;

static RINGS: [Once<Ring>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// What the machine itself records. The numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Event {
    /// The CPU runs: APIC id.
    CpuStarted = 0x100,
    /// A panic began: where, frame pointer.
    Panic = 0x101,
    /// This CPU's TLB was flushed: 1 for one page, 0 for all.
    TlbFlush = 0x102,
    /// An interrupt from outside: vector.
    Interrupt = 0x103,
}

/// Makes the ring of CPU `cpu`; until then, what happens there is not recorded. Needs the heap.
pub(crate) fn init(cpu: usize) {
    if let Some(ring) = RINGS.get(cpu) {
        ring.call_once(|| Ring::new(LEN));
    }
}

/// Notes something that happened on this CPU: a number of [`Trace`] or [`Event`], and what is to be said about it.
/// Cheap enough for every hypercall; allowed in any context.
#[inline]
pub(crate) fn record(event: u16, first: u64, second: u64) {
    if let Some(ring) = ring(this_cpu()) {
        ring.record(tsc(), event, [first, second]);
    }
}

/// The ring of CPU `cpu`, if it has one.
pub(crate) fn ring(cpu: usize) -> Option<&'static Ring> {
    RINGS.get(cpu)?.get()
}

/// Copies records of CPU `cpu` into `records`, from number `from` on: how many, the number after the last, and the number of the
/// next that will be written.
pub(crate) fn read(cpu: usize, from: u64, records: &mut [TraceRecord]) -> (usize, u64, u64) {
    let Some(ring) = ring(cpu) else {
        return (0, from, 0);
    };
    let (mut count, mut next) = (0_usize, from.min(ring.end()));
    for (place, (sequence, record)) in records.iter_mut().zip(ring.since(from)) {
        let Record {
            tsc,
            event,
            arguments: [first, second],
        } = record;
        *place = TraceRecord {
            tsc,
            event,
            first,
            second,
        };
        count = count.saturating_add(1);
        next = sequence.saturating_add(1);
    }
    (count, next, ring.end())
}

/// A record as people read it: nanoseconds since the boot, event, arguments.
pub(crate) struct Line(pub(crate) Record);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record {
            tsc,
            event,
            arguments: [first, second],
        } = self.0;
        write!(f, "{:>15} ns  ", time::ns_at(tsc))?;
        let cores = [
            Trace::Hypercall,
            Trace::Bounce,
            Trace::Upcall,
            Trace::Switch,
            Trace::Idle,
            Trace::Shutdown,
            Trace::Send,
            Trace::Stretch,
        ];
        let own = [Event::CpuStarted, Event::Panic, Event::TlbFlush, Event::Interrupt];
        if let Some(known) = cores.into_iter().find(|&known| known as u16 == event) {
            write!(f, "{known:?}")?;
        } else if let Some(known) = own.into_iter().find(|&known| known as u16 == event) {
            write!(f, "{known:?}")?;
        } else {
            write!(f, "event {event}")?;
        }
        write!(f, " {first:#x} {second:#x}")
    }
}
