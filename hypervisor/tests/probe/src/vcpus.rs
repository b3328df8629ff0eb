//! A second vCPU: what it may be given, that it comes and goes when told to, and its events.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bulkhead_abi::{
    Errno, Record,
    event::Virq,
    layout,
    selectors::MAX_GDT_ENTRIES,
    vcpu::{RegisterVcpuInfo, Runstate, RunstateInfo, VGCF_IN_KERNEL, VcpuGuestContext, VcpuOp},
};
use bulkhead_runtime::{
    Environment, hypervisor,
    vcpu::{self, Secondary},
};

use crate::{
    calls::{Answer, in_out, input, tidy},
    events::{bind_ipi, bind_virq, close, port, send, unmask},
    frames::{Frame, WRITABLE},
    probe::{Direction, Probe},
    sched::{now, poll, set_timer, vcpu_op},
    stretches,
    window::Window,
};

/// How long anything may take here: other domains have the CPUs besides.
const PATIENCE_NS: u64 = 20_000_000_000;
/// How far ahead the second vCPU sets its timer.
const SHORT_NS: u64 = 2_000_000;

/// What the second vCPU is asked, and what it answers.
static QUESTION: AtomicU32 = AtomicU32::new(0);
static TIMER: AtomicU32 = AtomicU32::new(0);
static ANSWER: AtomicU32 = AtomicU32::new(0);
static QUESTIONS: AtomicU32 = AtomicU32::new(0);
static DEADLINE: AtomicU64 = AtomicU64::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);
/// It goes down by itself, then spins until it is taken down.
static GOES: AtomicBool = AtomicBool::new(false);
static SPINS: AtomicU64 = AtomicU64::new(0);

/// What the second vCPU does.
fn second(vcpu: &Secondary) {
    while !GOES.load(Ordering::SeqCst) {
        vcpu.block();
        vcpu.take_events(|port| {
            if port == QUESTION.load(Ordering::SeqCst) {
                QUESTIONS.fetch_add(1, Ordering::SeqCst);
                let deadline = now().wrapping_add(SHORT_NS);
                DEADLINE.store(deadline, Ordering::SeqCst);
                tidy([set_timer(1, deadline, 0)]);
            } else if port == TIMER.load(Ordering::SeqCst) {
                WOKEN.store(now(), Ordering::SeqCst);
                tidy([send(ANSWER.load(Ordering::SeqCst))]);
            }
        });
    }
    vcpu.down();
    loop {
        SPINS.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn check(probe: &mut Probe, environment: &Environment, window: &mut Window) {
    refusals(probe, window);
    stretches::first_state(probe, window);
    let started = vcpu::start(environment, 1, second);
    probe.good("vcpu_op.initialise", started);
    probe.good("vcpu_op.up", started);
    let again = [0, 1].map(|vcpu| initialise(vcpu, &state(window)));
    probe.all_refused("vcpu_op.initialise", Errno::Exist, &again);
    let is_up = vcpu_op(VcpuOp::IsUp, 1, 0);
    let twice = vcpu_op(VcpuOp::Up, 1, 0);
    probe.law(
        "a-vcpu-that-was-started-is-up",
        if [is_up, twice] == [Ok(1), Ok(0)] {
            Ok(())
        } else {
            Err([is_up, twice])
        },
    );
    let record = RegisterVcpuInfo {
        mfn: Frame::new().mfn(),
        offset: 0,
        reserved: 0,
    };
    let while_it_runs = vcpu_op(VcpuOp::RegisterVcpuInfo, 1, input(&record));
    probe.refused("vcpu_op.register_vcpu_info", Errno::Busy, while_it_runs);
    events(probe);
    coming_and_going(probe);
}

/// A state that might be given to a vCPU, and would not get far.
pub(crate) fn state(window: &Window) -> Box<VcpuGuestContext> {
    let mut state = Box::new(VcpuGuestContext {
        flags: VGCF_IN_KERNEL,
        ..VcpuGuestContext::default()
    });
    let [_, _, _, cr3, ..] = &mut state.ctrlreg;
    *cr3 = window.root();
    state
}

pub(crate) fn initialise(vcpu: u64, state: &VcpuGuestContext) -> Answer {
    vcpu_op(VcpuOp::Initialise, vcpu, input(state))
}

fn refusals(probe: &mut Probe, window: &Window) {
    let name = "vcpu_op.initialise";
    for (name, op) in [("vcpu_op.up", VcpuOp::Up), ("vcpu_op.down", VcpuOp::Down)] {
        let absent = [2, 32, u64::from(u32::MAX)].map(|vcpu| vcpu_op(op, vcpu, 0));
        probe.all_refused(name, Errno::NoEnt, &absent);
    }
    probe.refused("vcpu_op.up", Errno::Inval, vcpu_op(VcpuOp::Up, 1, 0));
    probe.refused(name, Errno::NoEnt, initialise(2, &state(window)));
    probe.faults(name, Direction::In, |at| vcpu_op(VcpuOp::Initialise, 1, at));

    let page = Frame::new();
    let descriptors = Frame::table(&[]);
    let spoilt = |spoil: &dyn Fn(&mut VcpuGuestContext)| {
        let mut state = state(window);
        state.gdt_ents = 16;
        let [frame, ..] = &mut state.gdt_frames;
        *frame = descriptors.mfn();
        spoil(&mut state);
        initialise(1, &state)
    };
    let bad = [
        spoilt(&|state| state.ctrlreg[3] = page.maddr()),
        spoilt(&|state| state.ctrlreg[3] |= 1),
        spoilt(&|state| state.ctrlreg[1] = page.maddr()),
        spoilt(&|state| state.ctrlreg[1] = !0xfff),
        spoilt(&|state| state.flags = 0),
        spoilt(&|state| state.gdt_ents = u64::from(MAX_GDT_ENTRIES).wrapping_add(1)),
        spoilt(&|state| {
            state.gdt_ents = 513;
            state.gdt_frames[1] = page.mfn();
        }),
        spoilt(&|state| {
            // Its descriptors would do, and the page cannot be one of them.
            (state.ldt_base, state.ldt_ents) = (page.address(), 1);
        }),
        spoilt(&|state| (state.ldt_base, state.ldt_ents) = (descriptors.address(), 8193)),
        spoilt(&|state| (state.ldt_base, state.ldt_ents) = (descriptors.address().wrapping_add(8), 1)),
        spoilt(&|state| {
            (state.ldt_base, state.ldt_ents) = (descriptors.address(), 1);
            state.debugreg[7] = 1 << 13;
        }),
        spoilt(&|state| state.user_regs.rip = 1 << 47),
        spoilt(&|state| state.kernel_sp = 1 << 47),
        spoilt(&|state| state.trap_ctxt[255].address = 1 << 47),
        spoilt(&|state| state.event_callback_eip = 1 << 47),
        spoilt(&|state| state.failsafe_callback_eip = 1 << 47),
        spoilt(&|state| state.syscall_callback_eip = 1 << 47),
        spoilt(&|state| state.gs_base_kernel = 1 << 47),
        spoilt(&|state| state.debugreg[0] = layout::HYPERVISOR.start),
    ];
    probe.all_refused(name, Errno::Inval, &bad);
    let released = descriptors.remap(WRITABLE);
    probe.law("a-state-that-is-refused-holds-nothing", released);
}

/// Waits until something is so.
fn until(is_so: impl Fn() -> bool) -> bool {
    let end = now().wrapping_add(PATIENCE_NS);
    while !is_so() {
        if now() > end {
            return false;
        }
        hypervisor::yield_cpu();
    }
    true
}

/// Sends the second vCPU an interrupt; it sets its timer, and answers with another when that fires.
fn events(probe: &mut Probe) {
    let question = port(bind_ipi(1));
    let timer = port(bind_virq(Virq::Timer.raw(), 1));
    let answer = port(bind_ipi(0));
    QUESTION.store(question, Ordering::SeqCst);
    TIMER.store(timer, Ordering::SeqCst);
    ANSWER.store(answer, Ordering::SeqCst);
    tidy([unmask(question), unmask(timer), send(question)]);
    let end = now().wrapping_add(PATIENCE_NS);
    // A poll may end for an event of another vCPU's: the one that its timer is.
    let mut polled = poll(input(&[answer]), 1, end);
    while polled == Ok(0) && WOKEN.load(Ordering::SeqCst) == 0 && now() < end {
        polled = poll(input(&[answer]), 1, end);
    }
    let seen = (
        polled,
        QUESTIONS.load(Ordering::SeqCst),
        DEADLINE.load(Ordering::SeqCst),
        WOKEN.load(Ordering::SeqCst),
        now() < end,
    );
    let is_right = matches!(seen, (Ok(0), 1, deadline, woken, true) if deadline != 0 && woken >= deadline);
    probe.law(
        "interrupts-between-vcpus-and-the-timer-of-each-arrive-where-they-are-bound",
        if is_right { Ok(()) } else { Err(seen) },
    );
}

/// The second vCPU goes down by itself, comes up again, and is taken down.
fn coming_and_going(probe: &mut Probe) {
    GOES.store(true, Ordering::SeqCst);
    tidy([send(QUESTION.load(Ordering::SeqCst))]);
    let went = until(is_offline);
    let stood = SPINS.load(Ordering::SeqCst);
    let up = vcpu_op(VcpuOp::Up, 1, 0);
    let went_on = until(|| SPINS.load(Ordering::SeqCst) > 0);
    let down = vcpu_op(VcpuOp::Down, 1, 0);
    let is_up = vcpu_op(VcpuOp::IsUp, 1, 0);
    let stopped = until(is_offline);
    let all = (went, stood, up, went_on, down, is_up, stopped);
    let is_right = all == (true, 0, Ok(0), true, Ok(0), Ok(0), true);
    probe.good("vcpu_op.down", if is_right { Ok(()) } else { Err(all) });

    let before = SPINS.load(Ordering::SeqCst);
    let end = now().wrapping_add(SHORT_NS);
    until(|| now() > end);
    let events = [TIMER.load(Ordering::SeqCst), QUESTION.load(Ordering::SeqCst)];
    let sent = send(QUESTION.load(Ordering::SeqCst));
    let after = SPINS.load(Ordering::SeqCst);
    let still_down = vcpu_op(VcpuOp::Down, 1, 0);
    let result = (before == after && is_offline(), sent, still_down);
    probe.law(
        "a-vcpu-that-is-down-stands-still-and-no-event-wakes-it",
        if result == (true, Ok(0), Ok(0)) {
            Ok(())
        } else {
            Err(result)
        },
    );
    tidy(events.map(close));
    tidy([close(ANSWER.load(Ordering::SeqCst))]);
}

/// Whether the second vCPU has been put away.
fn is_offline() -> bool {
    let mut info = RunstateInfo::ZERO;
    let asked = vcpu_op(VcpuOp::GetRunstateInfo, 1, in_out(&mut info));
    asked == Ok(0) && info.state == Runstate::Offline.raw()
}
