//! `multicall`: several calls in one crossing.

use super::{Answer, Call, table};
use crate::machine::Machine;
use crate::vcpu::Regs;
use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::{Buffered, Errno, Hypercall, Record};

/// How many calls are made in one go.
const BUDGET: u64 = 32;

/// How long a go lasts before no further call is begun in it, in nanoseconds: each call alone may be a whole portion of work.
const GO_NS: u64 = 40_000;

/// Makes the calls of a list in order, and writes the result of each into its entry. An error does not stop the list.
pub(super) fn multicall<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (list, count) = (call.arg::<0>(), u64::from(call.arg32::<1>()));
    let end = call.hv.machine().now().saturating_add(GO_NS);
    for n in 0..count {
        let at = list.wrapping_add(n.wrapping_mul(MulticallEntry::SIZE as u64));
        if n == BUDGET || n != 0 && call.hv.machine().now() >= end {
            return again(call, at, count.saturating_sub(n));
        }
        let mut entry: MulticallEntry = call.read(at)?;
        let outer = arguments(call.regs);
        let [rdi, rsi, rdx, r10, r8, _] = entry.args;
        set_arguments(call.regs, [rdi, rsi, rdx, r10, r8]);
        let is_iret = entry.op == Hypercall::Iret.raw();
        let answer = if entry.op == Hypercall::Multicall.raw() {
            Err(Errno::Inval)
        } else {
            table::dispatch(call, entry.op)
        };
        if is_iret {
            // The guest goes on somewhere else, and the rest of the list is none of its business there.
            return answer;
        }
        let [rdi, rsi, rdx, r10, r8] = arguments(call.regs);
        set_arguments(call.regs, outer);
        if answer == Err(Errno::Restart) {
            // The call goes on with what it left in its arguments, and the list with this entry.
            entry.args = [rdi, rsi, rdx, r10, r8, 0];
            call.write_bytes(at, entry.to_bytes().as_ref())?;
            return again(call, at, count.saturating_sub(n));
        }
        entry.result = answer.unwrap_or_else(Errno::to_register).cast_signed();
        call.write(at.wrapping_add(8), &entry.result)?;
    }
    Ok(0)
}

/// What a call finds in its argument registers, and leaves there.
const fn arguments(regs: &Regs) -> [u64; 5] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8]
}

const fn set_arguments(regs: &mut Regs, arguments: [u64; 5]) {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = arguments;
}

fn again<M: Machine>(call: &mut Call<'_, M>, list: u64, count: u64) -> Answer {
    call.regs.rdi = list;
    call.regs.rsi = count;
    Call::<M>::restart()
}
