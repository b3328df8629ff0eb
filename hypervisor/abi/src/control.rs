//! `sysctl`: what the control domain asks of the hypervisor. Bulkhead's own interface, under a number that guests leave alone.
//!
//! Only the control domain may call it; everyone else is answered `EPERM`. [`ControlOp::Version`] tells whether it is this
//! interface: Xen's `sysctl` takes a record in `rdi` and would answer with an error.

use crate::domid::DomId;
use crate::{numbers, record};

/// What [`ControlOp::Version`] answers.
pub const CONTROL_VERSION: u32 = 0x4248_0001;

numbers! {
    /// Sub-operation of `sysctl` (`rdi`); the record's address is in `rsi`.
    pub enum ControlOp: u32 {
        /// Returns [`CONTROL_VERSION`] in `rax`. Takes no record.
        Version = 0, "version",
        /// Where a domain's time went: [`DomainTimes`].
        DomainTimes = 1, "domain_times",
        /// What happened on a CPU lately: [`ReadTrace`].
        ReadTrace = 2, "read_trace",
        /// What a domain is entitled to: [`Schedule`].
        GetSchedule = 3, "get_schedule",
        /// Gives a domain another share of the CPUs, from now on: [`Schedule`].
        SetSchedule = 4, "set_schedule",
        /// What a domain is and has: [`DomainInfo`].
        DomainInfo = 5, "domain_info",
        /// Makes a domain without memory, whose vCPUs have no state and do not run: [`CreateDomain`].
        CreateDomain = 6, "create_domain",
        /// Lets a domain run that was made or paused: [`DomainRef`].
        UnpauseDomain = 7, "unpause_domain",
        /// Takes a domain from its CPUs until it is unpaused: [`DomainRef`].
        PauseDomain = 8, "pause_domain",
        /// Ends a domain, whatever it does, and takes back all that it has: [`DomainRef`]. Its number is free then.
        DestroyDomain = 9, "destroy_domain",
        /// Changes how much memory a domain may have: [`SetLimit`].
        SetLimit = 10, "set_limit",
        /// Copies to or from a frame of a domain's: [`CopyMemory`].
        CopyMemory = 11, "copy_memory",
        /// Gives a vCPU that has none yet a state: [`VcpuState`]. With `VGCF_ONLINE` it is up, and runs when its domain does. A domain that runs gives
        /// them itself.
        SetVcpu = 12, "set_vcpu",
        /// Reads the state of a vCPU that rests, because it is down or its domain is paused or has ended: [`VcpuState`]. What is
        /// read could be given to another vCPU, but for the address of its local descriptors.
        GetVcpu = 13, "get_vcpu",
        /// Assigns a part of a device to a domain, which owns it until it is destroyed: [`AssignDevice`].
        AssignDevice = 14, "assign_device",
        /// Sets machine-contiguous memory aside for domains to come: [`KeepExtent`]. A domain that is made with it has its memory from
        /// there, and what it gives back, or leaves behind, is kept for the next.
        KeepExtent = 15, "keep_extent",
        /// Gives memory that was set aside back to the machine: [`ExtentRef`]. No domain has it, or may have it.
        ReleaseExtent = 16, "release_extent",
        /// What the machine has: [`MachineInfo`].
        MachineInfo = 17, "machine_info",
        /// A part of a file of the boot archive, which stays where the boot loader put it: [`ReadFile`].
        ReadFile = 18, "read_file",
        /// A part of what the hypervisor has said lately: [`ReadLog`].
        ReadLog = 19, "read_log",
        /// What a function of a device has tried in vain: [`FunctionFaults`].
        FunctionFaults = 20, "function_faults",
    }
}

record! {
    /// What the machine has.
    pub struct MachineInfo: 32 {
        /// Out: physical CPUs that run domains.
        0 => pub cpus: u32,
        /// Out: domains that there are.
        4 => pub domains: u32,
        /// Out: frames of RAM.
        8 => pub ram: u64,
        /// Out: those of them that are nobody's.
        16 => pub free: u64,
        /// Out: [`CONFINED_DMA`], [`CONFINED_INTERRUPTS`].
        24 => pub flags: u64,
    }
}

/// [`MachineInfo`] flag: devices reach what their domains own and are granted for them, and nothing else. Without it, who has a device that can master the bus
/// reaches all memory by it.
pub const CONFINED_DMA: u64 = 1 << 0;
/// [`MachineInfo`] flag: devices raise the interrupts that were set up for them, and no others. Without it, a device that can write to memory can raise any
/// vector on any CPU.
pub const CONFINED_INTERRUPTS: u64 = 1 << 1;

record! {
    /// What a function of a device has tried since it was last assigned, and was kept from: to reach memory that is not its domain's to use, or to raise interrupts
    /// that are not its own.
    pub struct FunctionFaults: 32 {
        /// In: bus, device and function, in 8, 5 and 3 bits.
        0 => pub function: u16,
        /// Out: whose it was, or [`DomId::INVALID`] if it has been nobody's.
        2 => pub domain: DomId,
        /// Out: [`FAULTS_SILENCED`], [`FAULT_WRITE`].
        4 => pub flags: u16,
        /// Out: why it was kept from it the last time, as the hardware numbers it. VT-d's numbers are in its specification, section 7.1.3.
        6 => pub reason: u16,
        /// Out: how often.
        8 => pub count: u64,
        /// Out: where it wanted to the last time: the first byte of the page.
        16 => pub address: u64,
        /// Zero.
        24 => pub reserved: u64,
    }
}

/// [`FunctionFaults`] flag: there were so many in a short time that no more are counted until the function is assigned anew.
pub const FAULTS_SILENCED: u16 = 1 << 0;
/// [`FunctionFaults`] flag: the last time it wanted to write.
pub const FAULT_WRITE: u16 = 1 << 1;

/// The longest name of a file that [`ReadFile`] tells, in bytes, without the zero behind it; of a longer one, its beginning.
pub const FILE_NAME_LEN: usize = 103;

/// The most bytes of a file or of the log that one call gives.
pub const MAX_READ: u32 = 16384;

record! {
    /// Reads a part of a file of the boot archive.
    pub struct ReadFile: 136 {
        /// In: which, counted from 0.
        0 => pub index: u32,
        /// In: how many bytes there is room for, [`MAX_READ`] at most; out: how many there are.
        4 => pub count: u32,
        /// In: the first byte wanted.
        8 => pub offset: u64,
        /// In: va of an array of bytes.
        16 => pub buffer: u64,
        /// Out: bytes of the whole file.
        24 => pub size: u64,
        /// Out: its name, padded with zeros.
        32 => pub name: [u8; FILE_NAME_LEN + 1],
    }
}

record! {
    /// Reads a part of the hypervisor's log: text, of which the oldest is forgotten first.
    pub struct ReadLog: 32 {
        /// In: how many bytes there is room for, [`MAX_READ`] at most; out: how many there are.
        0 => pub count: u32,
        /// In: the number of the first byte wanted, out: that of the next to ask for. Bytes that are gone are passed over.
        8 => pub from: u64,
        /// In: va of an array of bytes.
        16 => pub buffer: u64,
        /// Out: the number of the next byte that will be written.
        24 => pub end: u64,
    }
}

record! {
    /// Where the time of a domain's vCPUs went: of each up to when its CPU last chose whom to run, some milliseconds ago if
    /// it has had that CPU to itself since.
    pub struct DomainTimes: 32 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// Out: nanoseconds in its programs.
        8 => pub user_ns: u64,
        /// Out: nanoseconds in its kernel.
        16 => pub kernel_ns: u64,
        /// Out: nanoseconds in the hypervisor on its account.
        24 => pub hypervisor_ns: u64,
    }
}

record! {
    /// Reads a part of a CPU's trace ring.
    pub struct ReadTrace: 32 {
        /// In: the CPU.
        0 => pub cpu: u32,
        /// In: how many records there is room for, 64 at most; out: how many there are.
        4 => pub count: u32,
        /// In: the number of the first record wanted, out: that of the next to ask for. Records that are gone are
        /// passed over.
        8 => pub from: u64,
        /// In: va of an array of [`TraceRecord`].
        16 => pub buffer: u64,
        /// Out: the number of the next record that will be written.
        24 => pub end: u64,
    }
}

/// The most records that one call gives.
pub const MAX_TRACE_RECORDS: u32 = 64;

record! {
    /// Something that happened on a CPU.
    pub struct TraceRecord: 32 {
        /// Time-stamp counter.
        0 => pub tsc: u64,
        /// What: below 0x100 an event of the core, above one of the machine.
        8 => pub event: u16,
        /// First thing to be said about it.
        16 => pub first: u64,
        /// Second thing.
        24 => pub second: u64,
    }
}

record! {
    /// What a domain's vCPUs are entitled to, by borrowed virtual time.
    pub struct Schedule: 40 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// Each vCPU's part of a CPU relative to others': 1 to 65535.
        2 => pub weight: u16,
        /// By how much it comes earlier when it wakes, in nanoseconds of a vCPU with weight 256; 0 for no warp.
        4 => pub warp_ns: u32,
        /// How long it may run warped at a time, in nanoseconds; 0 for no limit.
        8 => pub warp_limit_ns: u32,
        /// How long it then runs without, at least, in nanoseconds.
        12 => pub unwarp_ns: u32,
        /// The physical CPUs that it may run on, a bit each.
        16 => pub cpus: u64,
        /// Zero.
        24 => pub reserved: [u64; 2],
    }
}

record! {
    /// Names a domain.
    pub struct DomainRef: 4 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// Zero.
        2 => pub reserved: u16,
    }
}

/// [`DomainInfo`] state: it was made, and has not been let run yet.
pub const STATE_BUILDING: u16 = 0;
/// [`DomainInfo`] state: it runs when it can.
pub const STATE_RUNNING: u16 = 1;
/// [`DomainInfo`] state: it has been paused.
pub const STATE_PAUSED: u16 = 2;
/// [`DomainInfo`] state: it has ended, for the reason given.
pub const STATE_SHUT_DOWN: u16 = 3;
/// [`DomainInfo`] state: it is being destroyed.
pub const STATE_DYING: u16 = 4;

/// The longest name of a domain, in bytes.
pub const NAME_LEN: usize = 32;

record! {
    /// What a domain is and has.
    pub struct DomainInfo: 112 {
        /// In: the lowest number wanted; out: that of the domain found.
        0 => pub domain: DomId,
        /// Out: `STATE_*`.
        2 => pub state: u16,
        /// Out: why it has ended, as in `sched_op.shutdown`; meaningful if it has.
        4 => pub reason: u32,
        /// Out: how many vCPUs it has.
        8 => pub vcpus: u32,
        /// Out: how many of them are up.
        12 => pub online: u32,
        /// Out: its frames.
        16 => pub pages: u64,
        /// Out: how many it may have.
        24 => pub limit: u64,
        /// Out: the frame that it shares with the hypervisor.
        32 => pub shared_info: u64,
        /// Out: nanoseconds in its programs, as [`DomainTimes`].
        40 => pub user_ns: u64,
        /// Out: nanoseconds in its kernel.
        48 => pub kernel_ns: u64,
        /// Out: nanoseconds in the hypervisor on its account.
        56 => pub hypervisor_ns: u64,
        /// Out: free frames of the machine, which are nobody's.
        64 => pub machine_free: u64,
        /// Zero.
        72 => pub reserved: u64,
        /// Out: its name, padded with zeros.
        80 => pub name: [u8; NAME_LEN],
    }
}

record! {
    /// A domain that is to be made.
    pub struct CreateDomain: 72 {
        /// In: the number wanted, or [`DomId::INVALID`] for any; out: its number.
        0 => pub domain: DomId,
        /// In: each vCPU's part of a CPU relative to others': 1 to 65535.
        2 => pub weight: u16,
        /// In: how many vCPUs it has.
        4 => pub vcpus: u32,
        /// In: how many frames it may have.
        8 => pub limit: u64,
        /// In: the physical CPUs that it may run on, a bit each.
        16 => pub cpus: u64,
        /// In: the kept extent that it has its memory from as long as there is any left in it, or 0 for the machine's free memory alone. Frames of an
        /// extent cannot be given to other domains for good. What the hypervisor shares with it is always of free memory.
        24 => pub extent: u32,
        /// Zero.
        32 => pub reserved: u64,
        /// In: its name in UTF-8, padded with zeros.
        40 => pub name: [u8; NAME_LEN],
    }
}

record! {
    /// How much memory a domain may have. What it has beyond that it keeps.
    pub struct SetLimit: 16 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// In: how many frames.
        8 => pub limit: u64,
    }
}

/// [`CopyMemory`] direction: from the domain to the caller.
pub const COPY_FROM: u16 = 0;
/// [`CopyMemory`] direction: to the domain.
pub const COPY_TO: u16 = 1;
/// [`CopyMemory`] direction: zeros to the domain; there is no buffer.
pub const COPY_ZEROS: u16 = 2;

record! {
    /// A copy to or from one frame of a domain's. What is a page table or a table of descriptors is not written.
    pub struct CopyMemory: 32 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// In: `COPY_*`.
        2 => pub direction: u16,
        /// In: the first byte in the frame.
        4 => pub offset: u32,
        /// In: how many bytes; they do not reach beyond the frame.
        8 => pub len: u64,
        /// In: the frame.
        16 => pub frame: u64,
        /// In: va of the caller's bytes.
        24 => pub buffer: u64,
    }
}

/// [`KeepExtent`] flag: all of it below 4 GiB, where devices with 32 address lines reach it.
pub const EXTENT_BELOW_4G: u64 = 1 << 0;

record! {
    /// Memory to be set aside, in one piece.
    pub struct KeepExtent: 24 {
        /// In: the number that it is to have, from 1 to 16.
        0 => pub extent: u32,
        /// In: how many frames, as a power of two: at most 14.
        4 => pub order: u32,
        /// In: `EXTENT_*`.
        8 => pub flags: u64,
        /// Out: the first frame.
        16 => pub first: u64,
    }
}

record! {
    /// Names an extent.
    pub struct ExtentRef: 8 {
        /// In: its number.
        0 => pub extent: u32,
        /// Zero.
        4 => pub reserved: u32,
    }
}

/// [`AssignDevice`] kind: I/O ports.
pub const ASSIGN_PORTS: u16 = 0;
/// [`AssignDevice`] kind: frames of registers and device memory, which are no RAM. The domain may map them by their numbers, and have them
/// cached as it likes.
pub const ASSIGN_FRAMES: u16 = 1;
/// [`AssignDevice`] kind: interrupt lines, by the numbers of global system interrupts. The domain makes pirqs of the same numbers of them
/// ([`PhysdevOp::MapPirq`](crate::physdev::PhysdevOp::MapPirq)).
pub const ASSIGN_LINES: u16 = 2;
/// [`AssignDevice`] kind: a function on a PCI bus, by bus << 8 | device << 3 | function; one at a time. The domain owns its registers, but for pages with
/// its table of messages, its ports, and its messages; and it may let it read and write memory.
pub const ASSIGN_PCI: u16 = 3;

/// What became of a function that was assigned: it cannot be reset by itself, and its driver has to reset it before it lets it at memory.
pub const RESET_NOT: u64 = 0;
/// What became of a function that was assigned: a function-level reset.
pub const RESET_FUNCTION: u64 = 1;

record! {
    /// Something that a domain is to own and nobody owns yet.
    pub struct AssignDevice: 32 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// In: `ASSIGN_*`.
        2 => pub kind: u16,
        /// In: the number of the first.
        8 => pub first: u64,
        /// In: how many.
        16 => pub count: u64,
        /// In: zero. Out, of a function: `RESET_*`.
        24 => pub reset: u64,
    }
}

record! {
    /// The state of a vCPU, to be given or read.
    pub struct VcpuState: 16 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// In: the vCPU.
        4 => pub vcpu: u32,
        /// In: va of its [`VcpuGuestContext`](crate::vcpu::VcpuGuestContext).
        8 => pub context: u64,
    }
}
