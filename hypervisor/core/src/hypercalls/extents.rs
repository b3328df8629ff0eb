//! `sysctl`: the control domain keeps memory for domains to come. See [`crate::frames::Extents`].

use super::{Answer, Call};
use crate::frames::{ExtentError, MAX_EXTENT_ORDER, MAX_EXTENTS};
use crate::machine::Machine;
use bulkhead_abi::Errno;
use bulkhead_abi::control::{EXTENT_BELOW_4G, ExtentRef, KeepExtent};

/// How many blocks go back to the machine in one go.
const BLOCKS: u32 = 8;

impl From<ExtentError> for Errno {
    fn from(error: ExtentError) -> Self {
        match error {
            ExtentError::Taken => Self::Exist,
            ExtentError::Missing => Self::NoEnt,
            ExtentError::InUse => Self::Busy,
            ExtentError::NoHeap => Self::NoMem,
        }
    }
}

pub(super) fn keep<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: KeepExtent = call.read(at)?;
    let order = u8::try_from(record.order)
        .ok()
        .filter(|&order| order <= MAX_EXTENT_ORDER)
        .ok_or(Errno::Inval)?;
    if record.flags & !EXTENT_BELOW_4G != 0 || !(1..=MAX_EXTENTS).contains(&record.extent) {
        return Err(Errno::Inval);
    }
    let limit = if record.flags & EXTENT_BELOW_4G != 0 {
        1 << 20
    } else {
        u64::MAX
    };
    // Before there is anything to undo: that it can be written is seen to by writing it.
    call.write(at, &record)?;
    record.first = call
        .hv
        .memory
        .keep_extent(record.extent, order, limit)?
        .ok_or(Errno::NoMem)?
        .raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn release<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let ExtentRef { extent, reserved } = call.read(call.arg::<1>())?;
    if reserved != 0 {
        return Err(Errno::Inval);
    }
    for _ in 0..BLOCKS {
        if call.hv.memory.release_block(extent)? {
            return Ok(0);
        }
    }
    Call::<M>::restart()
}
