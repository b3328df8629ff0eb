//! `vcpu_op`: records in a guest's memory that the hypervisor keeps: `vcpu_info`, the runstate area, a copy of the clock.

use super::vcpu::named;
use super::{Answer, Call};
use crate::domains::Domain;
use crate::events::bits::VcpuInfoView;
use crate::frames::{Kind, Mfn};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::paging::{PagingError, Work};
use crate::sync::Ordering;
use crate::vcpu::{ClockArea, InfoPlace, RunstateArea, Vcpu};
use bulkhead_abi::Errno;
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::mmu::VmAssistType;
use bulkhead_abi::shared_info::{self, VcpuInfo, offset};
use bulkhead_abi::vcpu::{RUNSTATE_UPDATE, RegisterArea, RegisterVcpuInfo};

/// Words of a `vcpu_info` that the guest and events change; the clock behind them is written anew.
const INFO_WORDS: usize = 4;

/// The last word of a frame that a `vcpu_info` can begin at.
const LAST_INFO: usize = (PAGE_SIZE - size_of::<VcpuInfo>()) / 8;

/// Registers where the guest wants to read how a vCPU spends its time. The place registered before is let go.
pub(super) fn register_runstate_memory_area<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    let RegisterArea { va } = call.read(call.arg::<2>())?;
    let memory = &call.hv.memory;
    let root = call.current.context.roots.kernel();
    let mut work = Work::portion();
    let area = RunstateArea::hold(memory, call.domain().id, root, va, &mut work)?;
    // Under the lock: whoever shows the times meanwhile shows them at the old place, and is done with it.
    let before = vcpu.runstate_area.lock().replace(area);
    if let Some(before) = before {
        before.release(memory, &mut work);
    }
    call.hv.show_runstate(call.domain(), vcpu);
    Ok(0)
}

/// Registers where the guest wants a copy of a vCPU's clock, for its programs to read; address 0 takes the place back.
pub(super) fn register_vcpu_time_memory_area<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    let RegisterArea { va } = call.read(call.arg::<2>())?;
    let memory = &call.hv.memory;
    let mut work = Work::portion();
    let area = if va == 0 {
        None
    } else {
        let root = call.current.context.roots.kernel();
        Some(ClockArea::hold(memory, call.domain().id, root, va, &mut work)?)
    };
    let before = core::mem::replace(&mut vcpu.clock.lock().area, area);
    if let Some(before) = before {
        before.release(memory, &mut work);
    }
    call.hv.write_clock(vcpu);
    Ok(0)
}

/// Moves a vCPU's `vcpu_info` to a frame of the guest's, for good. The vCPU is the caller, or it does not run.
pub(super) fn register_vcpu_info<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let vcpu = named(call)?;
    let RegisterVcpuInfo { mfn, offset, .. } = call.read(call.arg::<2>())?;
    let domain = call.domain();
    let word = u16::try_from(offset >> 3).map_err(|_| Errno::Inval)?;
    let frame = Mfn::new(mfn).ok_or(Errno::Inval)?;
    if offset & 7 != 0 || usize::from(word) > LAST_INFO {
        return Err(Errno::Inval);
    }
    // Shared info is where it comes from, and how one is told from another that has moved.
    if frame == domain.shared_info {
        return Err(Errno::Inval);
    }
    if vcpu.id != call.current.vcpu && vcpu.is_up() {
        return Err(Errno::Busy);
    }
    let memory = &call.hv.memory;
    let mut work = Work::portion();
    memory
        .get_as(frame, domain.id, Kind::Writable, &mut work)
        .map_err(PagingError::of_operand)?;
    let place = InfoPlace { frame, word };
    let moved = call.hv.move_info(domain, vcpu, place);
    if moved.is_err() {
        memory.put_as(frame, &mut work);
    }
    moved?;
    call.hv.write_clock(vcpu);
    if vcpu.id == call.current.vcpu {
        call.current.context.info = place.maddr();
    }
    Ok(0)
}

impl<M: Machine> Hypervisor<M> {
    /// Moves a `vcpu_info` from shared info to `place`, which is held. No event is lost on the way.
    fn move_info(&self, domain: &Domain, vcpu: &Vcpu, place: InfoPlace) -> Result<(), Errno> {
        // Nobody raises an event while this is held.
        let events = domain.events.write();
        let old = vcpu.info();
        if old.frame != domain.shared_info {
            return Err(Errno::Inval);
        }
        let (from, to) = (self.machine().frame(old.frame), self.machine().frame(place.frame));
        let words = |frame: usize| frame..frame.saturating_add(INFO_WORDS);
        let from_words = from.get(words(usize::from(old.word))).unwrap_or_default();
        let to_words = to.get(words(usize::from(place.word))).unwrap_or_default();
        for (from, to) in from_words.iter().zip(to_words) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        vcpu.set_info(place);
        if let Some(info) = VcpuInfoView::new(&to, usize::from(place.word).saturating_mul(8)) {
            info.request_scan();
        }
        drop(events);
        Ok(())
    }

    /// Writes the clock to the guest's copies, by the version protocol of the ABI's section 9.1.
    pub(crate) fn write_clock(&self, vcpu: &Vcpu) {
        // Under the lock, so that two CPUs do not mix what they write: one that runs the vCPU, one that registers a place for it.
        let mut shown = vcpu.clock.lock();
        let machine = self.machine();
        let (now, scale) = (machine.clock(), machine.tsc_scale());
        let [shift] = scale.shift.to_le_bytes();
        let flags = if machine.is_tsc_stable() {
            shared_info::TSC_STABLE
        } else {
            0
        };
        let rate = u64::from(scale.mul) | u64::from(shift) << 32 | u64::from(flags) << 40;
        let odd = shown.version.wrapping_add(1);
        let even = odd.wrapping_add(1);
        shown.version = even;
        let write = |store: &dyn Fn(usize, u64, Ordering)| {
            store(0, odd.into(), Ordering::Relaxed);
            // Release: a reader on another CPU that sees a new field also sees the odd version, or a later one.
            core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
            for (n, value) in (1..).zip([now.tsc, now.ns, rate]) {
                store(n, value, Ordering::Relaxed);
            }
            store(0, even.into(), Ordering::Release);
        };
        let place = vcpu.info();
        let frame = machine.frame(place.frame);
        let first = usize::from(place.word).saturating_add(offset::TIME / 8);
        write(&|n, value, ordering| {
            if let Some(word) = frame.get(first.saturating_add(n)) {
                word.store(value, ordering);
            }
        });
        if let Some(area) = &shown.area {
            write(&|n, value, ordering| area.store(&self.memory, n, value, ordering));
        }
    }

    /// Writes how a vCPU has spent its time to where its domain wants to read it: up to when it began what it does now.
    pub(crate) fn show_runstate(&self, domain: &Domain, vcpu: &Vcpu) {
        let area = vcpu.runstate_area.lock();
        let Some(area) = area.as_ref() else { return };
        let info = vcpu.history.lock().info(0);
        let store = |n, value, ordering| area.store(&self.memory, n, value, ordering);
        // Relaxed: a domain that asks for the flag at this moment may see it from the next change on.
        let has_flag = domain.assists.load(core::sync::atomic::Ordering::Relaxed)
            & 1 << VmAssistType::RunstateUpdateFlag.raw()
            != 0;
        if has_flag {
            store(1, info.state_entry_time | RUNSTATE_UPDATE, Ordering::Relaxed);
            // Release: a reader that sees anything new after this also sees the flag, or the end.
            core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
        }
        store(0, u64::from(info.state), Ordering::Relaxed);
        for (n, time) in (2..).zip(info.time_ns) {
            store(n, time, Ordering::Relaxed);
        }
        store(1, info.state_entry_time, Ordering::Release);
    }
}
