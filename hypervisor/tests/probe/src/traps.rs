//! Entry points: trap table, callbacks, kernel stack; and the way back from them.

use core::{arch::naked_asm, mem::offset_of};

use bulkhead_abi::{
    Errno, Hypercall, Record,
    callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister},
    mmu::MMU_UPDATE_PREEMPTED,
    selectors::{FLAT_RING3_CS64, FLAT_RING3_SS},
    trap::{BounceFrame, TrapInfo},
};

use crate::{
    calls::{Answer, call, input},
    preemption,
    probe::{Direction, Probe},
};

/// Addresses that no processor takes.
const NOT_CANONICAL: [u64; 2] = [1 << 47, 0x8000_0000_0000_0000];

pub(crate) fn check(probe: &mut Probe) {
    trap_table(probe);
    callbacks(probe);
    stack(probe);
    probe.good("iret", iret());
}

/// A vector that nothing raises unless asked to.
const SPARE_VECTOR: u8 = 0x81;

fn trap_table(probe: &mut Probe) {
    let set = |at: u64| call(Hypercall::SetTrapTable, [at]);
    let table = |address: u64| {
        [
            TrapInfo {
                vector: SPARE_VECTOR,
                flags: 0,
                cs: FLAT_RING3_CS64,
                address,
            },
            TrapInfo::ZERO,
        ]
    };
    probe.good("set_trap_table", set(input(&table(upcall as *const () as u64))));
    let refused = NOT_CANONICAL.map(|address| set(input(&table(address))));
    probe.all_refused("set_trap_table", Errno::Inval, &refused);
    probe.faults("set_trap_table", Direction::In, set);
}

fn callbacks(probe: &mut Probe) {
    let entry = upcall as *const () as u64;
    let set =
        |[event, failsafe, syscall]: [u64; 3]| call(Hypercall::SetCallbacks, [event, failsafe, syscall]);
    probe.good("set_callbacks", set([entry; 3]));
    let [bad, _] = NOT_CANONICAL;
    let refused = [
        set([bad, entry, entry]),
        set([entry, bad, entry]),
        set([entry, entry, bad]),
    ];
    probe.all_refused("set_callbacks", Errno::Inval, &refused);

    let op = |op: CallbackOp, at: u64| call(Hypercall::CallbackOp, [u64::from(op.raw()), at]);
    let register = |callback_type: u16, address: u64| {
        let record = CallbackRegister {
            callback_type,
            flags: 0,
            address,
        };
        op(CallbackOp::Register, input(&record))
    };
    let good = [CallbackType::Event, CallbackType::Failsafe, CallbackType::Syscall]
        .into_iter()
        .try_for_each(|kind| register(kind.raw(), entry).map(|_| ()));
    probe.good("callback_op.register", good);
    let event = CallbackType::Event.raw();
    let refused = NOT_CANONICAL.map(|address| register(event, address));
    probe.all_refused("callback_op.register", Errno::Inval, &refused);
    probe.all_refused(
        "callback_op.register",
        Errno::NoSys,
        &[register(6, entry), register(8, entry), register(u16::MAX, entry)],
    );
    probe.faults("callback_op.register", Direction::In, |at| {
        op(CallbackOp::Register, at)
    });

    let unregister = |callback_type: u16| {
        let record = CallbackUnregister {
            callback_type,
            reserved: 0,
        };
        op(CallbackOp::Unregister, input(&record))
    };
    // Those that need not be there, as they are and as they were.
    let optional =
        [CallbackType::Nmi, CallbackType::Sysenter, CallbackType::Syscall32].map(CallbackType::raw);
    let come_and_go = optional
        .into_iter()
        .chain(optional)
        .try_for_each(|kind| register(kind, entry).and_then(|_| unregister(kind)).map(|_| ()));
    probe.good("callback_op.unregister", come_and_go);
    let refused: [Answer; 3] = [0, 1, 2].map(unregister);
    probe.all_refused("callback_op.unregister", Errno::Inval, &refused);
    probe.refused("callback_op.unregister", Errno::NoSys, unregister(8));
    probe.faults("callback_op.unregister", Direction::In, |at| {
        op(CallbackOp::Unregister, at)
    });
}

fn stack(probe: &mut Probe) {
    let switch = |sp: u64| call(Hypercall::StackSwitch, [u64::from(FLAT_RING3_SS), sp]);
    probe.good("stack_switch", switch(0xffff_ffff_8000_0000));
    let refused = NOT_CANONICAL.map(switch);
    probe.all_refused("stack_switch", Errno::Inval, &refused);
}

/// The kernel's own code selector, as a frame names it: the hypervisor runs kernels in ring 3, and shows them ring 0.
const KERNEL_CS: u64 = (FLAT_RING3_CS64 & !3) as u64;

/// Returns to the next instruction by a frame, with rax, rcx and r11 from the frame and all else as it was.
fn iret() -> Result<(), [u64; 4]> {
    let registers = jump_by_iret(0x1111, 0x2222, 0x3333, 0x4444);
    let all = [registers.rax, registers.rcx, registers.r11, registers.rbx];
    if all == [0x1111, 0x2222, 0x3333, 0x4444] {
        Ok(())
    } else {
        Err(all)
    }
}

/// Registers after a return.
#[repr(C)]
struct Registers {
    rax: u64,
    rcx: u64,
    r11: u64,
    rbx: u64,
}

/// Fills a frame with the registers and makes the hypercall `iret`; hands back what they are then.
fn jump_by_iret(rax: u64, rcx: u64, r11: u64, rbx: u64) -> Registers {
    let mut out = Registers { rax, rcx, r11, rbx };
    // SAFETY: the function keeps what a C function must, reads and writes the four words that it is given, and returns.
    unsafe { through_frame(&raw mut out) };
    out
}

/// In: address of [`Registers`] in rdi. Out: the same, as they were after the return.
///
/// The frame has rflags as they are, interrupts off in the guest's sense: events stay kept out.
#[unsafe(naked)]
unsafe extern "C" fn through_frame(registers: *mut Registers) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "mov rbp, rsp",
        "mov rbx, [rdi + {rbx}]",
        "mov rcx, {ss}",
        "push rcx",
        "push rbp",
        "pushfq",
        "and qword ptr [rsp], {no_interrupts}",
        "mov rcx, {cs}",
        "push rcx",
        "lea rcx, [rip + 2f]",
        "push rcx",
        "push 0",
        "push [rdi + {rcx}]",
        "push [rdi + {r11}]",
        "push [rdi + {rax}]",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        "2:",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {rbx}], rbx",
        "pop rbp",
        "pop rbx",
        "ret",
        ss = const FLAT_RING3_SS,
        cs = const KERNEL_CS,
        no_interrupts = const !0x200_i32,
        iret = const Hypercall::Iret.raw(),
        rax = const offset_of!(Registers, rax),
        rcx = const offset_of!(Registers, rcx),
        r11 = const offset_of!(Registers, r11),
        rbx = const offset_of!(Registers, rbx),
    )
}

/// The event callback: counts, tells apart what interrupted a hypercall between two goes, and goes back, masked.
///
/// In: a [`BounceFrame`] on the interrupted stack. A call that is to be made again has its `syscall` (0f 05) before it and the mark
/// of a continued list in rsi. The way back is the runtime's own: flags and rip go below the interrupted stack
/// pointer, over the frame's rsp and ss.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn upcall() -> ! {
    naked_asm!(
        "inc qword ptr [rip + {upcalls}]",
        "mov rcx, [rsp + {rip}]",
        "cmp word ptr [rcx], 0x050f",
        "jne 2f",
        "test esi, {preempted}",
        "jz 2f",
        "inc qword ptr [rip + {between}]",
        "2:",
        "mov r11, [rsp + {rsp}]",
        "sub r11, 16",
        "mov [r11 + 8], rcx",
        "mov rcx, [rsp + {rflags}]",
        "mov [r11], rcx",
        "mov [rsp + {rip}], r11",
        "pop rcx",
        "pop r11",
        "pop rsp",
        "popfq",
        "ret",
        upcalls = sym preemption::UPCALLS,
        between = sym preemption::BETWEEN_GOES,
        preempted = const MMU_UPDATE_PREEMPTED,
        rip = const offset_of!(BounceFrame, rip),
        rflags = const offset_of!(BounceFrame, rflags),
        rsp = const offset_of!(BounceFrame, rsp),
    )
}

const _: () = assert!(
    offset_of!(BounceFrame, rip) == 16,
    "rip follows the two registers that are popped"
);
