//! `set_trap_table`, `callback_op`, `stack_switch`: where the hypervisor enters the guest.

use bulkhead_abi::{
    Hypercall,
    callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister},
    errno::Failure,
    trap::TrapInfo,
};

use super::raw::{call1, call2, input};

/// Sets trap handlers. The list ends at the first record with address 0, which must be there.
///
/// # Safety
///
/// Each address must be an entry point that takes its vector's bounce frame and returns to the interrupted
/// code as Rust expects of an exception that it did not see, or not at all.
pub(crate) unsafe fn set_trap_table(list: &[TrapInfo]) -> Result<(), Failure> {
    assert!(
        list.last().is_some_and(|end| end.address == 0),
        "a trap list needs its end"
    );
    // SAFETY: the hypervisor reads the list up to its end, which is inside the slice; the entry points are
    // the caller's.
    unsafe { call1(Hypercall::SetTrapTable, input(list)) }.map(|_| ())
}

/// Takes all trap handlers away. Until there are others, any exception ends the domain.
pub(crate) fn clear_trap_table() {
    // SAFETY: no address, no list; nothing is entered any more. It cannot be refused.
    let _: Result<u64, Failure> = unsafe { call1(Hypercall::SetTrapTable, 0) };
}

/// Registers an entry point; `flags` may say that events are masked there.
///
/// # Safety
///
/// `address` must be an entry point that takes the callback's frame and returns to the interrupted code with
/// all registers as they were.
pub(crate) unsafe fn register_callback(
    callback: CallbackType,
    address: u64,
    flags: u16,
) -> Result<(), Failure> {
    let record = CallbackRegister {
        callback_type: callback.raw(),
        flags,
        address,
    };
    // SAFETY: the record is the operation's own, borrowed for the call; the entry point is the caller's.
    unsafe {
        call2(
            Hypercall::CallbackOp,
            u64::from(CallbackOp::Register.raw()),
            input(&record),
        )
    }
    .map(|_| ())
}

/// Takes an entry point back that need not be there.
pub(crate) fn unregister_callback(callback: CallbackType) -> Result<(), Failure> {
    let record = CallbackUnregister {
        callback_type: callback.raw(),
        reserved: 0,
    };
    // SAFETY: the record is the operation's own, borrowed for the call. Nothing is entered that was not before.
    unsafe {
        call2(
            Hypercall::CallbackOp,
            u64::from(CallbackOp::Unregister.raw()),
            input(&record),
        )
    }
    .map(|_| ())
}

/// Says where the kernel's stack begins when it is entered from a program.
pub(crate) fn stack_switch(ss: u16, sp: u64) -> Result<(), Failure> {
    // SAFETY: takes no memory. What is written there is written when a program exits, which is up to who lets it run.
    unsafe { call2(Hypercall::StackSwitch, u64::from(ss), sp) }.map(|_| ())
}
