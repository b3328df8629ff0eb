//! The trace rings of this machine's CPUs; [`Ring`](bulkhead_machine::portable::trace::Ring) is the mechanism.

use bulkhead_machine::layout::MAX_CPUS;
use bulkhead_machine::portable::trace::Ring;
use spin::Once;

pub(crate) use bulkhead_machine::portable::trace::Event;

use crate::cpu::stack::this_cpu;
use crate::time::tsc;

/// Entries of each ring: 128 KiB.
const LEN: usize = 4096;

static RINGS: [Once<Ring>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// Makes the ring of CPU `cpu`; until then, what happens there is not recorded. Needs the heap.
pub(crate) fn init(cpu: usize) {
    if let Some(ring) = RINGS.get(cpu) {
        ring.call_once(|| Ring::new(LEN));
    }
}

/// Notes that `event` happened on this CPU. Cheap enough for every hypercall; allowed in any context.
#[inline]
pub(crate) fn record(event: Event, first: u64, second: u64) {
    if let Some(ring) = ring(this_cpu()) {
        ring.record(tsc(), event, [first, second]);
    }
}

/// The ring of CPU `cpu`, if it has one.
pub(crate) fn ring(cpu: usize) -> Option<&'static Ring> {
    RINGS.get(cpu)?.get()
}
