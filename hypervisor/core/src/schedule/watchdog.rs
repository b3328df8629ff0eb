//! Watchdogs: a domain that does not wind one up in time is ended.
//!
//! A watchdog is a deadline, which stands on the list of the CPU on which it was wound up, whichever of the domain's vCPUs did so. The domain's first
//! vCPU stands for the domain there, and knows on whose list it is; that changes under the domain's lifecycle lock.

use crate::domains::{Domain, Visit};
use crate::hypervisor::Hypervisor;
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::time::Purpose;
use crate::vcpu::Vcpu;
use alloc::sync::Arc;
use bulkhead_abi::sched::ShutdownReason;
use core::num::NonZeroU32;

/// Why nothing was done with a watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchdogError {
    /// The domain has none with this number.
    Missing,
    /// It has as many as it may.
    TooMany,
}

const NS_PER_S: u64 = 1_000_000_000;

impl<M: Machine> Hypervisor<M> {
    /// Makes a watchdog of the calling vCPU's domain (`wanted` is 0) that ends it after so many seconds, and returns its number; or winds up the one
    /// with this number again, or takes it away, and returns 0.
    pub(crate) fn set_watchdog(
        &self,
        domain: &Domain,
        caller: &Vcpu,
        wanted: u32,
        seconds: Option<NonZeroU32>,
    ) -> Result<u32, WatchdogError> {
        let Some(keeper) = domain.vcpus.first() else {
            return Err(WatchdogError::Missing);
        };
        // Who ends the domain has this lock first, and then takes its watchdogs away.
        let life = domain.lifecycle.lock();
        if life.has_ended() {
            return Err(WatchdogError::Missing);
        }
        let is_set = |purpose: Purpose| keeper.deadline_cpu(purpose).is_some();
        let mut all = (1..).zip(Purpose::WATCHDOGS);
        let (number, purpose) = match wanted {
            0 if seconds.is_none() => return Err(WatchdogError::Missing),
            0 => all
                .find(|&(_, purpose)| !is_set(purpose))
                .ok_or(WatchdogError::TooMany)?,
            _ => all
                .find(|&(number, purpose)| number == wanted && is_set(purpose))
                .ok_or(WatchdogError::Missing)?,
        };
        match seconds {
            Some(seconds) => {
                let ns = u64::from(seconds.get()).saturating_mul(NS_PER_S);
                let end = self.machine().now().saturating_add(ns);
                self.set_deadline_here(caller.home(), (domain, keeper), purpose, (end, None));
            }
            None => self.cancel_deadline(domain, keeper, purpose),
        }
        Ok(if wanted == 0 { number } else { 0 })
    }

    /// Takes the watchdogs of a domain away that has ended.
    pub(crate) fn end_watchdogs(&self, domain: &Domain) {
        if mutant!(WatchdogLeft) {
            return;
        }
        if let Some(keeper) = domain.vcpus.first() {
            for purpose in Purpose::WATCHDOGS {
                self.cancel_deadline(domain, keeper, purpose);
            }
        }
    }

    /// A watchdog of a domain has come off the list of CPU `cpu`, which runs this. One that is paused cannot wind it up, and is given another
    /// second each time.
    pub(super) fn watchdog_expired(&self, cpu: CpuId, domain: Arc<Domain>, purpose: Purpose) {
        // As a visitor: were it destroyed while it is ended from here, the rest would be done to a successor with its number.
        let Some(visit) = Visit::new(domain) else { return };
        let domain = visit.domain();
        let Some(keeper) = domain.vcpus.first() else {
            return;
        };
        {
            let _life = domain.lifecycle.lock();
            // Wound up elsewhere at the last moment; or this domain has only the number of the one whose watchdog it was.
            if keeper.deadline_cpu(purpose) != Some(cpu) {
                return;
            }
            if keeper.is_held() {
                let end = self.machine().now().saturating_add(NS_PER_S);
                self.set_deadline_here(cpu, (domain, keeper), purpose, (end, None));
                return;
            }
            keeper.set_deadline_cpu(purpose, None);
        }
        self.shut_down(domain, ShutdownReason::Watchdog);
    }
}
