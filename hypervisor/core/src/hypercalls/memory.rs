//! `memory_op`: what a domain may ask about memory.

use super::reservation::{self, Numbered};
use super::{Answer, Call};
use crate::machine::Machine;
use crate::sync::Ordering;
use bulkhead_abi::memory::{E820Entry, E820Type, MachphysMapping, MemoryMap, MemoryOp};
use bulkhead_abi::{Errno, layout, shared_info};

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
        MemoryOp::MachphysMapping => machphys_mapping(call),
        _ => Err(Errno::NoSys),
    }
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
