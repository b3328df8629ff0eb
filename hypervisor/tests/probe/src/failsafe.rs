//! Segments that cannot be loaded when a vCPU comes back to a processor: they are null, and the failsafe callback says what they were.

use core::{
    arch::{asm, naked_asm},
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_abi::{
    Hypercall,
    callback::{CallbackOp, CallbackRegister, CallbackType},
    mmu::MmuExtOp,
    trap::FailsafeFrame,
};

use crate::{
    calls::{call, input, tidy},
    frames::{Frame, WRITABLE},
    pins::extended,
    probe::Probe,
    sched::{now, poll},
    traps,
};

/// A data segment of 32 bits.
const DATA: u64 = 0x0040_f300_0000_0fff;
/// The selector of local descriptor 1.
const LOCAL: u64 = 0xf;
/// Long enough to be taken from the processor.
const NAP_NS: u64 = 1_000_000;

/// How often the callback was called.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// What it was told of ES, and of the three others together.
static ES: AtomicU64 = AtomicU64::new(0);
static OTHERS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn check(probe: &mut Probe) {
    register(callback as *const () as u64);
    let page = Frame::table(&[0, DATA]);
    tidy([extended(MmuExtOp::SetLdt, page.address(), 2)]);
    load_es(LOCAL);
    nap();
    probe.law(
        "segments-that-are-there-are-loaded-again-without-a-word",
        equal((es(), CALLS.load(Ordering::Relaxed)), &(LOCAL, 0)),
    );
    tidy([extended(MmuExtOp::SetLdt, 0, 0)]);
    let before = es();
    nap();
    let told = [&CALLS, &ES, &OTHERS].map(|word| word.load(Ordering::Relaxed));
    probe.law(
        "the-failsafe-callback-tells-of-a-segment-that-is-gone",
        equal((before, told, es()), &(LOCAL, [1, LOCAL, 0], 0)),
    );
    nap();
    probe.law(
        "the-failsafe-callback-tells-once",
        equal(CALLS.load(Ordering::Relaxed), &1),
    );
    tidy([page.remap(WRITABLE)]);
    register(traps::upcall as *const () as u64);
}

fn equal<T: PartialEq>(found: T, expected: &T) -> Result<(), T> {
    if found == *expected { Ok(()) } else { Err(found) }
}

fn register(address: u64) {
    let record = CallbackRegister {
        callback_type: CallbackType::Failsafe.raw(),
        flags: 0,
        address,
    };
    let op = u64::from(CallbackOp::Register.raw());
    tidy([call(Hypercall::CallbackOp, [op, input(&record)])]);
}

/// Gives the processor up for a while.
fn nap() {
    tidy([poll(0, 0, now().wrapping_add(NAP_NS))]);
}

fn load_es(selector: u64) {
    // SAFETY: ES means nothing in 64-bit mode, but that its selector is there.
    unsafe { asm!("mov es, {:e}", in(reg) selector, options(nostack, preserves_flags)) };
}

fn es() -> u64 {
    let found: u64;
    // SAFETY: reads a selector.
    unsafe { asm!("mov {:e}, es", out(reg) found, options(nomem, nostack, preserves_flags)) };
    found
}

/// The failsafe callback: notes what it is told, and goes back.
///
/// In: a [`FailsafeFrame`] on the interrupted stack. Out: as the event callback of [`traps`] does it.
#[unsafe(naked)]
unsafe extern "C" fn callback() -> ! {
    naked_asm!(
        "inc qword ptr [rip + {calls}]",
        "mov rcx, [rsp + {es}]",
        "mov [rip + {told_es}], rcx",
        "mov rcx, [rsp + {ds}]",
        "or rcx, [rsp + {fs}]",
        "or rcx, [rsp + {gs}]",
        "mov [rip + {told_others}], rcx",
        "mov r11, [rsp + {rsp}]",
        "sub r11, 16",
        "mov rcx, [rsp + {rip}]",
        "mov [r11 + 8], rcx",
        "mov rcx, [rsp + {rflags}]",
        "mov [r11], rcx",
        "mov [rsp + {ds}], r11",
        "pop rcx",
        "pop r11",
        "pop rsp",
        "popfq",
        "ret",
        calls = sym CALLS,
        told_es = sym ES,
        told_others = sym OTHERS,
        ds = const offset_of!(FailsafeFrame, ds),
        es = const offset_of!(FailsafeFrame, es),
        fs = const offset_of!(FailsafeFrame, fs),
        gs = const offset_of!(FailsafeFrame, gs),
        rip = const offset_of!(FailsafeFrame, rip),
        rflags = const offset_of!(FailsafeFrame, rflags),
        rsp = const offset_of!(FailsafeFrame, rsp),
    )
}

const _: () = assert!(
    offset_of!(FailsafeFrame, ds) == 16,
    "ds follows the two registers that are popped"
);
