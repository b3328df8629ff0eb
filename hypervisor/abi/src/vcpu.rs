//! `vcpu_op` and `set_segment_base`: vCPU state, timers, and the areas that a vCPU registers.

use crate::trap::TrapInfo;
use crate::{numbers, record};

numbers! {
    /// Sub-operation of `vcpu_op` (`rdi`); the vCPU is in `rsi`, the record's address in `rdx`.
    pub enum VcpuOp: u32 {
        /// Gives a vCPU its first state: [`VcpuGuestContext`].
        Initialise = 0, "initialise",
        /// Lets an initialised vCPU run.
        Up = 1, "up",
        /// Takes a vCPU down.
        Down = 2, "down",
        /// Returns whether a vCPU is up.
        IsUp = 3, "is_up",
        /// Reads [`RunstateInfo`].
        GetRunstateInfo = 4, "get_runstate_info",
        /// Registers where [`RunstateInfo`] is kept up to date: [`RegisterArea`].
        RegisterRunstateMemoryArea = 5, "register_runstate_memory_area",
        /// Starts the periodic timer: [`SetPeriodicTimer`].
        SetPeriodicTimer = 6, "set_periodic_timer",
        /// Stops the periodic timer.
        StopPeriodicTimer = 7, "stop_periodic_timer",
        /// Arms the one-shot timer: [`SetSingleshotTimer`].
        SetSingleshotTimer = 8, "set_singleshot_timer",
        /// Stops the one-shot timer.
        StopSingleshotTimer = 9, "stop_singleshot_timer",
        /// Moves a vCPU's [`VcpuInfo`](crate::shared_info::VcpuInfo): [`RegisterVcpuInfo`].
        RegisterVcpuInfo = 10, "register_vcpu_info",
        /// Raises a virtual NMI.
        SendNmi = 11, "send_nmi",
        /// Reads the physical CPU of a pinned vCPU (u64).
        GetPhysid = 12, "get_physid",
        /// Registers a copy of [`VcpuTimeInfo`](crate::shared_info::VcpuTimeInfo): [`RegisterArea`].
        RegisterVcpuTimeMemoryArea = 13, "register_vcpu_time_memory_area",
    }
}

numbers! {
    /// Which base `set_segment_base` sets (`rdi`); the base is in `rsi`.
    pub enum SegmentBase: u32 {
        /// FS.
        Fs = 0, "fs",
        /// GS of guest user mode, inactive while the kernel runs.
        GsUser = 1, "gs_user",
        /// GS of the guest kernel, active while it runs.
        GsKernel = 2, "gs_kernel",
        /// Not a base but a selector, to be loaded into the user's GS.
        GsUserSel = 3, "gs_user_sel",
    }
}

/// Context flag: the FPU state is valid.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// Context flag: the vCPU is in guest-kernel mode.
pub const VGCF_IN_KERNEL: u64 = 1 << 2;
/// Context flag: the failsafe callback masks events.
pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
/// Context flag: the syscall callback masks events.
pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
/// Context flag: the vCPU is up.
pub const VGCF_ONLINE: u64 = 1 << 5;

record! {
    /// A selector in a slot of 8 bytes; the other six are padding.
    #[repr(align(8))]
    pub struct SelectorSlot: 8 {
        /// The selector.
        0 => pub selector: u16,
    }
}

impl From<u16> for SelectorSlot {
    fn from(selector: u16) -> Self {
        Self { selector }
    }
}

record! {
    /// General registers of a vCPU.
    pub struct UserRegs: 200 {
        /// r15.
        0 => pub r15: u64,
        /// r14.
        8 => pub r14: u64,
        /// r13.
        16 => pub r13: u64,
        /// r12.
        24 => pub r12: u64,
        /// rbp.
        32 => pub rbp: u64,
        /// rbx.
        40 => pub rbx: u64,
        /// r11.
        48 => pub r11: u64,
        /// r10.
        56 => pub r10: u64,
        /// r9.
        64 => pub r9: u64,
        /// r8.
        72 => pub r8: u64,
        /// rax.
        80 => pub rax: u64,
        /// rcx.
        88 => pub rcx: u64,
        /// rdx.
        96 => pub rdx: u64,
        /// rsi.
        104 => pub rsi: u64,
        /// rdi.
        112 => pub rdi: u64,
        /// The hypervisor's own; ignored on input.
        120 => pub error_code: u32,
        /// The hypervisor's own; ignored on input.
        124 => pub entry_vector: u32,
        /// rip.
        128 => pub rip: u64,
        /// Code selector.
        136 => pub cs: u16,
        /// Unused.
        138 => pub reserved: u16,
        /// The upcall mask as it was at the last trap.
        140 => pub saved_upcall_mask: u8,
        /// Flags.
        144 => pub rflags: u64,
        /// rsp.
        152 => pub rsp: u64,
        /// Stack selector.
        160 => pub ss: SelectorSlot,
        /// es.
        168 => pub es: SelectorSlot,
        /// ds.
        176 => pub ds: SelectorSlot,
        /// fs.
        184 => pub fs: SelectorSlot,
        /// gs.
        192 => pub gs: SelectorSlot,
    }
}

record! {
    /// A vCPU's whole state, as it is given at `initialise`. All fields are **In**.
    pub struct VcpuGuestContext: 5168 {
        /// FXSAVE image, if [`VGCF_I387_VALID`].
        0 => pub fpu: [u8; 512],
        /// `VGCF_*`.
        512 => pub flags: u64,
        /// Registers.
        520 => pub user_regs: UserRegs,
        /// Trap handlers, one per vector.
        720 => pub trap_ctxt: [TrapInfo; 256],
        /// va of the LDT.
        4816 => pub ldt_base: u64,
        /// LDT entries.
        4824 => pub ldt_ents: u64,
        /// MFNs of the GDT's frames.
        4832 => pub gdt_frames: [u64; 16],
        /// GDT entries.
        4960 => pub gdt_ents: u64,
        /// Stack selector for entries from guest user mode.
        4968 => pub kernel_ss: u64,
        /// Stack pointer for entries from guest user mode.
        4976 => pub kernel_sp: u64,
        /// Control registers 0 to 7. Of use are 0, 3 (MFN of the kernel table << 12), 1 (MFN of the user
        /// table << 12, or 0 if there is none) and 4.
        4984 => pub ctrlreg: [u64; 8],
        /// Debug registers 0 to 7.
        5048 => pub debugreg: [u64; 8],
        /// Event callback.
        5112 => pub event_callback_eip: u64,
        /// Failsafe callback.
        5120 => pub failsafe_callback_eip: u64,
        /// Syscall callback.
        5128 => pub syscall_callback_eip: u64,
        /// Bits numbered by [`VmAssistType`](crate::mmu::VmAssistType).
        5136 => pub vm_assist: u64,
        /// FS base.
        5144 => pub fs_base: u64,
        /// GS base in guest-kernel mode.
        5152 => pub gs_base_kernel: u64,
        /// GS base in guest user mode.
        5160 => pub gs_base_user: u64,
    }
}

numbers! {
    /// What a vCPU is doing, as the scheduler sees it; also the index into [`RunstateInfo::time_ns`].
    pub enum Runstate: u32 {
        /// On a physical CPU.
        Running = 0, "running",
        /// Ready, waiting for a physical CPU.
        Runnable = 1, "runnable",
        /// Asleep by its own wish.
        Blocked = 2, "blocked",
        /// Down or paused.
        Offline = 3, "offline",
    }
}

/// Bit of [`RunstateInfo::state_entry_time`] that is set while the area changes, if the domain asked
/// for [`RunstateUpdateFlag`](crate::mmu::VmAssistType::RunstateUpdateFlag).
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

record! {
    /// A vCPU's scheduling history. Shared memory once it is registered.
    pub struct RunstateInfo: 48 {
        /// Hypervisor: a [`Runstate`].
        0 => pub state: u32,
        /// Hypervisor: system time in ns at which the state began, and [`RUNSTATE_UPDATE`].
        8 => pub state_entry_time: u64,
        /// Hypervisor: ns spent in each state.
        16 => pub time_ns: [u64; 4],
    }
}

record! {
    /// Registers a runstate or time area.
    pub struct RegisterArea: 8 {
        /// In: its va, in the caller's page tables.
        0 => pub va: u64,
    }
}

/// The shortest period of [`SetPeriodicTimer`], in ns.
pub const MIN_PERIODIC_TIMER_NS: u64 = 1_000_000;

record! {
    /// Starts a vCPU's periodic timer.
    pub struct SetPeriodicTimer: 8 {
        /// In: ns, at least [`MIN_PERIODIC_TIMER_NS`].
        0 => pub period_ns: u64,
    }
}

/// Flag of [`SetSingleshotTimer`]: refuse a deadline in the past instead of firing at once.
pub const SINGLESHOT_FUTURE: u32 = 1;

record! {
    /// Arms the calling vCPU's one-shot timer.
    pub struct SetSingleshotTimer: 16 {
        /// In: absolute system time, in ns.
        0 => pub timeout_abs_ns: u64,
        /// In: [`SINGLESHOT_FUTURE`] or 0.
        8 => pub flags: u32,
    }
}

record! {
    /// Moves a vCPU's [`VcpuInfo`](crate::shared_info::VcpuInfo) to a place of the guest's choice.
    pub struct RegisterVcpuInfo: 16 {
        /// In: the frame.
        0 => pub mfn: u64,
        /// In: byte offset in the frame, a multiple of 8; the record must not cross its end.
        8 => pub offset: u32,
        /// Unused.
        12 => pub reserved: u32,
    }
}
