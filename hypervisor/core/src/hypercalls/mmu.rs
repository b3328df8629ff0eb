//! `mmu_update`, `update_va_mapping`, `mmuext_op`: see [`crate::paging`] for what may be done.
//!
//! Everybody changes tables of its own, which lead to its own frames. The control domain may name another domain, as the owner of the
//! frames that level 1 entries of its own tables lead to, or of frames and tables both.

use super::flush::{self, Whose};
use super::{Answer, Call, segments};
use crate::frames::{Kind, Mfn};
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::{Flush, Machine};
use crate::memory::Memory;
use crate::paging::{AccessedDirty, Owners, PagingError, Work};
use bulkhead_abi::mmu::{ForeignDom, MMU_UPDATE_PREEMPTED, MmuCommand, MmuExt, MmuExtOp, MmuUpdate};
use bulkhead_abi::{Buffered, Errno, layout};

/// What an element of a list is worth that does little, in entries looked at.
const ELEMENT_WORTH: u32 = 6;

pub(super) fn update<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    for_each(
        call,
        DefaultTables::Own,
        |call, owners, request: MmuUpdate, work| {
            let mfn = Mfn::from_maddr(request.maddr());
            let memory = &call.hv.memory;
            let accessed_dirty = match request.command() {
                MmuCommand::MachphysUpdate => {
                    memory.get(mfn, owners.pages).map_err(|_| Errno::Inval)?;
                    memory.machine().set_m2p(mfn, request.val);
                    memory.put(mfn);
                    return Ok(());
                }
                MmuCommand::NormalPtUpdate | MmuCommand::PtUpdateNoTranslate => AccessedDirty::Replace,
                MmuCommand::PtUpdatePreserveAd => AccessedDirty::Preserve,
            };
            memory.write_word(
                owners,
                mfn,
                index(request.maddr()),
                request.val,
                accessed_dirty,
                work,
            )
        },
    )
}

/// Which entry of its table a machine address names.
fn index(maddr: u64) -> usize {
    usize::try_from(maddr >> 3 & 0x1ff).unwrap_or(0)
}

pub(super) fn update_va_mapping<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    map_at(call, Owners::only(call.domain().id))
}

/// As [`update_va_mapping`], to a frame of the domain that argument 3 names.
pub(super) fn update_va_mapping_otherdomain<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    // The upper half of a domain's number is undefined.
    let pages = ForeignDom::from_raw(call.arg32::<3>()).page_owner;
    // While it is visited its frames stay its own, so that none is mapped that has been taken from it.
    let visit = call.visit(pages)?;
    let owners = Owners {
        table: call.domain().id,
        pages: call.host(visit.as_ref()).id,
    };
    map_at(call, owners)
}

fn map_at<M: Machine>(call: &mut Call<'_, M>, owners: Owners) -> Answer {
    let [va, new, flags] = [call.arg::<0>(), call.arg::<1>(), call.arg::<2>()];
    let root = call.current.context.roots.kernel();
    let flush = flush::of_flags(call, flags, va)?;
    call.hv
        .memory
        .update_va(owners, root, va, new, &mut Work::portion())?;
    if let Some((whose, what)) = flush {
        call.hv.flush_vcpus(call.domain(), whose, what);
    }
    Ok(0)
}

pub(super) fn extended<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    for_each(
        call,
        DefaultTables::PageOwners,
        |call, owners, op: MmuExt, work| {
            let owner = owners.pages;
            let kind = MmuExtOp::from_raw(op.cmd).ok_or(Errno::NoSys)?;
            let memory = &call.hv.memory;
            let mfn = Mfn::new(op.arg1).ok_or(Errno::Inval);
            match kind {
                MmuExtOp::PinL1Table => memory.pin(owner, mfn?, Kind::L1, work)?,
                MmuExtOp::PinL2Table => memory.pin(owner, mfn?, Kind::L2, work)?,
                MmuExtOp::PinL3Table => memory.pin(owner, mfn?, Kind::L3, work)?,
                MmuExtOp::PinL4Table => memory.pin(owner, mfn?, Kind::L4, work)?,
                MmuExtOp::UnpinTable => memory.unpin(owner, mfn?, work)?,
                // What follows is about the vCPU that calls.
                _ if owner != call.domain().id => return Err(Errno::Perm),
                MmuExtOp::NewBaseptr => new_root(call, mfn?, work)?,
                MmuExtOp::NewUserBaseptr => new_user_root(call, op.arg1, work)?,
                MmuExtOp::TlbFlushLocal => forget(call, Whose::Own, Flush::All),
                MmuExtOp::TlbFlushAll => forget(call, Whose::All, Flush::All),
                MmuExtOp::TlbFlushMulti => forget(call, Whose::at(call, op.arg2)?, Flush::All),
                // An address that no CPU takes has no translation to forget.
                MmuExtOp::InvlpgLocal | MmuExtOp::InvlpgAll | MmuExtOp::InvlpgMulti
                    if !layout::is_canonical(op.arg1) => {}
                MmuExtOp::InvlpgLocal => forget(call, Whose::Own, Flush::Page(op.arg1)),
                MmuExtOp::InvlpgAll => forget(call, Whose::All, Flush::Page(op.arg1)),
                MmuExtOp::InvlpgMulti => forget(call, Whose::at(call, op.arg2)?, Flush::Page(op.arg1)),
                MmuExtOp::ClearPage => memory.clear_page(owner, mfn?, work)?,
                MmuExtOp::CopyPage => {
                    memory.copy_page(owner, mfn?, Mfn::new(op.arg2).ok_or(Errno::Inval)?, work)?
                }
                // Nobody has rights over caches: RAM is cached in one way only, and a device's frames need not be written back.
                MmuExtOp::FlushCache => return Err(Errno::Acces),
                MmuExtOp::FlushCacheGlobal => return Err(Errno::Perm),
                MmuExtOp::MarkSuper | MmuExtOp::UnmarkSuper => return Err(Errno::OpNotSupp),
                MmuExtOp::SetLdt => segments::set_ldt(call, op.arg1, op.arg2, work)?,
            }
            Ok(())
        },
    )
}

fn forget<M: Machine>(call: &Call<'_, M>, whose: Whose, what: Flush) {
    call.hv.flush_vcpus(call.domain(), whose, what);
}

/// Changes the page tables that the calling vCPU's kernel runs on.
fn new_root<M: Machine>(call: &mut Call<'_, M>, root: Mfn, work: &mut Work) -> Result<(), Errno> {
    call.hv.new_kernel_root(call.current, root, work)
}

impl<M: Machine> Hypervisor<M> {
    /// Changes the page tables that the running vCPU's kernel, which runs, runs on.
    ///
    /// # Errors
    ///
    /// [`Errno::Inval`] if it is no level 4 table of the domain's; [`Errno::Restart`] if part of the work is done.
    pub(crate) fn new_kernel_root(
        &self,
        current: &mut Current,
        root: Mfn,
        work: &mut Work,
    ) -> Result<(), Errno> {
        let memory = &self.memory;
        let old = current.context.roots.kernel();
        if root != old {
            if !mutant!(UncountedRoot) {
                get_root(memory, current, root, work)?;
            }
            current.context.roots.set_kernel(root);
        }
        // The same again asks for no more than that its translations be forgotten.
        memory.machine().load_root(root);
        if root != old {
            memory.put_as(old, work);
        }
        Ok(())
    }
}

/// Changes the page tables that the calling vCPU's programs run on. Zero takes them away.
fn new_user_root<M: Machine>(call: &mut Call<'_, M>, root: u64, work: &mut Work) -> Result<(), Errno> {
    let root = if root == 0 {
        None
    } else {
        Some(Mfn::new(root).ok_or(Errno::Inval)?)
    };
    let old = call.current.context.roots.user();
    if root == old {
        return Ok(());
    }
    if let Some(root) = root {
        get_root(&call.hv.memory, call.current, root, work)?;
    }
    call.current.context.roots.set_user(root);
    if let Some(old) = old.filter(|_| !mutant!(LostPutOnUserRoot)) {
        call.hv.memory.put_as(old, work);
    }
    Ok(())
}

fn get_root<M: Machine>(
    memory: &Memory<M>,
    current: &Current,
    root: Mfn,
    work: &mut Work,
) -> Result<(), Errno> {
    let got = memory.get_as(root, current.domain.id, Kind::L4, work);
    got.map_err(PagingError::of_operand)
}

/// Whose tables a call is about that does not say so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DefaultTables {
    /// The caller's.
    Own,
    /// Those of whose pages it is about.
    PageOwners,
}

/// Works off a list of `count` (argument 1) records at argument 0, in order, up to the first error. How many were done
/// is written to argument 2, if that is not null; argument 3 says whose memory it is about.
///
/// It does not answer before all tables that it let go of are taken down: a guest may use the pages in another way at once.
fn for_each<M: Machine, T: Buffered>(
    call: &mut Call<'_, M>,
    tables: DefaultTables,
    act: impl Fn(&mut Call<'_, M>, Owners, T, &mut Work) -> Result<(), Errno>,
) -> Answer {
    let [list, done_at] = [call.arg::<0>(), call.arg::<2>()];
    let raw_count = call.arg32::<1>();
    let mut work = Work::portion();
    finish_remains(call, &mut work)?;
    if raw_count == MMU_UPDATE_PREEMPTED && list == 0 {
        return Ok(call.arg::<3>());
    }
    let foreign = ForeignDom::from_raw(call.arg32::<3>());
    let visit = call.visit(foreign.page_owner)?;
    let own = call.domain().id;
    let pages = call.host(visit.as_ref()).id;
    let table = match (foreign.table_owner, tables) {
        (Some(table), _) => call.resolve(table)?,
        (None, DefaultTables::Own) => own,
        (None, DefaultTables::PageOwners) => pages,
    };
    // Another domain's tables lead to its own pages; of the caller's own tables it is said for each entry.
    if table != pages && (table != own || tables == DefaultTables::PageOwners) {
        let is_there = call.hv.domains.get(table).is_some();
        return Err(if is_there { Errno::Perm } else { Errno::Srch });
    }
    let owners = Owners { table, pages };
    let was_restarted = raw_count & MMU_UPDATE_PREEMPTED != 0;
    let count = u64::from(raw_count & !MMU_UPDATE_PREEMPTED);
    let done_before = if was_restarted && done_at != 0 {
        call.read::<u32>(done_at)?
    } else {
        0
    };

    let mut done = 0_u64;
    let mut result = Ok(());
    let may_go_on = |done: u64, work: &Work| (done == 0 || !work.is_over()) && work.remains().is_none();
    while result.is_ok() && done < count && may_go_on(done, &work) {
        let at = list.wrapping_add(done.wrapping_mul(T::SIZE as u64));
        result = call
            .read::<T>(at)
            .and_then(|record| act(call, owners, record, &mut work));
        work.spend(ELEMENT_WORTH);
        if result.is_ok() {
            done = done.saturating_add(1);
        }
    }
    if done_at != 0 {
        let now = done_before.wrapping_add(u32::try_from(done).unwrap_or(u32::MAX));
        call.write(done_at, &now)?;
    }
    call.current.context.remains = work.remains();
    let left = count.saturating_sub(done);
    let answer = match result {
        Err(error) if error != Errno::Restart => Some(Err(error)),
        _ if left == 0 => Some(Ok(0)),
        _ => None,
    };
    if let Some(answer) = answer {
        if work.remains().is_none() {
            return answer;
        }
        return answer_later(call, answer);
    }
    call.regs.rdi = list.wrapping_add(done.wrapping_mul(T::SIZE as u64));
    call.regs.rsi = left | u64::from(MMU_UPDATE_PREEMPTED);
    Call::<M>::restart()
}

/// Goes on taking down what a call of this vCPU let go of.
///
/// # Errors
///
/// [`Errno::Restart`] if that takes more than this go.
fn finish_remains<M: Machine>(call: &mut Call<'_, M>, work: &mut Work) -> Result<(), Errno> {
    if let Some(root) = call.current.context.remains {
        call.hv.memory.take_down(root, call.domain().id, None, work)?;
        call.current.context.remains = None;
    }
    Ok(())
}

/// Lets the call be started again for no more than to finish what remains; `answer` is carried in argument 3, behind an empty list at
/// address 0. A guest that asks for the same gets the answer that it named.
fn answer_later<M: Machine>(call: &mut Call<'_, M>, answer: Answer) -> Answer {
    call.regs.rdi = 0;
    call.regs.rsi = u64::from(MMU_UPDATE_PREEMPTED);
    call.regs.rdx = 0;
    call.regs.r10 = answer.unwrap_or_else(Errno::to_register);
    Call::<M>::restart()
}
