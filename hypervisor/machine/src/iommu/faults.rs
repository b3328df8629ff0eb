//! What units report of DMA that they blocked: heard when they interrupt, logged, and kept for who wants to know.
//!
//! A unit interrupts when a record is filled and none was before. So what is left in the records, because it would be too much, keeps it quiet.

use core::sync::atomic::Ordering;

use bulkhead_core::frames::Mfn;
use bulkhead_machine::portable::vtd::Function;
use bulkhead_machine::portable::vtd::entries;
use bulkhead_machine::portable::vtd::faults::{Attention, Fault, Hearing, Pace};
use bulkhead_machine::portable::vtd::invalidation;
use heapless::Deque;

use super::unit::Unit;
use super::{Iommu, LATE};
use crate::time;

/// Most faults that wait to be taken.
const MAX_WAITING: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) attention: Attention,
    pace: Pace,
    /// What has not been taken yet; what finds no room is only logged.
    waiting: Deque<Fault, MAX_WAITING>,
}

impl Iommu {
    /// Takes a fault that has not been taken yet. There are at most as many as there is room for, however many happen.
    #[expect(dead_code, reason = "the core asks for it when domains own devices")]
    pub(crate) fn take_fault(&self) -> Option<Fault> {
        self.faults.lock().waiting.pop_front()
    }

    /// Takes faults out of the units' records, as many as are worth it. What is left there does not interrupt again.
    pub(super) fn hear_faults(&self) {
        // One CPU at a time: a record that two had read would be emptied twice.
        let mut faults = self.faults.lock();
        LATE.store(u64::MAX, Ordering::Relaxed);
        let now = time::now_ns();
        for unit in self.units.iter().filter(|unit| unit.segment == 0) {
            if !unit.has_faults() {
                continue;
            }
            for index in 0..unit.records() {
                let Some(fault) = unit.fault(index) else {
                    continue;
                };
                if let Err(next) = faults.pace.step(now) {
                    LATE.store(next, Ordering::Relaxed);
                    return;
                }
                unit.clear(index);
                self.hear(&mut faults, unit, fault);
            }
            unit.clear_overflow();
        }
    }

    fn hear(&self, faults: &mut Faults, unit: &Unit, fault: Fault) {
        match faults.attention.hear(fault.function) {
            Hearing::Ignore => return,
            Hearing::Tell => log::warn!("{fault}"),
            Hearing::TellLast => {
                log::warn!("{fault}; no more is told of it");
                self.silence(unit, fault.function);
            }
        }
        let _ = faults.waiting.push_back(fault);
    }

    /// Has a unit report no more faults of a function. On a bus where nothing was ever attached that silences the functions with the same
    /// place on other such buses, too.
    fn silence(&self, unit: &Unit, function: Function) {
        // The entry of a function that is attached at the same time must not be undone.
        let _spaces = self.spaces.lock();
        let table = Mfn::from_maddr(self.writer.root(self.root, function.bus()));
        let entry = self.writer.context(table, function);
        self.writer
            .set_context(table, function, entries::unreported(entry));
        // If it does not answer, it has said so.
        let _ = unit.forget([invalidation::context(function, entries::tag(entry).unwrap_or(0))]);
    }
}
