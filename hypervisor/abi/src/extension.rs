//! `extension_op`: what Bulkhead has beside the ABI, for any guest.
//!
//! The call's number is the first that the ABI can never assign, so any other hypervisor answers `ENOSYS`, and a guest that has an
//! answer from [`ExtensionOp::Features`] knows what is there. `hypervisor/docs/extensions.md` says what the extensions are for.

use crate::{hypercall, numbers, record};
use core::ops::RangeInclusive;

numbers! {
    /// Sub-operation of `extension_op` (`rdi`). Arguments are values, but for those of [`DmaRange`].
    pub enum ExtensionOp: u32 {
        /// Returns the extensions that this machine has, a bit each: [`DIRECT_GATES`], [`VIRTUAL_ALARM`], [`GRANT_FLIP`],
        /// [`DMA_PINS`], [`VCPU_COSTS`]. Others are zero.
        Features = 0, "features",
        /// Lets the processor itself deliver a software interrupt of this vCPU to the guest's own code. `rsi` is the vector, one of
        /// [`DIRECT_GATE_VECTORS`]; `rdx` is the address of the code, outside of the hypervisor's range, or zero to have
        /// `int n` delivered through the trap table again.
        ///
        /// The code is entered as by a trap gate of the same privilege: ss, rsp, rflags, cs, rip (five words) on the interrupted
        /// stack, whose pointer is aligned down to 16 first.
        SetDirectGate = 1, "set_direct_gate",
        /// Raises [`Virq::VirtualAlarm`](crate::event::Virq::VirtualAlarm) once, when this vCPU has run for `rsi` nanoseconds in all since it was
        /// made; zero for never. How long it has run is the first total of [`RunstateInfo`](crate::vcpu::RunstateInfo).
        SetVirtualAlarm = 2, "set_virtual_alarm",
        /// Lets the caller's devices reach frames of its own, until it takes that back: `rsi` is the address of a [`DmaRange`].
        DmaPin = 3, "dma_pin",
        /// Takes that back: `rsi` is the address of a [`DmaRange`], without flags. When it is done, no device reaches the frames by it.
        DmaUnpin = 4, "dma_unpin",
        /// Tells what this vCPU has cost until now: `rsi` is the address of a [`VcpuCosts`], which is written.
        VcpuCosts = 5, "vcpu_costs",
    }
}

/// Extension: [`ExtensionOp::SetDirectGate`]. Missing where the processor writes the frame with the hypervisor's rights.
pub const DIRECT_GATES: u64 = 1 << 0;

/// Extension: [`ExtensionOp::SetVirtualAlarm`].
pub const VIRTUAL_ALARM: u64 = 1 << 1;

/// Extension: [`GrantTableOp::Flip`](crate::grant::GrantTableOp::Flip).
pub const GRANT_FLIP: u64 = 1 << 2;

/// Extension: [`ExtensionOp::DmaPin`] and [`ExtensionOp::DmaUnpin`].
pub const DMA_PINS: u64 = 1 << 3;

/// Extension: [`ExtensionOp::VcpuCosts`].
pub const VCPU_COSTS: u64 = 1 << 4;

record! {
    /// What a vCPU has cost since it was made.
    pub struct VcpuCosts: 32 {
        /// Nanoseconds that its programs ran.
        0 => pub user_ns: u64,
        /// Nanoseconds that its kernel ran.
        8 => pub kernel_ns: u64,
        /// Nanoseconds that the hypervisor worked for it.
        16 => pub hypervisor_ns: u64,
        /// How often its CPU forgot all translations: as it was put on a CPU, and for what it or others changed while it was there. The table that is
        /// loaded when its kernel's program enters it, or is entered, is not counted.
        24 => pub flushes: u64,
    }
}

record! {
    /// Frames of the caller's own, one after the other or in a list, for its devices.
    pub struct DmaRange: 24 {
        /// The number of the first frame that is left to be done; with [`DMA_LIST`], the address at which its number stands.
        0 => pub first: u64,
        /// How many are left to be done: zero, after a call that succeeded. After one that did not, `first` is the frame that was refused, and
        /// those before it are done.
        8 => pub count: u64,
        /// [`DMA_READ_ONLY`], [`DMA_LIST`].
        16 => pub flags: u32,
        /// Zero.
        20 => pub reserved: u32,
    }
}

/// Flag of [`DmaRange`]: devices may only read.
pub const DMA_READ_ONLY: u32 = 1 << 0;

/// Flag of [`DmaRange`]: the frames' numbers are a list in memory, eight bytes each.
pub const DMA_LIST: u32 = 1 << 1;

/// The vectors that can have direct gates. No device and no hypervisor interrupts by them.
pub const DIRECT_GATE_VECTORS: RangeInclusive<u8> = 0x80..=0x83;

const _: () = assert!(
    hypercall::Hypercall::ExtensionOp.raw() == hypercall::LIMIT,
    "the ABI will never assign this number"
);
