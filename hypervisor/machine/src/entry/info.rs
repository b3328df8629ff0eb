//! The record at the top of each CPU's main stack.

use core::arch::asm;
use core::mem::offset_of;

use bulkhead_core::Cpu;
use bulkhead_core::vcpu::{Context, Regs};
use bulkhead_machine::layout::{STACK_STRIDE, Stack};
use x86_64::structures::tss::TaskStateSegment;

use crate::cpu::stack::CPU_INFO_SIZE;

/// What belongs to one CPU.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct CpuInfo {
    /// For the crossings. Makes the end of `regs` a multiple of 16: the CPU aligns its stack pointer to that before it pushes.
    kept_rcx: u64,
    /// The interrupted guest's registers. Its end is where an interrupt from ring 3 starts to push.
    pub(crate) regs: Regs,
    /// For the crossings.
    kept_r11: u64,
    /// The state of the vCPU that runs, for the crossings. Set whenever a guest goes on.
    pub(super) context: *mut Context,
    /// What the core knows of this CPU.
    pub(crate) core: Cpu,
    /// Tells the hardware which stacks to use.
    pub(crate) tss: TaskStateSegment,
}

const _: () = assert!(size_of::<CpuInfo>() as u64 <= CPU_INFO_SIZE);

/// Where the record starts, as an offset into a CPU's stack area.
pub(super) const INFO_OFFSET: u64 = STACK_STRIDE - CPU_INFO_SIZE;

/// Where an interrupt from ring 3 starts to push, as an offset into a CPU's stack area.
pub(super) const ENTRY_OFFSET: u64 = INFO_OFFSET + (offset_of!(CpuInfo, regs) + size_of::<Regs>()) as u64;

const _: () = assert!(ENTRY_OFFSET.is_multiple_of(16));

/// Where a field of the record lies, seen from `regs`.
const fn from_regs(offset: usize) -> isize {
    offset.wrapping_sub(offset_of!(CpuInfo, regs)).cast_signed()
}
/// The pointer to the running context.
pub(super) const CONTEXT: isize = from_regs(offset_of!(CpuInfo, context));
/// A free word.
pub(super) const KEPT_RCX: isize = from_regs(offset_of!(CpuInfo, kept_rcx));
/// Another.
pub(super) const KEPT_R11: isize = from_regs(offset_of!(CpuInfo, kept_r11));

impl CpuInfo {
    /// The record of CPU `cpu` before it has run anything.
    pub(super) fn new(core: Cpu, tss: TaskStateSegment) -> Self {
        Self {
            kept_rcx: 0,
            regs: Regs::default(),
            kept_r11: 0,
            context: core::ptr::null_mut(),
            core,
            tss,
        }
    }
}

/// Where the record of CPU `cpu` lies. Valid once its stacks are mapped.
pub(super) fn of(cpu: usize) -> *mut CpuInfo {
    let address = Stack::Main.top(cpu).saturating_sub(CPU_INFO_SIZE);
    core::ptr::with_exposed_provenance_mut(bulkhead_machine::layout::word(address))
}

/// The record of the CPU that runs this code, found from the stack pointer.
///
/// Only the entry points in [`super::dispatch`] make a reference of it, one at a time: they are entered from a guest, with
/// interrupts off, and code that interrupts the hypervisor itself does not touch it.
#[inline]
pub(super) fn this() -> *mut CpuInfo {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    let address = (rsp | (STACK_STRIDE - 1))
        .wrapping_add(1)
        .wrapping_sub(CPU_INFO_SIZE);
    core::ptr::with_exposed_provenance_mut(bulkhead_machine::layout::word(address))
}
