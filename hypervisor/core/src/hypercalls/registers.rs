//! Registers of the CPU that a guest reaches by hypercalls: debug registers, and the flag that its FPU is somebody else's.

use super::{Answer, Call};
use crate::machine::Machine;
use bulkhead_abi::Errno;

/// `set_debugreg`: register, value.
pub(super) fn set_debugreg<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (number, value) = (call.arg32::<0>(), call.arg::<1>());
    call.hv.set_debug_register(call.current, number, value)?;
    Ok(0)
}

/// `get_debugreg`: register. The answer is the value; there is no telling it from an error.
pub(super) fn get_debugreg<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let context = &call.current.context;
    context
        .debug
        .get(call.arg32::<0>(), context.cr4)
        .ok_or(Errno::NoDev)
}

/// `fpu_taskswitch`: whether the next use of the FPU is to be told to the kernel.
pub(super) fn fpu_taskswitch<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let is_switched = call.arg32::<0>() != 0;
    call.hv.switch_fpu(call.current, is_switched);
    Ok(0)
}
