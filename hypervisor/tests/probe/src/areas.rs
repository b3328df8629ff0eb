//! What a guest has of a vCPU besides its run: records in memory, the FPU's flag.
//!
//! The `vcpu_info` that is moved is that of the vCPU which does not run any more: the runtime reads the other where it was.

use bulkhead_abi::{
    Errno, Hypercall, Record, layout,
    vcpu::{RegisterArea, RegisterVcpuInfo, Runstate, RunstateInfo, VcpuOp},
};

use crate::{
    calls::{call, in_out, input, refusal},
    frames::{Frame, WRITABLE},
    pins::pin,
    probe::{Direction, Probe},
    sched::vcpu_op,
    window::Window,
};

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    runstate(probe, window);
    clock(probe, window);
    info(probe);
    let noted = [1, 0].map(|set| call(Hypercall::FpuTaskswitch, [set]));
    probe.good(
        "fpu_taskswitch",
        if noted == [Ok(0); 2] { Ok(()) } else { Err(noted) },
    );
}

fn runstate(probe: &mut Probe, window: &mut Window) {
    let ask = |vcpu: u64, at: u64| vcpu_op(VcpuOp::GetRunstateInfo, vcpu, at);
    let mut own = RunstateInfo::ZERO;
    let mut other = RunstateInfo::ZERO;
    let asked = [ask(0, in_out(&mut own)), ask(1, in_out(&mut other))];
    let states = [own.state, other.state];
    let result = if asked == [Ok(0); 2] && states == [Runstate::Running.raw(), Runstate::Offline.raw()] {
        Ok(())
    } else {
        Err((asked, states))
    };
    probe.good("vcpu_op.get_runstate_info", result);
    probe.refused(
        "vcpu_op.get_runstate_info",
        Errno::NoEnt,
        ask(2, in_out(&mut own)),
    );
    probe.faults("vcpu_op.get_runstate_info", Direction::InOut, |at| ask(0, at));

    let register = |vcpu: u64, va: u64| {
        vcpu_op(
            VcpuOp::RegisterRunstateMemoryArea,
            vcpu,
            input(&RegisterArea { va }),
        )
    };
    let va = window.show_new(WRITABLE).wrapping_add(64);
    let registered = register(0, va);
    let shown = crate::mmu::read(va.wrapping_add(8)).is_some_and(|entered| entered != 0);
    let result = if registered == Ok(0) && shown {
        Ok(())
    } else {
        Err((registered, shown))
    };
    probe.good("vcpu_op.register_runstate_memory_area", result);
    let name = "vcpu_op.register_runstate_memory_area";
    probe.refused(name, Errno::NoEnt, register(2, va));
    probe.refused(name, Errno::Inval, register(0, va.wrapping_add(1)));
    // Neither the record nor the place that it names. A place at an odd address is refused for that.
    probe.faults(name, Direction::InOut, |at| {
        let place = register(0, at & !7);
        if place == refusal(Errno::Fault) {
            vcpu_op(VcpuOp::RegisterRunstateMemoryArea, 0, at)
        } else {
            place
        }
    });
}

fn clock(probe: &mut Probe, window: &mut Window) {
    let name = "vcpu_op.register_vcpu_time_memory_area";
    let register = |vcpu: u64, va: u64| {
        vcpu_op(
            VcpuOp::RegisterVcpuTimeMemoryArea,
            vcpu,
            input(&RegisterArea { va }),
        )
    };
    let va = window.show_new(WRITABLE).wrapping_add(64);
    let registered = register(0, va);
    let words = [0, 8, 16, 24].map(|offset| crate::mmu::read(va.wrapping_add(offset)).unwrap_or(0));
    let [version, tsc, _, rate] = words;
    let is_shown = version != 0 && version % 2 == 0 && tsc != 0 && rate != 0;
    let taken_back = register(0, 0);
    let result = if registered == Ok(0) && is_shown && taken_back == Ok(0) {
        Ok(())
    } else {
        Err((registered, words, taken_back))
    };
    probe.good(name, result);
    probe.refused(name, Errno::NoEnt, register(2, va));
    probe.refused(name, Errno::Inval, register(0, va.wrapping_add(1)));
    probe.refused(name, Errno::Fault, register(0, layout::HYPERVISOR.start));
}

fn info(probe: &mut Probe) {
    let name = "vcpu_op.register_vcpu_info";
    let register = |vcpu: u64, mfn: u64, offset: u32| {
        let record = RegisterVcpuInfo {
            mfn,
            offset,
            reserved: 0,
        };
        vcpu_op(VcpuOp::RegisterVcpuInfo, vcpu, input(&record))
    };
    let frame = Frame::new();
    let table = Frame::table(&[]);
    let pinned = pin(1, table.mfn());
    let bad = [
        register(1, frame.mfn(), 4),
        register(1, frame.mfn(), 4096 - 56),
        register(1, frame.mfn(), !7),
        register(1, table.mfn(), 0),
        register(1, u64::MAX, 0),
        register(1, (1 << 40) - 1, 0),
    ];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.refused(name, Errno::NoEnt, register(2, frame.mfn(), 0));
    probe.faults(name, Direction::In, |at| vcpu_op(VcpuOp::RegisterVcpuInfo, 1, at));

    let moved = register(1, frame.mfn(), 64);
    let again = register(1, Frame::new().mfn(), 64);
    frame.protect();
    let retyped = pin(1, frame.mfn());
    probe.good(
        name,
        [pinned, moved]
            .into_iter()
            .collect::<Result<alloc::vec::Vec<_>, _>>(),
    );
    let held = [again, retyped];
    let invalid = refusal(Errno::Inval);
    probe.law(
        "a-vcpus-record-is-moved-once-and-its-page-stays-a-page",
        if held == [invalid; 2] { Ok(()) } else { Err(held) },
    );
}
