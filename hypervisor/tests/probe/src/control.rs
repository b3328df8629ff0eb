//! `sysctl`: what only domain 0 may ask.

use bulkhead_abi::{
    DomId, Errno, Hypercall, Record,
    control::{
        CONTROL_VERSION, ControlOp, DomainTimes, FunctionFaults, MachineInfo, ReadFile, ReadLog, ReadTrace,
        Schedule, TraceRecord,
    },
};

use crate::{
    calls::{Answer, call, in_out, refusal},
    probe::{Direction, Probe},
};

/// A domain that there is not.
pub(crate) const NOBODY: DomId = DomId::new(77);

pub(crate) fn check(probe: &mut Probe) {
    if probe.is_control() {
        version(probe);
        times(probe);
        trace(probe);
        machine(probe);
        file(probe);
        log(probe);
        function_faults(probe);
        schedule(probe);
    } else {
        denied(probe);
    }
}

pub(crate) fn ask(op: ControlOp, at: u64) -> Answer {
    call(Hypercall::Sysctl, [u64::from(op.raw()), at])
}

fn denied(probe: &mut Probe) {
    probe.refused("sysctl", Errno::Perm, call(Hypercall::Sysctl, [99, 0]));
    for (name, op) in [
        ("sysctl.version", ControlOp::Version),
        ("sysctl.domain_times", ControlOp::DomainTimes),
        ("sysctl.read_trace", ControlOp::ReadTrace),
        ("sysctl.get_schedule", ControlOp::GetSchedule),
        ("sysctl.set_schedule", ControlOp::SetSchedule),
        ("sysctl.domain_info", ControlOp::DomainInfo),
        ("sysctl.create_domain", ControlOp::CreateDomain),
        ("sysctl.unpause_domain", ControlOp::UnpauseDomain),
        ("sysctl.pause_domain", ControlOp::PauseDomain),
        ("sysctl.destroy_domain", ControlOp::DestroyDomain),
        ("sysctl.set_limit", ControlOp::SetLimit),
        ("sysctl.copy_memory", ControlOp::CopyMemory),
        ("sysctl.set_vcpu", ControlOp::SetVcpu),
        ("sysctl.get_vcpu", ControlOp::GetVcpu),
        ("sysctl.assign_device", ControlOp::AssignDevice),
        ("sysctl.keep_extent", ControlOp::KeepExtent),
        ("sysctl.release_extent", ControlOp::ReleaseExtent),
        ("sysctl.machine_info", ControlOp::MachineInfo),
        ("sysctl.read_file", ControlOp::ReadFile),
        ("sysctl.read_log", ControlOp::ReadLog),
        ("sysctl.function_faults", ControlOp::FunctionFaults),
    ] {
        probe.refused(name, Errno::Perm, ask(op, 0));
    }
}

fn version(probe: &mut Probe) {
    let version = u64::from(CONTROL_VERSION);
    probe.answers("sysctl", ask(ControlOp::Version, 0), version);
    probe.answers("sysctl.version", ask(ControlOp::Version, 0), version);
    probe.refused("sysctl", Errno::NoSys, call(Hypercall::Sysctl, [99, 0]));
}

fn times(probe: &mut Probe) {
    let of = |domain: DomId| {
        let mut times = DomainTimes {
            domain,
            ..DomainTimes::ZERO
        };
        ask(ControlOp::DomainTimes, in_out(&mut times)).map(|_| times.kernel_ns)
    };
    // Time shows when a turn ends, so there need be none yet.
    probe.good("sysctl.domain_times", of(DomId::new(0)));
    probe.all_refused("sysctl.domain_times", Errno::Srch, &[of(NOBODY), of(DomId::SELF)]);
    probe.faults("sysctl.domain_times", Direction::InOut, |at| {
        ask(ControlOp::DomainTimes, at)
    });
}

fn trace(probe: &mut Probe) {
    let read = |cpu: u32, count: u32, buffer: u64| {
        let mut request = ReadTrace {
            cpu,
            count,
            buffer,
            ..ReadTrace::ZERO
        };
        ask(ControlOp::ReadTrace, in_out(&mut request)).map(|_| u64::from(request.count))
    };
    let mut records = [TraceRecord::ZERO; 4];
    let count = read(0, 4, in_out(&mut records));
    let is_few = count.is_ok_and(|count| (1..=4).contains(&count));
    probe.good("sysctl.read_trace", if is_few { Ok(()) } else { Err(count) });
    probe.all_refused(
        "sysctl.read_trace",
        Errno::NoEnt,
        &[
            read(99, 4, in_out(&mut records)),
            read(u32::MAX, 4, in_out(&mut records)),
        ],
    );
    // Neither the request nor the buffer that it names.
    probe.faults("sysctl.read_trace", Direction::InOut, |at| {
        let buffer = read(0, 4, at);
        if buffer == refusal(Errno::Fault) {
            ask(ControlOp::ReadTrace, at)
        } else {
            buffer
        }
    });
}

fn machine(probe: &mut Probe) {
    let mut info = MachineInfo::ZERO;
    let answer = ask(ControlOp::MachineInfo, in_out(&mut info));
    let is_plausible = answer == Ok(0) && info.cpus != 0 && info.domains != 0 && info.free < info.ram;
    let result = if is_plausible { Ok(()) } else { Err((answer, info)) };
    probe.good("sysctl.machine_info", result);
    probe.faults("sysctl.machine_info", Direction::InOut, |at| {
        ask(ControlOp::MachineInfo, at)
    });
}

fn file(probe: &mut Probe) {
    let read = |index: u32, buffer: u64, count: u32| {
        let mut request = ReadFile {
            index,
            count,
            buffer,
            ..ReadFile::ZERO
        };
        ask(ControlOp::ReadFile, in_out(&mut request)).map(|_| request)
    };
    // One of the first is the list of domains, and another is this program.
    let is_program = |index: u32| {
        let mut magic = [0; 4];
        read(index, in_out(&mut magic), 4).is_ok_and(|file| file.size > 4) && magic == *b"\x7fELF"
    };
    let is_list = |index: u32| {
        read(index, 0, 0).is_ok_and(|file| file.name.starts_with(b"boot.list\0") && file.size != 0)
    };
    let found = ((0..8).any(is_program), (0..8).any(is_list));
    let result = if found == (true, true) { Ok(()) } else { Err(found) };
    probe.good("sysctl.read_file", result);
    let mut byte = [0];
    let nowhere = [99, u32::MAX].map(|index| read(index, in_out(&mut byte), 1).map(|_| 0));
    probe.all_refused("sysctl.read_file", Errno::NoEnt, &nowhere);
    // Neither the request nor the buffer that it names.
    probe.faults("sysctl.read_file", Direction::InOut, |at| {
        let buffer = read(0, at, 4).map(|_| 0);
        if buffer == refusal(Errno::Fault) {
            ask(ControlOp::ReadFile, at)
        } else {
            buffer
        }
    });
}

fn log(probe: &mut Probe) {
    let read = |from: u64, buffer: u64, count: u32| {
        let mut request = ReadLog {
            count,
            from,
            buffer,
            ..ReadLog::ZERO
        };
        ask(ControlOp::ReadLog, in_out(&mut request)).map(|_| request)
    };
    let mut text = [0; 64];
    let first = read(0, in_out(&mut text), 64);
    let is_text = text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n'));
    let result = match first {
        Ok(first) if first.count == 64 && first.end > 64 && is_text => Ok(()),
        other => Err(other),
    };
    probe.good("sysctl.read_log", result);
    probe.faults("sysctl.read_log", Direction::InOut, |at| {
        let buffer = read(0, at, 4).map(|_| 0);
        if buffer == refusal(Errno::Fault) {
            ask(ControlOp::ReadLog, at)
        } else {
            buffer
        }
    });
}

fn function_faults(probe: &mut Probe) {
    let count = |function: u16| {
        let mut faults = FunctionFaults {
            function,
            ..FunctionFaults::ZERO
        };
        ask(ControlOp::FunctionFaults, in_out(&mut faults)).map(|_| faults.count)
    };
    // Where there is a PCI bus, the first function is the way to it, and nobody's.
    let first = count(0);
    let result = if first == Ok(0) || first == refusal(Errno::NoEnt) {
        Ok(())
    } else {
        Err(first)
    };
    probe.good("sysctl.function_faults", result);
    probe.refused("sysctl.function_faults", Errno::NoEnt, count(u16::MAX).map(|_| 0));
    probe.faults("sysctl.function_faults", Direction::InOut, |at| {
        ask(ControlOp::FunctionFaults, at)
    });
}

fn schedule(probe: &mut Probe) {
    let get = |domain: DomId| {
        let mut schedule = Schedule {
            domain,
            ..Schedule::ZERO
        };
        let answer = ask(ControlOp::GetSchedule, in_out(&mut schedule));
        (answer, schedule)
    };
    let set = |mut schedule: Schedule| ask(ControlOp::SetSchedule, in_out(&mut schedule));
    let (answer, mine) = get(DomId::new(0));
    let is_plausible = answer == Ok(0) && mine.weight != 0 && mine.cpus != 0;
    probe.good(
        "sysctl.get_schedule",
        if is_plausible { Ok(()) } else { Err((answer, mine)) },
    );
    probe.refused("sysctl.get_schedule", Errno::Srch, get(NOBODY).0);
    probe.faults("sysctl.get_schedule", Direction::InOut, |at| {
        ask(ControlOp::GetSchedule, at)
    });

    let weight = mine.weight.wrapping_add(1);
    let heavier = set(Schedule { weight, ..mine });
    let (_, seen) = get(DomId::new(0));
    let back = set(mine);
    let result = if [heavier, back] == [Ok(0); 2] && seen.weight == weight {
        Ok(())
    } else {
        Err((heavier, back, seen))
    };
    probe.good("sysctl.set_schedule", result);
    probe.refused(
        "sysctl.set_schedule",
        Errno::Srch,
        set(Schedule {
            domain: NOBODY,
            ..mine
        }),
    );
    let bad = [
        set(Schedule { weight: 0, ..mine }),
        set(Schedule { cpus: 0, ..mine }),
        set(Schedule {
            reserved: [0, 1],
            ..mine
        }),
    ];
    probe.all_refused("sysctl.set_schedule", Errno::Inval, &bad);
    probe.faults("sysctl.set_schedule", Direction::In, |at| {
        ask(ControlOp::SetSchedule, at)
    });
}
