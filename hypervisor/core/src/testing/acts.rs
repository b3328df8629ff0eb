//! What a guest may do to the machine and to the hypervisor, one act at a time: so that a history can be printed, and played
//! again without the acts that do not matter.

use super::World;
use crate::traps::Exception;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_abi::mmu::{MmuExt, MmuUpdate};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{PF_PRESENT, PF_USER, PF_WRITE, Vector};
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
    /// Memory is written by an instruction which, if it faults on a page that is only to be read, is shown to the hypervisor.
    Store(u64, u64),
    /// An exception happens.
    Raise(Exception),
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

impl World {
    /// Lets the guest on `cpu`, which must run one, do `act`.
    pub fn act(&self, cpu: usize, act: &Act) -> Effect {
        self.act_within(cpu, act, usize::MAX)
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
                let answer = self.call_within(cpu, number, &[va, entry, flags], goes);
                answer.map_or(Effect::Done, Effect::Paging)
            }
            Act::Call { number, args, record } => {
                if self.sim().guest_write(Self::SCRATCH, record).is_err() {
                    return Effect::Fault;
                }
                let answer = self.call_within(cpu, *number, args, goes);
                answer.map_or(Effect::Done, Effect::Other)
            }
            &Act::Read(va) => reached(self.sim().guest_read(va, &mut [0; 8]).is_ok()),
            &Act::Write(va, value) => reached(self.sim().guest_write(va, &value.to_le_bytes()).is_ok()),
            &Act::Store(va, value) => self.store(cpu, va, value),
            &Act::Raise(exception) => {
                self.raise(cpu, exception);
                Effect::Done
            }
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

    /// The guest on `cpu` executes `mov [rdi], rax`.
    fn store(&self, cpu: usize, va: u64, value: u64) -> Effect {
        const CODE: [u8; 3] = [0x48, 0x89, 0x07];
        if self.sim().guest_write(va, &value.to_le_bytes()).is_ok() {
            return Effect::Done;
        }
        let code = Self::EVENT_CALLBACK + 0x20;
        if self.sim().guest_write(code, &CODE).is_err() {
            return Effect::Fault;
        }
        {
            let mut regs = self.regs_mut(cpu);
            (regs.rip, regs.rdi, regs.rax) = (code, va, value);
        }
        self.raise(
            cpu,
            Exception {
                vector: Vector::PageFault.raw(),
                error_code: PF_PRESENT | PF_WRITE | PF_USER,
                address: va,
            },
        );
        let is_done = self.regs(cpu).rip == code + CODE.len() as u64;
        Effect::Paging(if is_done { Ok(0) } else { Err(Errno::Fault) })
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
        let answer = self.call_within(cpu, number.raw(), &args, goes);
        answer.map_or(Effect::Done, Effect::Paging)
    }
}
