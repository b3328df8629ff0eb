//! No registers that a guest goes on with raise its privilege, and no program runs without tables of its own.

use crate::vcpu::flags;
use crate::vcpu::{Context, Mode, Regs};
use bulkhead_abi::layout;

/// What a CPU is about to load, or has loaded: ring 3, no I/O privilege, interrupts on, an address that it takes.
pub(crate) fn check(regs: &Regs) {
    assert!(regs.cs & 3 == 3 && regs.ss & 3 == 3, "not in ring 3: {regs:x?}");
    let wrong = regs.rflags & (flags::IOPL | flags::VM | flags::NT);
    assert_eq!(wrong, 0, "flags that no guest may have: {regs:x?}");
    let right = flags::IF | flags::FIXED;
    assert_eq!(
        regs.rflags & right,
        right,
        "flags that every guest has: {regs:x?}"
    );
    assert!(layout::is_canonical(regs.rip), "no CPU goes there: {regs:x?}");
}

/// A vCPU's state, whether it runs or rests.
pub(super) fn check_context(context: &Context) {
    let has_tables = context.mode == Mode::Kernel || context.roots.user().is_some();
    assert!(has_tables, "a program runs and has no tables");
    let callbacks = [
        context.event_callback,
        context.failsafe_callback,
        context.syscall_callback,
        context.syscall32_callback,
        context.sysenter_callback,
    ];
    assert!(
        callbacks
            .iter()
            .all(|callback| layout::is_canonical(callback.address)),
        "no CPU goes to a callback: {context:x?}"
    );
}
