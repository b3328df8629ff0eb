//! What a guest asks for by a hypercall, read before the call is served, so that each part of it can be counted when it is over.

use super::Sim;
use super::tally::{Ending, Tally};
use crate::hypercalls::table::{Row, TABLE};
use alloc::vec::Vec;
use bulkhead_abi::errno::Failure;
use bulkhead_abi::mmu::MmuExt;
use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::{Buffered, Errno, Hypercall, Record};

/// What stands in the place of a result that has not come yet.
pub(super) const NO_RESULT: i64 = i64::MIN;

/// What stands in the place of a number of elements that has not come yet.
pub(super) const NO_NUMBER: u32 = u32::MAX;

/// More elements than this of one list are not looked at.
const MAX_ELEMENTS: u64 = 64;

/// The parts of a call.
#[derive(Debug)]
enum Parts {
    /// It is one.
    None,
    /// The sub-operations of `mmuext_op`, in a list at this address, and where the call says how many it did.
    Extended { ops: Vec<u32>, at: u64, done_at: u64 },
    /// The calls of a multicall, in a list at this address.
    Several { calls: Vec<MulticallEntry>, at: u64 },
}

/// A call.
#[derive(Debug)]
pub(super) struct Asked {
    number: u64,
    op: Option<u32>,
    parts: Parts,
}

/// The sub-operation that a call names in its first argument, if it is one of those that do.
fn operation(number: u64, first: u64) -> Option<u32> {
    // Above its number, a memory operation may carry how far it has come.
    let is_memory = number == Hypercall::MemoryOp.raw();
    let is_list = number == Hypercall::MmuextOp.raw();
    let mask = if is_memory { 0x3f } else { u64::from(u32::MAX) };
    u32::try_from(first & mask).ok().filter(|_| !is_list)
}

fn read<T: Buffered>(sim: &Sim, at: u64) -> Option<T> {
    let mut buffer = T::EMPTY;
    sim.guest_read(at, buffer.as_mut()).ok()?;
    T::read_from(buffer.as_ref())
}

fn list<T: Buffered>(sim: &Sim, at: u64, count: u64) -> Vec<T> {
    let count = (count & u64::from(u32::MAX)).min(MAX_ELEMENTS);
    (0..count)
        .map_while(|n| read(sim, at.wrapping_add(n * T::SIZE as u64)))
        .collect()
}

impl Asked {
    /// Reads what the guest on the acting CPU is about to ask for.
    pub(super) fn read(sim: &Sim, number: u64, args: &[u64; 5]) -> Self {
        let [at, count, done_at, ..] = *args;
        let says_number = || read::<u32>(sim, done_at) == Some(NO_NUMBER);
        let parts = if number == Hypercall::MmuextOp.raw() && done_at != 0 && says_number() {
            let ops = list::<MmuExt>(sim, at, count);
            Parts::Extended {
                ops: ops.iter().map(|element| element.cmd).collect(),
                at,
                done_at,
            }
        } else if number == Hypercall::Multicall.raw() {
            let calls = list(sim, at, count);
            Parts::Several { calls, at }
        } else {
            Parts::None
        };
        Self {
            number,
            op: operation(number, at),
            parts,
        }
    }

    /// Counts it. The guest's address space is the one in which it asked, unless the call changed it.
    pub(super) fn note(&self, sim: &Sim, tally: &mut Tally, ending: Ending) {
        tally.call(self.number, self.op, ending);
        match &self.parts {
            Parts::None => {}
            Parts::Extended { ops, at, done_at } => {
                let Some(done) = read::<u32>(sim, *done_at).filter(|&done| done != NO_NUMBER) else {
                    return;
                };
                // In the address space that the call leaves, another list may stand there, of which part was done.
                let left = list::<MmuExt>(sim, *at, ops.len() as u64);
                if !left.iter().map(|element| element.cmd).eq(ops.iter().copied()) {
                    return;
                }
                let done = done as usize;
                for &op in ops.iter().take(done) {
                    tally.element(Hypercall::MmuextOp, op, Ending::Done);
                }
                // What cannot be read is no element, unless it is something that the element names.
                let may_fault = |op| {
                    let of_op =
                        |row: &&Row| row.call == Hypercall::MmuextOp && row.op.map(|(_, n)| n) == Some(op);
                    let row = TABLE.iter().find(of_op);
                    row.is_some_and(|row| row.errors.contains(&Errno::Fault))
                };
                if let Some(&op) = ops.get(done)
                    && (ending != Ending::Refused(Errno::Fault) || may_fault(op))
                {
                    tally.element(Hypercall::MmuextOp, op, ending);
                }
            }
            Parts::Several { calls, at } => {
                for (n, call) in (0..).zip(calls).filter(|(_, call)| call.result == NO_RESULT) {
                    let place = at.wrapping_add(n * MulticallEntry::SIZE as u64 + 8);
                    let Some(result) = read::<i64>(sim, place).filter(|&result| result != NO_RESULT) else {
                        return;
                    };
                    let ending = match Errno::from_register(result.cast_unsigned()) {
                        Err(Failure::Errno(error)) => Ending::Refused(error),
                        Ok(_) | Err(Failure::Unknown(_)) => Ending::Done,
                    };
                    tally.call(call.op, operation(call.op, call.args[0]), ending);
                }
            }
        }
    }
}
