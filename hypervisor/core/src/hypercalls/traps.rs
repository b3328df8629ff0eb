//! Where a guest kernel is entered, and how it returns: trap table, callbacks, kernel stack, `iret`.

use super::{Answer, BUDGET, Call};
use crate::machine::Machine;
use crate::traps::{Exception, Fatal};
use crate::vcpu::{Callback, Context, flags, is_entry_point};
use bulkhead_abi::callback::{CALLBACK_MASK_EVENTS, CallbackRegister, CallbackType, CallbackUnregister};
use bulkhead_abi::nmi::NmiCallback;
use bulkhead_abi::trap::{IretFrame, TI_DPL_MASK, TI_MASK_EVENTS, TrapInfo, Vector};
use bulkhead_abi::{Errno, Record, layout};

pub(super) fn set_trap_table<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let mut at = call.arg::<0>();
    if at == 0 {
        call.current.context.traps.clear();
        return Ok(0);
    }
    for _ in 0..BUDGET {
        let TrapInfo {
            vector,
            flags,
            address,
            ..
        } = call.read(at)?;
        if address == 0 {
            return Ok(0);
        }
        if !is_entry_point(address) {
            return Err(Errno::Inval);
        }
        let masks_events = flags & TI_MASK_EVENTS != 0;
        call.current
            .context
            .traps
            .set(vector, address, flags & TI_DPL_MASK, masks_events);
        at = at.wrapping_add(TrapInfo::SIZE as u64);
    }
    call.regs.rdi = at;
    Call::<M>::restart()
}

pub(super) fn stack_switch<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let [ss0, ss1, ..] = call.arg::<0>().to_le_bytes();
    let sp = call.arg::<1>();
    if !layout::is_canonical(sp) {
        return Err(Errno::Inval);
    }
    call.current.context.kernel_stack = (u16::from_le_bytes([ss0, ss1]) | 3, sp);
    Ok(0)
}

pub(super) fn set_callbacks<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let [event, failsafe, syscall] = [call.arg::<0>(), call.arg::<1>(), call.arg::<2>()];
    if ![event, failsafe, syscall].into_iter().all(is_entry_point) {
        return Err(Errno::Inval);
    }
    let context = &mut call.current.context;
    context.event_callback = Callback {
        address: event,
        masks_events: true,
    };
    context.failsafe_callback = Callback {
        address: failsafe,
        ..context.failsafe_callback
    };
    context.syscall_callback = Callback {
        address: syscall,
        masks_events: false,
    };
    Ok(0)
}

pub(super) fn register_callback<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let CallbackRegister {
        callback_type,
        flags,
        address,
    } = call.read(call.arg::<1>())?;
    let kind = CallbackType::from_raw(callback_type).ok_or(Errno::NoSys)?;
    if !is_entry_point(address) {
        return Err(Errno::Inval);
    }
    let callback = Callback {
        address,
        masks_events: flags & CALLBACK_MASK_EVENTS != 0,
    };
    let context = &mut call.current.context;
    match kind {
        CallbackType::Event => context.event_callback = callback,
        CallbackType::Failsafe => context.failsafe_callback = callback,
        CallbackType::Syscall => context.syscall_callback = callback,
        CallbackType::Syscall32 => context.syscall32_callback = callback,
        CallbackType::Sysenter => {
            context.sysenter_callback = callback;
            call.hv.machine().set_sysenter(context.sysenter());
        }
        CallbackType::Nmi => set_nmi_handler(context, address),
        CallbackType::SysenterDeprecated => return Err(Errno::NoSys),
    }
    Ok(0)
}

pub(super) fn unregister_callback<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let CallbackUnregister { callback_type, .. } = call.read(call.arg::<1>())?;
    let context = &mut call.current.context;
    match CallbackType::from_raw(callback_type) {
        Some(CallbackType::Event | CallbackType::Failsafe | CallbackType::Syscall) => {
            return Err(Errno::Inval);
        }
        Some(CallbackType::Syscall32) => context.syscall32_callback = Callback::default(),
        Some(CallbackType::Sysenter) => {
            context.sysenter_callback = Callback::default();
            call.hv.machine().set_sysenter(context.sysenter());
        }
        Some(CallbackType::Nmi) => unset_nmi_handler(context),
        Some(CallbackType::SysenterDeprecated) | None => return Err(Errno::NoSys),
    }
    Ok(0)
}

/// Events are masked there, whatever the flags say.
fn set_nmi_handler(context: &mut Context, address: u64) {
    context.traps.set(Vector::Nmi.raw(), address, 0, true);
}

fn unset_nmi_handler(context: &mut Context) {
    context.traps.set(Vector::Nmi.raw(), 0, 0, false);
}

/// `nmi_op`: the old form of a callback of that type.
pub(super) fn register_nmi<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let NmiCallback { handler_address, .. } = call.read(call.arg::<1>())?;
    if !is_entry_point(handler_address) {
        return Err(Errno::Inval);
    }
    set_nmi_handler(&mut call.current.context, handler_address);
    Ok(0)
}

pub(super) fn unregister_nmi<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    unset_nmi_handler(&mut call.current.context);
    Ok(0)
}

/// Returns from a handler to where the frame on the guest's kernel stack says.
pub(super) fn iret<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Ok(frame) = call.read::<IretFrame>(call.regs.rsp) else {
        return Ok(crash(call));
    };
    // No CPU goes to an address that is not canonical: it would fault in the hypervisor instead.
    let is_canonical = layout::is_canonical(frame.rip);
    let is_to_user = frame.cs & 3 == 3;
    if !is_to_user && !is_canonical || is_to_user && call.hv.cross_to_user(call.current).is_err() {
        return Ok(crash(call));
    }
    call.regs.return_by(&frame);
    let events_masked = frame.rflags & flags::IF == 0;
    call.hv.with_own_info(call.current, |info| {
        if events_masked {
            info.mask_upcalls();
        } else {
            info.unmask_upcalls();
        }
    });
    if !is_canonical {
        let fault = Exception::of(Vector::GeneralProtection.raw());
        call.hv.reflect(call.current, call.regs, fault);
    }
    call.hv.end_nmi(call.current, call.regs);
    Ok(call.regs.rax)
}

fn crash<M: Machine>(call: &mut Call<'_, M>) -> u64 {
    call.hv.crash(call.current, call.regs, Fatal::BadReturn);
    0
}
