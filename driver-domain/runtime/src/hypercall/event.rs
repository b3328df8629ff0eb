//! `event_channel_op`.

use bulkhead_abi::{
    DomId, Hypercall, Record,
    errno::Failure,
    event::{
        AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVirq, ChannelStatus, Close, EventChannelOp,
        Send, Status, Unmask, Virq,
    },
};

use super::raw::{call2, in_out};

/// The only vCPU there is.
const VCPU: u32 = 0;

/// An operation and the record that the ABI gives it.
trait Operation {
    const OP: EventChannelOp;
}

macro_rules! operations {
    ($($record:ident),+) => {$(
        impl Operation for $record {
            const OP: EventChannelOp = EventChannelOp::$record;
        }
    )+};
}

operations!(
    AllocUnbound,
    BindInterdomain,
    BindIpi,
    BindPirq,
    BindVirq,
    Close,
    Send,
    Status,
    Unmask
);

fn event_channel_op<R: Operation>(record: &mut R) -> Result<(), Failure> {
    // SAFETY: the record is the one that the ABI gives this operation (`Operation`), borrowed for the call;
    // event channels change no mappings.
    unsafe { call2(Hypercall::EventChannelOp, u64::from(R::OP.raw()), in_out(record)) }.map(|_| ())
}

/// Allocates a port that waits for `remote` to bind to it.
pub(crate) fn alloc_unbound(remote: DomId) -> Result<u32, Failure> {
    alloc_unbound_for(DomId::SELF, remote)
}

/// Allocates a port of `domain`'s that waits for `remote` to bind to it.
pub(crate) fn alloc_unbound_for(domain: DomId, remote: DomId) -> Result<u32, Failure> {
    let mut record = AllocUnbound {
        dom: domain,
        remote_dom: remote,
        port: 0,
    };
    event_channel_op(&mut record).map(|()| record.port)
}

/// Binds a new port to one that waits for this domain.
pub(crate) fn bind_interdomain(remote: DomId, remote_port: u32) -> Result<u32, Failure> {
    let mut record = BindInterdomain {
        remote_dom: remote,
        remote_port,
        local_port: 0,
    };
    event_channel_op(&mut record).map(|()| record.local_port)
}

/// Binds a new port to a virtual interrupt.
pub(crate) fn bind_virq(virq: Virq) -> Result<u32, Failure> {
    let mut record = BindVirq {
        virq: virq.raw(),
        vcpu: VCPU,
        port: 0,
    };
    event_channel_op(&mut record).map(|()| record.port)
}

/// Binds a new port to the vCPU itself.
pub(crate) fn bind_ipi() -> Result<u32, Failure> {
    let mut record = BindIpi { vcpu: VCPU, port: 0 };
    event_channel_op(&mut record).map(|()| record.port)
}

/// Binds a new port to an interrupt of a device.
pub(crate) fn bind_pirq(pirq: u32) -> Result<u32, Failure> {
    let mut record = BindPirq {
        pirq,
        flags: 0,
        port: 0,
    };
    event_channel_op(&mut record).map(|()| record.port)
}

/// The domain that an unbound port waits for; `None` if it is not unbound.
pub(crate) fn waits_for(port: u32) -> Result<Option<DomId>, Failure> {
    let mut record = Status {
        dom: DomId::SELF,
        port,
        ..Status::ZERO
    };
    event_channel_op(&mut record)?;
    let remote = u16::try_from(record.bound_to).ok().map(DomId::new);
    Ok(remote.filter(|_| record.status == ChannelStatus::Unbound.raw()))
}

/// Closes a port.
pub(crate) fn close(port: u32) -> Result<(), Failure> {
    event_channel_op(&mut Close { port })
}

/// Raises the other end of a port.
#[inline]
pub(crate) fn send(port: u32) -> Result<(), Failure> {
    event_channel_op(&mut Send { port })
}

/// Unmasks a port and raises it again if it is pending.
pub(crate) fn unmask(port: u32) -> Result<(), Failure> {
    event_channel_op(&mut Unmask { port })
}
