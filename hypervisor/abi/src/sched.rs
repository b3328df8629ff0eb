//! `sched_op`: yield, block, poll, and shutting down.

use crate::domid::DomId;
use crate::{numbers, record};

/// Ports that one [`Poll`] may name.
pub const MAX_POLL_PORTS: u32 = 128;

/// Watchdogs that a domain may have: their numbers are 1 to this.
pub const MAX_WATCHDOGS: u32 = 2;

numbers! {
    /// Sub-operation of `sched_op` (`rdi`); the argument is in `rsi`.
    pub enum SchedOp: u32 {
        /// Lets others run.
        Yield = 0, "yield",
        /// Unmasks upcalls and sleeps until an event can be delivered.
        Block = 1, "block",
        /// Ends or suspends the domain: [`Shutdown`].
        Shutdown = 2, "shutdown",
        /// Sleeps until one of some ports is pending: [`Poll`].
        Poll = 3, "poll",
        /// Shuts down another domain: [`RemoteShutdown`].
        RemoteShutdown = 4, "remote_shutdown",
        /// Tells the reason of a shutdown to come: [`Shutdown`].
        ShutdownCode = 5, "shutdown_code",
        /// Arms a watchdog: [`Watchdog`].
        Watchdog = 6, "watchdog",
        /// Pins the vCPU to a physical CPU for a while: [`PinOverride`].
        PinOverride = 7, "pin_override",
    }
}

numbers! {
    /// Why a domain shuts down.
    pub enum ShutdownReason: u32 {
        /// Power off.
        Poweroff = 0, "poweroff",
        /// Restart.
        Reboot = 1, "reboot",
        /// Suspend. `rdx` holds the MFN of the start-info page; the call returns 0 after the resume,
        /// 1 if the suspend was cancelled.
        Suspend = 2, "suspend",
        /// The guest crashed.
        Crash = 3, "crash",
        /// A watchdog expired.
        Watchdog = 4, "watchdog",
        /// Reset without rebuilding.
        SoftReset = 5, "soft_reset",
    }
}

record! {
    /// Argument of `shutdown` and `shutdown_code`.
    pub struct Shutdown: 4 {
        /// In: a [`ShutdownReason`].
        0 => pub reason: u32,
    }
}

record! {
    /// Sleeps until a port is pending (masked or not), an upcall can be delivered, or time is up.
    pub struct Poll: 24 {
        /// In: va of an array of u32 ports.
        0 => pub ports: u64,
        /// In: length of the array, at most [`MAX_POLL_PORTS`].
        8 => pub nr_ports: u32,
        /// In: absolute system time in ns; 0 means no limit.
        16 => pub timeout_abs_ns: u64,
    }
}

record! {
    /// Shuts down another domain; needs privilege.
    pub struct RemoteShutdown: 8 {
        /// In: the domain.
        0 => pub domain: DomId,
        /// In: a [`ShutdownReason`].
        4 => pub reason: u32,
    }
}

record! {
    /// Creates, arms, or destroys a watchdog.
    pub struct Watchdog: 8 {
        /// In: the watchdog; 0 creates one, and its number is the call's result.
        0 => pub id: u32,
        /// In: seconds until it expires; 0 destroys it.
        4 => pub timeout_s: u32,
    }
}

record! {
    /// Pins the calling vCPU; only for the domain that owns the hardware.
    pub struct PinOverride: 4 {
        /// In: the physical CPU; negative ends the override.
        0 => pub pcpu: i32,
    }
}
