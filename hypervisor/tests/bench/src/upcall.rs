//! The upcall: an event that comes while a program runs, and takes it to its kernel.
//!
//! The kernel sends an event to itself, and returns to a program: which never gets to its first instruction, because the event is
//! delivered on the way. The kernel takes note of it, and begins anew.

use core::arch::naked_asm;

use bulkhead_abi::{
    Hypercall,
    callback::{CallbackOp, CallbackRegister, CallbackType},
    event::EventChannelOp,
    selectors::{FLAT_RING3_CS64, FLAT_RING3_SS},
    shared_info::offset,
};
use bulkhead_runtime::{
    event::Port,
    user::{Program, Registers},
    user_code,
};

use crate::split::{self, Parts};
use crate::user::{address, load, must};

/// Events in one run.
const EVENTS: u64 = 1000;

/// The event is sent by four instructions, the program entered by eleven; [`told`] has one, and six take note and make the loop. Between
/// stamps are four and two, and all of [`told`], besides two of each stamp.
const UPCALL: Parts = Parts {
    kernel: 4 + 11 + 1 + 6,
    program: 0,
    between: 4 + 2 + 1 + 2 * 2,
};

unsafe extern "C" {
    /// The page that this domain shares with the hypervisor: the link script's. Only its address means anything.
    static __shared_info: u8;
}

/// Measures it. Events are this module's from then on.
pub(super) fn measure_all() {
    // The hypervisor knows the tables of programs, and the stack on which the kernel is entered from them, when one has run.
    let mut program = load(user_code!("ud2"));
    let _exit = program.run(&mut Registers::at_start());
    let Ok(port) = Port::bind_ipi() else {
        panic!("there is no port");
    };
    let number = port.number();
    // Its bit is in the first word, which is cleared as a whole.
    assert!(number < u64::BITS, "the port has a high number");
    let record = CallbackRegister {
        callback_type: CallbackType::Event.raw(),
        flags: 0,
        address: told as *const () as u64,
    };
    must(
        Hypercall::CallbackOp,
        [u64::from(CallbackOp::Register.raw()), address(&record)],
    );
    // SAFETY: the port is this vCPU's and open, delivery is masked, a program has run and is there, and `told` is registered.
    split::whole("upcall", EVENTS, 1, |count| unsafe { upcalls(count, &number) });
    split::parts("upcall", EVENTS, 1, UPCALL, |count| {
        // SAFETY: as above.
        unsafe { upcalls_with_stamps(count, &number) }
    });
}

/// The event callback. In: where to go on, in r15.
#[unsafe(naked)]
unsafe extern "C" fn told() -> ! {
    naked_asm!("jmp r15")
}

macro_rules! upcalls {
    ($(#[$meta:meta])* $name:ident, $returns:ty, before: [$($before:literal),*], after: [$($after:literal),*]) => {
        $(#[$meta])*
        ///
        /// # Safety
        ///
        /// `send` must name an open port of this vCPU's below 64, to itself, and no other may be open. Events are masked. A program has run,
        /// whose address space and stack are still there. Events enter at [`told`].
        #[unsafe(naked)]
        unsafe extern "C" fn $name(count: u64, send: &u32) -> $returns {
            naked_asm!(
                "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
                "mov rbx, rdi",
                "mov r13, rsi",
                "mov rbp, rsp",
                "xor r14d, r14d",
                "lea r15, [rip + 3f]",
                "2:",
                $($before,)*
                "mov eax, {event_channel_op}",
                "mov edi, {send}",
                "mov rsi, r13",
                "syscall",
                $($after,)*
                // The frame of a return to a program: ss, rsp, rflags with the interrupt flag, cs, rip, no flags, rcx, r11, rax.
                "push {ss}", "push 0", "push {rflags}", "push {cs}", "push {rip}", "push 0", "push rcx", "push r11", "push rax",
                $($before,)*
                "mov eax, {iret}",
                "syscall",
                // The event has come, to the stack of the program's exits. There is nothing to return to.
                "3:",
                $($after,)*
                "mov byte ptr [rip + {shared_info} + {upcall_pending}], 0",
                "mov qword ptr [rip + {shared_info} + {selector}], 0",
                "mov qword ptr [rip + {shared_info} + {pending}], 0",
                "mov rsp, rbp",
                "dec ebx",
                "jnz 2b",
                "mov rax, r14",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
                "ret",
                event_channel_op = const Hypercall::EventChannelOp.raw(),
                send = const EventChannelOp::Send.raw(),
                ss = const FLAT_RING3_SS,
                rflags = const Registers::IF | 2,
                cs = const FLAT_RING3_CS64,
                rip = const Program::CODE,
                iret = const Hypercall::Iret.raw(),
                shared_info = sym __shared_info,
                upcall_pending = const offset::VCPU_INFO + offset::UPCALL_PENDING,
                selector = const offset::VCPU_INFO + offset::PENDING_SEL,
                pending = const offset::EVTCHN_PENDING,
            )
        }
    };
}

upcalls! {
    /// Sends itself so many events, and is told of each in a program.
    upcalls, (), before: [], after: []
}

upcalls! {
    /// The same with stamps, two for each event. Returns what lay between these.
    upcalls_with_stamps, u64,
    before: ["rdtsc", "mov r12d, eax"],
    after: ["rdtsc", "sub eax, r12d", "add r14, rax"]
}
