//! What units report of DMA that they blocked: heard when they interrupt, told of in the log, and counted.
//!
//! A unit interrupts when a record is filled and none was before. So what is left in the records, because it would be too much, keeps it quiet.

use core::sync::atomic::Ordering;

use bulkhead_abi::DomId;
use bulkhead_core::machine::{DmaFault, DmaFaults};
use bulkhead_core::pci::FunctionId;
use bulkhead_machine::portable::vtd::faults::{Fault, Hearing, Ledger, Pace};
use bulkhead_machine::portable::vtd::{entries, invalidation};
use spin::Mutex;

use super::unit::Unit;
use super::{Iommu, LATE};
use crate::time;

#[derive(Debug)]
struct Faults {
    ledger: Ledger,
    pace: Pace,
}

static FAULTS: Mutex<Faults> = Mutex::new(Faults {
    ledger: Ledger::new(),
    pace: Pace::new(),
});

impl Iommu {
    /// Takes faults out of the units' records, as many as are worth it. What is left there does not interrupt again.
    pub(super) fn hear_faults(&self) {
        // One CPU at a time: a record that two had read would be emptied twice.
        let Faults { ledger, pace } = &mut *FAULTS.lock();
        LATE.store(u64::MAX, Ordering::Relaxed);
        self.take_records(ledger, |now| pace.step(now));
    }

    /// A function comes to `domain`: what has been reported is not that domain's.
    pub(super) fn begin_account(&self, function: FunctionId, domain: DomId) {
        let ledger = &mut FAULTS.lock().ledger;
        self.take_records(ledger, |_| Ok(()));
        ledger.open(function, domain);
    }

    /// Takes faults out of the records, as long as `may_go_on`, which says when it may again; the time is given to it.
    fn take_records(&self, ledger: &mut Ledger, mut may_go_on: impl FnMut(u64) -> Result<(), u64>) {
        let now = time::now_ns();
        for unit in self.units.iter().filter(|unit| unit.segment == 0) {
            if !unit.has_faults() {
                continue;
            }
            for index in 0..unit.records() {
                let Some(fault) = unit.fault(index) else {
                    continue;
                };
                if let Err(next) = may_go_on(now) {
                    LATE.store(next, Ordering::Relaxed);
                    return;
                }
                unit.clear(index);
                self.hear(ledger, unit, fault, now);
            }
            unit.clear_overflow();
        }
    }

    fn hear(&self, ledger: &mut Ledger, unit: &Unit, fault: Fault, now: u64) {
        let (domain, hearing) = ledger.enter(fault, now);
        let more = match hearing {
            Hearing::Count => return,
            Hearing::Tell => "",
            Hearing::TellLast => "; more are only counted",
            Hearing::Silence => "; it has too many, and no more are counted",
        };
        match domain {
            Some(domain) => log::warn!("{domain}'s {fault}{more}"),
            None => log::warn!("{fault}{more}"),
        }
        if hearing == Hearing::Silence {
            self.silence(unit, fault.function);
        }
    }

    /// Has a unit report no more faults of a function. On a bus without functions that silences those with the same place on other such buses, too.
    fn silence(&self, unit: &Unit, function: FunctionId) {
        // The entry of a function that is attached at the same time must not be undone.
        let _tenants = self.tenants.lock();
        let table = self.table_of(function);
        let entry = self.writer.entry(table, function.devfn());
        self.writer
            .set_entry(table, function.devfn(), entries::unreported(entry));
        unit.forget([invalidation::context(function, entries::tag(entry).unwrap_or(0))]);
    }
}

/// What a function did in vain since it was attached last.
pub(crate) fn of(function: FunctionId) -> DmaFaults {
    let account = FAULTS.lock().ledger.get(function);
    DmaFaults {
        count: account.count,
        is_silenced: account.is_silenced,
        domain: account.domain,
        last: account.last.map(|fault| DmaFault {
            address: fault.address,
            is_write: fault.is_write,
            reason: fault.reason.0,
        }),
    }
}
