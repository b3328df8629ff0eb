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
