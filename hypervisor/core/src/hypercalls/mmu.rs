//! `mmu_update`, `update_va_mapping`, `mmuext_op`: see [`crate::paging`] for what may be done.

use super::{Answer, BUDGET, Call};
use crate::frames::{Kind, Mfn};
use crate::machine::{Flush, Machine};
use crate::paging::AccessedDirty;
use bulkhead_abi::mmu::{
    ForeignDom, MMU_UPDATE_PREEMPTED, MmuCommand, MmuExt, MmuExtOp, MmuUpdate, UVMF_FLUSH_MASK, UVMF_INVLPG,
    UVMF_LOCAL, UVMF_NONE, UVMF_TLB_FLUSH,
};
use bulkhead_abi::{Buffered, Errno, layout};

pub(super) fn update<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    for_each(call, |call, request: MmuUpdate| {
        let mfn = Mfn::from_maddr(request.maddr());
        let owner = call.domain().id;
        let memory = &call.hv.memory;
        match request.command() {
            MmuCommand::MachphysUpdate => {
                memory.get(mfn, owner).map_err(|_| Errno::Inval)?;
                memory.machine().set_m2p(mfn, request.val);
                memory.put(mfn);
                Ok(())
            }
            MmuCommand::NormalPtUpdate | MmuCommand::PtUpdateNoTranslate => memory.write_word(
                owner,
                mfn,
                index(request.maddr()),
                request.val,
                AccessedDirty::Replace,
            ),
            MmuCommand::PtUpdatePreserveAd => memory.write_word(
                owner,
                mfn,
                index(request.maddr()),
                request.val,
                AccessedDirty::Preserve,
            ),
        }
    })
}

/// Which entry of its table a machine address names.
fn index(maddr: u64) -> usize {
    usize::try_from(maddr >> 3 & 0x1ff).unwrap_or(0)
}

pub(super) fn update_va_mapping<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let [va, new, flags] = [call.arg::<0>(), call.arg::<1>(), call.arg::<2>()];
    let root = call.current.context.kernel_root;
    call.hv.memory.update_va(call.domain().id, root, va, new)?;
    let what = match flags & UVMF_FLUSH_MASK {
        UVMF_NONE => return Ok(0),
        UVMF_TLB_FLUSH => Flush::All,
        UVMF_INVLPG => Flush::Page(va),
        _ => return Err(Errno::Inval),
    };
    // What is not local names all vCPUs, or a set of them in the guest's memory; all is never too few.
    if flags & !UVMF_FLUSH_MASK == UVMF_LOCAL {
        call.hv.machine().flush_local(what);
    } else {
        call.hv.machine().flush(what);
    }
    Ok(0)
}

pub(super) fn extended<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    for_each(call, |call, op: MmuExt| {
        let kind = MmuExtOp::from_raw(op.cmd).ok_or(Errno::NoSys)?;
        let owner = call.domain().id;
        let memory = &call.hv.memory;
        let mfn = Mfn::new(op.arg1).ok_or(Errno::Inval);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "what is not in the table is not served"
        )]
        match kind {
            MmuExtOp::PinL1Table => memory.pin(owner, mfn?, Kind::L1)?,
            MmuExtOp::PinL2Table => memory.pin(owner, mfn?, Kind::L2)?,
            MmuExtOp::PinL3Table => memory.pin(owner, mfn?, Kind::L3)?,
            MmuExtOp::PinL4Table => memory.pin(owner, mfn?, Kind::L4)?,
            MmuExtOp::UnpinTable => memory.unpin(owner, mfn?)?,
            MmuExtOp::NewBaseptr => new_root(call, mfn?)?,
            MmuExtOp::TlbFlushLocal => memory.machine().flush_local(Flush::All),
            MmuExtOp::TlbFlushAll => memory.machine().flush(Flush::All),
            // An address that no CPU takes has no translation to forget.
            MmuExtOp::InvlpgLocal | MmuExtOp::InvlpgAll if !layout::is_canonical(op.arg1) => {}
            MmuExtOp::InvlpgLocal => memory.machine().flush_local(Flush::Page(op.arg1)),
            MmuExtOp::InvlpgAll => memory.machine().flush(Flush::Page(op.arg1)),
            _ => return Err(Errno::NoSys),
        }
        Ok(())
    })
}

/// Changes the page tables that the calling vCPU runs on.
fn new_root<M: Machine>(call: &mut Call<'_, M>, root: Mfn) -> Result<(), Errno> {
    let memory = &call.hv.memory;
    let old = call.current.context.kernel_root;
    if root != old {
        memory
            .get_as(root, call.current.domain.id, Kind::L4)
            .map_err(|_| Errno::Inval)?;
        call.current.context.kernel_root = root;
    }
    memory.machine().load_root(root);
    if root != old {
        memory.put_as(old);
    }
    Ok(())
}

/// Works off a list of `count` (argument 1) records at argument 0, in order, up to the first error. How many were done
/// is written to argument 2, if that is not null; argument 3 says whose memory it is about.
fn for_each<M: Machine, T: Buffered>(
    call: &mut Call<'_, M>,
    act: impl Fn(&mut Call<'_, M>, T) -> Result<(), Errno>,
) -> Answer {
    let [list, done_at] = [call.arg::<0>(), call.arg::<2>()];
    let raw_count = call.arg32::<1>();
    let foreign = ForeignDom::from_raw(call.arg32::<3>());
    call.only_self(foreign.page_owner)?;
    if let Some(owner) = foreign.table_owner {
        call.only_self(owner)?;
    }
    let was_restarted = raw_count & MMU_UPDATE_PREEMPTED != 0;
    let count = u64::from(raw_count & !MMU_UPDATE_PREEMPTED);
    let done_before = if was_restarted && done_at != 0 {
        call.read::<u32>(done_at)?
    } else {
        0
    };

    let mut done = 0_u64;
    let mut result = Ok(());
    while result.is_ok() && done < count.min(BUDGET) {
        let at = list.wrapping_add(done.wrapping_mul(T::SIZE as u64));
        result = call.read::<T>(at).and_then(|record| act(call, record));
        if result.is_ok() {
            done = done.saturating_add(1);
        }
    }
    if done_at != 0 {
        let now = done_before.wrapping_add(u32::try_from(done).unwrap_or(u32::MAX));
        call.write(done_at, &now)?;
    }
    result?;
    let left = count.saturating_sub(done);
    if left == 0 {
        return Ok(0);
    }
    call.regs.rdi = list.wrapping_add(done.wrapping_mul(T::SIZE as u64));
    call.regs.rsi = left | u64::from(MMU_UPDATE_PREEMPTED);
    Call::<M>::restart()
}
