//! Non-maskable interrupts that a vCPU sends itself.

use core::{
    arch::naked_asm,
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_abi::{
    Errno, Hypercall,
    callback::{CallbackOp, CallbackRegister, CallbackType, CallbackUnregister},
    vcpu::VcpuOp,
};

use crate::{
    calls::{Answer, call, input, tidy},
    probe::Probe,
    sched::vcpu_op,
};

/// How many have come.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// How many had come when the first one's handler had sent another.
static SEEN: AtomicU64 = AtomicU64::new(0);

pub(crate) fn check(probe: &mut Probe) {
    let name = "vcpu_op.send_nmi";
    let send = |vcpu: u64| vcpu_op(VcpuOp::SendNmi, vcpu, 0);
    tidy([register(handler_address())]);
    let counts = || [&COUNT, &SEEN].map(|count| count.load(Ordering::Relaxed));
    // Its handler sends the second; the third finds the way back from that.
    let sent = [send(0), send(0)];
    let all = (sent, counts());
    probe.good(
        name,
        if all == ([Ok(0); 2], [3, 1]) {
            Ok(())
        } else {
            Err(all)
        },
    );
    let none = [2, 32, u64::from(u32::MAX)].map(send);
    probe.all_refused(name, Errno::NoEnt, &none);
    // Whoever sends one to a vCPU that is down finds it no more awake.
    let down = (send(1), vcpu_op(VcpuOp::IsUp, 1, 0));
    probe.law(
        "a-vcpu-that-is-down-is-not-woken-by-an-nmi",
        if down == (Ok(0), Ok(0)) { Ok(()) } else { Err(down) },
    );
    tidy([unregister()]);
    let unheard = (send(0), counts());
    probe.law(
        "an-nmi-that-nobody-handles-is-gone",
        if unheard == (Ok(0), [3, 1]) {
            Ok(())
        } else {
            Err(unheard)
        },
    );
}

/// How many have come.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Where they are counted.
pub(crate) fn handler_address() -> u64 {
    handler as *const () as u64
}

fn register(address: u64) -> Answer {
    let record = CallbackRegister {
        callback_type: CallbackType::Nmi.raw(),
        flags: 0,
        address,
    };
    let op = u64::from(CallbackOp::Register.raw());
    call(Hypercall::CallbackOp, [op, input(&record)])
}

fn unregister() -> Answer {
    let record = CallbackUnregister {
        callback_type: CallbackType::Nmi.raw(),
        reserved: 0,
    };
    let op = u64::from(CallbackOp::Unregister.raw());
    call(Hypercall::CallbackOp, [op, input(&record)])
}

/// The handler: counts, and the first time sends another and looks whether that has come already. Returns by the hypercall, after which
/// it may.
///
/// In: rcx, r11, then rip, cs, rflags, rsp, ss on the interrupted stack: of which the last five are what the hypercall wants at the end of its
/// frame, too.
#[unsafe(naked)]
unsafe extern "C" fn handler() -> ! {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "inc qword ptr [rip + {count}]",
        "cmp qword ptr [rip + {count}], 1",
        "jne 2f",
        "push rdi",
        "push rsi",
        "push rdx",
        "mov eax, {vcpu_op}",
        "mov edi, {send_nmi}",
        "xor esi, esi",
        "xor edx, edx",
        "syscall",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "mov rax, [rip + {count}]",
        "mov [rip + {seen}], rax",
        "2:",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        count = sym COUNT,
        seen = sym SEEN,
        vcpu_op = const Hypercall::VcpuOp.raw(),
        send_nmi = const VcpuOp::SendNmi.raw(),
        iret = const Hypercall::Iret.raw(),
    )
}
