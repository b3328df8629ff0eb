//! Segments: the guest's own descriptor table, single descriptors, and the bases of FS and GS.

use super::{Answer, Call};
use crate::frames::words::TypeWord;
use crate::frames::{Kind, Mfn};
use crate::hypervisor::Hypervisor;
use crate::machine::{Flush, Machine};
#[cfg(doc)]
use crate::memory::Memory;
use crate::paging::{PagingError, Work};
use crate::sync::Ordering;
use crate::vcpu::Base;
use crate::vcpu::descriptors::{self, GdtFrames, Ldt};
use crate::vcpu::initial::ring_3;
use bulkhead_abi::selectors::{DESCRIPTORS_PER_PAGE, MAX_GDT_ENTRIES, MAX_LDT_ENTRIES};
use bulkhead_abi::vcpu::SegmentBase;
use bulkhead_abi::{DomId, Errno, layout};

/// Gives the calling vCPU another descriptor table.
pub(super) fn set_gdt<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (list, entries) = (call.arg::<0>(), call.arg32::<1>());
    if entries > MAX_GDT_ENTRIES {
        return Err(Errno::Inval);
    }
    let frames = (entries as usize).div_ceil(DESCRIPTORS_PER_PAGE) as u64;
    let mut named = GdtFrames::new();
    for n in 0..frames {
        let raw = call.read::<u64>(list.wrapping_add(n.wrapping_mul(8)))?;
        // There is room for as many as were let through.
        let _ = named.push(Mfn::new(raw).ok_or(Errno::Inval)?);
    }
    let (memory, owner) = (&call.hv.memory, call.current.domain.id);
    // Fourteen pages of descriptors are more than one go; and any of them may be a large tree, half taken down.
    let mut work = Work::portion();
    memory
        .get_all(as_descriptors(&named), owner, &mut work)
        .map_err(PagingError::of_operand)?;
    let old = core::mem::replace(&mut call.current.context.gdt, named);
    memory.machine().load_gdt(&call.current.context.gdt);
    memory.machine().flush_local(Flush::All);
    for &mfn in old.iter().filter(|_| !mutant!(LostPutOnGdt)) {
        memory.put_as(mfn, &mut work);
    }
    Ok(0)
}

/// Gives the calling vCPU another table of local descriptors: `entries` of them at address `va`, or none.
///
/// The pages are found and checked now. One that is not there, or that the guest can still write, is refused: to look only when a
/// selector is loaded, as the ABI's own hypervisor does, would need a fault for each page after each switch.
pub(super) fn set_ldt<M: Machine>(
    call: &mut Call<'_, M>,
    va: u64,
    entries: u64,
    work: &mut Work,
) -> Result<(), Errno> {
    let (hv, context) = (call.hv, &mut *call.current.context);
    let owner = call.current.domain.id;
    let ldt = hv
        .hold_ldt(owner, context.roots.kernel(), (va, entries), work)
        .map_err(PagingError::of_operand)?;
    let old = core::mem::replace(&mut context.ldt, ldt);
    hv.machine().load_ldt(&context.ldt);
    hv.machine().flush_local(Flush::All);
    hv.put_ldt(&old, work);
    Ok(())
}

impl<M: Machine> Hypervisor<M> {
    /// Finds `entries` local descriptors of `owner` at address `va` of the tables of `root`, or none, and holds their pages.
    ///
    /// # Errors
    ///
    /// [`PagingError::NotMapped`] if there are too many, or not at the start of a page, or a page is not there; as [`Memory::get_all`], if one
    /// cannot be one of descriptors or there is more to do. Nothing is held then.
    pub(super) fn hold_ldt(
        &self,
        owner: DomId,
        root: Mfn,
        (va, entries): (u64, u64),
        work: &mut Work,
    ) -> Result<Ldt, PagingError> {
        let entries = u16::try_from(entries)
            .ok()
            .filter(|&entries| u32::from(entries) <= MAX_LDT_ENTRIES)
            .filter(|&entries| entries == 0 || va & layout::PAGE_OFFSET_MASK == 0)
            .ok_or(PagingError::NotMapped)?;
        let mut ldt = Ldt {
            entries,
            ..Ldt::default()
        };
        for page in 0..usize::from(entries).div_ceil(DESCRIPTORS_PER_PAGE) as u64 {
            let at = va.wrapping_add(page << layout::PAGE_SHIFT);
            // There is room for as many as were let through.
            let _ = ldt.frames.push(self.memory.frame_at(root, at)?);
        }
        self.memory.get_all(as_descriptors(&ldt.frames), owner, work)?;
        Ok(ldt)
    }

    /// Lets the pages of local descriptors go.
    pub(super) fn put_ldt(&self, ldt: &Ldt, work: &mut Work) {
        for &mfn in ldt.frames.iter().filter(|_| !mutant!(LostPutOnLdt)) {
            self.memory.put_as(mfn, work);
        }
    }

    /// Takes the local descriptors of a vCPU from the CPU that ran it.
    pub(crate) fn withdraw_ldt(&self, ldt: &Ldt) {
        if !ldt.is_empty() && !mutant!(LdtLeft) {
            self.machine().load_ldt(&Ldt::default());
        }
    }
}

/// The frames, each as a page of descriptors.
pub(super) fn as_descriptors(frames: &[Mfn]) -> impl Iterator<Item = (Mfn, Kind)> + Clone {
    frames.iter().map(|&mfn| (mfn, Kind::Segments))
}

/// Writes one descriptor, at a machine address.
pub(super) fn update_descriptor<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (maddr, descriptor) = (call.arg::<0>(), call.arg::<1>());
    if maddr & 7 != 0 {
        return Err(Errno::Inval);
    }
    let mfn = Mfn::from_maddr(maddr);
    let index = usize::try_from(maddr >> 3 & 0x1ff).unwrap_or(0);
    let checked = descriptors::check(descriptor).map_err(|_| Errno::Inval)?;
    let (memory, owner) = (&call.hv.memory, call.domain().id);
    let mut work = Work::portion();
    let kind = match memory.frames().typing(mfn).map(TypeWord::in_use_as) {
        Some(Kind::Segments) => Kind::Segments,
        _ => Kind::Writable,
    };
    memory
        .get_as(mfn, owner, kind, &mut work)
        .map_err(PagingError::of_operand)?;
    if let Some(word) = memory.machine().frame(mfn).get(index) {
        let checked = if mutant!(UncheckedDescriptor) {
            descriptor
        } else {
            checked
        };
        word.store(checked, Ordering::Relaxed);
    }
    memory.put_as(mfn, &mut work);
    Ok(0)
}

/// Sets a segment base of the calling vCPU.
pub(super) fn set_segment_base<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let which = SegmentBase::from_raw(call.arg32::<0>()).ok_or(Errno::Inval)?;
    let value = call.arg::<1>();
    let base = match which {
        SegmentBase::Fs => Base::Fs,
        SegmentBase::GsKernel => Base::Gs,
        SegmentBase::GsUser => Base::OtherGs,
        SegmentBase::GsUserSel => {
            let [low, high, ..] = value.to_le_bytes();
            call.hv
                .machine()
                .load_other_gs(ring_3(u16::from_le_bytes([low, high])));
            return Ok(0);
        }
    };
    if !layout::is_canonical(value) {
        return Err(Errno::Inval);
    }
    call.hv.machine().set_base(base, value);
    Ok(0)
}
