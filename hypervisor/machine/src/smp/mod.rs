//! Starting the other CPUs.
//!
//! One after the other, each CPU is reset and started in real mode at the [`trampoline`], a page below 1 MiB. It
//! goes to 64-bit mode on the early page tables, loads the final ones, takes its own main stack, sets itself up
//! like the boot CPU did, reports, and runs what it was given. A CPU that does not report is left out and stays
//! reset; the ones after it get the next number, so that numbers have no gaps.
//!
//! Source: Intel SDM volume 3A, section 8.4 (INIT, start-up, start-up).

mod trampoline;

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bulkhead_machine::layout::Stack;
use bulkhead_machine::portable::command_line::Choice;
use bulkhead_machine::portable::memory_map::MemoryMap;
use spin::Once;

use self::trampoline::{START, Trampoline};
use crate::apic::{self, Ipi};
use crate::cpu::control;
use crate::cpu::features::Features;
use crate::cpu::stack::{CPU_INFO_SIZE, this_cpu};
use crate::time::{now_ns, tsc};
use crate::trace::{self, Event};

/// How long a CPU gets after its reset, in ns.
const INIT_NS: u64 = 10_000_000;
/// How long it gets after the first start-up message before there is a second, in ns.
const START_UP_NS: u64 = 1_000_000;
/// How long it may take to report, in ns. An emulator may be busy.
const REPORT_NS: u64 = 2_000_000_000;

/// The APIC id that means every CPU, in messages with eight bits for the receiver.
const XAPIC_BROADCAST: u32 = 0xff;

/// What every CPU needs to set itself up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    /// What the CPUs have.
    pub(crate) features: Features,
    /// Whether to use SMAP.
    pub(crate) smap: Choice,
    /// The frame of the hypervisor's own L4 table.
    pub(crate) l4: u64,
    /// What the CPU does when it is set up, on its main stack, with interrupts off. It gets its number. As soon as it
    /// can take an NMI it calls [`mark_online`](crate::cpu::mark_online).
    pub(crate) run: fn(usize) -> !,
    /// What the boot CPU does for each CPU that has reported. It gets its number.
    pub(crate) meet: fn(usize),
}

static COMMON: Once<Common> = Once::new();
/// The number of the CPU that reported last; the boot CPU is 0.
static REPORTED: AtomicUsize = AtomicUsize::new(0);
/// The TSC that it had then.
static REPORTED_TSC: AtomicU64 = AtomicU64::new(0);

/// Starts the CPUs with these APIC ids, all but the first, which is the boot CPU's, and returns how many CPUs run then.
/// The boot CPU calls it once. The stacks of all of them are mapped.
pub(crate) fn start_others(apic_ids: &[u32], map: &MemoryMap, common: Common) -> usize {
    let others = apic_ids.get(1..).unwrap_or_default();
    if others.is_empty() {
        return 1;
    }
    let Some(trampoline) = Trampoline::install(map) else {
        log::error!("no memory below 1 MiB for the other CPUs to start in");
        return 1;
    };
    COMMON.call_once(|| common);
    let mut running = 1;
    for &apic_id in others {
        if !common.features.contains(Features::X2APIC) && apic_id >= XAPIC_BROADCAST {
            log::error!("the CPU with APIC id {apic_id} is left out: without x2APIC no message reaches it");
            continue;
        }
        trace::init(running);
        START.prepare(common.l4, Stack::Main.top(running).saturating_sub(CPU_INFO_SIZE));
        if start(apic_id, running, &trampoline) {
            (common.meet)(running);
            running = running.saturating_add(1);
        } else {
            log::error!("the CPU with APIC id {apic_id} does not start");
            // It must not come late, on a stack that the next one gets.
            apic::send_ipi(apic_id, Ipi::Init);
        }
    }
    log::info!("{running} CPUs run");
    running
}

/// Starts one CPU as number `cpu`; says whether it reported.
fn start(apic_id: u32, cpu: usize, trampoline: &Trampoline) -> bool {
    let before = tsc();
    apic::send_ipi(apic_id, Ipi::Init);
    wait(INIT_NS, || false);
    // Acquire pairs with the Release in `arrive`.
    let reported = || REPORTED.load(Ordering::Acquire) == cpu;
    for patience in [START_UP_NS, REPORT_NS] {
        apic::send_ipi(apic_id, Ipi::StartUp(trampoline.page()));
        if wait(patience, reported) {
            let theirs = REPORTED_TSC.load(Ordering::Relaxed);
            if theirs < before || theirs > tsc() {
                log::warn!("CPU {cpu}: its TSC is off from the boot CPU's: {theirs} is not after {before}");
            }
            return true;
        }
    }
    false
}

/// Waits `ns` nanoseconds, or until `done`; says whether it was.
fn wait(ns: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now_ns().saturating_add(ns);
    loop {
        if done() {
            return true;
        }
        if now_ns() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Where a CPU comes from the trampoline: final page tables, its main stack, interrupts off.
extern "C" fn arrive() -> ! {
    let cpu = this_cpu();
    let Some(common) = COMMON.get() else {
        crate::panic::stand_still()
    };
    // The boot CPU has the same features, so that what was not missing there is not missing here.
    if let Err(error) = control::protect(common.features, common.smap) {
        panic!("CPU {cpu}: {error}");
    }
    if apic::init(common.features, None).is_none() {
        panic!("CPU {cpu}: its local APIC cannot be reached");
    }
    trace::record(Event::CpuStarted as u16, u64::from(apic::id().unwrap_or(0)), 0);
    REPORTED_TSC.store(tsc(), Ordering::Relaxed);
    // Release pairs with the Acquire in `start`: what this CPU did so far is done.
    REPORTED.store(cpu, Ordering::Release);
    (common.run)(cpu)
}
