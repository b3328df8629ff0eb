//! `memory_op`: what a domain may ask about memory.

use super::{Answer, Call};
use crate::machine::Machine;
use bulkhead_abi::memory::{E820Entry, E820Type, MachphysMapping, MemoryMap, MemoryOp};
use bulkhead_abi::{DomId, Errno, layout};

/// The number carries, above the sub-operation, how far a long call has come; none of these is long.
pub(super) fn memory_op<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Some((op, 0)) = MemoryOp::from_command(call.arg::<0>()) else {
        return Err(Errno::NoSys);
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is not in the table is not served"
    )]
    match op {
        MemoryOp::MaximumRamPage => Ok(call.hv.memory.frames().limit().saturating_sub(1)),
        MemoryOp::CurrentReservation => holdings(call, |held, _| held),
        MemoryOp::MaximumReservation => holdings(call, |_, limit| limit),
        MemoryOp::MemoryMap => memory_map(call),
        MemoryOp::MachphysMapping => machphys_mapping(call),
        _ => Err(Errno::NoSys),
    }
}

fn holdings<M: Machine>(call: &Call<'_, M>, choose: impl FnOnce(u64, u64) -> u64) -> Answer {
    let id: DomId = call.read(call.arg::<1>())?;
    let domain = call.hv.domains.get(call.resolve(id)?).ok_or(Errno::Srch)?;
    let memory = domain.memory.lock();
    Ok(choose(memory.frames.len(), memory.limit))
}

/// One range of RAM, as large as the domain may become.
fn memory_map<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut map: MemoryMap = call.read(at)?;
    let pages = call.domain().memory.lock().limit;
    if map.nr_entries != 0 {
        let size = pages.saturating_mul(layout::PAGE_SIZE as u64);
        call.write(
            map.buffer,
            &E820Entry {
                addr: 0,
                size,
                range_type: E820Type::Ram.raw(),
            },
        )?;
        map.nr_entries = 1;
    }
    call.write(at, &map)?;
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
