//! Whose translations a guest wants forgotten: the calling vCPU's, those of some of its domain's vCPUs, or of all.
//!
//! Only CPUs that run such a vCPU are interrupted. One that runs none of them forgets everything before it runs one again.

use super::Call;
use crate::domains::Domain;
use crate::hypervisor::Hypervisor;
use crate::ids::VcpuId;
use crate::machine::{Flush, Machine};
use crate::sched::CpuSet;
use bulkhead_abi::Errno;
use bulkhead_abi::mmu::{UVMF_ALL, UVMF_FLUSH_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_NONE, UVMF_TLB_FLUSH};
use core::sync::atomic::{Ordering, fence};

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The calling vCPU's.
    Own,
    /// Those of the vCPUs with these numbers, a bit each. There may be none with such a number.
    Of(u64),
    /// Those of all vCPUs of the domain.
    All,
}

impl Whose {
    /// The vCPUs whose bits are set in the guest's memory at `at`.
    pub(super) fn at<M: Machine>(call: &Call<'_, M>, at: u64) -> Result<Self, Errno> {
        // A domain has fewer vCPUs than there are bits in a word.
        call.read(at).map(Self::Of)
    }
}

/// What `flags` of `update_va_mapping` ask for, where `va` is mapped anew.
pub(super) fn of_flags<M: Machine>(
    call: &Call<'_, M>,
    flags: u64,
    va: u64,
) -> Result<Option<(Whose, Flush)>, Errno> {
    let what = match flags & UVMF_FLUSH_MASK {
        UVMF_NONE => return Ok(None),
        UVMF_TLB_FLUSH => Flush::All,
        UVMF_INVLPG => Flush::Page(va),
        _ => return Err(Errno::Inval),
    };
    let whose = match flags & !UVMF_FLUSH_MASK {
        UVMF_LOCAL => Whose::Own,
        UVMF_ALL => Whose::All,
        at => Whose::at(call, at)?,
    };
    Ok(Some((whose, what)))
}

impl<M: Machine> Hypervisor<M> {
    /// Has translations of vCPUs of `domain` forgotten; the caller's table changes come before that.
    pub(super) fn flush_vcpus(&self, domain: &Domain, whose: Whose, what: Flush) {
        let is_meant = |vcpu: VcpuId| match whose {
            Whose::Own => false,
            Whose::Of(set) => 1_u64.checked_shl(vcpu.raw()).is_some_and(|bit| set & bit != 0),
            Whose::All => true,
        };
        if whose == Whose::Own {
            return self.machine().flush_local(what);
        }
        // A store to a table may still be on its way to memory. Whoever loads the tables from here on finds it there; whoever
        // has loaded them before says so before it reads them, and is found.
        fence(Ordering::SeqCst);
        let meant = domain.vcpus.iter().filter(|vcpu| is_meant(vcpu.id));
        let cpus = meant.filter_map(|vcpu| vcpu.loaded_on());
        let cpus = cpus.fold(CpuSet::NONE, CpuSet::with);
        if cpus != CpuSet::NONE {
            self.machine().flush_on(cpus, what);
        }
    }
}
