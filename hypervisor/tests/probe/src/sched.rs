//! `sched_op`, `vcpu_op` and `set_timer_op`: resting, polling, timers.

use bulkhead_abi::{
    Errno, Hypercall,
    sched::{MAX_POLL_PORTS, PinOverride, Poll, SchedOp, Shutdown, ShutdownReason, Watchdog},
    vcpu::{MIN_PERIODIC_TIMER_NS, SINGLESHOT_FUTURE, SetPeriodicTimer, SetSingleshotTimer, VcpuOp},
};
use bulkhead_runtime::{event, time::Instant};

use crate::{
    calls::{Answer, call, input},
    probe::{Direction, Probe},
    shared::Shared,
};

/// Long enough to be late for, short enough to wait for.
const SHORT_NS: u64 = 2_000_000;
/// Longer than another domain may run meanwhile.
const LONG_NS: u64 = 100_000_000;

pub(crate) fn check(probe: &mut Probe, shared: Shared) {
    vcpus(probe);
    timers(probe, shared);
    periodic_timer(probe, shared);
    resting(probe, shared);
    ending(probe);
    watchdogs(probe);
    pins(probe);
}

pub(crate) fn sched_op(op: SchedOp, at: u64) -> Answer {
    call(Hypercall::SchedOp, [u64::from(op.raw()), at])
}

pub(crate) fn vcpu_op(op: VcpuOp, vcpu: u64, at: u64) -> Answer {
    call(Hypercall::VcpuOp, [u64::from(op.raw()), vcpu, at])
}

/// System time.
pub(crate) fn now() -> u64 {
    Instant::now().as_ticks()
}

/// Sets the timer of a vCPU.
pub(crate) fn set_timer(vcpu: u64, timeout_abs_ns: u64, flags: u32) -> Answer {
    let record = SetSingleshotTimer {
        timeout_abs_ns,
        flags,
    };
    vcpu_op(VcpuOp::SetSingleshotTimer, vcpu, input(&record))
}

fn vcpus(probe: &mut Probe) {
    let up = [0, 1].map(|vcpu| vcpu_op(VcpuOp::IsUp, vcpu, 0));
    probe.good(
        "vcpu_op.is_up",
        if up == [Ok(1), Ok(0)] { Ok(()) } else { Err(up) },
    );
    let absent = [2, 31, 32, 8192, u64::from(u32::MAX)];
    let none = absent.map(|vcpu| vcpu_op(VcpuOp::IsUp, vcpu, 0));
    probe.all_refused("vcpu_op.is_up", Errno::NoEnt, &none);
    let stopped = [0, 1].map(|vcpu| vcpu_op(VcpuOp::StopPeriodicTimer, vcpu, 0));
    probe.good(
        "vcpu_op.stop_periodic_timer",
        if stopped == [Ok(0); 2] {
            Ok(())
        } else {
            Err(stopped)
        },
    );
    let none = absent.map(|vcpu| vcpu_op(VcpuOp::StopPeriodicTimer, vcpu, 0));
    probe.all_refused("vcpu_op.stop_periodic_timer", Errno::NoEnt, &none);
    let none = absent.map(|vcpu| vcpu_op(VcpuOp::GetPhysid, vcpu, 0));
    probe.all_refused("vcpu_op.get_physid", Errno::NoEnt, &none);
    let unbound = [0, 1].map(|vcpu| vcpu_op(VcpuOp::GetPhysid, vcpu, 0));
    probe.all_refused("vcpu_op.get_physid", Errno::Inval, &unbound);
}

/// Sleeps until an event comes; says when that was, or zero if there was no sleeping.
pub(crate) fn sleep(shared: Shared) -> u64 {
    let slept = shared.with_events(|| sched_op(SchedOp::Block, 0));
    if slept == Ok(0) { now() } else { 0 }
}

fn periodic_timer(probe: &mut Probe, shared: Shared) {
    let name = "vcpu_op.set_periodic_timer";
    let set = |vcpu: u64, period_ns: u64| {
        vcpu_op(
            VcpuOp::SetPeriodicTimer,
            vcpu,
            input(&SetPeriodicTimer { period_ns }),
        )
    };
    let start = now();
    let started = set(0, SHORT_NS);
    let woken = [(); 3].map(|()| sleep(shared));
    let stopped = vcpu_op(VcpuOp::StopPeriodicTimer, 0, 0);
    // Ticks that come while another domain runs are one: so they are not before their times, and not all at once.
    let [first, second, third] = woken.map(|at| at.wrapping_sub(start));
    let is_right = first >= SHORT_NS && first < second && third >= SHORT_NS.wrapping_mul(2);
    let result = if is_right && [started, stopped] == [Ok(0); 2] {
        Ok(())
    } else {
        Err((started, stopped, start, woken))
    };
    probe.good(name, result);
    let bad = [0, MIN_PERIODIC_TIMER_NS.wrapping_sub(1), u64::MAX].map(|period| set(0, period));
    probe.all_refused(name, Errno::Inval, &bad);
    probe.refused(name, Errno::NoEnt, set(2, SHORT_NS));
    probe.faults(name, Direction::In, |at| vcpu_op(VcpuOp::SetPeriodicTimer, 0, at));
    event::dispatch();
    let polled = poll(0, 0, now().wrapping_add(SHORT_NS.wrapping_mul(3)));
    let came = event::dispatch();
    probe.law(
        "a-periodic-timer-that-was-stopped-ticks-no-more",
        if (polled, came) == (Ok(0), 0) {
            Ok(())
        } else {
            Err((polled, came))
        },
    );
}

fn timers(probe: &mut Probe, shared: Shared) {
    // Another domain may run between any two lines: what is compared is points in time, not durations.
    let deadline = now().wrapping_add(SHORT_NS);
    let set = set_timer(0, deadline, 0);
    let woken = sleep(shared);
    let result = if set == Ok(0) && woken >= deadline {
        Ok(())
    } else {
        Err((set, deadline, woken))
    };
    probe.good("vcpu_op.set_singleshot_timer", result);
    probe.refused(
        "vcpu_op.set_singleshot_timer",
        Errno::Time,
        set_timer(0, 1, SINGLESHOT_FUTURE),
    );
    probe.refused("vcpu_op.set_singleshot_timer", Errno::Inval, set_timer(1, 1, 0));
    probe.refused("vcpu_op.set_singleshot_timer", Errno::NoEnt, set_timer(2, 1, 0));
    probe.faults("vcpu_op.set_singleshot_timer", Direction::In, |at| {
        vcpu_op(VcpuOp::SetSingleshotTimer, 0, at)
    });

    let stop = |vcpu: u64| vcpu_op(VcpuOp::StopSingleshotTimer, vcpu, 0);
    let deadline = now().wrapping_add(LONG_NS);
    let set = set_timer(0, deadline, SINGLESHOT_FUTURE);
    let stopped = stop(0);
    let polled = poll(0, 0, deadline.wrapping_add(SHORT_NS));
    // Nothing but the timer is bound, and it must not have come.
    let (woken, came) = (now(), event::dispatch());
    let all = [set, stopped, polled];
    let result = if all == [Ok(0); 3] && woken >= deadline && came == 0 {
        Ok(())
    } else {
        Err((all, deadline, woken, came))
    };
    probe.good("vcpu_op.stop_singleshot_timer", result);
    probe.refused("vcpu_op.stop_singleshot_timer", Errno::Inval, stop(1));
    probe.refused("vcpu_op.stop_singleshot_timer", Errno::NoEnt, stop(2));

    let deadline = now().wrapping_add(SHORT_NS);
    let set = call(Hypercall::SetTimerOp, [deadline]);
    let woken = sleep(shared);
    let cancelled = call(Hypercall::SetTimerOp, [0]);
    let past = call(Hypercall::SetTimerOp, [1]);
    let at_once = sleep(shared);
    let all = [set, cancelled, past];
    let result = if all == [Ok(0); 3] && woken >= deadline && at_once != 0 {
        Ok(())
    } else {
        Err((all, deadline, woken))
    };
    probe.good("set_timer_op", result);
}

pub(crate) fn poll(ports: u64, nr_ports: u32, timeout_abs_ns: u64) -> Answer {
    let record = Poll {
        ports,
        nr_ports,
        timeout_abs_ns,
    };
    sched_op(SchedOp::Poll, input(&record))
}

fn resting(probe: &mut Probe, shared: Shared) {
    probe.answers("sched_op.yield", sched_op(SchedOp::Yield, 0), 0);
    let set = set_timer(0, now().wrapping_add(SHORT_NS), 0);
    let blocked = shared.with_events(|| sched_op(SchedOp::Block, 0));
    let all = [set, blocked];
    probe.good(
        "sched_op.block",
        if all == [Ok(0); 2] { Ok(()) } else { Err(all) },
    );

    let ports = [1_u32; MAX_POLL_PORTS as usize];
    let deadline = now().wrapping_add(SHORT_NS);
    let polled = poll(input(&ports), MAX_POLL_PORTS, deadline);
    // A pending port or an event may end it earlier; it must end.
    probe.answers("sched_op.poll", polled, 0);
    let bad = [4096_u32, 0, u32::MAX].map(|port| poll(input(&[port]), 1, 1));
    probe.all_refused("sched_op.poll", Errno::Inval, &bad);
    probe.law(
        "a-poll-of-too-many-ports-is-EINVAL",
        match poll(input(&ports), MAX_POLL_PORTS + 1, 1) {
            answer if answer == crate::calls::refusal(Errno::Inval) => Ok(()),
            answer => Err(answer),
        },
    );
    // Neither the record nor the list that it names.
    probe.faults("sched_op.poll", Direction::In, |at| {
        let list = poll(at, 1, 1);
        if list == crate::calls::refusal(Errno::Fault) {
            sched_op(SchedOp::Poll, at)
        } else {
            list
        }
    });
}

fn ending(probe: &mut Probe) {
    for (name, op) in [
        ("sched_op.shutdown", SchedOp::Shutdown),
        ("sched_op.shutdown_code", SchedOp::ShutdownCode),
    ] {
        let end = |reason: u32| sched_op(op, input(&Shutdown { reason }));
        probe.all_refused(name, Errno::Inval, &[end(6), end(u32::MAX)]);
        probe.faults(name, Direction::In, |at| sched_op(op, at));
    }
    let reason = ShutdownReason::Poweroff.raw();
    let told = sched_op(SchedOp::ShutdownCode, input(&Shutdown { reason }));
    probe.answers("sched_op.shutdown_code", told, 0);
}

/// Longer than the probe runs.
const NEVER_S: u32 = 100_000;

fn watchdogs(probe: &mut Probe) {
    let name = "sched_op.watchdog";
    let set = |id: u32, timeout_s: u32| sched_op(SchedOp::Watchdog, input(&Watchdog { id, timeout_s }));
    let made = [set(0, NEVER_S), set(0, NEVER_S)];
    let full = set(0, NEVER_S);
    let wound_up = set(1, NEVER_S);
    let gone = [set(1, 0), set(2, 0)];
    let all = (made, wound_up, gone);
    probe.good(
        name,
        if all == ([Ok(1), Ok(2)], Ok(0), [Ok(0); 2]) {
            Ok(())
        } else {
            Err(all)
        },
    );
    probe.refused(name, Errno::NoSpc, full);
    let bad = [set(0, 0), set(1, 1), set(1, 0), set(3, 1), set(u32::MAX, 1)];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.faults(name, Direction::In, |at| sched_op(SchedOp::Watchdog, at));
}

fn pins(probe: &mut Probe) {
    let name = "sched_op.pin_override";
    let pin = |pcpu: i32| sched_op(SchedOp::PinOverride, input(&PinOverride { pcpu }));
    if !probe.is_control() {
        probe.all_refused(name, Errno::Perm, &[pin(0), pin(-1)]);
        return;
    }
    probe.all_refused(name, Errno::Inval, &[pin(-1), pin(64), pin(i32::MAX)]);
    let pinned = pin(0);
    let again = pin(0);
    let all = [pinned, pin(-1)];
    probe.good(name, if all == [Ok(0); 2] { Ok(()) } else { Err(all) });
    probe.refused(name, Errno::Busy, again);
    probe.faults(name, Direction::In, |at| sched_op(SchedOp::PinOverride, at));
}
