//! `event_channel_op`: event channels, virtual interrupts, and their records.

use crate::domid::DomId;
use crate::{numbers, record};

/// Ports of the two-level ABI; port 0 is never valid.
pub const MAX_PORTS_2LEVEL: u32 = 4096;
/// Ports of the FIFO ABI.
pub const MAX_PORTS_FIFO: u32 = 1 << 17;
/// Bits of the FIFO ABI's link field, as `init_control` reports them.
pub const FIFO_LINK_BITS: u8 = 17;
/// Priority that a port starts with under the FIFO ABI; 0 is the highest, 15 the lowest.
pub const FIFO_PRIORITY_DEFAULT: u32 = 7;
/// The lowest priority of the FIFO ABI.
pub const FIFO_PRIORITY_MIN: u32 = 15;

/// Number of VIRQs that the ABI has room for.
pub const NR_VIRQS: u32 = 24;

/// Bytes before the record of the old form, `event_channel_op_compat`: the sub-operation, a u32, stands there.
pub const COMPAT_RECORD: u64 = 4;

/// Flag of [`BindPirq`]: the caller agrees to share the interrupt.
pub const BIND_PIRQ_WILL_SHARE: u32 = 1;

numbers! {
    /// Sub-operation of `event_channel_op` (`rdi`); the record's address is in `rsi`.
    pub enum EventChannelOp: u32 {
        /// Binds to a port that another domain left unbound for us: [`BindInterdomain`].
        BindInterdomain = 0, "bind_interdomain",
        /// Binds a VIRQ: [`BindVirq`].
        BindVirq = 1, "bind_virq",
        /// Binds a physical interrupt: [`BindPirq`].
        BindPirq = 2, "bind_pirq",
        /// Closes a port: [`Close`].
        Close = 3, "close",
        /// Notifies the other end: [`Send`].
        Send = 4, "send",
        /// Tells what a port is bound to: [`Status`].
        Status = 5, "status",
        /// Allocates a port that a named domain may bind to: [`AllocUnbound`].
        AllocUnbound = 6, "alloc_unbound",
        /// Binds a port for notifications within the domain: [`BindIpi`].
        BindIpi = 7, "bind_ipi",
        /// Chooses the vCPU that a port notifies: [`BindVcpu`].
        BindVcpu = 8, "bind_vcpu",
        /// Unmasks a port and raises it again if it is pending: [`Unmask`].
        Unmask = 9, "unmask",
        /// Closes all ports: [`Reset`].
        Reset = 10, "reset",
        /// Switches to the FIFO ABI: [`InitControl`].
        InitControl = 11, "init_control",
        /// Gives the FIFO ABI another page of event words: [`ExpandArray`].
        ExpandArray = 12, "expand_array",
        /// Sets a port's FIFO priority: [`SetPriority`].
        SetPriority = 13, "set_priority",
        /// A preempted [`Reset`]; internal.
        ResetCont = 14, "reset_cont",
    }
}

numbers! {
    /// What a port is bound to, as [`Status`] reports it.
    pub enum ChannelStatus: u32 {
        /// Not in use.
        Closed = 0, "closed",
        /// Waiting for another domain to bind.
        Unbound = 1, "unbound",
        /// Connected to another domain's port.
        Interdomain = 2, "interdomain",
        /// A physical interrupt.
        Pirq = 3, "pirq",
        /// A virtual interrupt.
        Virq = 4, "virq",
        /// Notifications within the domain.
        Ipi = 5, "ipi",
    }
}

numbers! {
    /// A virtual interrupt: an event that the hypervisor itself raises.
    pub enum Virq: u32 {
        /// The vCPU's timer has fired.
        Timer = 0, "timer",
        /// Asks the guest to print its state.
        Debug = 1, "debug",
        /// Input on the hypervisor's console.
        Console = 2, "console",
        /// A domain's life changed (shut down, crashed, died).
        DomExc = 3, "dom_exc",
        /// Trace buffers have data.
        Tbuf = 4, "tbuf",
        /// A domain stopped for its debugger.
        Debugger = 6, "debugger",
        /// A profiling sample.
        Xenoprof = 7, "xenoprof",
        /// The hypervisor's console ring has data.
        ConRing = 8, "con_ring",
        /// A physical CPU went on- or offline.
        PcpuState = 9, "pcpu_state",
        /// A memory event.
        MemEvent = 10, "mem_event",
        /// A hypervisor-mediated message.
        Argo = 11, "argo",
        /// The machine is short of memory.
        Enomem = 12, "enomem",
        /// A performance counter overflowed.
        Xenpmu = 13, "xenpmu",
        /// The vCPU has run for as long as it wanted to be told of
        /// ([`ExtensionOp::SetVirtualAlarm`](crate::extension::ExtensionOp::SetVirtualAlarm)). Bulkhead's own: the last of the
        /// numbers that the ABI leaves to architectures.
        VirtualAlarm = 23, "virtual_alarm",
    }
}

impl Virq {
    /// Whether the VIRQ exists once in the machine and goes to one handling domain, rather than once
    /// per vCPU.
    #[must_use]
    pub const fn is_global(self) -> bool {
        match self {
            Self::Timer | Self::Debug | Self::Xenoprof | Self::Xenpmu | Self::VirtualAlarm => false,
            Self::Console
            | Self::DomExc
            | Self::Tbuf
            | Self::Debugger
            | Self::ConRing
            | Self::PcpuState
            | Self::MemEvent
            | Self::Argo
            | Self::Enomem => true,
        }
    }
}

record! {
    /// Binds a new local port to another domain's unbound port. The local port is left pending, so
    /// that no earlier notification is lost.
    pub struct BindInterdomain: 12 {
        /// In: the domain that allocated the unbound port.
        0 => pub remote_dom: DomId,
        /// In: its port, which must be reserved for the caller.
        4 => pub remote_port: u32,
        /// Out: the caller's port.
        8 => pub local_port: u32,
    }
}

record! {
    /// Binds a VIRQ to a new port of a vCPU.
    pub struct BindVirq: 12 {
        /// In: a [`Virq`].
        0 => pub virq: u32,
        /// In: the vCPU; 0 for a global VIRQ.
        4 => pub vcpu: u32,
        /// Out: the port.
        8 => pub port: u32,
    }
}

record! {
    /// Binds a physical interrupt to a new port.
    pub struct BindPirq: 12 {
        /// In: the interrupt, numbered by the domain.
        0 => pub pirq: u32,
        /// In: [`BIND_PIRQ_WILL_SHARE`] or 0.
        4 => pub flags: u32,
        /// Out: the port.
        8 => pub port: u32,
    }
}

record! {
    /// Closes a port; an interdomain peer becomes unbound.
    pub struct Close: 4 {
        /// In: the port.
        0 => pub port: u32,
    }
}

record! {
    /// Notifies whatever the port is bound to.
    pub struct Send: 4 {
        /// In: the port.
        0 => pub port: u32,
    }
}

record! {
    /// Tells what a port is bound to.
    pub struct Status: 24 {
        /// In: the port's domain; another than [`DomId::SELF`] needs privilege.
        0 => pub dom: DomId,
        /// In: the port.
        4 => pub port: u32,
        /// Out: a [`ChannelStatus`].
        8 => pub status: u32,
        /// Out: the vCPU that the port notifies.
        12 => pub vcpu: u32,
        /// Out: the remote domain number (unbound, interdomain), or the pirq or VIRQ number.
        16 => pub bound_to: u32,
        /// Out: the remote port (interdomain).
        20 => pub remote_port: u32,
    }
}

record! {
    /// Allocates a port that a named domain may bind to.
    pub struct AllocUnbound: 8 {
        /// In: the domain that gets the port; another than [`DomId::SELF`] needs privilege.
        0 => pub dom: DomId,
        /// In: the domain that may bind to it.
        2 => pub remote_dom: DomId,
        /// Out: the port.
        4 => pub port: u32,
    }
}

record! {
    /// Allocates a port by which the domain's vCPUs notify one of them.
    pub struct BindIpi: 8 {
        /// In: the vCPU to be notified.
        0 => pub vcpu: u32,
        /// Out: the port.
        4 => pub port: u32,
    }
}

record! {
    /// Chooses the vCPU that a port notifies.
    pub struct BindVcpu: 8 {
        /// In: the port.
        0 => pub port: u32,
        /// In: the vCPU.
        4 => pub vcpu: u32,
    }
}

record! {
    /// Unmasks a port and raises it again if it is pending.
    pub struct Unmask: 4 {
        /// In: the port.
        0 => pub port: u32,
    }
}

record! {
    /// Closes all ports of a domain.
    pub struct Reset: 2 {
        /// In: the domain; another than [`DomId::SELF`] needs privilege.
        0 => pub dom: DomId,
    }
}

record! {
    /// Registers a vCPU's FIFO control block; the first one switches the domain to the FIFO ABI.
    pub struct InitControl: 24 {
        /// In: the frame of the control block (an MFN, for PV).
        0 => pub control_gfn: u64,
        /// In: the block's byte offset in that frame, a multiple of 8.
        8 => pub offset: u32,
        /// In: the vCPU.
        12 => pub vcpu: u32,
        /// Out: bits of the link field, [`FIFO_LINK_BITS`].
        16 => pub link_bits: u8,
    }
}

record! {
    /// Gives the FIFO ABI another page of event words.
    pub struct ExpandArray: 8 {
        /// In: the frame (an MFN, for PV).
        0 => pub array_gfn: u64,
    }
}

record! {
    /// Sets a port's FIFO priority.
    pub struct SetPriority: 8 {
        /// In: the port.
        0 => pub port: u32,
        /// In: 0 (highest) to [`FIFO_PRIORITY_MIN`].
        4 => pub priority: u32,
    }
}
