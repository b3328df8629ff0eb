//! Hypercall numbers: what `rax` holds at SYSCALL from guest-kernel mode.
//!
//! Arguments are in rdi, rsi, rdx, r10, r8; the result is in rax ([`Errno`](crate::Errno) if negative).
//! SYSCALL itself destroys rcx and r11; all other registers are preserved. The whole of rax is
//! compared: garbage in its upper half makes the call unknown.

use crate::numbers;

/// One past the largest hypercall number that the ABI can ever assign: from here on numbers are our own.
pub const LIMIT: u64 = 64;

numbers! {
    /// A hypercall of the PV ABI.
    pub enum Hypercall: u64 {
        /// Sets trap handlers from a list of [`TrapInfo`](crate::trap::TrapInfo).
        SetTrapTable = 0, "set_trap_table",
        /// Updates page-table entries by machine address: [`MmuUpdate`](crate::mmu::MmuUpdate).
        MmuUpdate = 1, "mmu_update",
        /// Installs the frames of the vCPU's GDT.
        SetGdt = 2, "set_gdt",
        /// Sets the kernel stack (ss, sp) for entries from guest user mode.
        StackSwitch = 3, "stack_switch",
        /// Sets event, failsafe and syscall callbacks (old form of `callback_op`).
        SetCallbacks = 4, "set_callbacks",
        /// Sets or clears the virtual CR0.TS.
        FpuTaskswitch = 5, "fpu_taskswitch",
        /// Old form of `sched_op`.
        SchedOpCompat = 6, "sched_op_compat",
        /// Machine control for the initial domain.
        PlatformOp = 7, "platform_op",
        /// Sets a debug register.
        SetDebugreg = 8, "set_debugreg",
        /// Reads a debug register.
        GetDebugreg = 9, "get_debugreg",
        /// Writes one segment descriptor by machine address.
        UpdateDescriptor = 10, "update_descriptor",
        /// Memory reservations and maps: [`MemoryOp`](crate::memory::MemoryOp).
        MemoryOp = 12, "memory_op",
        /// Runs a list of calls: [`MulticallEntry`](crate::multicall::MulticallEntry).
        Multicall = 13, "multicall",
        /// Updates the level-1 entry of a virtual address.
        UpdateVaMapping = 14, "update_va_mapping",
        /// Sets the vCPU's timer (old form; absolute system time in ns).
        SetTimerOp = 15, "set_timer_op",
        /// Old form of `event_channel_op`.
        EventChannelOpCompat = 16, "event_channel_op_compat",
        /// Version and features: [`VersionOp`](crate::version::VersionOp).
        XenVersion = 17, "xen_version",
        /// The hypervisor's console: [`ConsoleIoOp`](crate::console::ConsoleIoOp).
        ConsoleIo = 18, "console_io",
        /// Old form of `physdev_op`.
        PhysdevOpCompat = 19, "physdev_op_compat",
        /// Grants: [`GrantTableOp`](crate::grant::GrantTableOp).
        GrantTableOp = 20, "grant_table_op",
        /// Opt-in behaviours: [`VmAssistType`](crate::mmu::VmAssistType).
        VmAssist = 21, "vm_assist",
        /// As `update_va_mapping`, mapping another domain's frame.
        UpdateVaMappingOtherdomain = 22, "update_va_mapping_otherdomain",
        /// Returns from a trap: [`IretFrame`](crate::trap::IretFrame).
        Iret = 23, "iret",
        /// vCPU control: [`VcpuOp`](crate::vcpu::VcpuOp).
        VcpuOp = 24, "vcpu_op",
        /// Sets FS and GS bases: [`SegmentBase`](crate::vcpu::SegmentBase).
        SetSegmentBase = 25, "set_segment_base",
        /// Pins, base pointers, flushes: [`MmuExtOp`](crate::mmu::MmuExtOp).
        MmuextOp = 26, "mmuext_op",
        /// Security modules.
        XsmOp = 27, "xsm_op",
        /// Registers an NMI handler (old form of `callback_op`): [`NmiOp`](crate::nmi::NmiOp).
        NmiOp = 28, "nmi_op",
        /// Yield, block, poll, shut down: [`SchedOp`](crate::sched::SchedOp).
        SchedOp = 29, "sched_op",
        /// Registers callbacks: [`CallbackOp`](crate::callback::CallbackOp).
        CallbackOp = 30, "callback_op",
        /// Profiling.
        XenoprofOp = 31, "xenoprof_op",
        /// Event channels: [`EventChannelOp`](crate::event::EventChannelOp).
        EventChannelOp = 32, "event_channel_op",
        /// Interrupts and I/O privilege: [`PhysdevOp`](crate::physdev::PhysdevOp).
        PhysdevOp = 33, "physdev_op",
        /// Hardware-assisted guests; no PV guest needs it.
        HvmOp = 34, "hvm_op",
        /// What only the control domain may ask: [`ControlOp`](crate::control::ControlOp).
        Sysctl = 35, "sysctl",
        /// Domain control by the toolstack.
        Domctl = 36, "domctl",
        /// Loading another kernel.
        KexecOp = 37, "kexec_op",
        /// Transcendent memory; gone.
        Tmem = 38, "tmem",
        /// Hypervisor-mediated messages.
        Argo = 39, "argo",
        /// Performance counters.
        XenpmuOp = 40, "xenpmu_op",
        /// Device-model control.
        DmOp = 41, "dm_op",
        /// The hypervisor's file system.
        HypfsOp = 42, "hypfs_op",
        /// Machine-check records (the first architecture-specific number).
        Mca = 48, "mca",
        /// What Bulkhead has beside the ABI: [`ExtensionOp`](crate::extension::ExtensionOp).
        ExtensionOp = 64, "extension_op",
    }
}
