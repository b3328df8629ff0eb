//! `memory_op`: what a domain may ask about memory.

use super::reservation::{self, Numbered};
use super::{Answer, Call};
use crate::domains::Holdings;
use crate::grants::GrantError;
use crate::machine::Machine;
use crate::paging::Work;
use crate::sync::Ordering;
use alloc::vec::Vec;
use bulkhead_abi::memory::{
    AcquireResource, COMMAND_BITS, E820Entry, E820Type, ForeignMemoryMap, MACHPHYS_CHUNK_PAGES,
    MAX_MAP_ENTRIES, MachphysMapping, MachphysMfnList, MemoryMap, MemoryOp, MemoryReservation,
    RESOURCE_GRANT_TABLE, RESOURCE_GRANT_TABLE_SHARED,
};
use bulkhead_abi::{Errno, Record, layout, shared_info};

/// The number carries, above the sub-operation, how far a long call has come.
pub(super) fn memory_op<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (op, done) = MemoryOp::from_command(call.arg::<0>()).ok_or(Errno::NoSys)?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is not in the table is not served"
    )]
    match op {
        MemoryOp::DecreaseReservation => reservation::decrease(call, done),
        MemoryOp::IncreaseReservation => reservation::increase(call, Numbered::No, done),
        MemoryOp::PopulatePhysmap => reservation::increase(call, Numbered::Yes, done),
        MemoryOp::MachphysMfnList => machphys_mfn_list(call, done),
        _ if done != 0 => Err(Errno::NoSys),
        MemoryOp::Exchange => reservation::exchange(call),
        MemoryOp::MaximumRamPage => Ok(call.hv.memory.frames().limit().saturating_sub(1)),
        MemoryOp::CurrentReservation => {
            reservation::holdings(call, |domain| domain.memory.lock().frames.len())
        }
        MemoryOp::MaximumReservation => reservation::holdings(call, |domain| domain.memory.lock().limit),
        MemoryOp::MaximumGpfn => reservation::holdings(call, |domain| {
            let words = call.hv.machine().frame(domain.shared_info);
            let max_pfn = words.get(shared_info::offset::MAX_PFN / 8);
            max_pfn.map_or(0, |word| word.load(Ordering::Relaxed))
        }),
        MemoryOp::MemoryMap => memory_map(call),
        MemoryOp::SetMemoryMap => set_memory_map(call),
        MemoryOp::MachineMemoryMap => machine_memory_map(call),
        MemoryOp::MachphysMapping => machphys_mapping(call),
        MemoryOp::AcquireResource => acquire_resource(call),
        MemoryOp::ClaimPages => claim_pages(call),
        _ => Err(Errno::NoSys),
    }
}

/// The map that has been set for the domain, as far as it wants it; if none has, one range of RAM, as large as it may become.
fn memory_map<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut map: MemoryMap = call.read(at)?;
    let mut written = 0;
    while written < map.nr_entries {
        let Some(entry) = map_entry(&call.domain().memory.lock(), written) else {
            break;
        };
        write_entry(call, map.buffer, written, &entry)?;
        written = written.saturating_add(1);
    }
    map.nr_entries = written;
    call.write(at, &map)?;
    Ok(0)
}

/// Entry `index` of the map of a domain that holds this.
fn map_entry(holdings: &Holdings, index: u32) -> Option<E820Entry> {
    if holdings.map.is_empty() {
        return (index == 0).then(|| E820Entry {
            addr: 0,
            size: holdings.limit.saturating_mul(layout::PAGE_SIZE as u64),
            range_type: E820Type::Ram.raw(),
        });
    }
    holdings.map.get(index as usize).copied()
}

/// Writes entry `index` of a map in the guest's memory.
fn write_entry<M: Machine>(call: &Call<'_, M>, map: u64, index: u32, entry: &E820Entry) -> Result<(), Errno> {
    let place = u64::from(index).wrapping_mul(E820Entry::SIZE as u64);
    call.write(map.wrapping_add(place), entry)
}

/// Sets the map that a domain is told: the caller, or another that the control domain builds. Without an entry, it is what it was at first.
fn set_memory_map<M: Machine>(call: &Call<'_, M>) -> Answer {
    let ForeignMemoryMap { domid, map } = call.read(call.arg::<1>())?;
    if map.nr_entries > MAX_MAP_ENTRIES && !mutant!(MapUnbounded) {
        return Err(Errno::Inval);
    }
    let visit = call.visit(domid)?;
    let mut entries = Vec::new();
    entries
        .try_reserve_exact(map.nr_entries as usize)
        .map_err(|_| Errno::NoMem)?;
    for n in 0..u64::from(map.nr_entries) {
        let place = n.wrapping_mul(E820Entry::SIZE as u64);
        entries.push(call.read(map.buffer.wrapping_add(place))?);
    }
    let mut holdings = call.host(visit.as_ref()).memory.lock();
    let old = core::mem::replace(&mut holdings.map, entries);
    drop(holdings);
    drop(old);
    Ok(0)
}

/// The machine's map; or, without a buffer, how many entries that has.
fn machine_memory_map<M: Machine>(call: &Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let at = call.arg::<1>();
    let mut map: MemoryMap = call.read(at)?;
    let entries = || (0..).map_while(|n| call.hv.machine().memory_map(n));
    let count = u32::try_from(entries().count()).unwrap_or(u32::MAX);
    if map.buffer != 0 {
        if map.nr_entries < count {
            return Err(Errno::Inval);
        }
        for (n, entry) in (0..).zip(entries()) {
            write_entry(call, map.buffer, n, &entry)?;
        }
    }
    map.nr_entries = count;
    call.write(at, &map)?;
    Ok(0)
}

/// How many chunks of the machine-to-pseudo-physical array are looked up in one go.
const CHUNKS: u64 = 128;

/// The frame of the first page of each chunk of the machine-to-pseudo-physical array, as many as the guest has room for. Where there is no RAM,
/// a chunk has the number of the one before it.
fn machphys_mfn_list<M: Machine>(call: &mut Call<'_, M>, done: u64) -> Answer {
    let at = call.arg::<1>();
    let mut list: MachphysMfnList = call.read(at)?;
    let entries_per_chunk = MACHPHYS_CHUNK_PAGES.saturating_mul(layout::PAGE_SIZE as u64 / 8);
    let chunks = call.hv.memory.frames().limit().div_ceil(entries_per_chunk);
    let end = chunks.min(list.max_extents.into());
    let word = |n: u64| list.extent_start.wrapping_add(n.wrapping_mul(8));
    let mut n = done;
    while n < end && n < done.saturating_add(CHUNKS) {
        let frame = match call.hv.machine().m2p_frame(n.wrapping_mul(MACHPHYS_CHUNK_PAGES)) {
            Some(mfn) => mfn.raw(),
            None if n == 0 => 0,
            None => call.read(word(n.wrapping_sub(1)))?,
        };
        call.write(word(n), &frame)?;
        n = n.saturating_add(1);
    }
    if n < end {
        call.regs.rdi = u64::from(MemoryOp::MachphysMfnList.raw()) | n << COMMAND_BITS;
        return Call::<M>::restart();
    }
    list.nr_extents = u32::try_from(end).unwrap_or(u32::MAX);
    call.write(at, &list)?;
    Ok(0)
}

/// Tells the control domain the frames of another domain's grant table, which becomes as large as is asked for; or, without a list, how many it may
/// have.
fn acquire_resource<M: Machine>(call: &Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let at = call.arg::<1>();
    let mut wanted: AcquireResource = call.read(at)?;
    if wanted.reserved != 0 {
        return Err(Errno::Inval);
    }
    // A domain has its own by other calls.
    let visit = call.visit(wanted.domid)?.ok_or(Errno::Perm)?;
    if wanted.resource_type != RESOURCE_GRANT_TABLE {
        return Err(Errno::OpNotSupp);
    }
    if wanted.id != RESOURCE_GRANT_TABLE_SHARED {
        return Err(Errno::Inval);
    }
    let limit = visit.domain().grants.lock().limit();
    if wanted.frame_list == 0 {
        if wanted.nr_frames != 0 {
            return Err(Errno::Inval);
        }
        wanted.nr_frames = limit;
        call.write(at, &wanted)?;
        return Ok(0);
    }
    let first = u32::try_from(wanted.frame).map_err(|_| Errno::Inval)?;
    let end = first
        .checked_add(wanted.nr_frames)
        .filter(|&end| end <= limit && end != first)
        .ok_or(Errno::Inval)?;
    call.hv
        .memory
        .grow_table(visit.domain(), end, &mut Work::portion())
        .map_err(|error| {
            if error == GrantError::Again {
                Errno::Restart
            } else {
                Errno::NoMem
            }
        })?;
    for (n, index) in (0..).zip(first..end) {
        let frame = visit.domain().grants.lock().frames().nth(index as usize);
        let place = wanted.frame_list.wrapping_add(u64::wrapping_mul(n, 8));
        call.write(place, &frame.ok_or(Errno::Inval)?.raw())?;
    }
    Ok(0)
}

/// Keeps free memory for a domain, as much as it lacks to have so many pages; or lets it go.
fn claim_pages<M: Machine>(call: &Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let MemoryReservation {
        extent_start,
        nr_extents,
        extent_order,
        mem_flags,
        domid,
    } = call.read(call.arg::<1>())?;
    if extent_start != 0 || extent_order != 0 || mem_flags != 0 {
        return Err(Errno::Inval);
    }
    let visit = call.visit(domid).map_err(|_| Errno::Inval)?;
    call.hv.memory.claim(call.host(visit.as_ref()), nr_extents)?;
    Ok(0)
}

fn machphys_mapping<M: Machine>(call: &Call<'_, M>) -> Answer {
    let mapping = MachphysMapping {
        v_start: layout::M2P.start,
        v_end: layout::M2P.end,
        max_mfn: call.hv.memory.frames().limit().saturating_sub(1),
    };
    call.write(call.arg::<1>(), &mapping)?;
    Ok(0)
}
