//! What a guest knows of its segments: nobody but itself changes their bases, whichever of its halves runs, and whoever ran
//! meanwhile; and its kernel is told if a selector could not be loaded again.

use super::Sim;
use crate::hypervisor::Cpu;
use crate::ids::VcpuId;
use crate::vcpu::bounce::Selectors;
use crate::vcpu::{Mode, Regs, Segments};
use alloc::collections::BTreeMap;
use bulkhead_abi::trap::{FailsafeFrame, Vector};
use bulkhead_abi::{Buffered, DomId, Hypercall, Record};

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

/// `cpu`, which acts, goes on with a guest whose registers are `regs`. If it comes from elsewhere, and some of its selectors could not be
/// loaded, its kernel is told which they were.
///
/// # Panics
///
/// If it is not told.
pub(super) fn check_failed_load(sim: &Sim, cpu: &Cpu, regs: &Regs) {
    let (Some(Selectors { ds, es, fs, gs }), Some(current)) = (sim.take_failed_load(), &cpu.current) else {
        return;
    };
    assert_eq!(current.context.mode, Mode::Kernel, "its kernel is told");
    let failsafe = current.context.failsafe_callback.address;
    if regs.rip != failsafe {
        // Of these it is told after that.
        let event = current.context.event_callback.address;
        let nmi = current.context.traps.get(Vector::Nmi.raw()).address;
        assert!(
            [event, nmi].contains(&regs.rip),
            "a kernel goes on, and its segments are lost"
        );
        return;
    }
    let mut frame = FailsafeFrame::EMPTY;
    sim.guest_read(regs.rsp, frame.as_mut()).unwrap();
    let frame = FailsafeFrame::read_from(frame.as_ref()).unwrap();
    assert_eq!(
        [frame.ds, frame.es, frame.fs, frame.gs],
        [ds, es, fs, gs].map(u64::from),
        "what could not be loaded"
    );
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
