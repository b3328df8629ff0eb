//! Where the entry code finds what it needs of a [`Context`], as offsets in bytes.

use super::{Callback, Context, Meter, Mode, Roots};
use bulkhead_abi::trap::Vector;
use core::mem::offset_of;

/// The mode: a byte that is [`USER`] or [`KERNEL`].
pub const MODE: usize = offset_of!(Context, mode);
/// A program runs.
pub const USER: u8 = Mode::User as u8;
/// The kernel runs.
pub const KERNEL: u8 = Mode::Kernel as u8;
/// The kernel's CR3.
pub const KERNEL_ROOT: usize = offset_of!(Context, roots) + offset_of!(Roots, kernel);
/// The programs' CR3, or zero.
pub const USER_ROOT: usize = offset_of!(Context, roots) + offset_of!(Roots, user);
/// The kernel's stack segment for entries from programs: 16 bits, of ring 3.
pub const KERNEL_SS: usize = offset_of!(Context, kernel_stack.0);
/// The kernel's stack pointer for entries from programs: any canonical address.
pub const KERNEL_SP: usize = offset_of!(Context, kernel_stack.1);
/// Where system calls go: a canonical address, or zero.
pub const SYSCALL_CALLBACK: usize = offset_of!(Context, syscall_callback) + offset_of!(Callback, address);
/// Whether events are masked there: a byte, 0 or 1.
pub const SYSCALL_MASKS: usize = offset_of!(Context, syscall_callback) + offset_of!(Callback, masks_events);
/// The gate of page faults: the low 48 bits are those of a canonical address, or zero.
pub const PAGE_FAULT_GATE: usize = offset_of!(Context, traps) + super::Traps::offset(Vector::PageFault);
/// The bit of a gate that says that events are masked there.
pub const GATE_MASKS_BIT: u32 = super::context::GATE_MASKS_BIT;
/// The machine address of the `vcpu_info`.
pub const INFO: usize = offset_of!(Context, info);
/// Since when the meter is on the account that it is on.
pub const METER_SINCE: usize = offset_of!(Context, meter) + offset_of!(Meter, since);
/// What the programs have spent.
pub const METER_USER: usize = METER_SPENT + 8 * super::meter::Account::User as usize;
/// What the kernel has spent.
pub const METER_KERNEL: usize = METER_SPENT + 8 * super::meter::Account::Kernel as usize;

const METER_SPENT: usize = offset_of!(Context, meter) + offset_of!(Meter, spent);
