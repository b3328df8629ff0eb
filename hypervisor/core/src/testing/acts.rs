//! What a guest may do to the machine and to the hypervisor, one act at a time: so that a history can be printed, and played
//! again without the acts that do not matter.

use super::World;
use crate::traps::Exception;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_abi::mmu::{MmuExt, MmuUpdate};
use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};

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
    /// A hypercall that the guest gives up, and does something else, if it is asked to start it again.
    OneGo(Box<Self>),
    /// Memory is read.
    Read(u64),
    /// Memory is written.
    Write(u64, u64),
    /// Several hypercalls in one: the numbers, and the arguments.
    Several(Vec<(u64, [u64; 6])>),
    /// An exception happens.
    Raise(Exception),
    /// An instruction faults, and whatever becomes of it, the guest goes on after it.
    Instruction {
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
    /// Nothing, for some nanoseconds.
    Compute(u64),
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

/// No call of a guest that asks for finite work is started this often.
const ENOUGH: usize = 20_000;

impl World {
    /// Lets the guest on `cpu`, which must run one, do `act`.
    pub fn act(&self, cpu: usize, act: &Act) -> Effect {
        self.act_within(cpu, act, ENOUGH)
    }

    fn act_within(&self, cpu: usize, act: &Act, goes: usize) -> Effect {
        self.act_as(cpu);
        let reached = |is_reached: bool| if is_reached { Effect::Done } else { Effect::Fault };
        match act {
            Act::OneGo(act) => self.act_within(cpu, act, 1),
            Act::Mmu(list) => self.list(cpu, Hypercall::MmuUpdate, list, goes),
            Act::Ext(list) => self.list(cpu, Hypercall::MmuextOp, list, goes),
            &Act::UpdateVa(va, entry, flags) => {
                let number = Hypercall::UpdateVaMapping.raw();
                let answer = self.patient_call(cpu, number, &[va, entry, flags], goes);
                answer.map_or(Effect::Done, Effect::Paging)
            }
            Act::Call { number, args, record } => {
                if self.sim().guest_write(Self::SCRATCH, record).is_err() {
                    return Effect::Fault;
                }
                let answer = self.patient_call(cpu, *number, args, goes);
                answer.map_or(Effect::Done, Effect::Other)
            }
            &Act::Read(va) => reached(self.sim().guest_read(va, &mut [0; 8]).is_ok()),
            &Act::Write(va, value) => reached(self.sim().guest_write(va, &value.to_le_bytes()).is_ok()),
            Act::Several(calls) => self.several(cpu, calls, goes),
            &Act::Raise(exception) => {
                self.raise(cpu, exception);
                Effect::Done
            }
            Act::Instruction {
                code,
                value,
                pointers,
                raises,
            } => self.instruction(cpu, code, *value, *pointers, *raises),
            &Act::Forget { masked } => {
                self.leave_handler(cpu);
                let mask = Self::SHARED_INFO + offset::UPCALL_MASK as u64;
                reached(self.sim().guest_write(mask, &[u8::from(masked)]).is_ok())
            }
            &Act::Compute(ns) => {
                self.spin(cpu, ns);
                Effect::Done
            }
        }
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
        let entry = |&(op, args): &(u64, [u64; 6])| MulticallEntry { op, result: 0, args };
        let bytes: Vec<u8> = calls
            .iter()
            .flat_map(|call| entry(call).to_bytes().as_ref().to_vec())
            .collect();
        if self.sim().guest_write(Self::LIST, &bytes).is_err() {
            return Effect::Fault;
        }
        let args = [Self::LIST, calls.len() as u64];
        let answer = self.patient_call(cpu, Hypercall::Multicall.raw(), &args, goes);
        answer.map_or(Effect::Done, Effect::Other)
    }

    fn instruction(
        &self,
        cpu: usize,
        code: &[u8],
        value: u64,
        pointers: [u64; 2],
        raises: Exception,
    ) -> Effect {
        if self.sim().guest_write(Self::CODE, code).is_err() {
            return Effect::Fault;
        }
        let (who, before) = (self.running(cpu), self.regs(cpu));
        {
            let mut regs = self.regs_mut(cpu);
            regs.rip = Self::CODE;
            (regs.rax, regs.rcx) = (value, value);
            [regs.rdi, regs.rsi] = pointers;
        }
        self.raise(cpu, raises);
        // Whoever is preempted meanwhile goes on as well as it can.
        if self.running(cpu) == who && !self.is_in_upcall(cpu) {
            *self.regs_mut(cpu) = before;
        }
        Effect::Done
    }

    fn list<T: Buffered>(&self, cpu: usize, number: Hypercall, list: &[T], goes: usize) -> Effect {
        let bytes: Vec<u8> = list
            .iter()
            .flat_map(|record| record.to_bytes().as_ref().to_vec())
            .collect();
        if self.sim().guest_write(Self::SCRATCH, &bytes).is_err() {
            return Effect::Fault;
        }
        let own = u64::from(DomId::SELF.raw());
        let args = [Self::SCRATCH, list.len() as u64, 0, own];
        let answer = self.patient_call(cpu, number.raw(), &args, goes);
        answer.map_or(Effect::Done, Effect::Paging)
    }
}
