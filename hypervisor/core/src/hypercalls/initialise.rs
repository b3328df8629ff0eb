//! `vcpu_op` initialise: a guest gives one of its vCPUs its first state. The control domain gives and reads those of others.

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
use bulkhead_abi::Errno;
use bulkhead_abi::control::VcpuState;
use bulkhead_abi::vcpu::{VGCF_ONLINE, VcpuGuestContext};
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
    hv.hold_frames(domain, &frames)?;
    // By tables that are held now, and so are what they should be.
    let local = (given.ldt_base, given.ldt_ents);
    match hv.hold_ldt(domain.id, frames.kernel_root, local, &mut Work::portion()) {
        Ok(ldt) => frames.ldt = ldt,
        Err(error) => {
            hv.release_frames(&frames);
            return Err(error);
        }
    }
    let context = Context::from_guest(&given, frames.clone()).map_err(|_| Errno::Inval);
    let installed = context
        .and_then(|context| TryBox::new(context).ok_or(Errno::NoMem))
        .and_then(|context| install(domain, vcpu, context));
    if let Err(error) = installed {
        hv.release_frames(&frames);
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
    /// Takes the holds that a state has on its frames, or none.
    fn hold_frames(&self, domain: &Domain, frames: &NamedFrames) -> Result<(), Errno> {
        for (n, (mfn, kind)) in held(frames).enumerate() {
            // Each may take a portion: were it shared, a table that must be validated might never have its turn.
            let got = self.memory.get_as(mfn, domain.id, kind, &mut Work::portion());
            if let Err(error) = got.map_err(PagingError::of_operand) {
                for (mfn, _) in held(frames).take(n) {
                    self.memory.put_as(mfn, &mut Work::portion());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives back the holds of a state that there will not be.
    fn release_frames(&self, frames: &NamedFrames) {
        for (mfn, _) in held(frames).filter(|_| !mutant!(LostPutOnFirstState)) {
            self.memory.put_as(mfn, &mut Work::portion());
        }
    }
}

/// What a state holds, and as what.
fn held(frames: &NamedFrames) -> impl Iterator<Item = (Mfn, Kind)> {
    let roots = [Some(frames.kernel_root), frames.user_root].into_iter().flatten();
    let pages = frames.gdt.iter().chain(&frames.ldt.frames);
    let pages = pages.map(|&mfn| (mfn, Kind::Segments));
    roots.map(|mfn| (mfn, Kind::L4)).chain(pages)
}
