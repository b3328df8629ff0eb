//! `extension_op`: direct gates, where the machine has them or was told to, the alarm on virtual time, the account of costs, and frames for devices.

use core::arch::naked_asm;

use bulkhead_abi::{
    Errno, Hypercall, Record,
    extension::{
        DIRECT_GATE_VECTORS, DIRECT_GATES, DMA_PINS, ExtensionOp, GRANT_FLIP, VCPU_COSTS, VIRTUAL_ALARM,
        VcpuCosts,
    },
    layout,
    selectors::FLAT_RING3_CS64,
};
use bulkhead_runtime::{
    Virq,
    event::{self, Port},
    time::runstate,
};

use crate::{
    calls::{Answer, call, in_out, refusal},
    dma, exempt,
    probe::Probe,
    sched::{now, set_timer, sleep},
    shared::Shared,
};

pub(crate) fn check(probe: &mut Probe, shared: Shared) {
    let features = ask(ExtensionOp::Features, [0, 0]);
    let always = VIRTUAL_ALARM | GRANT_FLIP | DMA_PINS | VCPU_COSTS;
    let others = [DIRECT_GATES | always, always].map(Ok);
    let known = if others.contains(&features) {
        Ok(())
    } else {
        Err(features)
    };
    probe.good("extension_op.features", known);
    if features == others[0] {
        gates(probe);
    } else {
        let refused = [HANDLER_VECTOR, 0].map(|vector| set_gate(vector, handler as *const () as u64));
        probe.all_refused(GATE, Errno::OpNotSupp, &refused);
    }
    if probe.is_control() {
        exempt::print_gates(features == others[0]);
    }
    alarm(probe, shared);
    costs(probe);
    dma::check(probe);
}

fn ask(op: ExtensionOp, [a, b]: [u64; 2]) -> Answer {
    call(Hypercall::ExtensionOp, [u64::from(op.raw()), a, b])
}

const GATE: &str = "extension_op.set_direct_gate";
const HANDLER_VECTOR: u64 = 0x80;
const _: () = assert!(*DIRECT_GATE_VECTORS.start() as u64 == HANDLER_VECTOR);

fn set_gate(vector: u64, address: u64) -> Answer {
    ask(ExtensionOp::SetDirectGate, [vector, address])
}

fn gates(probe: &mut Probe) {
    let address = handler as *const () as u64;
    let vectors = DIRECT_GATE_VECTORS.map(u64::from);
    let mut all = vectors.clone().map(|vector| set_gate(vector, address));
    let set = all.all(|answer| answer == Ok(0));
    // SAFETY: the gate leads to the handler that this function is made for.
    let Interrupted { rip, cs } = unsafe { interrupt() };
    let mut all = vectors.map(|vector| set_gate(vector, 0));
    let taken = all.all(|answer| answer == Ok(0));
    let came_back =
        rip == (interrupt as *const () as u64).wrapping_add(2) && cs == u64::from(FLAT_RING3_CS64);
    probe.good(
        GATE,
        if set && taken && came_back {
            Ok(())
        } else {
            Err((set, taken, rip, cs))
        },
    );
    let exceptions = 0..HANDLER_VECTOR;
    let devices = u64::from(*DIRECT_GATE_VECTORS.end()).wrapping_add(1)..=0x200;
    let wide = [1 << 32 | HANDLER_VECTOR, u64::MAX];
    let bad_vectors = exceptions
        .chain(devices)
        .chain(wide)
        .map(|vector| set_gate(vector, address));
    let bad_addresses = [
        1 << 47,
        1 << 63,
        layout::HYPERVISOR.start,
        layout::HYPERVISOR.end.wrapping_sub(1),
    ]
    .map(|address| set_gate(HANDLER_VECTOR, address));
    let refused: alloc::vec::Vec<_> = bad_vectors.chain(bad_addresses).collect();
    probe.all_refused(GATE, Errno::Inval, &refused);
}

/// What the processor said of the code that a gate interrupted.
#[repr(C)]
struct Interrupted {
    rip: u64,
    cs: u64,
}

/// Raises the software interrupt, whose handler fills in the result.
///
/// # Safety
///
/// Its gate must lead to [`handler`].
#[unsafe(naked)]
unsafe extern "C" fn interrupt() -> Interrupted {
    naked_asm!("int {vector}", "ret", vector = const HANDLER_VECTOR)
}

/// Where the gate leads. In: rip, cs, rflags, rsp, ss on the stack. Out: rax and rdx, which [`interrupt`] returns.
#[unsafe(naked)]
unsafe extern "C" fn handler() -> ! {
    naked_asm!("mov rax, [rsp]", "mov rdx, [rsp + 8]", "iretq")
}

/// How long it runs until it rings.
const SHORT_NS: u64 = 2_000_000;
/// How long to run on for what must come.
const PATIENCE_NS: u64 = 100_000_000;
/// By how much two counts of the same time may differ.
const SLACK_NS: u64 = 100_000;
/// How often something is tried that the host may spoil.
const TRIES: u32 = 100;

const COSTS: &str = "extension_op.vcpu_costs";

fn costs(probe: &mut Probe) {
    let told = || {
        let mut costs = VcpuCosts::ZERO;
        let answer = call(
            Hypercall::ExtensionOp,
            [u64::from(ExtensionOp::VcpuCosts.raw()), in_out(&mut costs)],
        );
        (answer, costs)
    };
    let sum = |costs: &VcpuCosts| {
        [costs.user_ns, costs.kernel_ns, costs.hypervisor_ns]
            .iter()
            .sum::<u64>()
    };
    let before = ran();
    let first = told();
    let second = told();
    let after = ran();
    let is_told = [first.0, second.0] == [Ok(0); 2];
    // Two clocks that are read one after the other, each rounded.
    let is_between =
        sum(&first.1).wrapping_add(SLACK_NS) >= before && sum(&second.1) <= after.wrapping_add(SLACK_NS);
    let has_grown = second.1.hypervisor_ns > first.1.hypervisor_ns && second.1.flushes >= first.1.flushes;
    probe.good(
        COSTS,
        if is_told && is_between && has_grown {
            Ok(())
        } else {
            Err((before, first, second, after))
        },
    );
    let bad = [0, layout::HYPERVISOR.start].map(|at| ask(ExtensionOp::VcpuCosts, [at, 0]));
    probe.all_refused(COSTS, Errno::Fault, &bad);
}

const ALARM: &str = "extension_op.set_virtual_alarm";

/// How long this vCPU has run in all.
fn ran() -> u64 {
    runstate(0).map_or(0, |info| {
        let [ran, ..] = info.time_ns;
        ran
    })
}

fn set_alarm(at: u64) -> Answer {
    ask(ExtensionOp::SetVirtualAlarm, [at, 0])
}

fn alarm(probe: &mut Probe, shared: Shared) {
    let Ok(port) = Port::bind_virq(Virq::VirtualAlarm) else {
        return probe.good(ALARM, Err::<(), _>("its interrupt cannot be bound"));
    };
    let rings = || {
        event::dispatch();
        port.has_fired()
    };
    let at = ran().wrapping_add(SHORT_NS);
    let set = set_alarm(at);
    // While it sleeps, time does not count: it has rung then only if there was enough before.
    let timer = set_timer(0, now().wrapping_add(2 * SHORT_NS), 0);
    let woken = sleep(shared);
    let mut rang = rings();
    let ran_by_then = ran();
    let is_early = rang && ran_by_then < at;
    while !rang && ran() < at.wrapping_add(PATIENCE_NS) {
        rang = rings();
    }
    let rang_at = ran();
    let result = if [set, timer] == [Ok(0); 2] && woken != 0 && !is_early && rang && rang_at >= at {
        Ok(())
    } else {
        Err((set, timer, woken, at, ran_by_then, rang_at))
    };
    probe.good(ALARM, result);

    // The host may stop the machine between two calls, for longer than that: then again.
    let silent = (0..TRIES).find_map(|_| {
        let at = ran().wrapping_add(SHORT_NS);
        let answers = [set_alarm(at), set_alarm(0)];
        let in_time = ran() < at;
        while ran() < at.wrapping_add(SHORT_NS) {}
        let is_silent = !rings();
        in_time.then_some((answers, is_silent))
    });
    probe.law(
        "an-alarm-that-was-taken-back-does-not-ring",
        if silent == Some(([Ok(0); 2], true)) {
            Ok(())
        } else {
            Err(silent)
        },
    );
    let other = call(Hypercall::ExtensionOp, [99, 0, 0]);
    probe.law(
        "an-extension-that-there-is-not-is-ENOSYS",
        if other == refusal(Errno::NoSys) {
            Ok(())
        } else {
            Err(other)
        },
    );
}
