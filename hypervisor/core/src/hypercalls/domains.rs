//! `sysctl`: the lives of other domains. Making one, letting it run, looking at it, ending it.
//!
//! The control domain may do this to every domain but itself, whose life is its own.

use super::{Answer, Call, control};
use crate::domains::builder::BuildError;
use crate::domains::{Domain, Lifecycle, MAX_DOMAINS, Shell, Visit};
use crate::frames::{Kind, Mfn};
use crate::machine::Machine;
use crate::paging::{PagingError, Work};
use crate::pci::Function;
use crate::ports::PortSet;
use crate::sched::{CpuSet, Share, Warp, Weight};
use crate::vcpu::Vcpu;
use alloc::sync::Arc;
use bulkhead_abi::control::{
    COPY_FROM, COPY_TO, COPY_ZEROS, CopyMemory, CreateDomain, DomainInfo, DomainRef, NAME_LEN,
    STATE_BUILDING, STATE_DYING, STATE_PAUSED, STATE_RUNNING, STATE_SHUT_DOWN, SetLimit,
};
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::{DomId, Errno};

/// How many bytes are copied at a time.
const CHUNK: usize = 1024;

/// Another domain than the caller, by its number.
pub(super) fn other<M: Machine>(call: &Call<'_, M>, id: DomId) -> Result<Arc<Domain>, Errno> {
    if id == DomId::SELF || id == call.domain().id {
        return Err(Errno::Inval);
    }
    call.hv.domains.get(id).ok_or(Errno::Srch)
}

/// Another domain than the caller, for work on its memory.
pub(super) fn visit_other<M: Machine>(call: &Call<'_, M>, id: DomId) -> Result<Visit, Errno> {
    Visit::new(other(call, id)?).ok_or(Errno::Srch)
}

/// The domain that a record of a number alone is about.
fn named<M: Machine>(call: &Call<'_, M>) -> Result<Arc<Domain>, Errno> {
    let DomainRef { domain, reserved } = call.read(call.arg::<1>())?;
    if reserved != 0 {
        return Err(Errno::Inval);
    }
    other(call, domain)
}

pub(super) fn info<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let DomainInfo { domain: from, .. } = call.read(at)?;
    let found = call.hv.domains.first_from(from).ok_or(Errno::Srch)?;
    let (state, reason) = match *found.lifecycle.lock() {
        Lifecycle::Building => (STATE_BUILDING, 0),
        Lifecycle::Running if found.vcpus.iter().any(Vcpu::is_held) => (STATE_PAUSED, 0),
        Lifecycle::Running => (STATE_RUNNING, 0),
        Lifecycle::ShutDown(reason) => (STATE_SHUT_DOWN, reason.raw()),
        Lifecycle::Dying => (STATE_DYING, 0),
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let [user_ns, kernel_ns, hypervisor_ns] = control::spent_ns(call, &found);
    let mut name = [0; NAME_LEN];
    for (to, from) in name.iter_mut().zip(found.name.bytes()) {
        *to = from;
    }
    let (pages, limit) = {
        let holdings = found.memory.lock();
        (holdings.frames.len(), holdings.limit)
    };
    let info = DomainInfo {
        domain: found.id,
        state,
        reason,
        vcpus: count(found.vcpus.len()),
        online: count(found.vcpus.iter().filter(|vcpu| vcpu.is_up()).count()),
        pages,
        limit,
        shared_info: found.shared_info.raw(),
        user_ns,
        kernel_ns,
        hypervisor_ns,
        machine_free: call.hv.memory.free_frames(),
        reserved: 0,
        name,
    };
    call.write(at, &info)?;
    Ok(0)
}

pub(super) fn create<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut wanted: CreateDomain = call.read(at)?;
    let len = wanted.name.iter().position(|&byte| byte == 0).unwrap_or(NAME_LEN);
    let name = wanted.name.get(..len).unwrap_or_default();
    let share = Share {
        weight: Weight::new(wanted.weight).ok_or(Errno::Inval)?,
        warp: Warp::NONE,
        affinity: CpuSet::from_bits(wanted.cpus),
    };
    if wanted.reserved != 0 {
        return Err(Errno::Inval);
    }
    let shell = Shell {
        name: core::str::from_utf8(name).map_err(|_| Errno::Inval)?,
        vcpus: wanted.vcpus,
        limit: wanted.limit,
        share,
        ports: PortSet::default(),
        extent: (wanted.extent != 0).then_some(wanted.extent),
    };
    let claim = if wanted.domain == DomId::INVALID {
        call.hv.domains.claim_any().ok_or(Errno::NoSpc)?
    } else if wanted.domain.raw() < MAX_DOMAINS {
        call.hv.domains.claim(wanted.domain).ok_or(Errno::Exist)?
    } else {
        return Err(Errno::Inval);
    };
    wanted.domain = claim.id();
    // Before there is anything to undo.
    call.write(at, &wanted)?;
    if let Some(number) = shell.extent {
        call.hv.memory.extents.lock().enter(number)?;
    }
    let made = call.hv.make_domain(claim, &shell);
    if let (Err(_), Some(number)) = (&made, shell.extent) {
        call.hv.memory.extents.lock().leave(number);
    }
    made.map_err(|error| match error {
        BuildError::NoMemory(_) | BuildError::NoHeap => Errno::NoMem,
        BuildError::NumberTaken => Errno::Exist,
        BuildError::Image(_)
        | BuildError::Plan(_)
        | BuildError::LongName
        | BuildError::Vcpus(_)
        | BuildError::NoCpu
        | BuildError::Tables(_) => Errno::Inval,
    })?;
    Ok(0)
}

pub(super) fn unpause<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let domain = named(call)?;
    call.hv.unpause(&domain);
    Ok(0)
}

/// Answers when none of the domain's vCPUs runs any more.
pub(super) fn pause<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let domain = named(call)?;
    call.hv.pause(&domain);
    if !call.hv.is_at_rest(&domain) {
        return Call::<M>::restart();
    }
    Ok(0)
}

pub(super) fn destroy<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let domain = named(call)?;
    let is_its = |function: &&Function| function.owner() == Some(domain.id);
    match call.hv.destroy(&domain) {
        Ok(()) => Ok(0),
        Err(Errno::Restart) if let Some(until) = call.hv.reset_until(is_its) => call.restart_at(until),
        Err(error) => Err(error),
    }
}

pub(super) fn set_limit<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let SetLimit { domain, limit } = call.read(call.arg::<1>())?;
    // Its own limit it may change as well: it could have been born with another.
    let domain = call.hv.domains.get(call.resolve(domain)?).ok_or(Errno::Srch)?;
    let mut holdings = domain.memory.lock();
    holdings.limit = limit;
    holdings.kept = holdings.frames.len().saturating_add(holdings.awaited);
    Ok(0)
}

pub(super) fn copy<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let CopyMemory {
        domain,
        direction,
        offset,
        len,
        frame,
        buffer,
    } = call.read(call.arg::<1>())?;
    let visit = visit_other(call, domain)?;
    let owner = visit.domain().id;
    let first = usize::try_from(offset).map_err(|_| Errno::Inval)?;
    let len = usize::try_from(len).map_err(|_| Errno::Inval)?;
    if first.checked_add(len).is_none_or(|end| end > PAGE_SIZE) {
        return Err(Errno::Inval);
    }
    let mfn = Mfn::new(frame).ok_or(Errno::Inval)?;
    let memory = &call.hv.memory;
    match direction {
        COPY_FROM => {
            memory.get(mfn, owner).map_err(|_| Errno::Inval)?;
            let copied = chunks(first, len, |at, done, size| {
                let mut bytes = [0; CHUNK];
                let bytes = bytes.get_mut(..size).unwrap_or_default();
                memory.machine().read_frame(mfn, at, bytes);
                call.write_bytes(buffer.wrapping_add(done), bytes)
            });
            memory.put(mfn);
            copied?;
        }
        COPY_TO | COPY_ZEROS => {
            let mut work = Work::portion();
            memory
                .get_as(mfn, owner, Kind::Writable, &mut work)
                .map_err(PagingError::of_operand)?;
            let copied = chunks(first, len, |at, done, size| {
                let mut bytes = [0; CHUNK];
                let bytes = bytes.get_mut(..size).unwrap_or_default();
                if direction == COPY_TO {
                    call.read_bytes(buffer.wrapping_add(done), bytes)?;
                }
                memory.machine().write_frame(mfn, at, bytes);
                Ok(())
            });
            memory.put_as(mfn, &mut work);
            copied?;
        }
        _ => return Err(Errno::Inval),
    }
    Ok(0)
}

/// Does `len` bytes from `first` of a frame on in chunks: place in the frame, bytes before, bytes now.
fn chunks(
    first: usize,
    len: usize,
    mut copy: impl FnMut(usize, u64, usize) -> Result<(), Errno>,
) -> Result<(), Errno> {
    for done in (0..len).step_by(CHUNK) {
        let size = len.saturating_sub(done).min(CHUNK);
        copy(first.saturating_add(done), done as u64, size)?;
    }
    Ok(())
}
