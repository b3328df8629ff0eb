//! What a well-behaved guest kernel does, played on a [`World`]: it registers callbacks, takes events, sleeps.
//!
//! It is the kernel of [`TestKernel::default`](super::TestKernel): in its second page it puts the records of its hypercalls,
//! and it maps shared info in place of the last page of its first mapping.

use super::World;
use crate::frames::Mfn;
use crate::ids::CpuId;
use crate::machine::Machine;
use alloc::vec::Vec;
use bulkhead_abi::event::{AllocUnbound, BindInterdomain, BindVirq, EventChannelOp, Virq};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, UVMF_INVLPG};
use bulkhead_abi::sched::{Poll, SchedOp, Shutdown, ShutdownReason};
use bulkhead_abi::shared_info::{self, VcpuInfo, offset};
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::trap::{BounceFrame, IretFrame, TrapInfo};
use bulkhead_abi::vcpu::{SetSingleshotTimer, VGCF_IN_KERNEL, VcpuGuestContext, VcpuOp};
use bulkhead_abi::{DomId, Errno, Hypercall, Record, pte, selectors};

impl World {
    /// Where the guest kernel puts the records of its hypercalls.
    pub const SCRATCH: u64 = 0x2000;
    /// How much further on the next vCPU has its records, and the calls of its multicalls: two that make calls at the same time do not
    /// disturb each other. What the records name is everybody's.
    pub const NEXT_SCRATCH: u64 = 0x20_0000;
    /// Where it takes non-maskable interrupts.
    pub const NMI_CALLBACK: u64 = Self::EVENT_CALLBACK + 0x50;
    /// Where it puts the lists that those records name, in the same page.
    pub const LIST: u64 = Self::SCRATCH + 0x800;
    /// Where it puts instructions, in the same page.
    pub const CODE: u64 = Self::SCRATCH + 0xe00;
    /// Where it is told how much of a list was done, in the same page.
    pub const DONE: u64 = Self::SCRATCH + 0x7f8;
    /// Where it puts a frame to return by, in the same page.
    pub const FRAME: u64 = Self::SCRATCH + 0xf00;
    /// Its stack when it is entered from a program: the end of a free page.
    pub const STACK: u64 = 0x3f_1000;
    /// Where it maps shared info.
    pub const SHARED_INFO: u64 = 0x3f_f000;
    /// Where it puts the first state of another vCPU, whose stack grows down from here.
    pub const STATE: u64 = 0x20_0000;
    /// Where that begins.
    pub const SECOND_ENTRY: u64 = 0x1200;
    /// The exceptions that a hostile guest sees to, so that they are not its end.
    pub(super) const HANDLED: [u8; 11] = [0, 1, 3, 4, 6, 7, 13, 14, 16, 17, 19];
    /// Where it takes events.
    pub const EVENT_CALLBACK: u64 = 0x1100;
    /// Where it is told that its segments could not be loaded.
    pub const FAILSAFE_CALLBACK: u64 = Self::EVENT_CALLBACK + 0x30;

    /// The guest on `cpu`, just entered for the first time, registers its callbacks and maps shared info. Events stay masked.
    /// Returns what it was told.
    pub fn boot(&self, cpu: usize) -> StartInfo {
        let at = self.regs(cpu).rsi;
        let info: StartInfo = self.read(cpu, at);
        let entry = info.shared_info | pte::PRESENT | pte::WRITABLE;
        let map = [Self::SHARED_INFO, entry, UVMF_INVLPG];
        self.call(cpu, Hypercall::UpdateVaMapping, &map).unwrap();
        let callbacks = [Self::EVENT_CALLBACK, Self::FAILSAFE_CALLBACK, 0];
        self.call(cpu, Hypercall::SetCallbacks, &callbacks).unwrap();
        info
    }

    /// Where the record of the vCPU that runs on `cpu` lies, as long as it has not been moved. The first one's if nobody runs there.
    pub fn vcpu_info(&self, cpu: usize) -> u64 {
        let vcpu = self.running(cpu).map_or(0, |(_, vcpu)| vcpu);
        Self::SHARED_INFO + u64::from(vcpu) * VcpuInfo::SIZE as u64
    }

    /// `address`, which is of the first vCPU's records, for the vCPU that runs on `cpu`.
    pub(super) fn own(&self, cpu: usize, address: u64) -> u64 {
        let vcpu = self.running(cpu).map_or(0, |(_, vcpu)| vcpu);
        address + u64::from(vcpu) * Self::NEXT_SCRATCH
    }

    /// A first state for another vCPU of the guest on `cpu`: it runs on the same tables, with a stack of its own, and events masked.
    pub fn first_state(&self, cpu: usize) -> VcpuGuestContext {
        Self::state_on(self.sim().root(CpuId::new(u32::try_from(cpu).unwrap())).unwrap())
    }

    /// The same, on these tables.
    pub(super) fn state_on(root: Mfn) -> VcpuGuestContext {
        let mut state = VcpuGuestContext {
            flags: VGCF_IN_KERNEL,
            kernel_sp: Self::STATE,
            event_callback_eip: Self::EVENT_CALLBACK,
            failsafe_callback_eip: Self::FAILSAFE_CALLBACK,
            ..VcpuGuestContext::default()
        };
        state.ctrlreg[3] = root.maddr();
        state.user_regs.rip = Self::SECOND_ENTRY;
        state.user_regs.rsp = Self::STATE;
        state
    }

    /// The guest on `cpu` gives one of its vCPUs its first state.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn initialise(&self, cpu: usize, vcpu: u32, state: &VcpuGuestContext) -> Result<u64, Errno> {
        self.write(cpu, Self::STATE, state);
        self.vcpu_op(cpu, VcpuOp::Initialise, vcpu, Self::STATE)
    }

    /// The guest on `cpu` does something to one of its vCPUs, which names the record at `at`.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn vcpu_op(&self, cpu: usize, op: VcpuOp, vcpu: u32, at: u64) -> Result<u64, Errno> {
        let args = [u64::from(op.raw()), u64::from(vcpu), at];
        self.call(cpu, Hypercall::VcpuOp, &args)
    }

    /// The guest on `cpu` lets programs run on its kernel's own tables, and says that its stack for entries from them is at [`World::STACK`].
    pub fn allow_programs(&self, cpu: usize) {
        let root = self.sim().root(CpuId::new(u32::try_from(cpu).unwrap())).unwrap();
        let record = MmuExt {
            cmd: MmuExtOp::NewUserBaseptr.raw(),
            arg1: root.raw(),
            arg2: 0,
        };
        self.write(cpu, Self::SCRATCH, &record);
        let args = [Self::SCRATCH, 1, 0, DomId::SELF.raw().into()];
        self.call(cpu, Hypercall::MmuextOp, &args).unwrap();
        let stack = [selectors::FLAT_RING3_SS.into(), Self::STACK];
        self.call(cpu, Hypercall::StackSwitch, &stack).unwrap();
    }

    /// The guest on `cpu` registers a handler for an exception.
    pub fn set_trap(&self, cpu: usize, trap: TrapInfo) {
        self.write(cpu, Self::SCRATCH, &trap);
        self.write(cpu, Self::SCRATCH + 16, &TrapInfo::default());
        self.call(cpu, Hypercall::SetTrapTable, &[Self::SCRATCH]).unwrap();
    }

    /// The guest on `cpu` makes an event channel call.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn event_op<T: bulkhead_abi::Buffered>(
        &self,
        cpu: usize,
        op: EventChannelOp,
        mut record: T,
    ) -> Result<T, Errno> {
        let args = [u64::from(op.raw()), Self::SCRATCH];
        self.call_with(
            cpu,
            Hypercall::EventChannelOp,
            &args,
            (Self::SCRATCH, &mut record),
        )?;
        Ok(record)
    }

    /// The guest on `cpu` opens a port for `remote`.
    pub fn alloc_unbound(&self, cpu: usize, remote: u16) -> u32 {
        let record = AllocUnbound {
            dom: DomId::SELF,
            remote_dom: DomId::new(remote),
            ..AllocUnbound::default()
        };
        self.event_op(cpu, EventChannelOp::AllocUnbound, record)
            .unwrap()
            .port
    }

    /// The guest on `cpu` connects to a port of `remote`.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn bind_interdomain(&self, cpu: usize, remote: u16, port: u32) -> Result<u32, Errno> {
        let record = BindInterdomain {
            remote_dom: DomId::new(remote),
            remote_port: port,
            ..BindInterdomain::default()
        };
        Ok(self
            .event_op(cpu, EventChannelOp::BindInterdomain, record)?
            .local_port)
    }

    /// The guest on `cpu` opens a port for a virtual interrupt.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn bind_virq(&self, cpu: usize, virq: Virq) -> Result<u32, Errno> {
        let record = BindVirq {
            virq: virq.raw(),
            ..BindVirq::default()
        };
        Ok(self.event_op(cpu, EventChannelOp::BindVirq, record)?.port)
    }

    /// The guest on `cpu` sends on a port.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn send(&self, cpu: usize, port: u32) -> Result<(), Errno> {
        self.write(cpu, Self::SCRATCH, &port);
        let args = [u64::from(EventChannelOp::Send.raw()), Self::SCRATCH];
        self.call(cpu, Hypercall::EventChannelOp, &args).map(drop)
    }

    /// The guest on `cpu` sleeps until an event comes.
    pub fn block(&self, cpu: usize) {
        let args = [u64::from(SchedOp::Block.raw())];
        assert_eq!(self.call(cpu, Hypercall::SchedOp, &args), Ok(0));
    }

    /// The guest on `cpu` lets others run.
    pub fn yield_now(&self, cpu: usize) {
        let args = [u64::from(SchedOp::Yield.raw())];
        assert_eq!(self.call(cpu, Hypercall::SchedOp, &args), Ok(0));
    }

    /// The guest on `cpu` waits for one of `ports`, or for a moment; 0 means for ever.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn poll(&self, cpu: usize, ports: &[u32], timeout_abs_ns: u64) -> Result<u64, Errno> {
        let list = Self::SCRATCH + 64;
        for (at, port) in (list..).step_by(4).zip(ports) {
            self.write(cpu, at, port);
        }
        let record = Poll {
            ports: list,
            nr_ports: u32::try_from(ports.len()).unwrap(),
            timeout_abs_ns,
        };
        self.write(cpu, Self::SCRATCH, &record);
        self.call(
            cpu,
            Hypercall::SchedOp,
            &[u64::from(SchedOp::Poll.raw()), Self::SCRATCH],
        )
    }

    /// The guest on `cpu` ends.
    pub fn shut_down(&self, cpu: usize, reason: ShutdownReason) {
        self.write(cpu, Self::SCRATCH, &Shutdown { reason: reason.raw() });
        let args = [u64::from(SchedOp::Shutdown.raw()), Self::SCRATCH];
        assert_eq!(self.call(cpu, Hypercall::SchedOp, &args), Ok(0));
    }

    /// The guest on `cpu` sets its timer; `flags` are those of the call.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn set_timer(&self, cpu: usize, timeout_abs_ns: u64, flags: u32) -> Result<u64, Errno> {
        let record = SetSingleshotTimer {
            timeout_abs_ns,
            flags,
        };
        self.write(cpu, Self::SCRATCH, &record);
        let vcpu = self.running(cpu).unwrap().1;
        self.vcpu_op(cpu, VcpuOp::SetSingleshotTimer, vcpu, Self::SCRATCH)
    }

    /// The guest on `cpu` unmasks upcalls in its memory, and looks what came meanwhile as it must: if there is anything,
    /// it makes a hypercall on whose way out the upcall comes.
    pub fn unmask_upcalls(&self, cpu: usize) {
        let flags = self.vcpu_info(cpu) + offset::UPCALL_PENDING as u64;
        self.write(cpu, flags + 1, &0_u8);
        if self.read::<u8>(cpu, flags) != 0 {
            self.call(cpu, Hypercall::XenVersion, &[0]).unwrap();
        }
    }

    /// The guest on `cpu` masks upcalls.
    pub fn mask_upcalls(&self, cpu: usize) {
        self.write(cpu, self.vcpu_info(cpu) + offset::UPCALL_MASK as u64, &1_u8);
    }

    /// Whether the guest on `cpu` stands at the beginning of its event handler.
    pub fn is_in_upcall(&self, cpu: usize) -> bool {
        self.regs(cpu).rip == Self::EVENT_CALLBACK
    }

    /// The guest on `cpu` stands in its event handler: it takes all events and returns to where it was. Says which ports were
    /// pending.
    ///
    /// # Panics
    ///
    /// If it does not stand there, or upcalls are not masked there.
    pub fn take_upcall(&self, cpu: usize) -> Vec<u32> {
        assert!(self.is_in_upcall(cpu), "no upcall was made: {:?}", self.regs(cpu));
        let flags = self.vcpu_info(cpu) + offset::UPCALL_PENDING as u64;
        assert_eq!(
            self.read::<u8>(cpu, flags + 1),
            1,
            "upcalls are masked in an upcall"
        );
        self.write(cpu, flags, &0_u8);
        let ports = self.take_pending(cpu);
        self.finish_handler(cpu);
        ports
    }

    /// The guest on `cpu` takes what is pending on ports that it has not masked, by the selector.
    pub fn take_pending(&self, cpu: usize) -> Vec<u32> {
        let selector_at = self.vcpu_info(cpu) + offset::PENDING_SEL as u64;
        let selector: u64 = self.read(cpu, selector_at);
        self.write(cpu, selector_at, &0_u64);
        let mut ports = Vec::new();
        for word in (0..64).filter(|word| selector & 1 << word != 0) {
            let at = |bitmap: usize| Self::SHARED_INFO + bitmap as u64 + word * 8;
            let mask: u64 = self.read(cpu, at(offset::EVTCHN_MASK));
            let pending: u64 = self.read(cpu, at(offset::EVTCHN_PENDING));
            self.write(cpu, at(offset::EVTCHN_PENDING), &(pending & mask));
            let bits = pending & !mask;
            let named = (0..64)
                .filter(|bit| bits & 1 << bit != 0)
                .map(|bit| word * 64 + bit);
            ports.extend(named.map(|port| u32::try_from(port).unwrap()));
        }
        ports
    }

    /// The guest on `cpu` masks or unmasks a port in its memory.
    pub fn set_port_mask(&self, cpu: usize, port: u32, masked: bool) {
        let at = Self::SHARED_INFO + offset::EVTCHN_MASK as u64 + u64::from(port / 64) * 8;
        let bit = 1 << (port % 64);
        let word: u64 = self.read(cpu, at);
        let word = if masked { word | bit } else { word & !bit };
        self.write(cpu, at, &word);
    }

    /// Whether a port of the guest on `cpu` is pending.
    pub fn is_pending(&self, cpu: usize, port: u32) -> bool {
        let at = Self::SHARED_INFO + offset::EVTCHN_PENDING as u64 + u64::from(port / 64) * 8;
        self.read::<u64>(cpu, at) & 1 << (port % 64) != 0
    }

    /// The guest on `cpu` stands in a handler with the frame of a bounce on its stack: it returns from there.
    pub fn finish_handler(&self, cpu: usize) {
        let at = self.regs(cpu).rsp;
        let frame: BounceFrame = self.read(cpu, at);
        let back = IretFrame {
            rax: self.regs(cpu).rax,
            r11: frame.r11,
            rcx: frame.rcx,
            flags: 0,
            rip: frame.rip,
            cs: frame.cs & 0xffff,
            rflags: frame.rflags,
            rsp: frame.rsp,
            ss: frame.ss,
        };
        // Below the frame, as a handler would have pushed it.
        self.write(cpu, at - 72, &back);
        self.regs_mut(cpu).rsp = at - 72;
        self.iret(cpu);
    }

    /// The time that the guest on `cpu` reads from shared info.
    pub fn guest_time(&self, cpu: usize) -> u64 {
        let time: shared_info::VcpuTimeInfo = self.read(cpu, self.vcpu_info(cpu) + offset::TIME as u64);
        assert_eq!(time.version % 2, 0, "nobody writes it now");
        time.system_time_ns_at(self.sim().clock().tsc)
    }

    /// The guest on `cpu` forgets whatever handler it is in, and all that is on its stack.
    pub(super) fn leave_handler(&self, cpu: usize) {
        let mut regs = self.regs_mut(cpu);
        regs.rsp = regs.rsp.next_multiple_of(0x1000);
        regs.rip = Self::EVENT_CALLBACK + 0x10;
    }
}
