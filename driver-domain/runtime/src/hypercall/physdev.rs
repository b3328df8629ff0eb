//! `physdev_op`: ports and interrupts of devices.

use bulkhead_abi::{
    DomId, Hypercall,
    errno::Failure,
    physdev::{MapPirq, MapPirqType, PhysdevOp, SetIopl, UnmapPirq},
};
use bulkhead_pci::Address;

use super::raw::{call2, in_out};

/// A message by which a function interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The function.
    pub(crate) function: Address,
    /// The entry of its MSI-X table, and the machine address of the BAR that holds the table; `None` for its MSI.
    pub(crate) entry: Option<(u16, u64)>,
}

/// Lets this kernel use I/O ports.
pub(crate) fn allow_ports() -> Result<(), Failure> {
    /// The level at which guest kernels count as running.
    const KERNEL: u32 = 1;
    let mut record = SetIopl { iopl: KERNEL };
    // SAFETY: the hypervisor reads the record, borrowed for the call; what ports may be used for is the business of who uses them.
    unsafe {
        call2(
            Hypercall::PhysdevOp,
            u64::from(PhysdevOp::SetIopl.raw()),
            in_out(&mut record),
        )
    }
    .map(|_| ())
}

/// Makes a pirq of a message, and returns its number.
pub(crate) fn map_message(message: Message) -> Result<u32, Failure> {
    let (entry, table_base) = message.entry.unwrap_or((0, 0));
    let mut record = MapPirq {
        domid: DomId::SELF,
        map_type: MapPirqType::Msi.raw(),
        index: -1,
        pirq: -1,
        bus: message.function.bus().into(),
        devfn: message.function.devfn().into(),
        entry_nr: entry.into(),
        table_base,
    };
    // SAFETY: the hypervisor reads and writes the record, borrowed for the call; interrupts change no mappings.
    unsafe {
        call2(
            Hypercall::PhysdevOp,
            u64::from(PhysdevOp::MapPirq.raw()),
            in_out(&mut record),
        )
    }?;
    u32::try_from(record.pirq).map_err(|_| Failure::Errno(bulkhead_abi::Errno::Inval))
}

/// Gives a pirq back, to which no port is bound.
pub(crate) fn unmap(pirq: u32) -> Result<(), Failure> {
    let mut record = UnmapPirq {
        domid: DomId::SELF,
        pirq,
    };
    // SAFETY: as above.
    unsafe {
        call2(
            Hypercall::PhysdevOp,
            u64::from(PhysdevOp::UnmapPirq.raw()),
            in_out(&mut record),
        )
    }
    .map(|_| ())
}
