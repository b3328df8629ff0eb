//! What a guest may do to the machine and to the hypervisor, one act at a time: so that a history can be printed, and played
//! again without the acts that do not matter.

use super::World;
use crate::traps::Exception;
use alloc::vec::Vec;
use bulkhead_abi::mmu::{MmuExt, MmuUpdate};
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
    /// Memory is read.
    Read(u64),
    /// Memory is written.
    Write(u64, u64),
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
    pub fn act(&mut self, cpu: usize, act: &Act) -> Effect {
        match act {
            Act::Mmu(list) => self.list(cpu, Hypercall::MmuUpdate, list),
            Act::Ext(list) => self.list(cpu, Hypercall::MmuextOp, list),
            &Act::UpdateVa(va, entry, flags) => {
                Effect::Paging(self.call(cpu, Hypercall::UpdateVaMapping, &[va, entry, flags]))
            }
            Act::Call { number, args, record } => {
                self.sim().act_as(self.cpu_id(cpu));
                if self.sim().guest_write(Self::SCRATCH, record).is_err() {
                    return Effect::Fault;
                }
                Effect::Other(self.raw_call(cpu, *number, args))
            }
            &Act::Read(va) => {
                self.sim().act_as(self.cpu_id(cpu));
                self.reached(self.sim().guest_read(va, &mut [0; 8]).is_ok())
            }
            &Act::Write(va, value) => {
                self.sim().act_as(self.cpu_id(cpu));
                self.reached(self.sim().guest_write(va, &value.to_le_bytes()).is_ok())
            }
            &Act::Raise(exception) => {
                self.raise(cpu, exception);
                Effect::Done
            }
            &Act::Forget { masked } => {
                let stack = self.regs(cpu).rsp.next_multiple_of(0x1000);
                self.regs_mut(cpu).rsp = stack;
                self.regs_mut(cpu).rip = Self::EVENT_CALLBACK + 0x10;
                self.sim().act_as(self.cpu_id(cpu));
                let mask = Self::SHARED_INFO + offset::UPCALL_MASK as u64;
                let is_reached = self.sim().guest_write(mask, &[u8::from(masked)]).is_ok();
                self.reached(is_reached)
            }
            &Act::Compute(ns) => {
                self.spin(cpu, ns);
                Effect::Done
            }
        }
    }

    fn reached(&self, is_reached: bool) -> Effect {
        if is_reached { Effect::Done } else { Effect::Fault }
    }

    fn list<T: Buffered>(&mut self, cpu: usize, number: Hypercall, list: &[T]) -> Effect {
        self.sim().act_as(self.cpu_id(cpu));
        let bytes: Vec<u8> = list
            .iter()
            .flat_map(|record| record.to_bytes().as_ref().to_vec())
            .collect();
        if self.sim().guest_write(Self::SCRATCH, &bytes).is_err() {
            return Effect::Fault;
        }
        let args = [Self::SCRATCH, list.len() as u64, 0, u64::from(DomId::SELF.raw())];
        Effect::Paging(self.call(cpu, number, &args))
    }
}
