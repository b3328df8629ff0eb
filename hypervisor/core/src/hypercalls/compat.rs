//! `event_channel_op_compat` and `physdev_op_compat`: the old forms, in which the sub-operation stands in memory before its record. They do what
//! the forms of today do, as far as these are as old.

use super::{Answer, Call, table};
use crate::machine::Machine;
use bulkhead_abi::event::EventChannelOp;
use bulkhead_abi::physdev::PhysdevOp;
use bulkhead_abi::{Errno, Hypercall, event, physdev};

pub(super) fn event_channel_op<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let is_old = |op: u32| EventChannelOp::from_raw(op).is_some_and(|op| op <= EventChannelOp::Unmask);
    pass_on(call, Hypercall::EventChannelOp, event::COMPAT_RECORD, is_old)
}

pub(super) fn physdev_op<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let is_old = |op: u32| {
        matches!(
            PhysdevOp::from_raw(op),
            Some(PhysdevOp::IrqStatusQuery | PhysdevOp::SetIopl | PhysdevOp::SetIobitmap)
        )
    };
    pass_on(call, Hypercall::PhysdevOp, physdev::COMPAT_RECORD, is_old)
}

/// Makes the call of today, whose record lies `skipped` bytes behind the sub-operation.
fn pass_on<M: Machine>(
    call: &mut Call<'_, M>,
    today: Hypercall,
    skipped: u64,
    is_old: impl Fn(u32) -> bool,
) -> Answer {
    let at = call.arg::<0>();
    let op: u32 = call.read(at)?;
    if !is_old(op) {
        return Err(Errno::NoSys);
    }
    let arguments = (call.regs.rdi, call.regs.rsi);
    (call.regs.rdi, call.regs.rsi) = (op.into(), at.wrapping_add(skipped));
    let answer = table::dispatch(call, today.raw());
    // If it is to be started again, it is this form: none of these leaves anything in its arguments.
    (call.regs.rdi, call.regs.rsi) = arguments;
    answer
}
