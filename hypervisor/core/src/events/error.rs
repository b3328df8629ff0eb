//! Why an event channel operation is refused, and the errno that the guest reads: [`EventError`].

use bulkhead_abi::event::Virq;
use bulkhead_abi::{DomId, Errno};

use super::Port;
use crate::ids::VcpuId;

/// Why an event channel operation was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    /// No such port can exist: it is 0, or too great.
    BadPort {
        /// What the guest said.
        raw: u32,
    },
    /// The port is closed.
    NotOpen,
    /// The remote port does not wait for anyone to bind to it.
    NotUnbound,
    /// The remote port waits, but for another domain.
    ReservedForAnother {
        /// The domain that it waits for.
        remote: DomId,
    },
    /// Only the hypervisor raises this port: it stands for an interrupt, virtual or of a device.
    NotSendable,
    /// An IPI or a virtual interrupt of one vCPU cannot be told to notify another.
    TiedToVcpu,
    /// There is no virtual interrupt with this number.
    BadVirq {
        /// What the guest said.
        raw: u32,
    },
    /// A virtual interrupt of the whole domain is bound on vCPU 0, and moved afterwards if need be.
    GlobalVirqOnVcpu {
        /// The vCPU that was asked for.
        vcpu: VcpuId,
    },
    /// The virtual interrupt has a port already.
    VirqBound {
        /// Which interrupt.
        virq: Virq,
        /// Its port.
        port: Port,
    },
    /// The virtual interrupt tells about the whole machine, and goes to another domain.
    VirqHandledElsewhere {
        /// The domain that handles it.
        handler: DomId,
    },
    /// The domain has no such vCPU.
    NoSuchVcpu {
        /// Which one.
        vcpu: VcpuId,
    },
    /// All ports are open.
    NoFreePort,
    /// The hypervisor has no memory for more ports.
    OutOfMemory,
    /// The domain is being destroyed, and takes no more channels.
    Dying,
}

impl From<EventError> for Errno {
    fn from(error: EventError) -> Self {
        match error {
            EventError::BadPort { .. }
            | EventError::NotOpen
            | EventError::NotUnbound
            | EventError::ReservedForAnother { .. }
            | EventError::NotSendable
            | EventError::TiedToVcpu
            | EventError::BadVirq { .. }
            | EventError::GlobalVirqOnVcpu { .. } => Self::Inval,
            EventError::VirqBound { .. } => Self::Exist,
            EventError::VirqHandledElsewhere { .. } => Self::Busy,
            EventError::NoSuchVcpu { .. } => Self::NoEnt,
            EventError::NoFreePort => Self::NoSpc,
            EventError::OutOfMemory => Self::NoMem,
            // A domain that is going away is, to those who would connect to it, already gone.
            EventError::Dying => Self::Srch,
        }
    }
}
