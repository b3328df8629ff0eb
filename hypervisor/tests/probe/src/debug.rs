//! Debug registers, by hypercall and by instruction, and what breakpoints do.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_abi::{Errno, Hypercall, layout, trap::Vector};
use bulkhead_runtime::trap::{self, TrapFrame};

use crate::{
    calls::{Answer, call, in_out, tidy},
    probe::Probe,
};

/// DR6 as it is when nothing has happened.
const NO_REASON: u64 = 0xffff_0ff0;
/// DR6: single step.
const STEP: u64 = 1 << 14;
/// DR7: no breakpoint.
const DISARMED: u64 = 0x400;
/// DR7: breakpoint 0 waits for execution; for a write of 8 bytes.
const EXECUTION: u64 = 0x401;
const WRITE: u64 = 0x9_0401;

fn set(number: u64, value: u64) -> Answer {
    call(Hypercall::SetDebugreg, [number, value])
}

fn get(number: u64) -> Answer {
    call(Hypercall::GetDebugreg, [number])
}

pub(crate) fn check(probe: &mut Probe) {
    hypercalls(probe);
    let before = trap::set_handler(Vector::Debug, Some(note));
    instructions(probe);
    breakpoints(probe);
    trap::set_handler(Vector::Debug, before);
}

fn hypercalls(probe: &mut Probe) {
    let address = 0x1234_5000;
    let noted = [set(0, address), set(6, NO_REASON), set(7, DISARMED)];
    probe.good(
        "set_debugreg",
        if noted == [Ok(0); 3] { Ok(()) } else { Err(noted) },
    );
    let found = [get(0), get(6), get(4), get(7), get(5)];
    let expected = [
        Ok(address),
        Ok(NO_REASON),
        Ok(NO_REASON),
        Ok(DISARMED),
        Ok(DISARMED),
    ];
    probe.good(
        "get_debugreg",
        if found == expected { Ok(()) } else { Err(found) },
    );
    let wide = [set(6, 1 << 32), set(7, 1 << 63)];
    probe.all_refused("set_debugreg", Errno::Inval, &wide);
    let absent = [set(8, 0), set(u64::from(u32::MAX), 0)];
    probe.all_refused("set_debugreg", Errno::NoDev, &absent);
    let out_of_reach = [
        set(0, layout::HYPERVISOR.start),
        set(3, layout::HYPERVISOR.end.wrapping_sub(1)),
        set(1, 1 << 47),
        // Access to the registers themselves, and to a port.
        set(7, 1 << 13),
        set(7, 0x2_0001),
    ];
    probe.all_refused("set_debugreg", Errno::Perm, &out_of_reach);
    probe.refused("get_debugreg", Errno::NoDev, get(8));
}

/// How many debug exceptions there were, and the reason of the last.
static COUNT: AtomicU64 = AtomicU64::new(0);
static REASON: AtomicU64 = AtomicU64::new(0);

/// Notes the reason, and takes breakpoint and trap flag away: they would be met again at once.
fn note(frame: &mut TrapFrame) {
    frame.stop_stepping();
    COUNT.fetch_add(1, Ordering::Relaxed);
    REASON.store(get(6).unwrap_or(0), Ordering::Relaxed);
    tidy([set(6, NO_REASON), set(7, DISARMED)]);
}

/// How many debug exceptions `act` had, and the reason of the last, while `address` was watched.
fn watch(address: u64, control: u64, act: impl FnOnce()) -> (u64, u64) {
    COUNT.store(0, Ordering::Relaxed);
    REASON.store(0, Ordering::Relaxed);
    tidy([set(0, address), set(6, NO_REASON), set(7, control)]);
    act();
    tidy([set(7, DISARMED)]);
    (COUNT.load(Ordering::Relaxed), REASON.load(Ordering::Relaxed))
}

fn equal<T: PartialEq>(found: T, expected: &T) -> Result<(), T> {
    if found == *expected { Ok(()) } else { Err(found) }
}

/// The way to them that ring 3 does not have.
fn instructions(probe: &mut Probe) {
    let mut found = [0_u64; 3];
    let [address, status, control] = &mut found;
    // SAFETY: registers that say where breakpoints are, of which none is enabled.
    unsafe {
        asm!(
            "mov dr3, {address}", "xor {address:e}, {address:e}", "mov {address}, dr3",
            "mov dr6, {status}", "mov {status}, dr6",
            "mov dr7, {control}", "mov {control}, dr7",
            address = inout(reg) 0x5678_u64 => *address,
            status = inout(reg) 0_u64 => *status,
            control = inout(reg) 0_u64 => *control,
            options(nostack)
        );
    }
    let by_hypercall = [get(3), get(6), get(7)].map(|answer| answer.unwrap_or(0));
    let expected = [0x5678, NO_REASON, DISARMED];
    probe.law(
        "debug-registers-are-reached-by-instructions",
        equal([found, by_hypercall], &[expected; 2]),
    );
}

fn breakpoints(probe: &mut Probe) {
    let mut word = 0_u64;
    let place = &raw mut word;
    // SAFETY: the word is this function's, and lives longer than the store.
    let store = || unsafe { place.write_volatile(1) };
    let at = in_out(&mut word);
    probe.law(
        "a-breakpoint-on-data-is-told",
        equal(watch(at, WRITE, store), &(1, NO_REASON | 1)),
    );
    probe.law(
        "a-breakpoint-that-is-not-enabled-is-not-told",
        equal(watch(at, WRITE & !1, store), &(0, 0)),
    );
    let target = landing as *const () as u64;
    let enter = || {
        core::hint::black_box(landing as extern "C" fn())();
    };
    probe.law(
        "a-breakpoint-on-an-instruction-is-told",
        equal(watch(target, EXECUTION, enter), &(1, NO_REASON | 1)),
    );
    // SAFETY: sets the trap flag for one instruction; the handler takes it away.
    let step = || unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop") };
    let (count, reason) = watch(0, DISARMED, step);
    probe.law(
        "a-single-step-is-told-as-one",
        equal((count, reason), &(1, NO_REASON | STEP)),
    );
    watched_by_the_hypervisor(probe);
}

#[inline(never)]
extern "C" fn landing() {
    core::hint::black_box(());
}

/// The hypervisor meets a guest's breakpoint while it works for it: the work is done, and nobody is told.
fn watched_by_the_hypervisor(probe: &mut Probe) {
    let mut record = [0_u8; 16];
    let at = in_out(&mut record);
    let mut answer = Ok(1);
    let told = watch(at, WRITE, || {
        answer = call(
            Hypercall::XenVersion,
            [
                u64::from(bulkhead_abi::version::VersionOp::Extraversion.raw()),
                at,
            ],
        );
    });
    // SAFETY: the record is this function's; the hypervisor has written to it.
    let written = unsafe { (&raw const record).cast::<u64>().read_volatile() } != 0;
    probe.law(
        "a-breakpoint-that-the-hypervisor-meets-harms-nothing",
        equal((answer, told, written), &(Ok(0), (0, 0), true)),
    );
    // The load of SS puts a breakpoint off until the hypervisor has been entered, where processors do as their manuals say.
    let stack = u64::from(bulkhead_abi::selectors::FLAT_RING3_SS);
    let at = crate::calls::input(&stack);
    let mut answer = u64::MAX;
    let (_, _) = watch(at, WRITE | 0x2_0000, || {
        // SAFETY: loads the selector that stands in SS already, and makes a hypercall that changes nothing.
        unsafe {
            asm!(
                "mov ss, word ptr [{at}]", "syscall",
                at = in(reg) at, inout("rax") Hypercall::XenVersion.raw() => answer,
                in("rdi") 0, in("rsi") 0, out("rcx") _, out("r11") _,
            );
        }
    });
    probe.law(
        "a-breakpoint-that-is-put-off-into-the-hypervisor-harms-nothing",
        equal(answer >> 32, &0),
    );
}
