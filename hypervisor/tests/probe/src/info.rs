//! Calls that tell, note or print: `xen_version`, `console_io`, `vm_assist`, `physdev_op`, `multicall`.

use alloc::format;

use bulkhead_abi::{
    Errno, Hypercall, Record,
    console::ConsoleIoOp,
    errno::Failure,
    layout,
    mmu::{VmAssistOp, VmAssistType},
    multicall::MulticallEntry,
    physdev::{PhysdevOp, SetIobitmap, SetIopl},
    version::{
        CompileInfo, FeatureInfo, PlatformParameters, REPORTED_FEATURES, REPORTED_VERSION, VersionOp, len,
    },
};

use crate::{
    calls::{Answer, call, in_out, input, refusal},
    frames::Frame,
    probe::{Direction, Probe},
};

pub(crate) fn check(probe: &mut Probe) {
    version(probe);
    console(probe);
    assists(probe);
    ports(probe);
    multicall(probe);
}

fn ask(op: VersionOp, at: u64) -> Answer {
    call(Hypercall::XenVersion, [u64::from(op.raw()), at])
}

fn version(probe: &mut Probe) {
    let number = u64::from(REPORTED_VERSION);
    probe.answers("xen_version.version", ask(VersionOp::Version, 0), number);

    let mut extra = [0xff_u8; len::EXTRAVERSION];
    let asked = ask(VersionOp::Extraversion, in_out(&mut extra));
    probe.good(
        "xen_version.extraversion",
        asked.map_err(|_| extra).and_then(|_| terminated(extra)),
    );
    probe.faults("xen_version.extraversion", Direction::InOut, |at| {
        ask(VersionOp::Extraversion, at)
    });

    let mut capabilities = [0xff_u8; len::CAPABILITIES];
    let asked = ask(VersionOp::Capabilities, in_out(&mut capabilities));
    let has_pv = capabilities.starts_with(b"xen-3.0-x86_64 ");
    probe.good(
        "xen_version.capabilities",
        asked.and(has_pv.then_some(()).ok_or(Failure::Unknown(0))),
    );
    probe.faults("xen_version.capabilities", Direction::InOut, |at| {
        ask(VersionOp::Capabilities, at)
    });

    texts(probe);
    build_id(probe);

    let mut platform = PlatformParameters::ZERO;
    let asked = ask(VersionOp::PlatformParameters, in_out(&mut platform));
    let start = asked.map(|_| platform.virt_start);
    probe.answers("xen_version.platform_parameters", start, layout::HYPERVISOR.start);
    probe.faults("xen_version.platform_parameters", Direction::InOut, |at| {
        ask(VersionOp::PlatformParameters, at)
    });

    let mut features = FeatureInfo::ZERO;
    let asked = ask(VersionOp::GetFeatures, in_out(&mut features));
    let map = asked.map(|_| u64::from(features.submap));
    probe.answers("xen_version.get_features", map, u64::from(REPORTED_FEATURES));
    let mut none = FeatureInfo {
        submap_idx: 1,
        submap: 0x5a5a,
    };
    probe.refused(
        "xen_version.get_features",
        Errno::Inval,
        ask(VersionOp::GetFeatures, in_out(&mut none)),
    );
    probe.faults("xen_version.get_features", Direction::InOut, |at| {
        ask(VersionOp::GetFeatures, at)
    });

    let size = layout::PAGE_SIZE as u64;
    probe.answers("xen_version.pagesize", ask(VersionOp::Pagesize, 0), size);
    probe.refused(
        "xen_version.pagesize",
        Errno::Inval,
        ask(VersionOp::Pagesize, 0x1000),
    );
}

/// What a guest can show of the hypervisor beside its version.
fn texts(probe: &mut Probe) {
    let mut info = CompileInfo::ZERO;
    let asked = ask(VersionOp::CompileInfo, in_out(&mut info));
    let result = asked
        .map_err(|_| info.compiler)
        .and_then(|_| terminated(info.compiler));
    probe.good("xen_version.compile_info", result);
    let mut changeset = [0xff_u8; len::CHANGESET];
    let asked = ask(VersionOp::Changeset, in_out(&mut changeset));
    let result = asked.map_err(|_| changeset).and_then(|_| terminated(changeset));
    probe.good("xen_version.changeset", result);
    let mut handle = [0xff_u8; len::GUEST_HANDLE];
    let asked = ask(VersionOp::GuestHandle, in_out(&mut handle));
    let is_none = handle == [0; len::GUEST_HANDLE];
    probe.good(
        "xen_version.guest_handle",
        asked.and(is_none.then_some(()).ok_or(Failure::Unknown(0))),
    );
    let mut line = [0xff_u8; len::COMMANDLINE];
    let asked = ask(VersionOp::Commandline, in_out(&mut line));
    let is_denied = line.starts_with(b"<denied>\0");
    probe.good(
        "xen_version.commandline",
        asked.and(is_denied.then_some(()).ok_or(Failure::Unknown(0))),
    );
    for op in [
        VersionOp::CompileInfo,
        VersionOp::Changeset,
        VersionOp::GuestHandle,
        VersionOp::Commandline,
    ] {
        let name = format!("xen_version.{}", op.name());
        probe.faults(&name, Direction::InOut, |at| ask(op, at));
    }
}

fn build_id(probe: &mut Probe) {
    let name = "xen_version.build_id";
    // The length, then room for it.
    let ask_for = |room: u32| {
        let mut answer = [room, 0, 0, 0, 0, 0, 0, 0, 0];
        (ask(VersionOp::BuildId, in_out(&mut answer)), answer)
    };
    if !probe.is_control() {
        probe.all_refused(name, Errno::Perm, &[ask(VersionOp::BuildId, 0), ask_for(32).0]);
        return;
    }
    let len = ask(VersionOp::BuildId, 0);
    let (told, answer) = ask_for(32);
    let [seen, first, ..] = answer;
    let is_right = matches!(len, Ok(1..=32)) && told == len && Ok(u64::from(seen)) == len && first != 0;
    probe.good(
        name,
        if is_right {
            Ok(())
        } else {
            Err((len, told, answer))
        },
    );
    probe.refused(name, Errno::Inval, ask_for(0).0);
    probe.refused(name, Errno::NoBufs, ask_for(1).0);
    probe.faults(name, Direction::In, |at| ask(VersionOp::BuildId, at));
}

/// A text that has its end.
fn terminated<const N: usize>(text: [u8; N]) -> Result<(), [u8; N]> {
    if text.contains(&0) { Ok(()) } else { Err(text) }
}

fn console(probe: &mut Probe) {
    let io =
        |op: ConsoleIoOp, count: u64, at: u64| call(Hypercall::ConsoleIo, [u64::from(op.raw()), count, at]);
    let line = b"a line of the probe's\n";
    probe.answers(
        "console_io.write",
        io(ConsoleIoOp::Write, line.len() as u64, input(line)),
        0,
    );
    probe.faults("console_io.write", Direction::In, |at| {
        io(ConsoleIoOp::Write, 8, at)
    });
    let mut typed = [0_u8; 8];
    let read = io(ConsoleIoOp::Read, 8, in_out(&mut typed));
    if probe.is_control() {
        probe.good("console_io.read", read.map_err(|_| read).and_then(at_most_8));
    } else {
        probe.refused("console_io.read", Errno::Perm, read);
    }
}

fn at_most_8(count: u64) -> Result<(), Answer> {
    if count <= 8 { Ok(()) } else { Err(Ok(count)) }
}

fn assists(probe: &mut Probe) {
    let assist = |op: u64, kind: u64| call(Hypercall::VmAssist, [op, kind]);
    let (on, off) = (
        u64::from(VmAssistOp::Enable.raw()),
        u64::from(VmAssistOp::Disable.raw()),
    );
    let kind = u64::from(VmAssistType::RunstateUpdateFlag.raw());
    probe.good("vm_assist", assist(on, kind).and_then(|_| assist(off, kind)));
    probe.all_refused(
        "vm_assist",
        Errno::Inval,
        &[assist(on, 6), assist(on, 33), assist(off, 63), assist(on, 64)],
    );
    probe.refused("vm_assist", Errno::NoSys, assist(2, kind));
}

fn ports(probe: &mut Probe) {
    let op = |op: PhysdevOp, at: u64| call(Hypercall::PhysdevOp, [u64::from(op.raw()), at]);
    let privilege = |iopl: u32| op(PhysdevOp::SetIopl, input(&SetIopl { iopl }));
    probe.good("physdev_op.set_iopl", privilege(3).and_then(|_| privilege(1)));
    probe.all_refused(
        "physdev_op.set_iopl",
        Errno::Inval,
        &[privilege(4), privilege(u32::MAX)],
    );
    probe.faults("physdev_op.set_iopl", Direction::In, |at| {
        op(PhysdevOp::SetIopl, at)
    });

    let bitmap = |nr_ports: u32| {
        op(
            PhysdevOp::SetIobitmap,
            input(&SetIobitmap { bitmap: 0, nr_ports }),
        )
    };
    probe.good("physdev_op.set_iobitmap", bitmap(0).and_then(|_| bitmap(65_536)));
    probe.refused("physdev_op.set_iobitmap", Errno::Inval, bitmap(65_537));
    probe.faults("physdev_op.set_iobitmap", Direction::In, |at| {
        op(PhysdevOp::SetIobitmap, at)
    });
}

fn multicall(probe: &mut Probe) {
    let entry = |op: u64| MulticallEntry {
        op,
        result: 1,
        args: [0; 6],
    };
    let mut list = [
        entry(Hypercall::XenVersion.raw()),
        entry(63),
        entry(Hypercall::Multicall.raw()),
        entry(Hypercall::XenVersion.raw()),
    ];
    let many = |list: u64, count: u64| call(Hypercall::Multicall, [list, count]);
    let made = many(in_out(&mut list), list.len() as u64);
    let results = list.map(|entry| Errno::from_register(entry.result.cast_unsigned()));
    let version = Ok(u64::from(REPORTED_VERSION));
    let expected = [
        version,
        Err(Failure::Errno(Errno::NoSys)),
        Err(Failure::Errno(Errno::Inval)),
        version,
    ];
    let is_right = made == Ok(0) && results == expected;
    probe.good("multicall", is_right.then_some(()).ok_or((made, results)));
    probe.faults("multicall", Direction::In, |at| many(at, 1));
    // A read-only page of zeros would be a call with number 0.
    let read_only = Frame::table(&[Hypercall::XenVersion.raw()]);
    let made = many(read_only.address(), 1);
    let is_refused = made == refusal(Errno::Fault) && read_only.get(1) == 0;
    probe.law(
        "a-result-that-cannot-be-written-is-EFAULT",
        is_refused.then_some(()).ok_or(made),
    );

    // More than is done in one go.
    let mut long = [entry(Hypercall::XenVersion.raw()); 100];
    let made = many(in_out(&mut long), 100);
    let missed = long
        .iter()
        .filter(|entry| entry.result != i64::from(REPORTED_VERSION))
        .count();
    let result = if made == Ok(0) && missed == 0 {
        Ok(())
    } else {
        Err((made, missed))
    };
    probe.law("a-long-multicall-is-done-to-its-end", result);
}
