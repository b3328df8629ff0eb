//! Making other CPUs forget translations.
//!
//! Requests are numbered. A CPU that wants all others to flush takes the next number, interrupts those that may hold a guest's
//! translations, and waits until each has flushed at or after that number. While it waits it serves the others' requests, so
//! that two that wait for each other both come through; and it holds no lock, so that nobody whom it waits for waits for it.

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::lock;
use bulkhead_core::machine::Flush;
use bulkhead_machine::layout::MAX_CPUS;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;

use crate::apic::{self, Ipi, Vector};
use crate::cpu;
use crate::cpu::stack::this_cpu;
use crate::trace::{self, Event};

/// The number of the last request.
static WANTED: AtomicU64 = AtomicU64::new(0);

/// For each CPU, the number of the last request that it has served.
static SERVED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// For each CPU, how often it has forgotten everything.
static FORGOTTEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The CPUs, a bit each, whose TLBs may hold translations of a guest's.
static HOLDERS: AtomicU64 = AtomicU64::new(0);

const _: () = assert!(MAX_CPUS <= 64);

/// How often this CPU has forgotten all translations.
pub(crate) fn full_flushes() -> u64 {
    let own = FORGOTTEN.get(this_cpu());
    own.map_or(0, |count| count.load(Ordering::Relaxed))
}

/// Counts that.
fn count_full_flush() {
    if let Some(count) = FORGOTTEN.get(this_cpu()) {
        // Only this CPU writes it.
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// This CPU is about to load a guest's tables.
pub(crate) fn will_hold() {
    count_full_flush();
    let own = 1 << this_cpu();
    // Relaxed: only this CPU changes its bit.
    if HOLDERS.load(Ordering::Relaxed) & own == 0 {
        // SeqCst: before the tables are read; who asks for a flush has changed them before it looks at this.
        HOLDERS.fetch_or(own, Ordering::SeqCst);
    }
}

/// This CPU has left the guests' tables, and forgotten them.
pub(crate) fn holds_nothing() {
    HOLDERS.fetch_and(!(1 << this_cpu()), Ordering::SeqCst);
}

/// Forgets translations on this CPU.
pub(crate) fn flush_local(what: Flush) {
    match what {
        // No entry is global, so this forgets all of them.
        Flush::All => {
            count_full_flush();
            let (frame, flags) = Cr3::read();
            // SAFETY: the table in force stays in force.
            unsafe { Cr3::write(frame, flags) };
        }
        Flush::Page(address) => tlb::flush(VirtAddr::new_truncate(address)),
    }
}

/// Forgets translations on every CPU; a single page's only here, all of them elsewhere.
pub(crate) fn flush(what: Flush) {
    flush_on(u64::MAX, what);
}

/// The same on the CPUs of a set, a bit each.
pub(crate) fn flush_on(cpus: u64, what: Flush) {
    lock::assert_none_held();
    let own = 1 << this_cpu();
    if cpus & own != 0 {
        flush_local(what);
    }
    let others = HOLDERS.load(Ordering::SeqCst) & cpus & !own;
    if others == 0 {
        return;
    }
    // SeqCst: whatever changed before is seen by who flushes for this number.
    let number = WANTED.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    trace::record(Event::TlbFlush as u16, others, number);
    let targets = || (0..MAX_CPUS).filter(|cpu| others & 1 << cpu != 0);
    for target in targets() {
        apic::send_ipi(cpu::apic_id(target), Ipi::Fixed(Vector::Flush as u8));
    }
    for target in targets() {
        while SERVED
            .get(target)
            .is_some_and(|served| served.load(Ordering::SeqCst) < number)
        {
            serve();
            core::hint::spin_loop();
        }
    }
}

/// Flushes this CPU, if anybody asked for it since it last did.
pub(crate) fn serve() {
    let Some(served) = SERVED.get(this_cpu()) else {
        return;
    };
    let wanted = WANTED.load(Ordering::SeqCst);
    // Only this CPU writes it.
    if served.load(Ordering::Relaxed) < wanted {
        flush_local(Flush::All);
        served.store(wanted, Ordering::SeqCst);
    }
}
