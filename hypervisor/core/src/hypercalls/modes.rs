//! How a guest wants to be treated: `vm_assist`, and the I/O privilege of `physdev_op`.

use super::{Answer, Call};
use crate::machine::Machine;
use crate::ports::IoBitmap;
use bulkhead_abi::mmu::{VmAssistOp, VmAssistType};
use bulkhead_abi::physdev::{MAX_IO_PORTS, SetIobitmap, SetIopl};
use bulkhead_abi::{Errno, layout};
use core::sync::atomic::Ordering;

/// Notes what assistance the guest asks for. Writable page tables are always there; the others change how things are told
/// to the guest.
pub(super) fn vm_assist<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let op = VmAssistOp::from_raw(call.arg32::<0>()).ok_or(Errno::NoSys)?;
    let kind = VmAssistType::from_raw(call.arg32::<1>()).ok_or(Errno::Inval)?;
    let bit = 1_u64 << kind.raw();
    // Relaxed: a vCPU that looks meanwhile sees one or the other.
    match op {
        VmAssistOp::Enable => call.domain().assists.fetch_or(bit, Ordering::Relaxed),
        VmAssistOp::Disable => call.domain().assists.fetch_and(!bit, Ordering::Relaxed),
    };
    Ok(0)
}

/// Notes the vCPU's I/O privilege.
pub(super) fn set_iopl<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let SetIopl { iopl } = call.read(call.arg::<1>())?;
    let iopl = u8::try_from(iopl)
        .ok()
        .filter(|&iopl| iopl <= 3)
        .ok_or(Errno::Inval)?;
    call.current.context.iopl = iopl;
    Ok(0)
}

/// Notes which ports the guest kernel lets the programs of this vCPU use. The bitmap is looked at when one does.
pub(super) fn set_iobitmap<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let SetIobitmap { bitmap, nr_ports } = call.read(call.arg::<1>())?;
    let bytes = u64::from(nr_ports).div_ceil(8);
    if nr_ports > MAX_IO_PORTS || !layout::is_guest_range(bitmap, bytes) {
        return Err(Errno::Inval);
    }
    call.current.context.io_bitmap = IoBitmap {
        address: bitmap,
        ports: nr_ports,
    };
    Ok(0)
}
