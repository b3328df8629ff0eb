//! `vcpu_op` initialise: a guest gives one of its vCPUs its first state. The control domain gives and reads those of others.

use super::segments::as_descriptors;
use super::vcpu::named;
use super::{Answer, Call, domains};
use crate::domains::Domain;
use crate::frames::{Kind, Mfn};
use crate::hypervisor::Hypervisor;
use crate::ids::VcpuId;
use crate::machine::Machine;
use crate::paging::{PagingError, Work};
use crate::try_box::TryBox;
use crate::vcpu::initial::NamedFrames;
use crate::vcpu::{Context, Standing, Vcpu};
use bulkhead_abi::control::VcpuState;
use bulkhead_abi::vcpu::{VGCF_ONLINE, VcpuGuestContext};
use bulkhead_abi::{DomId, Errno};
use core::sync::atomic::Ordering;

/// Makes a vCPU that has none yet a state of what the guest gives. Nothing is held if any part of it is refused.
pub(super) fn initialise<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    give_state(call, call.domain(), vcpu, call.arg::<2>())
}

/// The control domain gives a vCPU of another domain its first state.
pub(super) fn set_vcpu<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let VcpuState {
        domain,
        vcpu,
        context,
    } = call.read(call.arg::<1>())?;
    let visit = domains::visit_other(call, domain)?;
    let vcpu = visit.domain().vcpu(VcpuId::new(vcpu)).ok_or(Errno::NoEnt)?;
    if vcpu.standing() == Standing::Blank && visit.domain().can_run() {
        // It could undo as fast as this goes on what is checked in several goes; and can give its vCPUs their states itself.
        return Err(Errno::Inval);
    }
    give_state(call, visit.domain(), vcpu, context)
}

/// The control domain reads the state of a vCPU of another domain, which rests.
pub(super) fn get_vcpu<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let VcpuState {
        domain,
        vcpu,
        context,
    } = call.read(call.arg::<1>())?;
    let visit = domains::visit_other(call, domain)?;
    let vcpu = visit.domain().vcpu(VcpuId::new(vcpu)).ok_or(Errno::NoEnt)?;
    if vcpu.standing() == Standing::Blank {
        return Err(Errno::NoData);
    }
    if vcpu.may_run() {
        return Err(Errno::Busy);
    }
    let Some(mut state) = vcpu.look(Context::to_guest) else {
        // It is on its way off its CPU.
        return Call::<M>::restart();
    };
    if vcpu.is_up() {
        state.flags |= VGCF_ONLINE;
    }
    state.vm_assist = visit.domain().assists.load(Ordering::Relaxed);
    call.write(context, &state)?;
    Ok(0)
}

/// Gives `vcpu`, which has none, the state that stands at `from`.
fn give_state<M: Machine>(call: &Call<'_, M>, domain: &Domain, vcpu: &Vcpu, from: u64) -> Answer {
    if vcpu.standing() != Standing::Blank {
        return Err(Errno::Exist);
    }
    let given: VcpuGuestContext = call.read(from)?;
    let mut frames = NamedFrames::of(&given).map_err(|_| Errno::Inval)?;
    let hv = call.hv;
    // Thirty pages of descriptors are more than one go: those that are checked cost the next one nothing.
    let mut work = Work::portion();
    hv.hold_frames(
        domain.id,
        &mut frames,
        (given.ldt_base, given.ldt_ents),
        &mut work,
    )
    .map_err(PagingError::of_operand)?;
    let context = Context::from_guest(&given, frames.clone()).map_err(|_| Errno::Inval);
    let installed = context
        .and_then(|context| TryBox::new(context).ok_or(Errno::NoMem))
        .and_then(|context| install(domain, vcpu, context));
    if let Err(error) = installed {
        hv.release_frames(&frames, &mut work);
        return Err(error);
    }
    if given.flags & VGCF_ONLINE != 0 {
        hv.bring_up(domain, vcpu).map_err(|_| Errno::Inval)?;
    }
    Ok(0)
}

/// Puts the state in its place, if no other vCPU was faster.
fn install(domain: &Domain, vcpu: &Vcpu, context: TryBox<Context>) -> Result<(), Errno> {
    let life = domain.lifecycle.lock();
    if vcpu.standing() != Standing::Blank || life.has_ended() {
        return Err(Errno::Exist);
    }
    vcpu.park(context);
    vcpu.set_standing(Standing::Down);
    Ok(())
}

impl<M: Machine> Hypervisor<M> {
    /// Takes the holds that a state has on its frames, or none, and finds its local descriptors, so many at that address.
    ///
    /// # Errors
    ///
    /// As [`Memory::get_all`](crate::memory::Memory::get_all).
    fn hold_frames(
        &self,
        owner: DomId,
        frames: &mut NamedFrames,
        local: (u64, u64),
        work: &mut Work,
    ) -> Result<(), PagingError> {
        self.memory.get_all(held(frames), owner, work)?;
        // By tables that are held now, and so are what they should be.
        frames.ldt = self
            .hold_ldt(owner, frames.kernel_root, local, work)
            .inspect_err(|&error| self.memory.put_all(held(frames), error, work))?;
        Ok(())
    }

    /// Gives back the holds of a state that there will not be.
    fn release_frames(&self, frames: &NamedFrames, work: &mut Work) {
        for (mfn, _) in held(frames).filter(|_| !mutant!(LostPutOnFirstState)) {
            self.memory.put_as(mfn, work);
        }
    }
}

/// What a state holds, and as what.
fn held(frames: &NamedFrames) -> impl Iterator<Item = (Mfn, Kind)> + Clone {
    let roots = [Some(frames.kernel_root), frames.user_root].into_iter().flatten();
    let pages = as_descriptors(&frames.gdt).chain(as_descriptors(&frames.ldt.frames));
    roots.map(|mfn| (mfn, Kind::L4)).chain(pages)
}
