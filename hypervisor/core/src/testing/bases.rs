//! What a guest knows of its segment bases: nobody but itself changes them, whichever of its halves runs, and whoever ran
//! meanwhile.

use super::Sim;
use crate::hypervisor::Cpu;
use crate::ids::VcpuId;
use crate::vcpu::{Mode, Segments};
use alloc::collections::BTreeMap;
use bulkhead_abi::{DomId, Hypercall};

/// Whether a visit to the hypervisor asks for a change of bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bases {
    /// It does not.
    Kept,
    /// It may.
    MayChange,
}

impl Bases {
    /// What a hypercall asks for.
    pub(super) fn of_call(number: u64) -> Self {
        let changing = [Hypercall::SetSegmentBase, Hypercall::Multicall];
        if changing.iter().any(|call| call.raw() == number) {
            Self::MayChange
        } else {
            Self::Kept
        }
    }
}

type Who = (DomId, VcpuId);

/// The bases of FS, of GS in the kernel, of GS in programs.
type Values = [u64; 3];

/// What each vCPU had when it was last left for another.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<Who, Values>);

impl Known {
    /// `cpu`, which acts, leaves its guest.
    pub(super) fn leave_guest(&mut self, sim: &Sim, cpu: &Cpu, bases: Bases) {
        if let Some((who, values)) = values(sim, cpu) {
            match bases {
                Bases::Kept => self.0.insert(who, values),
                Bases::MayChange => self.0.remove(&who),
            };
        }
    }

    /// `cpu`, which acts, goes on with a guest.
    ///
    /// # Panics
    ///
    /// If the guest does not find the bases that it had.
    pub(super) fn enter_guest(&self, sim: &Sim, cpu: &Cpu) {
        let Some((who, values)) = values(sim, cpu) else {
            return;
        };
        if let Some(&known) = self.0.get(&who) {
            assert_eq!(
                values, known,
                "{who:?} finds the bases that it had: FS, kernel GS, user GS"
            );
        }
    }
}

fn values(sim: &Sim, cpu: &Cpu) -> Option<(Who, Values)> {
    let current = cpu.current.as_ref()?;
    let Segments {
        fs_base,
        gs_base,
        gs_base_other,
        ..
    } = sim.segments();
    let values = match current.context.mode {
        Mode::Kernel => [fs_base, gs_base, gs_base_other],
        Mode::User => [fs_base, gs_base_other, gs_base],
    };
    Some(((current.domain.id, current.vcpu), values))
}
