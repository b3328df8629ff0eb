//! What a guest may do to the machine and to the hypervisor, one act at a time: so that a history can be printed, and played
//! again without the acts that do not matter.

use super::asked::{NO_NUMBER, NO_RESULT};
use super::{Access, World};
use crate::frames::Mfn;
use crate::irq::{Gsi, Pirq};
use crate::pci::FunctionId;
use crate::traps::Exception;
use crate::vcpu::{Mode, Segments};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_abi::grant::GrantEntry;
use bulkhead_abi::mmu::{MmuExt, MmuUpdate};
use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::IretFrame;
use bulkhead_abi::vcpu::{VcpuGuestContext, VcpuOp};
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, selectors};

/// An act of the guest that runs on some CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// `mmu_update` with these requests.
    Mmu(Vec<MmuUpdate>),
    /// `mmuext_op` with these operations.
    Ext(Vec<MmuExt>),
    /// `update_va_mapping`: address, entry, flags.
    UpdateVa(u64, u64, u64),
    /// Any hypercall, after these bytes have been put where its record should be.
    Call {
        /// Its number.
        number: u64,
        /// Its arguments.
        args: [u64; 5],
        /// The record.
        record: Vec<u8>,
    },
    /// A vCPU gets its first state.
    Initialise(FirstState),
    /// The same again and again, so many times or until it is refused.
    Repeat(Box<Self>, u32),
    /// A hypercall that the guest gives up, and does something else, if it is asked to start it again.
    OneGo(Box<Self>),
    /// Memory is read.
    Read(u64),
    /// Memory is written.
    Write(u64, u64),
    /// An entry of the guest's grant table, given by its first frame, is written if it is not in use.
    Grant(Mfn, u32, GrantEntry),
    /// Several hypercalls in one: the numbers, and the arguments.
    Several(Vec<(u64, [u64; 6])>),
    /// An exception happens.
    Raise(Exception),
    /// An instruction faults, and whatever becomes of it, the guest goes on after it.
    Instruction {
        /// What it is counted as.
        name: &'static str,
        /// Its bytes.
        code: Vec<u8>,
        /// RAX and RCX.
        value: u64,
        /// RDI and RSI.
        pointers: [u64; 2],
        /// What it raises.
        raises: Exception,
    },
    /// The guest leaves its handler without looking at anything, with events masked or not.
    Forget {
        /// Whether events are masked from now on.
        masked: bool,
    },
    /// The guest's kernel returns from a handler by this frame, which it puts where it runs no danger.
    Return(IretFrame),
    /// The same, by a frame that it says is here.
    ReturnFrom(u64),
    /// A program executes SYSCALL in 32-bit code.
    CompatCall,
    /// A program executes SYSENTER.
    Sysenter,
    /// The guest loads segments.
    Load(Segments),
    /// A device interrupts the guest by a line, whosever that is, if it may.
    Interrupt(Gsi),
    /// A device interrupts the guest by a message, whosever that is, whether or not it is masked: one may be on its way.
    Message(Pirq),
    /// The control domain lets a function reach what this domain's devices may, and nobody else's, if both can be visited.
    Attach(FunctionId, u16),
    /// A device, whosever that is, reads or writes a frame.
    Dma(FunctionId, Mfn, Access),
    /// Nothing, for some nanoseconds.
    Compute(u64),
}

impl Act {
    /// What it is if a program does it that knows nothing of hypercalls, and its kernel takes no part: a system call, unless
    /// it is nothing that concerns the hypervisor more than any instruction.
    fn as_system_call(&self) -> Option<(u64, [u64; 5])> {
        let number = match self {
            Self::Repeat(act, _) | Self::OneGo(act) => return act.as_system_call(),
            Self::Call { number, args, .. } => return Some((*number, *args)),
            Self::Initialise(_) => Hypercall::VcpuOp,
            Self::Mmu(_) => Hypercall::MmuUpdate,
            Self::Ext(_) => Hypercall::MmuextOp,
            Self::UpdateVa(..) => Hypercall::UpdateVaMapping,
            Self::Several(_) => Hypercall::Multicall,
            Self::Return(_) | Self::ReturnFrom(_) => Hypercall::Iret,
            Self::Forget { .. } => Hypercall::SchedOp,
            Self::Read(_)
            | Self::Write(..)
            | Self::Grant(..)
            | Self::Raise(_)
            | Self::Instruction { .. }
            | Self::CompatCall
            | Self::Sysenter
            | Self::Load(_)
            | Self::Interrupt(_)
            | Self::Message(_)
            | Self::Attach(..)
            | Self::Dma(..)
            | Self::Compute(_) => return None,
        };
        let own = u64::from(DomId::SELF.raw());
        Some((number.raw(), [World::SCRATCH, 1, 0, own, 0]))
    }
}

/// What of a first state a guest tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstState {
    /// Which vCPU is to have it.
    pub vcpu: u32,
    /// The root of its kernel's tables.
    pub kernel_root: Mfn,
    /// The root of its programs' tables.
    pub user_root: Option<Mfn>,
    /// Its page of descriptors.
    pub gdt: Option<Mfn>,
    /// Where it has local descriptors.
    pub ldt: Option<u64>,
    /// Where it begins.
    pub rip: u64,
    /// `VGCF_*`.
    pub flags: u64,
}

impl FirstState {
    fn record(&self) -> VcpuGuestContext {
        let mut record = World::state_on(self.kernel_root);
        record.flags = self.flags;
        record.user_regs.rip = self.rip;
        record.ctrlreg[1] = self.user_root.map_or(0, Mfn::maddr);
        if let Some(gdt) = self.gdt {
            record.gdt_ents = 1;
            record.gdt_frames[0] = gdt.raw();
        }
        if let Some(at) = self.ldt {
            (record.ldt_base, record.ldt_ents) = (at, 3);
        }
        for vector in World::HANDLED {
            record.trap_ctxt[usize::from(vector)].address = World::EVENT_CALLBACK + 0x20;
        }
        record
    }
}

/// How an act ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It was none that can be refused.
    Done,
    /// Page tables were asked to be changed.
    Paging(Result<u64, Errno>),
    /// Any other hypercall.
    Other(Result<u64, Errno>),
    /// Memory could not be reached: nothing else happened.
    Fault,
}

impl Effect {
    const fn touching(is_reached: bool) -> Self {
        if is_reached { Self::Done } else { Self::Fault }
    }
}

/// No call of a guest that asks for finite work is started this often.
const ENOUGH: usize = 20_000;
/// How many goes are enough for one that may have to wait for another CPU.
const SOME: usize = 64;

impl World {
    /// Lets the guest on `cpu`, which must run one, do `act`.
    pub fn act(&self, cpu: usize, act: &Act) -> Effect {
        self.act_within(cpu, act, ENOUGH)
    }

    /// The same while another CPU stands still in the middle of an act: one that waits for that is given up after some goes.
    pub fn act_between(&self, cpu: usize, act: &Act) -> Effect {
        self.act_within(cpu, act, SOME)
    }

    fn act_within(&self, cpu: usize, act: &Act, goes: usize) -> Effect {
        self.act_as(cpu);
        if self.mode(cpu) == Some(Mode::User)
            && let Some((number, args)) = act.as_system_call()
        {
            self.system_call(cpu, number, args);
            return Effect::Done;
        }
        match act {
            Act::OneGo(act) => self.act_within(cpu, act, 1),
            Act::Mmu(list) => self.list(cpu, Hypercall::MmuUpdate, list, goes),
            Act::Ext(list) => self.list(cpu, Hypercall::MmuextOp, list, goes),
            Act::Repeat(act, times) => {
                let is_good = |effect| {
                    !matches!(
                        effect,
                        Effect::Fault | Effect::Paging(Err(_)) | Effect::Other(Err(_))
                    )
                };
                let mut each = (0..*times).map(|_| self.act_within(cpu, act, goes));
                each.find(|&effect| !is_good(effect)).unwrap_or(Effect::Done)
            }
            &Act::UpdateVa(va, entry, flags) => {
                let number = Hypercall::UpdateVaMapping.raw();
                let answer = self.patient_call(cpu, number, &[va, entry, flags], goes);
                answer.map_or(Effect::Done, Effect::Paging)
            }
            Act::Call { number, .. } if *number == Hypercall::Iret.raw() => {
                let frame = self.regs(cpu).rsp;
                self.return_from(cpu, frame)
            }
            Act::Call { number, args, record } => {
                if self
                    .sim()
                    .guest_write(self.own(cpu, Self::SCRATCH), record)
                    .is_err()
                {
                    return Effect::Fault;
                }
                let records = Self::SCRATCH..Self::LIST;
                let args = args.map(|arg| {
                    if records.contains(&arg) {
                        self.own(cpu, arg)
                    } else {
                        arg
                    }
                });
                // Some of these wait for other CPUs, which do nothing meanwhile.
                let waits = *number == Hypercall::Sysctl.raw();
                let goes = if waits { goes.min(SOME) } else { goes };
                let answer = self.patient_call(cpu, *number, &args, goes);
                answer.map_or(Effect::Done, Effect::Other)
            }
            Act::Initialise(state) => {
                let record = state.record();
                let written = self.sim().guest_write(Self::STATE, record.to_bytes().as_ref());
                if written.is_err() {
                    return Effect::Fault;
                }
                let op = u64::from(VcpuOp::Initialise.raw());
                let args = [op, state.vcpu.into(), Self::STATE];
                let answer = self.patient_call(cpu, Hypercall::VcpuOp.raw(), &args, goes);
                answer.map_or(Effect::Done, Effect::Other)
            }
            &Act::Read(va) => Effect::touching(self.sim().guest_read(va, &mut [0; 8]).is_ok()),
            &Act::Write(va, value) => {
                Effect::touching(self.sim().guest_write(va, &value.to_le_bytes()).is_ok())
            }
            &Act::Grant(table, gref, entry) => {
                self.try_grant(table, gref, entry);
                Effect::Done
            }
            Act::Several(calls) => self.several(cpu, calls, goes),
            &Act::Raise(exception) => {
                self.raise(cpu, exception);
                Effect::Done
            }
            Act::Instruction { .. } => self.instruction(cpu, act),
            &Act::Forget { masked } => {
                self.leave_handler(cpu);
                let mask = self.vcpu_info(cpu) + offset::UPCALL_MASK as u64;
                Effect::touching(self.sim().guest_write(mask, &[u8::from(masked)]).is_ok())
            }
            Act::Return(frame) => {
                if self
                    .sim()
                    .guest_write(Self::FRAME, frame.to_bytes().as_ref())
                    .is_err()
                {
                    return Effect::Fault;
                }
                self.return_from(cpu, Self::FRAME)
            }
            &Act::ReturnFrom(frame) => self.return_from(cpu, frame),
            // A kernel has better ways, and SYSENTER would be its end.
            Act::CompatCall | Act::Sysenter if self.mode(cpu) != Some(Mode::User) => Effect::Done,
            Act::CompatCall => {
                self.compat_call(cpu);
                Effect::Done
            }
            Act::Sysenter => {
                self.sysenter(cpu);
                Effect::Done
            }
            &Act::Load(segments) => {
                self.load_segments(cpu, segments);
                Effect::Done
            }
            &Act::Interrupt(gsi) => {
                self.interrupt(cpu, gsi);
                Effect::Done
            }
            &Act::Message(pirq) => {
                self.message(cpu, pirq);
                Effect::Done
            }
            &Act::Attach(function, domain) => {
                self.attach(function, domain);
                Effect::Done
            }
            &Act::Dma(function, frame, access) => Effect::touching(self.sim().dma(function, frame, access)),
            &Act::Compute(ns) => {
                self.spin(cpu, ns);
                Effect::Done
            }
        }
    }

    fn return_from(&self, cpu: usize, frame: u64) -> Effect {
        self.regs_mut(cpu).rsp = frame;
        self.iret(cpu);
        // The flat segments are there; those of its own table might be anything, here nothing.
        let regs = self.regs(cpu);
        let has_code = [selectors::FLAT_RING3_CS64, selectors::FLAT_RING3_CS32]
            .map(u64::from)
            .contains(&regs.cs);
        if !has_code || regs.ss != u64::from(selectors::FLAT_RING3_SS) {
            self.refuse_return(cpu);
        }
        Effect::Done
    }

    /// A call that must come to an end, if the guest lets it.
    fn patient_call(&self, cpu: usize, number: u64, args: &[u64], goes: usize) -> Option<Result<u64, Errno>> {
        let answer = self.call_within(cpu, number, args, goes);
        assert!(
            answer.is_some() || goes < ENOUGH,
            "call {number} {args:x?} never ends"
        );
        answer
    }

    fn several(&self, cpu: usize, calls: &[(u64, [u64; 6])], goes: usize) -> Effect {
        let entry = |&(op, args): &(u64, [u64; 6])| MulticallEntry {
            op,
            result: NO_RESULT,
            args,
        };
        let bytes: Vec<u8> = calls
            .iter()
            .flat_map(|call| entry(call).to_bytes().as_ref().to_vec())
            .collect();
        let list = self.own(cpu, Self::LIST);
        if self.sim().guest_write(list, &bytes).is_err() {
            return Effect::Fault;
        }
        let args = [list, calls.len() as u64];
        let answer = self.patient_call(cpu, Hypercall::Multicall.raw(), &args, goes);
        answer.map_or(Effect::Done, Effect::Other)
    }

    fn instruction(&self, cpu: usize, act: &Act) -> Effect {
        let Act::Instruction {
            name,
            code,
            value,
            pointers,
            raises,
        } = act
        else {
            return Effect::Done;
        };
        let (who, before, mode) = (self.running(cpu), self.regs(cpu), self.mode(cpu));
        // A program's code is where its kernel put it.
        if mode == Some(Mode::Kernel) && self.sim().guest_write(Self::CODE, code).is_err() {
            return Effect::Fault;
        }
        {
            let mut regs = self.regs_mut(cpu);
            regs.rip = Self::CODE;
            (regs.rax, regs.rcx) = (*value, *value);
            // Where a value has two registers.
            regs.rdx = *value >> 32;
            [regs.rdi, regs.rsi] = *pointers;
        }
        let name = if mode == Some(Mode::User) {
            "program's instruction"
        } else {
            name
        };
        self.raise_as(cpu, *raises, name);
        // Whoever is preempted meanwhile goes on as well as it can.
        if self.running(cpu) == who && self.mode(cpu) == mode && !self.is_in_upcall(cpu) {
            *self.regs_mut(cpu) = before;
        }
        Effect::Done
    }

    fn list<T: Buffered>(&self, cpu: usize, number: Hypercall, list: &[T], goes: usize) -> Effect {
        let bytes: Vec<u8> = list
            .iter()
            .flat_map(|record| record.to_bytes().as_ref().to_vec())
            .collect();
        let [at, done] = [Self::SCRATCH, Self::DONE].map(|address| self.own(cpu, address));
        if self.sim().guest_write(at, &bytes).is_err() {
            return Effect::Fault;
        }
        if self.sim().guest_write(done, &NO_NUMBER.to_le_bytes()).is_err() {
            return Effect::Fault;
        }
        let own = u64::from(DomId::SELF.raw());
        let args = [at, list.len() as u64, done, own];
        let answer = self.patient_call(cpu, number.raw(), &args, goes);
        answer.map_or(Effect::Done, Effect::Paging)
    }
}
