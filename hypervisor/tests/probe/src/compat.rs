//! The old forms of calls: `sched_op_compat`, `event_channel_op_compat`, `physdev_op_compat`, `nmi_op`.

use bulkhead_abi::{
    DomId, Errno, Hypercall, Record,
    event::{
        self, AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVirq, Close, EventChannelOp,
        MAX_PORTS_2LEVEL, Status, Virq,
    },
    nmi::{NmiCallback, NmiOp},
    physdev::{self, IrqStatusQuery, MAX_IOPL, PhysdevOp, SetIopl},
    record::Buffered,
    sched::SchedOp,
    vcpu::VcpuOp,
};

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    control::NOBODY,
    events::{close, port},
    lines::with_all_ports_open,
    nmi,
    probe::{Direction, Probe},
    sched::{now, set_timer, vcpu_op},
    shared::Shared,
};

/// Soon.
const SHORT_NS: u64 = 2_000_000;

pub(crate) fn check(probe: &mut Probe, shared: Shared) {
    sched(probe, shared);
    events(probe);
    ports(probe);
    handlers(probe);
}

fn sched(probe: &mut Probe, shared: Shared) {
    let op = |op: SchedOp, argument: u64| call(Hypercall::SchedOpCompat, [u64::from(op.raw()), argument]);
    probe.answers("sched_op_compat.yield", op(SchedOp::Yield, 0), 0);
    let set = set_timer(0, now().wrapping_add(SHORT_NS), 0);
    let blocked = shared.with_events(|| op(SchedOp::Block, 0));
    let all = [set, blocked];
    probe.good(
        "sched_op_compat.block",
        if all == [Ok(0); 2] { Ok(()) } else { Err(all) },
    );
    let bad = [6, u64::from(u32::MAX)].map(|reason| op(SchedOp::Shutdown, reason));
    probe.all_refused("sched_op_compat.shutdown", Errno::Inval, &bad);
    probe.law(
        "what-is-younger-than-an-old-form-is-not-in-it",
        only_unknown(&[
            op(SchedOp::Poll, 0),
            in_memory(
                Hypercall::EventChannelOpCompat,
                EventChannelOp::Reset.raw(),
                4,
                &mut 0_u64,
            ),
            in_memory(Hypercall::PhysdevOpCompat, PhysdevOp::Eoi.raw(), 8, &mut 0_u64),
        ]),
    );
}

fn only_unknown<const N: usize>(answers: &[Answer; N]) -> Result<(), [Answer; N]> {
    if answers.iter().all(|answer| *answer == refusal(Errno::NoSys)) {
        Ok(())
    } else {
        Err(*answers)
    }
}

/// Makes the old form of a call: its sub-operation, so many bytes before its record, which is as the call leaves it then.
fn in_memory<T: Buffered>(form: Hypercall, op: u32, before: u64, record: &mut T) -> Answer {
    let mut bytes = [0; 64];
    let start = usize::try_from(before).unwrap_or(0);
    let range = start..start.wrapping_add(T::SIZE);
    if let Some(place) = bytes.first_chunk_mut() {
        *place = op.to_le_bytes();
    }
    let encoded = record.to_bytes();
    if let Some(place) = bytes.get_mut(range.clone()) {
        place.copy_from_slice(encoded.as_ref());
    }
    let answer = call(form, [in_out(&mut bytes)]);
    if let Some(changed) = bytes.get(range).and_then(T::read_from) {
        *record = changed;
    }
    answer
}

fn event_op<T: Buffered>(op: EventChannelOp, mut record: T) -> Result<T, Answer> {
    let form = Hypercall::EventChannelOpCompat;
    match in_memory(form, op.raw(), event::COMPAT_RECORD, &mut record) {
        Ok(0) => Ok(record),
        other => Err(other),
    }
}

fn events(probe: &mut Probe) {
    let name = "event_channel_op_compat";
    let unbound = |dom: DomId| {
        let record = AllocUnbound {
            dom,
            remote_dom: NOBODY,
            port: 0,
        };
        event_op(EventChannelOp::AllocUnbound, record)
    };
    let made = unbound(DomId::SELF).map(|record| record.port);
    let again = made.map_or(Ok(0), close);
    probe.good(
        name,
        if made.is_ok_and(|port| port != 0) && again == Ok(0) {
            Ok(())
        } else {
            Err((made, again))
        },
    );
    fn refused<T>(answer: Result<T, Answer>) -> Answer {
        answer.err().unwrap_or(Ok(0))
    }
    let bad = [0, MAX_PORTS_2LEVEL].map(|port| refused(event_op(EventChannelOp::Close, Close { port })));
    probe.all_refused(name, Errno::Inval, &bad);
    let ipi = BindIpi { vcpu: 99, port: 0 };
    probe.refused(
        name,
        Errno::NoEnt,
        refused(event_op(EventChannelOp::BindIpi, ipi)),
    );
    let virq = |virq: Virq| {
        let record = BindVirq {
            virq: virq.raw(),
            vcpu: 0,
            port: 0,
        };
        event_op(EventChannelOp::BindVirq, record)
    };
    let first = virq(Virq::Xenoprof).map(|record| record.port);
    probe.refused(name, Errno::Exist, refused(virq(Virq::Xenoprof)));
    tidy([close(port(first.map(u64::from).or(Ok(0))))]);
    let pirq = BindPirq {
        pirq: 7,
        ..BindPirq::default()
    };
    probe.refused(
        name,
        Errno::Perm,
        refused(event_op(EventChannelOp::BindPirq, pirq)),
    );
    let remote = BindInterdomain {
        remote_dom: NOBODY,
        remote_port: 1,
        local_port: 0,
    };
    let absent = event_op(EventChannelOp::BindInterdomain, remote);
    probe.refused(name, Errno::Srch, refused(absent));
    if !probe.is_control() {
        // What concerns all is domain 0's.
        probe.refused(name, Errno::Busy, refused(virq(Virq::DomExc)));
        let status = Status {
            dom: DomId::new(0),
            port: 1,
            ..Status::default()
        };
        let denied = event_op(EventChannelOp::Status, status);
        probe.refused(name, Errno::Perm, refused(denied));
    }
    let full = with_all_ports_open(|| refused(unbound(DomId::SELF)));
    probe.refused(name, Errno::NoSpc, full);
    probe.faults(name, Direction::In, |at| {
        call(Hypercall::EventChannelOpCompat, [at])
    });
}

fn ports(probe: &mut Probe) {
    let name = "physdev_op_compat";
    let form = Hypercall::PhysdevOpCompat;
    let level = |iopl: u32| {
        let op = PhysdevOp::SetIopl.raw();
        in_memory(form, op, physdev::COMPAT_RECORD, &mut SetIopl { iopl })
    };
    probe.good(name, level(MAX_IOPL).and_then(|_| level(1)));
    let mut query = IrqStatusQuery { irq: 4, flags: 0 };
    let op = PhysdevOp::IrqStatusQuery.raw();
    let bad = [
        level(MAX_IOPL + 1),
        in_memory(form, op, physdev::COMPAT_RECORD, &mut query),
    ];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.faults(name, Direction::In, |at| call(form, [at]));
}

fn handlers(probe: &mut Probe) {
    let op = |op: NmiOp, at: u64| call(Hypercall::NmiOp, [u64::from(op.raw()), at]);
    let register = |handler_address: u64| {
        let record = NmiCallback {
            handler_address,
            ..NmiCallback::ZERO
        };
        op(NmiOp::RegisterCallback, input(&record))
    };
    let name = "nmi_op.register_callback";
    let send = || vcpu_op(VcpuOp::SendNmi, 0, 0);
    let before = nmi::count();
    let registered = register(nmi::handler_address());
    let sent = send();
    let come = nmi::count().wrapping_sub(before);
    let all = (registered, sent, come);
    probe.good(
        name,
        if all == (Ok(0), Ok(0), 1) {
            Ok(())
        } else {
            Err(all)
        },
    );
    probe.refused(name, Errno::Inval, register(1 << 47));
    probe.faults(name, Direction::In, |at| op(NmiOp::RegisterCallback, at));
    let gone = op(NmiOp::UnregisterCallback, 0);
    let sent = send();
    let come = nmi::count().wrapping_sub(before);
    let all = (gone, sent, come);
    probe.good(
        "nmi_op.unregister_callback",
        if all == (Ok(0), Ok(0), 1) {
            Ok(())
        } else {
            Err(all)
        },
    );
}
