//! Other domains, as the control domain makes, fills, watches and ends them.
//!
//! Every other domain is answered `EPERM`. Where a function takes a domain, `ESRCH` says that there is none (any more), and `EINVAL` that it may not be
//! this one. Frames are machine frame numbers.

use bulkhead_abi::{
    DomId, Errno, Hypercall, Record,
    control::{
        ASSIGN_LINES, ASSIGN_PCI, AssignDevice, COPY_FROM, COPY_TO, ControlOp, CopyMemory, CreateDomain,
        DomainInfo, DomainRef, EXTENT_BELOW_4G, ExtentRef, KeepExtent, RESET_FUNCTION, SetLimit, VcpuState,
    },
    errno::Failure,
    grant::{GrantStatus, GrantTableOp, SetupTable},
    memory::{MemoryOp, MemoryReservation},
    mmu::{ForeignDom, MmuExt, MmuExtOp},
    vcpu::VcpuGuestContext,
};

use super::{
    control::control,
    event,
    raw::{call2, call3, call4, in_out, input},
};

/// The domain that makes these calls.
const CONTROL: DomId = DomId::new(0);

/// Makes a domain without memory, whose vCPUs have no state and do not run. Returns its number.
///
/// # Errors
///
/// `EEXIST` if the number is taken, `ENOSPC` if there is none left, `EINVAL` for what the record's fields do not allow, `ENOMEM`,
/// `EAGAIN` as long as domains of the boot list are still being made.
pub fn create(wanted: &CreateDomain) -> Result<DomId, Failure> {
    let mut record = *wanted;
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::CreateDomain.raw(), in_out(&mut record)) }.map(|_| record.domain)
}

/// Lets a domain run that was made or paused.
///
/// # Errors
///
/// `ESRCH`, `EINVAL`.
pub fn unpause(domain: DomId) -> Result<(), Failure> {
    about(ControlOp::UnpauseDomain, domain)
}

/// Takes a domain from its CPUs until it is unpaused.
///
/// # Errors
///
/// `ESRCH`, `EINVAL`.
pub fn pause(domain: DomId) -> Result<(), Failure> {
    about(ControlOp::PauseDomain, domain)
}

/// Ends a domain, whatever it does, and takes back all that it has. Its number is free then.
///
/// # Errors
///
/// `ESRCH`, `EINVAL`.
pub fn destroy(domain: DomId) -> Result<(), Failure> {
    about(ControlOp::DestroyDomain, domain)
}

/// Does one of the operations that take nothing but the domain.
fn about(op: ControlOp, domain: DomId) -> Result<(), Failure> {
    let record = DomainRef { domain, reserved: 0 };
    // SAFETY: callers pass operations that only read this record, which is borrowed for the call; it points to nothing.
    unsafe { control(op.raw(), input(&record)) }.map(|_| ())
}

/// What the domain is and has that has the lowest number from `from` on.
///
/// # Errors
///
/// `ESRCH` if there is none.
pub fn info(from: DomId) -> Result<DomainInfo, Failure> {
    let mut record = DomainInfo {
        domain: from,
        ..DomainInfo::ZERO
    };
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::DomainInfo.raw(), in_out(&mut record)) }.map(|_| record)
}

/// Changes how many frames a domain may have. What it has beyond that it keeps.
///
/// # Errors
///
/// `ESRCH`.
pub fn set_limit(domain: DomId, frames: u64) -> Result<(), Failure> {
    let record = SetLimit {
        domain,
        limit: frames,
    };
    // SAFETY: the hypervisor only reads this record, which is borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::SetLimit.raw(), input(&record)) }.map(|_| ())
}

/// Sets `2^order` frames below 4 GiB aside, in one piece, as extent `extent` for domains to come.
///
/// # Errors
///
/// `EEXIST` if there is an extent with this number, `ENOMEM`; `EINVAL` if the number or the order cannot be.
pub fn keep_extent(extent: u32, order: u32) -> Result<(), Failure> {
    let mut record = KeepExtent {
        extent,
        order,
        flags: EXTENT_BELOW_4G,
        first: 0,
    };
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::KeepExtent.raw(), in_out(&mut record)) }.map(|_| ())
}

/// Gives an extent that no domain has back to the machine.
///
/// # Errors
///
/// `ENOENT` if there is none with this number, `EBUSY` if a domain has it.
pub fn release_extent(extent: u32) -> Result<(), Failure> {
    let record = ExtentRef { extent, reserved: 0 };
    // SAFETY: the hypervisor only reads this record, which is borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::ReleaseExtent.raw(), input(&record)) }.map(|_| ())
}

/// Assigns the function on PCI with the number `bus << 8 | devfn` to a domain, which owns it until it is destroyed. Says whether it was reset; if it was
/// not, because it cannot be, its driver has to do that.
///
/// # Errors
///
/// `ESRCH`; `EEXIST` if somebody owns it, `EINVAL` if there is none, `EACCES` if it is none that can be owned, `ENOSPC` if it is one too many.
pub fn assign_function(domain: DomId, number: u16) -> Result<bool, Failure> {
    assign(domain, ASSIGN_PCI, number.into()).map(|reset| reset == RESET_FUNCTION)
}

/// Assigns an interrupt line, by the number of its global system interrupt, to a domain, which owns it until it is destroyed.
///
/// # Errors
///
/// `ESRCH`; `EEXIST` if somebody owns it, `EACCES` if it is none that can be owned, `ENOSPC` if it is one too many.
pub fn assign_line(domain: DomId, line: u32) -> Result<(), Failure> {
    assign(domain, ASSIGN_LINES, line.into()).map(|_| ())
}

/// Assigns something, and returns what the hypervisor says of a reset.
fn assign(domain: DomId, kind: u16, first: u64) -> Result<u64, Failure> {
    let mut record = AssignDevice {
        domain,
        kind,
        first,
        count: 1,
        reset: 0,
    };
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::AssignDevice.raw(), in_out(&mut record)) }?;
    Ok(record.reset)
}

/// Copies `bytes` to a frame of another domain's, from byte `offset` on.
///
/// # Errors
///
/// `ESRCH`, `EINVAL`: also if the frame is not the domain's, is a page table or a table of descriptors, or the bytes do not fit.
pub fn write(domain: DomId, frame: u64, offset: u32, bytes: &[u8]) -> Result<(), Failure> {
    copy(CopyMemory {
        direction: COPY_TO,
        buffer: input(bytes),
        ..copy_of(domain, frame, offset, bytes.len())
    })
}

/// Copies from a frame of another domain's, from byte `offset` on.
///
/// # Errors
///
/// `ESRCH`, `EINVAL`: also if the frame is not the domain's, or ends before `bytes`.
pub fn read(domain: DomId, frame: u64, offset: u32, bytes: &mut [u8]) -> Result<(), Failure> {
    copy(CopyMemory {
        direction: COPY_FROM,
        buffer: in_out(bytes),
        ..copy_of(domain, frame, offset, bytes.len())
    })
}

/// A copy whose direction and buffer are still to be said.
fn copy_of(domain: DomId, frame: u64, offset: u32, len: usize) -> CopyMemory {
    CopyMemory {
        domain,
        offset,
        len: len as u64,
        frame,
        ..CopyMemory::ZERO
    }
}

fn copy(record: CopyMemory) -> Result<(), Failure> {
    // SAFETY: the hypervisor reads the record, which is borrowed for the call, and reads or writes the buffer: the two callers borrow it for the
    // call, exclusively if it is written, and say how long it is. The frame is none of this domain's: that is refused.
    unsafe { control(ControlOp::CopyMemory.raw(), input(&record)) }.map(|_| ())
}

/// Gives a vCPU its first state. With [`VGCF_ONLINE`](bulkhead_abi::vcpu::VGCF_ONLINE) it is up, and runs when its domain does.
///
/// # Errors
///
/// `ESRCH`; `ENOENT` if there is no such vCPU, `EEXIST` if it has a state already, `EINVAL` if it may not have this one, `ENOMEM`.
pub fn set_vcpu(domain: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Failure> {
    let record = VcpuState {
        domain,
        vcpu,
        context: input(context),
    };
    // SAFETY: the hypervisor reads the record and the state, both borrowed for the call; vCPUs of this domain are refused.
    unsafe { control(ControlOp::SetVcpu.raw(), input(&record)) }.map(|_| ())
}

/// Gives `domain` frames for its pages `pages`, in extents of `2^order`, and puts the first frame of each extent in the page's place.
/// Returns how many extents there were frames for.
///
/// # Errors
///
/// None that this call can meet: a domain that there is not gets no frames.
pub fn populate(domain: DomId, pages: &mut [u64], order: u32) -> Result<u64, Failure> {
    let reservation = MemoryReservation {
        extent_start: in_out(pages),
        nr_extents: pages.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: domain,
    };
    // SAFETY: the hypervisor reads the reservation, and reads and writes the list as far as it is long; both are borrowed for the
    // call. Frames that are added change no mapping.
    unsafe {
        call2(
            Hypercall::MemoryOp,
            u64::from(MemoryOp::PopulatePhysmap.raw()),
            input(&reservation),
        )
    }
}

/// Pins a page table of another domain's at `level`, 1 to 4: it is validated, and stays a table.
///
/// # Errors
///
/// `ESRCH`; `EINVAL` if it is no table of that level, if it is pinned already, or if it is not the domain's.
pub fn pin(domain: DomId, level: u32, frame: u64) -> Result<(), Failure> {
    let op = match level {
        1 => MmuExtOp::PinL1Table,
        2 => MmuExtOp::PinL2Table,
        3 => MmuExtOp::PinL3Table,
        4 => MmuExtOp::PinL4Table,
        _ => return Err(Errno::Inval.into()),
    };
    table_of(domain, op, frame)
}

/// Takes the pin from a page table of another domain's.
///
/// # Errors
///
/// `ESRCH`; `EINVAL` if it is not pinned, or not the domain's.
pub fn unpin(domain: DomId, frame: u64) -> Result<(), Failure> {
    table_of(domain, MmuExtOp::UnpinTable, frame)
}

fn table_of(domain: DomId, op: MmuExtOp, mfn: u64) -> Result<(), Failure> {
    // Its own tables are Rust's memory: to validate one writes to it. Nobody but domain 0 may name others.
    if matches!(domain, DomId::SELF | CONTROL) {
        return Err(Errno::Inval.into());
    }
    let record = MmuExt {
        cmd: op.raw(),
        arg1: mfn,
        arg2: 0,
    };
    let foreign = ForeignDom {
        page_owner: domain,
        table_owner: None,
    };
    // SAFETY: the hypervisor reads one record that is borrowed for the call. Frames of other domains are no memory of Rust's.
    unsafe {
        call4(
            Hypercall::MmuextOp,
            input(&record),
            1,
            0,
            u64::from(foreign.raw()),
        )
    }
    .map(|_| ())
}

/// Makes a domain's grant table as large as `frames`, if it was smaller, and fills them with the table's.
///
/// # Errors
///
/// `EINVAL` if the hypervisor refuses it: no such domain, more frames than it may have, no memory.
pub fn grant_table(domain: DomId, frames: &mut [u64]) -> Result<(), Failure> {
    let mut record = SetupTable {
        dom: domain,
        nr_frames: u32::try_from(frames.len()).unwrap_or(u32::MAX),
        frame_list: in_out(frames),
        ..SetupTable::ZERO
    };
    // SAFETY: the hypervisor reads and writes the record, and the list as far as it is long; both are borrowed for the call.
    unsafe {
        call3(
            Hypercall::GrantTableOp,
            u64::from(GrantTableOp::SetupTable.raw()),
            in_out(&mut record),
            1,
        )
    }?;
    if record.status == GrantStatus::Okay.raw() {
        Ok(())
    } else {
        Err(Errno::Inval.into())
    }
}

/// Allocates a port of another domain's, for `remote` to bind to. Returns its number.
///
/// # Errors
///
/// `ESRCH`, `ENOSPC`, `ENOMEM`.
pub fn alloc_unbound(domain: DomId, remote: DomId) -> Result<u32, Failure> {
    event::alloc_unbound_for(domain, remote)
}
